"""Parabolas against polynomials written out by hand, and NumPy's least squares."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot import Parabola

moderate = st.floats(-50, 50, allow_nan=False)


@given(moderate, moderate, moderate, st.floats(0.01, 100))
def test_from_slope_recovers_any_parabola(c: float, b: float, a: float, t: float) -> None:
    p = Parabola.from_slope(c, b, t, c + b * t + a * t * t)
    scale = max(abs(c), abs(b * t), abs(a * t * t), 1e-12)
    assert p.curvature == pytest.approx(2 * a, abs=1e-13 * scale / t**2 * 8 + 1e-12)


def test_vertex_of_a_shifted_parabola() -> None:
    p = Parabola.from_slope(
        value0=10 + 5 * 3.0**2, slope0=-2 * 5 * 3.0, t=0.7, value=10 + 5 * 2.3**2
    )
    assert p.vertex == pytest.approx(3.0, rel=1e-12)
    assert p.value(3.0) == pytest.approx(10.0, rel=1e-12)
    assert p.slope(3.0) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("curvature", [0.0, -2.0, math.nan, math.inf])
def test_no_vertex_without_positive_finite_curvature(curvature: float) -> None:
    assert Parabola(1.0, -1.0, curvature).vertex is None


def test_three_unequal_places_are_interpolated() -> None:
    # the losses of 10 s² − s + 2.3 at the places of the released code
    ts = (0.0, 0.000177, 0.01)
    p = Parabola.from_values(ts, [10 * t * t - t + 2.3 for t in ts])
    assert p.vertex == pytest.approx(0.05, rel=1e-9)
    assert p.slope0 == pytest.approx(-1.0, rel=1e-9)
    assert p.residual == 0.0


@given(st.lists(moderate, min_size=6, max_size=6), st.floats(-5, 5), st.floats(0.1, 10))
def test_least_squares_agrees_with_numpy(values: list[float], shift: float, scale: float) -> None:
    ts = [shift + scale * t for t in (-1.3, -0.2, 0.0, 0.4, 1.1, 2.0)]
    p = Parabola.from_values(ts, values)
    a, b, c = np.polyfit(ts, values, 2)
    size = max(1.0, *map(abs, values)) * (1 + abs(shift) / scale) ** 2
    assert p.curvature * scale**2 == pytest.approx(2 * a * scale**2, abs=1e-9 * size)
    assert p.slope0 * scale == pytest.approx(b * scale, abs=1e-9 * size)
    assert p.value0 == pytest.approx(c, abs=1e-9 * size)
    rms = math.sqrt(np.mean((np.polyval([a, b, c], ts) - values) ** 2))
    assert p.residual == pytest.approx(rms, abs=1e-9 * size)


def test_bad_points_are_named() -> None:
    with pytest.raises(ValueError, match="three distinct places"):
        Parabola.from_values([0.0, 1.0, 1.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="2 places but 3 values"):
        Parabola.from_values([0.0, 1.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="away from t = 0"):
        Parabola.from_slope(1.0, -1.0, 0.0, 1.0)
