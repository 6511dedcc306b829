"""SLS's search (1905.09997): step back until the loss falls enough; or Goldstein's two sides."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

from surefoot._numbers import check_choice, check_number
from surefoot.line import Walkable
from surefoot.outcome import Status, StepOutcome
from surefoot.searches._search import Search, all_finite, drowns, outcome, refusal


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

    internal: ClassVar[tuple[str, ...]] = ("rounding", "growth_per_step")

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
        check_number("start", self.start, at_least=0.0, above=True)
        check_number("max_t", self.max_t, at_least=0.0, above=True)
        check_number("sufficient_decrease", self.sufficient_decrease, at_least=0.0, above=True)
        if self.sufficient_decrease >= (0.5 if self.condition == "goldstein" else 1.0):
            raise ValueError(f"sufficient_decrease is too large: {self.sufficient_decrease!r}")
        check_number("shrink", self.shrink, at_least=0.0, above=True)
        if self.shrink >= 1.0:
            raise ValueError(f"shrink must be below 1, got {self.shrink!r}")
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
        return refusal(line) or _Trials(self, line).run()


class _Trials:
    """One search under way: what was tried and what that says."""

    def __init__(self, rule: ArmijoSearch, line: Walkable) -> None:
        assert line.slope0 is not None
        self._rule, self._line = rule, line
        self._value0, self._slope0 = line.value0, line.slope0
        self._too_near = 0.0  # farthest place that falls enough but violates Goldstein's side
        self._too_far: float | None = None  # nearest place that does not fall enough
        self._seen_finite = False

    def run(self) -> StepOutcome:
        rule = self._rule
        t = min(rule.start, rule.max_t)
        for _ in range(rule.max_evaluations):
            value = self._line.value(t)
            self._seen_finite |= all_finite(value)
            if self._drowns(t, value):  # here, and all the more at every nearer place
                return self._end(Status.EXHAUSTED if self._too_near > 0.0 else Status.FLAT)
            # SLS eq. (1); false for NaN
            if not value <= self._value0 + rule.sufficient_decrease * t * self._slope0:
                self._too_far = t
                t = self._nearer(t)
            elif rule.condition == "armijo" or self._is_far_enough(t, value):
                return outcome(self._line, t, Status.ACCEPTED)
            else:
                self._too_near = t
                if t >= rule.max_t:
                    return outcome(self._line, t, Status.CAPPED)
                t = self._farther(t)
        return self._end(Status.EXHAUSTED if self._seen_finite else Status.NON_FINITE)

    def _drowns(self, t: float, value: float) -> bool:
        values, rounding = (value, self._value0), self._rule.rounding
        return (
            all_finite(value)
            and drowns(value - self._value0, values, rounding)
            and drowns(t * self._slope0, values, rounding)
        )

    def _end(self, status: Status) -> StepOutcome:
        return outcome(self._line, self._too_near, status)

    def _is_far_enough(self, t: float, value: float) -> bool:
        share = 1.0 - self._rule.sufficient_decrease
        return value >= self._value0 + share * t * self._slope0  # Goldstein's other side

    def _nearer(self, t: float) -> float:
        if self._too_near > 0.0:
            return 0.5 * (self._too_near + t)
        return t * self._rule.shrink

    def _farther(self, t: float) -> float:
        if self._too_far is not None:
            return 0.5 * (t + self._too_far)
        return min(t * self._rule.grow, self._rule.max_t)
