"""What many measurements make of a rate: three rules, in plain floats.

An exponential average (PAL measured rarely), a mean of the newest (LABPAL as published), the
minimum of pooled parabolas (LABPAL, and :class:`surefoot.MeasuredLR` under averaged weights; with
an interval: :func:`surefoot.measured.pool`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

GROWTH = 2.0
"""By how much one measurement may raise or lower the rate in use."""
FORGETS = 0.8
"""What an older parabola counts, over the next."""


def averaged(past: float | None, new: float, share: float) -> float:
    """The exponential average with ``share`` of the past in it."""
    return new if past is None else share * past + (1.0 - share) * new


def mean_of(newest: Sequence[float]) -> float:
    """The mean: LABPAL keeps the newest 25."""
    return math.fsum(newest) / len(newest)


def within_growth(wanted: float, in_use: float, growth: float = GROWTH) -> float:
    """What is wanted, at most ``growth`` times the rate in use, at least that part of it."""
    return min(max(wanted, in_use / GROWTH), in_use * growth)


class Pooled(NamedTuple):
    """Slopes and curvatures of measured lines, added up, the older ones forgotten.

    Unlike a mean of minima, a line without one takes part, and a flat one does not decide.

    Args:
        slope: derivative of the losses at 0, per unit of the rate.
        curvature: their second derivative, per squared unit.
    """

    slope: float = 0.0
    curvature: float = 0.0

    def and_of(self, slope: float, curvature: float, weight: float = 1.0) -> Pooled:
        """With one more line."""
        return Pooled(
            FORGETS * self.slope + weight * slope, FORGETS * self.curvature + weight * curvature
        )

    @property
    def minimum(self) -> float:
        """The rate that lowers their losses most: infinite where none is seen, 0 uphill."""
        if self.slope >= 0.0:
            return 0.0
        return -self.slope / self.curvature if self.curvature > 0.0 else math.inf
