"""GOLS-I's search (1903.09383): only the sign of the slope decides."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

from surefoot._numbers import check_number, check_positive
from surefoot.line import Walkable
from surefoot.outcome import Status, StepOutcome
from surefoot.searches._search import Search, all_finite, outcome, refusal


@dataclass(frozen=True)
class GradientOnlySearch(Search):
    r"""Double or halve the step until the slope changes its sign from − to +.

    From the initial guess: accept at once if the slope there is positive but small,
    :math:`0 < L'(t) < c_2 |L'(0)|`; double while it is negative; halve while it is positive.
    The value of the loss is never looked at, so a loss that jumps from batch to batch does not
    lead it astray.

    Args:
        start: initial guess, in multiples of the direction; the next search starts from the place
            found.
        overshoot: c₂, share of the initial slope that the slope behind the minimum may have.
        factor: η, by which a step grows or shrinks.
        min_t: smallest step.
        max_t: largest step.
        max_length: largest distance; the paper's bound on ``t`` is ``min(1 / ‖d‖, 1e7)``.
        max_evaluations: budget.

    Example:
        >>> from surefoot.testing import FunctionLine, function
        >>> line = FunctionLine(function("quadratic"), direction_norm=0.1)
        >>> GradientOnlySearch(start=0.25)(line).t, line.places
        (2.0, [0.25, 0.5, 1.0, 2.0])

    References: Kafka and Wilke, "Gradient-only line searches: an alternative to probabilistic line
    searches", 1903.09383, algorithm of GOLS-I.

    Departures: a slope that is not finite counts as positive, and a step that grew into one goes
    back to the last finite place; a slope that is positive down to ``min_t`` ends at 0 instead of
    ``min_t``.

    *When it fails*: it stops at the first sign change, which along a rugged line may be far from
    the minimum, and a step that grew ends behind the minimum, by up to a factor of ``factor``.
    """

    compares_losses: ClassVar[bool] = False
    takes_slopes: ClassVar[bool] = True

    start: float = 1e-8
    overshoot: float = 0.9
    factor: float = 2.0
    min_t: float = 1e-8
    max_t: float = 1e7
    max_length: float = 1.0
    max_evaluations: int = 100

    def __post_init__(self) -> None:
        check_positive(self, "start", "min_t", "max_length")
        check_number("overshoot", self.overshoot, at_least=0.0)
        check_number("factor", self.factor, at_least=1.0, above=True)
        check_number("max_t", self.max_t, at_least=self.min_t)

    def after(self, found: StepOutcome) -> GradientOnlySearch:
        """Start from the last place; from the same one again where there was none."""
        return dataclasses.replace(self, start=found.t) if found.t > 0.0 else self

    def __call__(self, line: Walkable) -> StepOutcome:
        """Search ``line``, which must know its slope at 0. Forward and backward at each place."""
        if (refused := refusal(line)) is not None:
            return refused
        assert line.slope0 is not None
        top = min(self.max_length / line.direction_norm, self.max_t)
        t = min(max(self.start, self.min_t), top)
        slope = _slope(line, t)
        if 0.0 < slope < self.overshoot * abs(line.slope0):
            return outcome(line, t, Status.ACCEPTED)  # immediate accept
        if slope < 0.0:
            return self._grow(line, t, top)
        return self._shrink(line, t, slope)

    def _grow(self, line: Walkable, t: float, top: float) -> StepOutcome:
        for _ in range(self.max_evaluations - 1):
            if t * self.factor > top:
                return outcome(line, t, Status.CAPPED)
            slope = _slope(line, t * self.factor)
            if math.isinf(slope):
                return outcome(line, t, Status.NON_FINITE)
            t *= self.factor
            if slope >= 0.0:
                return outcome(line, t, Status.ACCEPTED)
        return outcome(line, t, Status.EXHAUSTED)

    def _shrink(self, line: Walkable, t: float, slope: float) -> StepOutcome:
        for _ in range(self.max_evaluations - 1):
            if t / self.factor < self.min_t:
                break
            t /= self.factor
            slope = _slope(line, t)
            if slope < 0.0:
                return outcome(line, t, Status.ACCEPTED)
        return outcome(line, 0.0, Status.NON_FINITE if math.isinf(slope) else Status.EXHAUSTED)


def _slope(line: Walkable, t: float) -> float:
    """The slope at ``t``; plus infinity, "too far", where the loss or the slope is not finite."""
    value, slope = line.value_and_slope(t)
    return slope if all_finite(value, slope) else math.inf
