"""Searches against SciPy, which shares no code with them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brent as scipy_brent
from scipy.optimize import minimize_scalar
from scipy.optimize._linesearch import line_search_armijo
from scipy.stats import multivariate_normal

from surefoot import Status
from surefoot.searches import ArmijoSearch, ExactSearch, ProbabilisticSearch
from surefoot.searches._gaussian import LineModel, probability_both_positive, tensor
from surefoot.searches._minimize import GOLDEN, Bracket, Probe, brent
from surefoot.testing import FUNCTIONS, FunctionLine, LineFunction, function

CONVEX = [f for f in FUNCTIONS if f.minimum and "convex" in f.traits]
SMOOTH = ["quadratic", "exponential", "softplus sum", "bell"]


@pytest.mark.parametrize("name", SMOOTH)
def test_exact_agrees_with_scipys_brent(name: str) -> None:
    f = function(name)
    search = ExactSearch(tolerance=1e-7, max_evaluations=400)
    found = search(FunctionLine(f))
    assert found.status is Status.MINIMUM
    place, value, *_ = scipy_brent(f.value, brack=(0.5, 1.0), tol=1e-10, full_output=True)
    assert found.t == pytest.approx(place, abs=1e-6)
    assert f.value(found.t) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(("low", "high"), [(0.3, 4.0), (1.1, 1.7), (0.05, 9.0), (1.45, 40.0)])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_exact_agrees_with_scipy_on_intervals_that_do_not_start_at_0(
    low: float, high: float, scale: float
) -> None:
    f = function("quadratic").stretched(scale)
    low, high = low * scale, high * scale
    start = low + GOLDEN * (high - low)
    probe = Probe(f.value, 400, start, f.value(start))
    brent(probe, Bracket(low, start, high, probe.lowest), 1e-7)
    bounded = minimize_scalar(
        f.value, bounds=(low, high), method="bounded", options={"xatol": 1e-9 * scale}
    )
    assert probe.best == pytest.approx(bounded.x, abs=1e-6 * scale)


@settings(max_examples=60, deadline=None)
@given(
    minimum=st.floats(0.02, 50.0),
    curvature=st.floats(1e-3, 1e3),
    skew=st.floats(-0.3, 0.3),
    first=st.floats(1e-3, 10.0),
)
def test_brent_finds_what_scipy_finds(
    minimum: float, curvature: float, skew: float, first: float
) -> None:
    """A random valley, cubic and not symmetric, from a random first step."""

    def value(t: float) -> float:
        u = t / minimum - 1.0
        return curvature * (u * u + skew * u**3) if abs(u) < 2.0 else curvature * 1e3 * abs(u)

    f = LineFunction("valley", value, lambda t: -1.0 if t < minimum else 1.0, minimum)
    search = ExactSearch(first_length=first, max_length=1e3, tolerance=1e-7, max_evaluations=200)
    found = search(FunctionLine(f))
    assert found.status is Status.MINIMUM
    oracle = minimize_scalar(
        value, bounds=(0.0, 2.5 * minimum), method="bounded", options={"xatol": 1e-10 * minimum}
    )
    assert found.t == pytest.approx(oracle.x, rel=1e-6)


def test_brent_needs_far_fewer_evaluations_than_golden_section() -> None:
    f = function("exponential")
    line = FunctionLine(f)
    found = ExactSearch(tolerance=1e-6, max_evaluations=200)(line)
    golden = minimize_scalar(f.value, bracket=(0.1, 0.26), method="golden", tol=1e-6)
    assert found.t == pytest.approx(golden.x, rel=1e-5)
    assert len(line.places) <= 0.6 * golden.nfev


@pytest.mark.parametrize("name", [f.name for f in CONVEX])
@pytest.mark.parametrize("c", [1e-4, 0.1, 0.5])
def test_armijo_agrees_with_scipy_where_both_apply(name: str, c: float) -> None:
    """SciPy interpolates after a rejection, so: same verdict on a place, same condition met."""
    f = function(name)
    place, _, _ = line_search_armijo(
        lambda t: f.value(float(t[0])),
        np.zeros(1),
        np.ones(1),
        np.array([f.slope(0.0)]),
        f.value(0.0),
        c1=c,
        alpha0=1.0,
    )
    found = ArmijoSearch(start=float(place), sufficient_decrease=c)(FunctionLine(f))
    assert found.t == place, "SciPy's place is accepted at once"
    first = ArmijoSearch(start=1.0, sufficient_decrease=c)(FunctionLine(f))
    assert (first.t == 1.0) == (place == 1.0), "the full step is accepted by both or by neither"


@pytest.mark.parametrize("start", [1.0, 0.3, 8.0])
def test_backtracking_takes_the_first_place_that_will_do(start: float) -> None:
    f = function("exponential")
    found = ArmijoSearch(start=start, sufficient_decrease=0.3, shrink=0.8)(FunctionLine(f))
    places = [start * 0.8**k for k in range(60)]
    good = [t for t in places if f.value(t) <= f.value(0.0) + 0.3 * t * f.slope(0.0)]
    assert found.t == pytest.approx(good[0], rel=1e-12)


# The probabilistic search: kernels, posterior and probability from NumPy and SciPy.


def kernel(a: float, b: float) -> float:
    """The integrated Wiener process from its definition: ∫ of the overlap of two ramps."""
    a, b = a + 10.0, b + 10.0
    return float(quad(lambda u: max(a - u, 0.0) * max(b - u, 0.0), 0.0, min(a, b))[0])


def by_differences(f: Callable[[float, float], float], da: bool, db: bool) -> Callable[..., float]:
    h = 1e-3

    def in_b(a: float, b: float) -> float:
        return (f(a, b + h) - f(a, b - h)) / (2 * h) if db else f(a, b)

    return lambda a, b: (in_b(a + h, b) - in_b(a - h, b)) / (2 * h) if da else in_b(a, b)


KERNELS = {(da, db): by_differences(kernel, da, db) for da in (False, True) for db in (False, True)}
SEEN = [(0.0, 0.0, -1.0), (1.0, -0.4, 0.1), (2.5, 0.3, 0.9)]
NOISE = (0.3, 0.2)


def posterior(
    asks: list[tuple[bool, float]], data: list[tuple[float, float, float]]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance by the textbook formula, in NumPy."""
    seen = [(False, t) for t, _, _ in data] + [(True, t) for t, _, _ in data]
    answers = np.array([v for _, v, _ in data] + [s for _, _, s in data])

    def matrix(rows: list[tuple[bool, float]], columns: list[tuple[bool, float]]) -> np.ndarray:
        return np.array([[KERNELS[da, db](a, b) for db, b in columns] for da, a in rows])

    noise = np.diag([NOISE[0] ** 2] * len(data) + [NOISE[1] ** 2] * len(data))
    inverse = np.linalg.inv(matrix(seen, seen) + noise)
    cross = matrix(asks, seen)
    return cross @ inverse @ answers, matrix(asks, asks) - cross @ inverse @ cross.T


