"""SLS's search (1905.09997): step back until the loss falls enough; or Goldstein's two sides."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from surefoot._numbers import check_choice, check_number, check_positive, check_share
from surefoot.line import Walkable
from surefoot.outcome import Status, StepOutcome
from surefoot.searches._search import Search, all_finite, is_level, outcome, refusal


@dataclass(frozen=True)
class ArmijoSearch(Search):
    r"""The first of the places ``start · shrinkᵏ`` where the loss has fallen enough.

    .. math:: L(t) \le L(0) + c\, t\, L'(0) \quad\text{(Armijo)}, \qquad
              L(t) \ge L(0) + (1 - c)\, t\, L'(0) \quad\text{(Goldstein, in addition)}

    Args:
        start: first place tried, in multiples of the direction; along the negated gradient that is
            a learning rate.
        condition: ``"armijo"``, or ``"goldstein"``, which also rejects places that are too near
            and then tries ``grow`` times as far.
        sufficient_decrease: c, share of the decrease that the slope promises; below ½ for
            ``"goldstein"``.
        shrink: factor after a rejected place, between 0 and 1.
        grow: factor after a place that is too near, above 1; for ``"goldstein"`` only.
        max_t: farthest place tried.
        max_evaluations: budget.
        rounding: relative rounding error of a loss; differences below it count as zero.
        reset: where the next search starts: ``"growing"``, at the place found times
            ``growth_per_step``; ``"previous"``, at that place; ``"maximum"``, at ``max_t``.
        growth_per_step: γ^(batch size / data set size) of the paper; 500 batches an epoch and
            γ = 2, as in the authors' code.

    Example:
        >>> from surefoot.testing import FunctionLine, function
        >>> line = FunctionLine(function("quadratic"))
        >>> ArmijoSearch(start=8.0, shrink=0.5)(line).t, line.places
        (2.0, [8.0, 4.0, 2.0])

    References: Vaswani et al., "Painless stochastic gradient", 1905.09997, eq. (1) and section 6;
    Goldstein's condition in its appendix; released code where the paper is silent.

    Departures: a NaN is a rejected trial. Where the budget ends, the released code steps by 1e-6,
    here the step is 0 and the status says why. With Goldstein, a place that falls enough but is
    too near is kept in mind and taken where the budget ends; a place between one that was too near
    and one that was too far is halfway, where the released code may circle.

    *When it fails*: the condition is about this batch alone; without interpolation (a model that
    can fit every sample) the steps stay too long and do not converge.
    """

    internal = (*Search.internal, "growth_per_step")

    start: float = 1.0
    condition: Literal["armijo", "goldstein"] = "armijo"
    sufficient_decrease: float = 0.1
    shrink: float = 0.9
    grow: float = 2.0
    max_t: float = 10.0
    max_evaluations: int = 100
    rounding: float = 0.0
    reset: Literal["growing", "previous", "maximum"] = "previous"
    growth_per_step: float = 2.0 ** (1.0 / 500.0)

    def __post_init__(self) -> None:
        check_choice("condition", self.condition, ("armijo", "goldstein"))
        check_choice("reset", self.reset, ("growing", "previous", "maximum"))
        check_positive(self, "start", "max_t", "sufficient_decrease", "shrink")
        if self.sufficient_decrease >= (0.5 if self.condition == "goldstein" else 1.0):
            raise ValueError(f"sufficient_decrease is too large: {self.sufficient_decrease!r}")
        check_share("shrink", self.shrink)
        check_number("grow", self.grow, at_least=1.0, above=True)
        check_number("growth_per_step", self.growth_per_step, at_least=1.0)

    def after(self, found: StepOutcome) -> ArmijoSearch:
        """SLS, algorithm 2; a rate that was not accepted changes nothing."""
        if found.status not in (Status.ACCEPTED, Status.CAPPED):
            return self
        growing, top = found.t * self.growth_per_step, self.max_t
        follows = {"growing": growing, "previous": found.t, "maximum": top}
        return dataclasses.replace(self, start=min(follows[self.reset], top))

    def __call__(self, line: Walkable) -> StepOutcome:
        """Search ``line``, which must know its slope at 0. Up to ``max_evaluations``."""
        if (refused := refusal(line)) is not None:
            return refused
        value0, slope0, c = line.value0, line.slope0, self.sufficient_decrease
        assert slope0 is not None
        near = 0.0  # farthest place that falls enough but violates Goldstein's side
        far: float | None = None  # nearest place that does not fall enough
        seen_finite = False
        t = min(self.start, self.max_t)
        for _ in range(self.max_evaluations):
            value = line.value(t)
            seen_finite |= all_finite(value)
            if is_level(value, value0, self.rounding, t * slope0):  # so is every nearer place
                return outcome(line, near, Status.EXHAUSTED if near > 0.0 else Status.FLAT)
            if not value <= value0 + c * t * slope0:  # SLS eq. (1); false for NaN
                far = t
                t = 0.5 * (near + t) if near > 0.0 else t * self.shrink
            elif self.condition == "armijo" or value >= value0 + (1.0 - c) * t * slope0:
                return outcome(line, t, Status.ACCEPTED)
            elif t >= self.max_t:
                return outcome(line, t, Status.CAPPED)
            else:
                near = t
                t = min(t * self.grow, self.max_t) if far is None else 0.5 * (t + far)
        return outcome(line, near, Status.EXHAUSTED if seen_finite else Status.NON_FINITE)
