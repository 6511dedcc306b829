"""A step that is given, not measured: plain SGD, or a constant length, as a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from surefoot.line import Walkable
from surefoot.outcome import Status, StepOutcome
from surefoot.searches._search import Search, outcome


@dataclass(frozen=True)
class FixedSearch(Search):
    r"""The same place on every line. The control that every comparison of searches needs.

    Args:
        t: where to go, in multiples of the direction. Along the negated gradient it is a learning
            rate, along a unit direction a length.

    Example:
        >>> from surefoot.testing import FunctionLine, function
        >>> FixedSearch(0.1)(FunctionLine(function("quadratic"))).t
        0.1

    *When it fails*: it evaluates nothing, so it goes uphill and into NaN as readily as downhill;
    its status, :attr:`Status.FIXED`, says so.
    """

    takes_slope0: ClassVar[bool] = False

    t: float

    def __call__(self, line: Walkable) -> StepOutcome:
        """Search ``line``. No evaluation."""
        return outcome(line, self.t, Status.FIXED)
