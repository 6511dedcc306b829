"""A parabola along a line, in plain floats: fits, vertex, curvature, residual. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Parabola:
    r"""A parabola through the loss along a line.

    .. math:: p(t) = \mathrm{value0} + \mathrm{slope0}\, t + \tfrac12\, \mathrm{curvature}\, t^2

    Args:
        value0: loss at ``t = 0``.
        slope0: derivative at ``t = 0``, in loss per unit of ``t``.
        curvature: second derivative, in loss per squared unit of ``t``.
        residual: root mean square distance of the points from the parabola, in units of the
            loss; zero where the parabola was determined by exactly three numbers.

    Example:
        >>> p = Parabola.from_slope(value0=3.0, slope0=-2.0, t=1.0, value=2.0)
        >>> p.curvature, p.vertex
        (2.0, 1.0)

    *When it fails*: a parabola says nothing about the loss far outside the points that made it,
    and its curvature is a difference of nearly equal numbers when those points lie close together.
    """

    value0: float
    slope0: float
    curvature: float
    residual: float = 0.0

    @classmethod
    def from_slope(cls, value0: float, slope0: float, t: float, value: float) -> Parabola:
        """The parabola with a known value and slope at 0 and a known ``value`` at ``t``.

        Source: PAL (1903.11991), section 3: one derivative and one further loss.

        Raises:
            ValueError: if ``t`` is 0.
        """
        if t == 0.0:
            raise ValueError("a parabola needs its second point away from t = 0")
        # PAL's parameter a is half of this: p(t) = a t² + b t + c
        curvature = 2.0 * (value - value0 - slope0 * t) / (t * t)
        return cls(value0, slope0, curvature)

    @classmethod
    def from_values(cls, ts: Sequence[float], values: Sequence[float]) -> Parabola:
        """The least-squares parabola through three or more points ``(ts[i], values[i])``.

        Through exactly three points it is the interpolating one and ``residual`` is 0.

        Raises:
            ValueError: if the lengths differ or fewer than three places are distinct.
        """
        if len(ts) != len(values):
            raise ValueError(f"{len(ts)} places but {len(values)} values")
        if len(set(ts)) < 3:
            raise ValueError(f"a parabola needs three distinct places, got {sorted(set(ts))}")
        if len(ts) > 3:
            return cls._least_squares(ts, values)
        (t0, t1, t2), (f0, f1, f2) = ts, values
        # Newton's divided differences: exact for unequal spacing, where repeated two-point
        # differences would be off by the ratio of the gaps
        d01 = (f1 - f0) / (t1 - t0)
        d12 = (f2 - f1) / (t2 - t1)
        d012 = (d12 - d01) / (t2 - t0)
        slope0 = d01 - d012 * (t0 + t1)
        value0 = f0 - t0 * d01 + t0 * t1 * d012
        return cls(value0, slope0, 2.0 * d012)

    @classmethod
    def _least_squares(cls, ts: Sequence[float], values: Sequence[float]) -> Parabola:
        n = len(ts)
        centre = math.fsum(ts) / n
        scale = max(abs(t - centre) for t in ts)
        us = [(t - centre) / scale for t in ts]  # centred and scaled, so that the basis is sane
        # Polynomials orthogonal on these places: 1, u, u² − a·u − b
        su2 = math.fsum(u * u for u in us)
        a = math.fsum(u**3 for u in us) / su2
        b = su2 / n
        q = [u * u - a * u - b for u in us]
        c0 = math.fsum(values) / n
        c1 = math.fsum(u * f for u, f in zip(us, values, strict=True)) / su2
        c2 = math.fsum(w * f for w, f in zip(q, values, strict=True)) / math.fsum(w * w for w in q)
        errors = [f - (c0 + c1 * u + c2 * w) for u, w, f in zip(us, q, values, strict=True)]
        residual = math.sqrt(math.fsum(e * e for e in errors) / n)
        curvature = 2.0 * c2 / scale**2
        slope_at_centre = (c1 - a * c2) / scale
        value_at_centre = c0 - b * c2
        value0 = value_at_centre - slope_at_centre * centre + 0.5 * curvature * centre**2
        return cls(value0, slope_at_centre - curvature * centre, curvature, residual)

    def value(self, t: float) -> float:
        """The parabola's value at ``t``."""
        return self.value0 + t * (self.slope0 + 0.5 * self.curvature * t)

    def slope(self, t: float) -> float:
        """The parabola's derivative at ``t``."""
        return self.slope0 + self.curvature * t

    @property
    def is_finite(self) -> bool:
        """Whether all three coefficients are finite numbers."""
        return all(map(math.isfinite, (self.value0, self.slope0, self.curvature)))

    @property
    def vertex(self) -> float | None:
        """The place of the minimum, or None where the parabola has none (curvature not > 0)."""
        if not self.is_finite or self.curvature <= 0.0:
            return None
        return -self.slope0 / self.curvature
