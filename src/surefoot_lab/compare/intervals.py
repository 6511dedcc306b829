"""How sure a mean over seeds is, alone and against another method on the same seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    Attributes:
        mean: the arithmetic mean.
        low: lower end; None for a single value, which says nothing about its spread.
        high: upper end.
        n: number of values.
    """

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero: a difference of more than chance."""
        return self.low is not None and self.high is not None and self.low * self.high > 0.0


def interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Student's interval of a mean: mean ± t(n - 1) · sd / sqrt(n).

    Args:
        values: at least one.
        level: share of such intervals that hold the true mean, if values are normal.

    Raises:
        ValueError: there is no value.

    Example:
        >>> found = interval([1.0, 2.0, 3.0])
        >>> round(found.low, 3), round(found.high, 3)
        (-0.484, 4.484)
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return Interval(mean, None, None, 1)
    quantile = float(stdtrit(n - 1, 0.5 + level / 2))
    half = quantile * statistics.stdev(values) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def paired_difference(
    first: Mapping[int, float], second: Mapping[int, float], level: float = LEVEL
) -> Interval | None:
    """The interval of `first - second` over the seeds that both have; None if they share none.

    The same seed means the same data split, weights and order of batches as far as the methods
    allow, so that what the seed does to both drops out of the difference.
    """
    seeds = sorted(first.keys() & second.keys())
    return interval([first[s] - second[s] for s in seeds], level) if seeds else None
