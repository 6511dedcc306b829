"""Smoothing of measured curves, in plain Python: centred, so that nothing moves along the axis."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def finite_part(xs: Sequence[float], ys: Sequence[float]) -> tuple[list[float], list[float]]:
    """The points with a positive rate and a finite value."""
    kept = [(x, float(y)) for x, y in zip(xs, ys, strict=True) if x > 0.0 and math.isfinite(y)]
    return [x for x, _ in kept], [y for _, y in kept]


def smooth(xs: Sequence[float], ys: Sequence[float]) -> list[float]:
    """A running median of 3 against spikes, then a centred Gaussian mean over ``xs``.

    Its standard deviation is a fortieth of the range of ``xs``, and at most a tenth of the
    points, but no less than half a point. (Where points crowd in ``xs``, as the rates of a linear
    ramp do on a logarithmic axis, the second limit keeps the sums short; a fortieth of the points
    was too short there, and noise between neighbours that almost coincide passed for a slope.)
    """
    n = len(ys)
    if n < 3:
        return list(ys)
    steady = _median_of_three(ys)
    width = (xs[-1] - xs[0]) / 40.0
    # in points
    sigmas = [max(min(n / 10.0, width / spacing), 0.5) for spacing in slopes(range(n), xs)]
    return [_gaussian_mean(steady, i, sigma) for i, sigma in enumerate(sigmas)]


def slopes(xs: Sequence[float], ys: Sequence[float]) -> list[float]:
    """dy/dx at every point: over both neighbours inside, one-sided at the ends."""
    sides = [(max(i - 1, 0), min(i + 1, len(xs) - 1)) for i in range(len(xs))]
    return [(ys[right] - ys[left]) / (xs[right] - xs[left]) for left, right in sides]


def noise_of(values: Sequence[float]) -> float:
    """Standard deviation of the scatter, from second differences: blind to the course itself.

    The median of their sizes is robust to spikes; 1.4826 turns it into a standard deviation, and
    a second difference of independent values has six times their variance.
    """
    seconds = [abs(a - 2.0 * b + c) for a, b, c in zip(values, values[1:], values[2:])]  # noqa: B905
    return 1.4826 / math.sqrt(6.0) * statistics.median(seconds) if seconds else 0.0


def _median_of_three(values: Sequence[float]) -> list[float]:
    inner = [sorted(values[i - 1 : i + 2])[1] for i in range(1, len(values) - 1)]
    # the ends have one neighbour only: a first or last spike gives way to the median behind it
    first = sorted((values[0], inner[0], values[2]))[1]
    last = sorted((values[-1], inner[-1], values[-3]))[1]
    return [first, *inner, last]


def _gaussian_mean(values: Sequence[float], i: int, sigma: float) -> float:
    radius = max(1, math.ceil(3.0 * sigma))
    total = weight = 0.0
    for k in range(max(i - radius, 0), min(i + radius + 1, len(values))):
        w = math.exp(-0.5 * ((k - i) / sigma) ** 2)
        total += w * values[k]
        weight += w
    return total / weight
