"""Every search on every function: the contract, and each paper's condition, recomputed here."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch

from surefoot import Status
from surefoot.outcome import StepOutcome
from surefoot.searches import (
    ArmijoSearch,
    ExactSearch,
    FixedSearch,
    GradientOnlySearch,
    LargeBatchSearch,
    ParabolicSearch,
    ProbabilisticSearch,
    Search,
)
from surefoot.testing import FUNCTIONS, FunctionLine, LineFunction, check_search, function

# The conditions of the papers, from the raw function alone.


def raw(line: FunctionLine, t: float) -> float:
    return FunctionLine(line.function, dtype=line.dtype).value(t)


def raw_slope(line: FunctionLine, t: float) -> float:
    return FunctionLine(line.function, dtype=line.dtype).value_and_slope(t)[1]


def armijo(c: float, line: FunctionLine, found: StepOutcome) -> None:
    assert raw(line, found.t) <= raw(line, 0.0) + c * found.t * raw_slope(line, 0.0)


def sign_change(line: FunctionLine, found: StepOutcome) -> None:
    """The slope changed its sign within a factor of two of the place, or is small behind it."""
    at, before = raw_slope(line, found.t), raw_slope(line, found.t / 2)
    shrunk = at < 0 and not raw_slope(line, found.t * 2) < 0
    small = 0 < at < 0.9 * abs(raw_slope(line, 0.0))
    grown = at >= 0 and before < 0
    assert shrunk or small or grown


def strong_wolfe(line: FunctionLine, found: StepOutcome) -> None:
    armijo(0.05, line, found)
    # with bf16's slopes the Gaussian process carries their rounding
    slack = 1 + 4 * torch.finfo(line.dtype).eps
    assert abs(raw_slope(line, found.t)) <= 0.5 * abs(raw_slope(line, 0.0)) * slack


def lowest_nearby(tolerance: float, line: FunctionLine, found: StepOutcome) -> None:
    """No place a few tolerances away is lower, as far as the precision tells."""
    resolution = 8 * torch.finfo(line.dtype).eps * abs(raw(line, 0.0))
    for share in (1 - 5 * tolerance, 1 + 5 * tolerance, 1 - 50 * tolerance, 1 + 50 * tolerance):
        value = raw(line, found.t * share)
        assert not value < raw(line, found.t) - resolution
    known = line.function.minimum
    if line.dtype is torch.float64 and known and "convex" in line.function.traits:
        # f64 itself resolves a quartic's minimum to no more than (1e-16)^(1/4)
        assert math.isclose(found.t, known, rel_tol=max(3 * tolerance, 2e-3))


def vertex_of_slope_and_value(line: FunctionLine, found: StepOutcome) -> None:
    """PAL: −b / 2a of the parabola with the slope at 0 and the loss at μ."""
    mu = 1.0 / line.direction_norm
    b = raw_slope(line, 0.0)
    a = (raw(line, mu) - raw(line, 0.0) - b * mu) / mu**2
    assert math.isclose(found.t, -b / (2 * a), rel_tol=1e-9)


def vertex_of_three_values(line: FunctionLine, found: StepOutcome) -> None:
    """LABPAL: the parabola through three losses, solved as a linear system."""
    places = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64) / line.direction_norm
    values = torch.tensor([raw(line, float(t)) for t in places], dtype=torch.float64)
    _, b, a = torch.linalg.solve(torch.vander(places, increasing=True), values).tolist()
    assert math.isclose(found.t, -b / (2 * a), rel_tol=1e-6)


MODEL: dict[str, Any] = {"visits": False, "decreases": False, "in_lengths": True}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "fixed": (lambda rounding: FixedSearch(0.1), {"visits": False, "decreases": False}),
    "parabolic": (
        lambda rounding: ParabolicSearch(max_length=100.0, rounding=rounding),
        {**MODEL, "condition": vertex_of_slope_and_value},
    ),
    "large batch": (
        lambda rounding: LargeBatchSearch(max_length=100.0, rounding=rounding),
        {**MODEL, "condition": vertex_of_three_values},
    ),
    "large batch, released": (
        lambda rounding: LargeBatchSearch(max_length=100.0, fit="released", rounding=rounding),
        MODEL,
    ),
    "armijo": (
        lambda rounding: ArmijoSearch(rounding=rounding),
        {"condition": partial(armijo, 0.1)},
    ),
    "armijo, strict": (
        lambda rounding: ArmijoSearch(
            start=3.0, sufficient_decrease=0.5, shrink=0.5, rounding=rounding
        ),
        {"condition": partial(armijo, 0.5)},
    ),
    "gradient only": (
        lambda rounding: GradientOnlySearch(),
        {"decreases": False, "looks_at_losses": False, "condition": sign_change},
    ),
    "gradient only, from afar": (
        lambda rounding: GradientOnlySearch(start=0.7, max_length=50.0),
        {"decreases": False, "looks_at_losses": False, "condition": sign_change},
    ),
    "probabilistic": (
        lambda rounding: ProbabilisticSearch(start=0.1, rounding=rounding),
        {"condition": strong_wolfe},
    ),
    "exact": (
        lambda rounding: ExactSearch(rounding=rounding, max_evaluations=200),
        {"in_lengths": True, "condition": partial(lowest_nearby, 1e-3)},
    ),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n == "probabilistic")) for n in CASES],
)
def test_every_search_keeps_the_contract_and_its_papers_condition(name: str) -> None:
    factory, options = CASES[name]
    check_search(factory, **options)


@pytest.mark.parametrize("name", [name for name in CASES if name != "fixed"])
def test_every_search_succeeds_on_an_easy_line(name: str) -> None:
    """Without this, a search that always gives up would keep the contract."""
    factory, _ = CASES[name]
    for easy in ("quadratic", "exponential", "1e+06 × quadratic", "quadratic + -7"):
        for norm in (1.0, 0.5):
            found = factory(1e-15)(FunctionLine(function(easy), norm))
            assert found.status in (Status.MINIMUM, Status.ACCEPTED, Status.CAPPED), (easy, found)
            assert found.t > 0


class TestChecksThatMustFail:
    """check_search finds the faults it is there to find."""

    @staticmethod
    def search(rule: Any) -> Any:
        class Faulty(Search):
            def __call__(self, line: Any) -> StepOutcome:
                return rule(line)

        return lambda rounding: Faulty()

    @staticmethod
    def outcome(line: Any, t: float, status: Status = Status.ACCEPTED, **other: Any) -> Any:
        settings = {"length": t * line.direction_norm, "value0": line.value0, **other}
        return StepOutcome(t=t, status=status, **settings)

    @pytest.mark.parametrize(
        ("message", "rule"),
        [
            ("behind the start", lambda line: TestChecksThatMustFail.outcome(line, -1.0)),
            ("not finite", lambda line: TestChecksThatMustFail.outcome(line, math.nan)),
            ("7.0", lambda line: TestChecksThatMustFail.outcome(line, 1.0, length=7.0)),
            ("not a StepOutcome", lambda line: 0.1),
            ("never been", lambda line: TestChecksThatMustFail.outcome(line, 0.1)),
            ("claims success", lambda line: TestChecksThatMustFail.outcome(line, 0.0)),
        ],
    )
    def test_faults_in_the_outcome(self, message: str, rule: Any) -> None:
        with pytest.raises(AssertionError, match=message):
            check_search(self.search(rule), functions=[function("quadratic")])

    def test_a_place_above_the_start(self) -> None:
        def rule(line: Any) -> Any:
            line.value(5.0)
            return self.outcome(line, 5.0)

        with pytest.raises(AssertionError, match="above the start"):
            check_search(self.search(rule), functions=[function("quadratic")])

    def test_settings_in_units_of_the_loss(self) -> None:
        def rule(line: Any) -> Any:
            t = 1.0 if line.value0 > 1.0 else 0.5
            line.value(t)
            return self.outcome(line, t)

        with pytest.raises(AssertionError, match="other units"):
            check_search(self.search(rule), functions=[function("quadratic")])

    def test_a_memory_between_lines(self) -> None:
        calls = [0]

        def rule(line: Any) -> Any:
            calls[0] += 1
            t = 0.1 + 0.01 * calls[0]
            line.value(t)
            return self.outcome(line, t)

        with pytest.raises(AssertionError, match="asked again"):
            check_search(self.search(rule), functions=[function("quadratic")])

    @pytest.mark.parametrize("name", ["uphill", "NaN at 0", "constant"])
    def test_steps_that_must_not_be(self, name: str) -> None:
        def rule(line: Any) -> Any:
            line.value(0.1)
            return self.outcome(line, 0.1)

        with pytest.raises(AssertionError, match=name):
            check_search(self.search(rule), functions=[function(name)])

    def test_a_search_without_end(self) -> None:
        def rule(line: Any) -> Any:
            for _ in range(501):
                line.value(0.1)
            return self.outcome(line, 0.1)

        with pytest.raises(AssertionError, match="501 evaluations"):
            check_search(self.search(rule), functions=[function("quadratic")])


@pytest.mark.parametrize("shape", FUNCTIONS, ids=lambda shape: shape.name)
def test_the_functions_know_their_slopes_and_minima(shape: LineFunction) -> None:
    """Slopes by central differences; the minimum against a fine grid."""
    for t in (0.013, 0.11, 0.37, 1.9, 3.3):
        h = 1e-5
        around = [shape.value(t - h), shape.value(t), shape.value(t + h)]
        # the cliffs and plateaus have corners, and 1e-30 at height 1 is beyond differences
        if not all(map(math.isfinite, around)) or "at height 1" in shape.name:
            continue
        scale = max(map(abs, around))
        assert shape.slope(t) == pytest.approx(
            (around[2] - around[0]) / (2 * h), rel=1e-4, abs=1e-10 * scale / h
        )
    if shape.minimum is not None:
        lowest = shape.value(shape.minimum)
        for t in torch.linspace(0, 4 * shape.minimum + 1, 2001).tolist():
            value = shape.value(t)
            assert not math.isfinite(value) or value >= lowest - 1e-12 * abs(lowest)


@pytest.mark.parametrize("make", [ArmijoSearch, GradientOnlySearch, ProbabilisticSearch])
def test_searches_that_need_a_slope_say_so(make: Any) -> None:
    class Unsloped(FunctionLine):
        @property
        def slope0(self) -> Any:
            return None

    with pytest.raises(ValueError, match="needs the slope"):
        make()(Unsloped(function("quadratic")))
