"""SLS's search (1905.09997): step back until the loss falls enough."""

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

    .. math:: L(t) \le L(0) + c\, t\, L'(0)

    Args:
        start: first place tried, in multiples of the direction; along the negated gradient that is
            a learning rate.
        sufficient_decrease: c, share of the decrease that the slope promises.
        shrink: factor after a rejected place, between 0 and 1.
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
    released code where the paper is silent.

    Departures: a NaN is a rejected trial. Where the budget ends, the released code steps by 1e-6,
    here the step is 0 and the status says why. Goldstein's condition, an option of theirs, is not
    here.

    *When it fails*: the condition is about this batch alone; without interpolation (a model that
    can fit every sample) the steps stay too long and do not converge.
    """

    internal = (*Search.internal, "growth_per_step")

    start: float = 1.0
    sufficient_decrease: float = 0.1
    shrink: float = 0.9
    max_t: float = 10.0
    max_evaluations: int = 100
    rounding: float = 0.0
    reset: Literal["growing", "previous", "maximum"] = "previous"
    growth_per_step: float = 2.0 ** (1.0 / 500.0)

    def __post_init__(self) -> None:
        check_choice("reset", self.reset, ("growing", "previous", "maximum"))
        check_positive(self, "start", "max_t", "sufficient_decrease", "shrink")
        check_share("sufficient_decrease", self.sufficient_decrease)
        check_share("shrink", self.shrink)
        check_number("growth_per_step", self.growth_per_step, at_least=1.0)

    def after(self, found: StepOutcome) -> ArmijoSearch:
        """SLS, algorithm 2; a rate that was not accepted changes nothing."""
        if found.status is not Status.ACCEPTED:
            return self
        growing, top = found.t * self.growth_per_step, self.max_t
        follows = {"growing": growing, "previous": found.t, "maximum": top}
        return dataclasses.replace(self, start=min(follows[self.reset], top))

    def __call__(self, line: Walkable) -> StepOutcome:
        """Search ``line``, which must know its slope at 0. Up to ``max_evaluations``."""
        if (refused := refusal(line)) is not None:
            return refused
        value0, slope0, seen_finite = line.value0, line.slope0, False
        assert slope0 is not None
        t = min(self.start, self.max_t)
        for _ in range(self.max_evaluations):
            value = line.value(t)
            seen_finite |= all_finite(value)
            if is_level(value, value0, self.rounding, t * slope0):  # so is every nearer place
                return outcome(line, 0.0, Status.FLAT)
            if value <= value0 + self.sufficient_decrease * t * slope0:  # SLS eq. (1)
                return outcome(line, t, Status.ACCEPTED)
            t *= self.shrink
        return outcome(line, 0.0, Status.EXHAUSTED if seen_finite else Status.NON_FINITE)
