"""Several losses along a line, the least-squares parabola through them, its minimum."""

from __future__ import annotations

import math
from dataclasses import dataclass

from surefoot.line import Walkable
from surefoot.outcome import Status, StepOutcome
from surefoot.parabola import Parabola
from surefoot.searches._search import Search, all_finite, outcome, vertex_within


@dataclass(frozen=True)
class LeastSquaresSearch(Search):
    r"""The parabola that fits the losses at several places best.

    Where the slope is known, value and slope at 0 are kept and only the curvature is fitted:

    .. math:: c = \frac{2 \sum_i t_i^2\,(L(t_i) - L(0) - L'(0)\,t_i)}{\sum_i t_i^4}

    Otherwise all three coefficients are fitted to the losses at 0 and at the places.

    Args:
        places: where to measure, as multiples ``t`` of the direction; not 0. One is enough where
            the slope is known; two at least where it is not.
        max_t: largest place to return.
        rounding: relative rounding error of a loss; differences below it count as zero.

    *When it fails*: ``residual`` of the outcome's parabola says how far the points lie from it;
    one place alone leaves no residual.
    """

    places: tuple[float, ...]
    max_t: float = math.inf
    rounding: float = 0.0

    def __call__(self, line: Walkable) -> StepOutcome:
        """Search ``line``. As many evaluations as there are places."""
        values = [line.value(t) for t in self.places]
        slope0 = line.slope0
        if not all_finite(line.value0, *values) or not (slope0 is None or math.isfinite(slope0)):
            return outcome(line, 0.0, Status.NON_FINITE)
        if slope0 is None:
            parabola = Parabola.from_values((0.0, *self.places), (line.value0, *values))
        else:
            parabola = _through_start(line.value0, slope0, self.places, values)
        far = max(map(abs, self.places))
        seen = (line.value0, *values)
        t, status = vertex_within(parabola, far, seen, self.rounding, self.max_t)
        return outcome(line, t, status, parabola)


def _through_start(
    value0: float, slope0: float, places: tuple[float, ...], values: list[float]
) -> Parabola:
    bends = [v - value0 - slope0 * t for t, v in zip(places, values, strict=True)]
    far = max(map(abs, places))
    us = [(t / far) ** 2 for t in places]  # scaled, so that tiny places do not underflow
    half = math.fsum(u * b for u, b in zip(us, bends, strict=True)) / math.fsum(u * u for u in us)
    errors = [b - half * u for u, b in zip(us, bends, strict=True)]
    residual = math.sqrt(math.fsum(e * e for e in errors) / len(errors))
    return Parabola(value0, slope0, 2.0 * half / far**2, residual if len(places) > 1 else 0.0)
