"""Exact line search: the minimum itself, by bracketing and Brent's method."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from surefoot._numbers import check_count, check_positive
from surefoot.line import Walkable
from surefoot.outcome import Status, StepOutcome
from surefoot.searches._minimize import BudgetError, Probe, bracket, brent
from surefoot.searches._search import Search, all_finite, is_level, outcome, refusal


@dataclass(frozen=True)
class ExactSearch(Search):
    r"""A minimum of the loss along the line, to within a tolerance.

    From the start outwards, three places are sought of which the middle one is lowest; between
    them the minimum is closed in. Of several minima it is the first that the bracket finds.

    Args:
        first_length: first distance tried; that of the next search is the distance found.
        max_length: largest distance.
        tolerance: relative error of the minimum's place.
        max_evaluations: budget.
        rounding: relative rounding error of a loss; differences below it count as zero.

    Example:
        >>> from surefoot.testing import FunctionLine, function
        >>> line = FunctionLine(function("quadratic"))
        >>> found = ExactSearch(tolerance=1e-6)(line)
        >>> round(found.t, 6), found.status.value
        (1.5, 'minimum')

    References: Brent, "Algorithms for minimization without derivatives", 1973.

    Departures: Mutschler and Zell, 1903.11991, find the same minimum by a binary search, which asks
    for more losses and may end behind the start.

    *When it fails*: on the loss of one batch it does what it promises and trains badly: that
    minimum is not the minimum of the other batches.
    """

    takes_slope0: ClassVar[bool] = False

    first_length: float = 0.1
    max_length: float = 10.0
    tolerance: float = 1e-3
    max_evaluations: int = 60
    rounding: float = 0.0

    def __post_init__(self) -> None:
        check_positive(self, "first_length", "max_length", "tolerance")
        check_count("max_evaluations", self.max_evaluations)

    def after(self, found: StepOutcome) -> ExactSearch:
        """Begin at the last minimum's distance, which saves evaluations."""
        if found.status is not Status.MINIMUM:
            return self
        return dataclasses.replace(self, first_length=found.length)

    def __call__(self, line: Walkable) -> StepOutcome:
        """Search ``line``. Up to ``max_evaluations``, and no slope beyond the one at 0."""
        value0 = line.value0
        if not all_finite(value0):
            return outcome(line, 0.0, Status.NON_FINITE)
        if line.slope0 is not None and (refused := refusal(line)) is not None:
            return refused
        probe = Probe(line.value, self.max_evaluations, 0.0, value0)
        try:
            status = self._explore(probe, line)
        except BudgetError:
            status = Status.EXHAUSTED
        if probe.best == 0.0:  # nothing lower: flat, or no evaluations left
            return outcome(line, 0.0, status if probe.seen_finite else Status.NON_FINITE)
        if is_level(probe.lowest, value0, self.rounding):
            return outcome(line, 0.0, Status.FLAT)
        return outcome(line, probe.best, status)

    def _explore(self, probe: Probe, line: Walkable) -> Status:
        per_t, value0 = line.direction_norm, line.value0
        first, top = self.first_length / per_t, self.max_length / per_t
        inside = bracket(probe, first, top, lambda value: is_level(value, value0, self.rounding))
        if inside.middle == 0.0:
            return Status.FLAT
        if inside.middle == inside.high:
            return Status.CAPPED
        brent(probe, inside, self.tolerance)
        return Status.MINIMUM
