"""How sure a measured rate is: the interval, its window, the budget. Plain numbers only."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from surefoot.measured import Measurement, RateInterval, interval, pool
from surefoot.measured.estimate import student_quantile
from surefoot.measured.rate import next_measurement
from surefoot.measured.settings import Settings


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 12, 31, 63])
@pytest.mark.parametrize("share", [0.9, 0.975, 0.999])
def test_students_quantile(freedom: int, share: float) -> None:
    assert student_quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-10)


def noisy(n: int, rng: random.Random, *, slope: float = -2.0, noise: float = 0.3) -> list:
    """Parabolas around slope −2 and curvature 4: the true rate is 0.5. Their noise is common."""
    out = []
    for step in range(n):
        common = rng.gauss(0.0, noise)
        out.append(
            Measurement(step, slope * (1 + common) + rng.gauss(0, noise), 4.0 * (1 + 1.5 * common))
        )
    return out


def test_exact_measurements_leave_no_doubt() -> None:
    found = interval([Measurement(s, -3.0, 6.0) for s in range(5)])
    assert found == RateInterval(0.5, 0.5, 0.5, 5, 4)
    assert found.relative_error == 0.0


def test_the_interval_is_fiellers() -> None:
    """Its ends are where the t test of mean(a + r c) = 0 turns, asked of SciPy."""
    sample = noisy(9, random.Random(4))
    found = interval(sample, 0.9)
    for end in (found.low, found.high):
        p = stats.ttest_1samp([m.slope + end * m.curvature for m in sample], 0.0).pvalue
        assert p == pytest.approx(0.1, rel=1e-6)
    inside = stats.ttest_1samp([m.slope + found.value * m.curvature for m in sample], 0.0).pvalue
    assert inside > 0.99


def test_an_uncertain_curvature_has_no_upper_end() -> None:
    sample = [Measurement(i, -1.0 - 0.01 * i, c) for i, c in enumerate([2.0, -1.5, 3.0, -2.0])]
    found = interval(sample)
    assert math.isinf(found.high)
    assert math.isinf(found.relative_error)
    p = stats.ttest_1samp([m.slope + 1e9 * m.curvature for m in sample], 0.0).pvalue
    assert p > 0.05  # so an endless rate is indeed not excluded


@pytest.mark.parametrize(("slope", "curvature"), [(1.0, 2.0), (-1.0, -2.0), (-1.0, 0.0)])
def test_no_minimum_has_no_value(slope: float, curvature: float) -> None:
    sample = [Measurement(i, slope * (1 + 0.01 * i), curvature) for i in range(4)]
    assert interval(sample).value is None


def test_nothing_is_known_of_nothing() -> None:
    assert pool([]) == RateInterval(None, 0.0, math.inf, 0, 0)
    assert pool([Measurement(3, -1.0, 2.0)]) == RateInterval(0.5, 0.0, math.inf, 1, 0)


def coverage(draw: Callable[[random.Random], RateInterval], truth: float) -> float:
    rng = random.Random(11)
    found = [draw(rng) for _ in range(1000)]
    return sum(r.low <= truth <= r.high for r in found) / len(found)


@pytest.mark.parametrize("n", [4, 10, 32])
def test_the_interval_covers_the_truth_as_often_as_it_says(n: int) -> None:
    assert 0.93 <= coverage(lambda rng: interval(noisy(n, rng)), 0.5) <= 0.97


@pytest.mark.parametrize("precision", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("noise", [0.1, 0.3])
@pytest.mark.slow
def test_it_covers_the_truth_when_sampling_stops_as_soon_as_it_is_narrow(
    precision: float, noise: float
) -> None:
    """Looking after each measurement and stopping at the first narrow interval, at most at 64."""

    def draw(rng: random.Random) -> RateInterval:
        sample = noisy(64, rng, noise=noise)
        for n in range(4, 65):
            found = pool(sample[:n])
            if found.relative_error <= precision:
                break
        return found

    share = coverage(draw, 0.5)
    assert 0.90 <= share <= 0.98


def test_the_window_is_long_where_the_rate_stands_still() -> None:
    sample = noisy(64, random.Random(0), noise=0.1)
    assert pool(sample).n == 64


def test_the_window_forgets_what_no_longer_holds() -> None:
    rng = random.Random(0)
    sample = noisy(40, rng, noise=0.05) + noisy(8, rng, slope=-8.0, noise=0.05)
    found = pool([m._replace(step=i) for i, m in enumerate(sample)])
    assert found.n == 8
    assert found.low < 2.0 < found.high


def test_the_interval_does_not_care_about_units() -> None:
    sample = noisy(12, random.Random(2))
    plain = interval(sample)
    # loss in other units, and the rate in thousandths
    scaled = interval([Measurement(m.step, m.slope * 7e-3, m.curvature * 7e-6) for m in sample])
    for a, b in zip(
        (plain.value, plain.low, plain.high), (scaled.value, scaled.low, scaled.high), strict=True
    ):
        assert b == pytest.approx(1000 * a, rel=1e-9)


@pytest.mark.parametrize("total", [40, 500, 20_000])
def test_the_budget_holds_at_the_end_of_the_run(total: int) -> None:
    settings = Settings(total_steps=total)
    spent = 0.0
    for step in range(total):
        while settings.allows(step, spent, 1.0):
            spent += 1.0
    assert 0.03 * 3 * total - 1 < spent <= 0.03 * 3 * total


def test_without_a_known_end_the_start_is_on_credit() -> None:
    settings, spent = Settings(), 0.0
    for step in range(10_000):
        while settings.allows(step, spent, 1.0):
            spent += 1.0
        assert spent <= 0.09 * (step + 1) + 24
    assert spent >= 0.09 * 10_000


def test_the_first_measurement_is_always_affordable() -> None:
    assert Settings(total_steps=100, overhead=0.0).allows(0, 0.0, 1.0)
    assert not Settings(total_steps=100, overhead=0.0).allows(1, 1.0, 1.0)


def test_a_sure_and_steady_rate_is_measured_seldom() -> None:
    unsure = RateInterval(1.0, 0.2, 3.0, 16, 160)
    steady = RateInterval(1.0, 0.98, 1.02, 16, 160)
    moving = RateInterval(1.0, 0.98, 1.02, 4, 16)
    gaps = [next_measurement(1000, r, 0.1, 10_000) - 1000 for r in (unsure, moving, steady)]
    assert gaps == [8, 2, 20]
    assert next_measurement(0, unsure, 0.1, 10_000) == 1
    longest = next_measurement(1000, RateInterval(1.0, 0.98, 1.02, 64, 5000), 0.1, 10_000)
    assert longest == 1200


def test_the_mean_of_many_intervals_errs_less_than_any_of_its_measurements() -> None:
    errors = []
    for seed in range(200):
        sample = noisy(32, random.Random(seed))
        singles = [abs(-m.slope / m.curvature - 0.5) for m in sample]
        value = interval(sample).value
        assert value is not None
        errors.append(abs(value - 0.5) / float(np.median(singles)))
    assert np.median(errors) < 0.35  # 1/√32 is 0.18


def test_one_loud_line_does_not_decide() -> None:
    """Thirty-one lines say 0.5, one of a thousand times their curvature says 0.0005."""
    sample = [Measurement(i, -2.0, 4.0) for i in range(31)]
    found = pool([*sample, Measurement(31, -2.0, 4000.0)])
    assert found.value == pytest.approx(0.5, rel=0.2)