@pytest.fixture(scope="module")
def model() -> LineModel:
    line = LineModel(NOISE[0] ** 2, NOISE[1] ** 2)
    for t, value, slope in SEEN:
        line.add(t, value, slope)
    return line


def test_the_belief_is_the_textbook_posterior(model: LineModel) -> None:
    places = [0.0, 0.7, 1.9, 3.4]
    asks = [(False, t) for t in places] + [(True, t) for t in places]
    mean, cov = model.believe(places)
    oracle_mean, oracle_cov = posterior(asks, SEEN)
    # the oracle differentiates numerically: about 1e-4 of kernels up to 1e3
    assert mean.numpy() == pytest.approx(oracle_mean, abs=2e-3)
    assert cov.numpy() == pytest.approx(oracle_cov, abs=2e-3)


def test_the_minima_of_the_mean_are_minima(model: LineModel) -> None:
    found = model.minima()
    assert found
    for t in found:
        here = model.mean([t - 1e-3, t, t + 1e-3])[0]
        assert here[1] < here[0]
        assert here[1] < here[2]
        assert model.mean([t])[1][0] == pytest.approx(0.0, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(a=st.floats(-3, 3), b=st.floats(-3, 3), rho=st.floats(-0.99, 0.99), upper=st.floats(0.05, 6))
def test_the_probability_is_scipys(a: float, b: float, rho: float, upper: float) -> None:
    sd_a, sd_b = 0.7, 1.9
    cov = np.array([[sd_a**2, rho * sd_a * sd_b], [rho * sd_a * sd_b, sd_b**2]])
    ours = probability_both_positive(tensor([[a, b]]), tensor([cov.tolist()]), tensor([upper]))
    normal = multivariate_normal([a, b], cov)
    oracle = normal.cdf([math.inf, upper], lower_limit=[0.0, 0.0], rng=np.random.default_rng(0))
    assert float(ours) == pytest.approx(oracle, abs=1e-4)


def test_an_accepted_place_has_the_probability_it_claims() -> None:
    """Accepted with noise; its probability again, with the posterior and integral of SciPy."""
    rule = ProbabilisticSearch(start=1.0, value_noise=0.3, slope_noise=0.2, threshold=0.3)
    values, slopes = ({t: row[i] for t, *row in SEEN} for i in (0, 1))
    found = rule(FunctionLine(LineFunction("seen", values.__getitem__, slopes.__getitem__, None)))
    assert found.status is Status.ACCEPTED
    assert found.t == 1.0
    asks = [(False, 0.0), (True, 0.0), (False, 1.0), (True, 1.0)]
    mean, cov = posterior(asks, SEEN[:2])
    combine = np.array([[1.0, 0.05, -1.0, 0.0], [0.0, -0.5, 0.0, 1.0]])
    upper = 2 * 0.5 * (abs(mean[1]) + 2 * math.sqrt(cov[1, 1]))
    normal = multivariate_normal(combine @ mean, combine @ cov @ combine.T)
    assert normal.cdf([math.inf, upper], lower_limit=[0.0, 0.0]) > 0.3


def test_noise_makes_the_search_hesitate() -> None:
    """A slope that is nothing but noise must not be walked along as if it were true."""
    f = function("quadratic")
    sure = ProbabilisticSearch(start=1.5)(FunctionLine(f))
    unsure = FunctionLine(f)
    ProbabilisticSearch(start=1.5, value_noise=10.0, slope_noise=10.0)(unsure)
    assert sure.status is Status.ACCEPTED
    assert len(unsure.places) > 1


def test_the_model_stays_in_double_precision_under_other_defaults() -> None:
    torch.set_default_dtype(torch.float16)
    try:
        found = ProbabilisticSearch(start=0.1)(FunctionLine(function("exponential")))
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == ProbabilisticSearch(start=0.1)(FunctionLine(function("exponential")))
