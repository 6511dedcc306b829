"""What a measured rate was over time: one point a measurement. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RatePoint", "remember"]

_MOST = 4096
"""Points kept; a longer history keeps every second one."""


@dataclass(frozen=True)
class RatePoint:
    """A measured learning rate at one step: that of the group with the largest ``lr``.

    Args:
        step: steps made so far, this one included.
        effective_lr: what was applied.
        measured: the minimum of the mean parabola, as a learning rate; None where it has none.
        low: lower end of its 95 % interval.
        high: upper end; infinite where the curvature cannot be told from none.
        bound: the learning rate at which the step would have been as long as it may be; infinite
            where nothing bounds it.
        decay: what horizon and schedulers multiply the rate by.
    """

    step: int
    effective_lr: float
    measured: float | None
    low: float
    high: float
    bound: float
    decay: float


def remember(points: list[RatePoint], point: RatePoint) -> None:
    """Add a point; every second one of a long history goes."""
    points.append(point)
    if len(points) > _MOST:
        del points[1:-1:2]
