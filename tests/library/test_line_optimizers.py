"""SLS, GOLS, PLS, ExactLineSearch, FullBatchPAL: the shared contract, and each one's definition."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import io
import math
import pickle
import typing
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from _contract import OPTIMIZER_CONTRACTS, check_optimizer
from _problems import Quadratic, batches, closure_for, noisy
from torch import Tensor, nn

from surefoot import (
    GOLS,
    LABPAL,
    PAL,
    PLS,
    SLS,
    ExactLineSearch,
    FullBatchPAL,
    LineSearch,
    LineSearchOptimizer,
    NotRepeatableError,
    Status,
)
from surefoot.directions import ConjugateLike, DirectionRule, HeavyBall, Steepest
from surefoot.searches import ArmijoSearch, FixedSearch

# (what makes it, whether it refuses closures that are not repeatable)
MAKERS: dict[str, tuple[Callable[..., LineSearchOptimizer], bool]] = {
    "pal": (PAL, False),
    "pal-rarely": (partial(PAL, measure_every=3), False),
    "labpal": (partial(LABPAL, measuring_batches=3, reuse=4, burn_in=1), True),
    "labpal-sgd": (partial(LABPAL, mode="sgd", momentum=0.5, measuring_batches=2, reuse=3), True),
    "labpal-grown": (
        partial(LABPAL, measuring_batches=2, reuse=6, batch_growth=((0, 3),), momentum=0.2),
        True,
    ),
    "sls": (SLS, True),
    "sls-maximum": (partial(SLS, reset="maximum"), True),
    "gols": (GOLS, False),
    "pls": (PLS, False),
    "exact": (ExactLineSearch, True),
    "exact-conjugate": (partial(ExactLineSearch, direction=ConjugateLike(0.4)), True),
    "fbpal": (FullBatchPAL, True),
    "composed": (partial(LineSearch, search=ArmijoSearch(), direction=HeavyBall(0.5)), True),
}
NEW = {"sls": SLS, "gols": GOLS, "pls": PLS, "exact": ExactLineSearch, "fbpal": FullBatchPAL}


@pytest.mark.parametrize("clause", OPTIMIZER_CONTRACTS)
@pytest.mark.parametrize("name", MAKERS)
def test_contract(name: str, clause: str) -> None:
    make, repeatable = MAKERS[name]
    check_optimizer(make, repeatable=repeatable, contracts=[clause])


@pytest.mark.parametrize("name", MAKERS)
def test_a_gradient_below_single_precision_is_flat(name: str) -> None:
    weights = nn.Parameter(torch.full((4,), 1e-20))

    def loss() -> Tensor:
        return 1e-20 * weights.square().sum() + 1.0

    optimizer = MAKERS[name][0]([weights])
    for _ in range(6):
        optimizer.step(loss)
    assert optimizer.last is not None
    assert optimizer.last.status is Status.FLAT
    assert torch.equal(weights, torch.full((4,), 1e-20))


def line_through(problem: Quadratic) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """Value and slope along the negated gradient, t a learning rate, from the matrix alone."""
    theta, g = problem.theta, problem.gradient(problem.theta)

    def value(t: float) -> float:
        at = theta - t * g
        return float(0.5 * at @ problem.A @ at - problem.b @ at)

    return value, lambda t: float(-(problem.gradient(theta - t * g) @ g))


def rate_walked(problem: Quadratic, optimizer: LineSearchOptimizer) -> float:
    """Step, and read the rate off the weights."""
    theta, g = problem.theta, problem.gradient(problem.theta)
    optimizer.step(problem.loss)
    move = theta - problem.theta
    rate = float(move @ g / (g @ g))
    assert torch.allclose(move, rate * g, rtol=1e-8, atol=1e-12)
    return rate


class TestComposition:
    """Any search along any direction."""

    @pytest.mark.parametrize("momentum", [0.0, 0.7])
    def test_a_fixed_place_along_the_heavy_ball_is_torchs_sgd(self, momentum: float) -> None:
        (model, twin), data = (noisy(), noisy()), batches(8)
        search = FixedSearch(0.05)
        optimizer = LineSearch(model, search=search, direction=HeavyBall(momentum))
        sgd = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=momentum)
        for batch in data:
            torch.manual_seed(5)
            optimizer.step(closure_for(model, batch))
            torch.manual_seed(5)
            sgd.zero_grad()
            closure_for(twin, batch)().backward()
            sgd.step()
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.allclose(p, q, rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize("rule", [Steepest(), ConjugateLike(0.4), HeavyBall(0.7)])
    def test_slope_and_norm_are_those_of_the_line(
        self, rule: DirectionRule, quadratic: Quadratic
    ) -> None:
        grads = [torch.autograd.grad(quadratic.loss(), quadratic.parts)] * 3
        memory = [torch.zeros_like(p) for p in quadratic.parts]
        for g in grads:
            found = rule(list(g), memory, [1.0, 0.5])
        walked = [w * t for w, t in zip(found.weights, found.tensors, strict=True)]
        parts = list(zip(walked, grads[0], strict=True))
        assert found.norm == pytest.approx(math.sqrt(sum(float(w @ w) for w, _ in parts)))
        assert found.slope0 == pytest.approx(sum(float(w @ g) for w, g in parts))

    def test_the_named_ones_are_pairs(self) -> None:
        p = [nn.Parameter(torch.ones(2))]
        pair = ExactLineSearch(p, direction=ConjugateLike(0.4), tolerance=0.5)
        assert pair.memory.direction == ConjugateLike(0.4)
        assert "tolerance=0.5" in repr(pair)

    def test_what_is_no_search_is_refused(self) -> None:
        with pytest.raises(TypeError, match="search must be"):
            LineSearch([nn.Parameter(torch.ones(2))], search=0.1)  # type: ignore[arg-type]


SHARED = ("weight_decay", "total_steps", "model", "loss_precision", "process_group", "grad_scaler")
CLASSES = (PAL, LABPAL, SLS, GOLS, PLS, ExactLineSearch, FullBatchPAL, LineSearch)


@pytest.mark.parametrize("cls", CLASSES)
def test_shared_keywords_are_shown(cls: type) -> None:
    parameters = inspect.signature(cls).parameters
    hints = typing.get_type_hints(cls.__init__)
    for name in (*SHARED, "on_measure"):
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert name in hints
        assert f"{name}: " in (inspect.getdoc(cls) or "")
    assert parameters["weight_decay"].default == 0.0
    assert not {"shared", "settings", "rounding"} & parameters.keys()


@pytest.mark.parametrize("cls", [SLS, GOLS, PLS, ExactLineSearch, FullBatchPAL])
def test_a_named_search_shows_its_settings_and_passes_them_on(cls: Any) -> None:
    p = [nn.Parameter(torch.ones(2))]
    for name, field in cls._keywords().items():
        assert inspect.signature(cls).parameters[name].default == field.default
        assert f"{name}: " in (inspect.getdoc(cls) or "")
        made = cls(p, **{name: field.default})
        assert getattr(made.search, name) == field.default
        assert made.search == cls(p).search


def test_a_subclass_may_take_nothing_but_itself() -> None:
    class Own(SLS):
        def __init__(self) -> None:
            super().__init__([nn.Parameter(torch.ones(2))], max_t=3.0)

    assert not inspect.signature(Own).parameters
    assert Own().search.max_t == 3.0  # type: ignore[attr-defined]


@pytest.mark.parametrize("cls", CLASSES[:-1])
def test_the_former_name_of_the_multiplier_warns(cls: Any) -> None:
    p = [nn.Parameter(torch.ones(2))]
    with pytest.warns(DeprecationWarning, match=r"lr=\.\.\.\) is called step_multiplier") as seen:
        assert cls(p, lr=0.5).step_multiplier == 0.5
    assert seen[0].filename == __file__
    with pytest.raises(TypeError, match="former name"):
        cls(p, lr=0.5, step_multiplier=0.5)
    with pytest.raises(TypeError, match="takes no speed"):
        cls(p, speed=3)


def test_former_names_warn() -> None:
    p = [nn.Parameter(torch.ones(2))]
    for cls in (SLS, GOLS):
        with pytest.warns(DeprecationWarning, match="max_t"):
            assert cls(p, max_rate=0.5).search.max_t == 0.5
    with pytest.warns(DeprecationWarning, match="burn_in"):
        assert LABPAL(p, untrusted=7).param_groups[0]["burn_in"] == 7


class TestSLS:
    def test_every_step_meets_armijos_condition_and_the_next_longer_rate_does_not(
        self, quadratic: Quadratic
    ) -> None:
        optimizer = SLS(quadratic.parts, start=1.0)
        backed_off = 0
        for _ in range(25):
            value, slope = line_through(quadratic)
            tried = optimizer.search.start
            rate = rate_walked(quadratic, optimizer)
            assert value(rate) <= value(0.0) + 0.1 * rate * slope(0.0) + 1e-9
            if rate < 0.999 * tried:
                backed_off += 1
                longer = rate / 0.9
                assert value(longer) > value(0.0) + 0.1 * longer * slope(0.0)
        assert backed_off

    @pytest.mark.parametrize(
        ("reset", "expected"), [("growing", 2.0 ** (32 / 64)), ("previous", 1.0), ("maximum", None)]
    )
    def test_reset_rules(self, reset: Any, expected: float | None, quadratic: Quadratic) -> None:
        optimizer = SLS(
            quadratic.parts, start=0.5, reset=reset, dataset_size=64, batch_size=32, max_t=3.0
        )
        assert optimizer.search.start == 0.5
        rate = rate_walked(quadratic, optimizer)
        first = optimizer.search.start
        assert first == pytest.approx(3.0 if expected is None else rate * expected)

    def test_a_failed_search_keeps_the_rate(self, quadratic: Quadratic) -> None:
        optimizer = SLS(quadratic.parts)
        rate = rate_walked(quadratic, optimizer)
        theta = quadratic.theta
        start = [p.detach().clone() for p in quadratic.parts]

        def cliff() -> Tensor:
            here = all(map(torch.equal, quadratic.parts, start))
            return quadratic.loss() * (1.0 if here else math.nan)

        optimizer.step(cliff)
        assert optimizer.last is not None
        assert optimizer.last.status is Status.NON_FINITE
        assert torch.equal(theta, quadratic.theta)
        assert optimizer.search.start == pytest.approx(rate * 2.0 ** (1 / 500))

    @pytest.mark.parametrize(
        "wrong",
        [
            {"reset": "never"},
            {"start": 0.0},
            {"shrink": 1.0},
            {"sufficient_decrease": 1.0},
            {"max_t": math.inf},
            {"dataset_size": 10, "batch_size": 0},
        ],
    )
    def test_settings_are_checked(self, wrong: dict[str, Any], quadratic: Quadratic) -> None:
        with pytest.raises((ValueError, TypeError), match=next(iter(wrong)) + "|batch_size"):
            SLS(quadratic.parts, **wrong)


class TestGOLS:
    def test_every_step_brackets_the_sign_change(self, quadratic: Quadratic) -> None:
        # the paper's bound on the length would decide on this steep bowl
        optimizer = GOLS(quadratic.parts, max_length=1e3)
        for _ in range(25):
            _, slope = line_through(quadratic)
            rate = rate_walked(quadratic, optimizer)
            assert optimizer.last is not None
            assert optimizer.last.status is Status.ACCEPTED
            at = slope(rate)
            grown = at >= 0 and slope(rate / 2) < 0
            shrunk = at < 0 and slope(rate * 2) >= 0
            small = 0 < at < 0.9 * abs(slope(0.0))
            assert grown or shrunk or small

    def test_a_closure_may_draw_a_new_batch_at_every_call(self) -> None:
        model = noisy()
        optimizer = GOLS(model)
        stream = iter(batches(600))

        def closure() -> Tensor:
            return closure_for(model, next(stream))()

        for _ in range(25):
            optimizer.step(closure)
        assert optimizer.cost.forwards > 50
        with pytest.raises(NotRepeatableError):
            SLS(model).step(closure)


class TestExact:
    def test_every_step_ends_at_the_minimum_of_its_line(self, quadratic: Quadratic) -> None:
        optimizer = ExactLineSearch(quadratic.parts, tolerance=1e-5, max_length=1e3)
        for _ in range(8):
            theta = quadratic.theta
            optimizer.step(quadratic.loss)
            multiple = quadratic.exact_multiple(theta, quadratic.theta)
            # f64 resolves the place of a minimum to about 1e-8 of the valley's width
            assert multiple == pytest.approx(1.0, abs=1e-4)

    @pytest.mark.parametrize("alpha", [0.5, 1.7])
    def test_lr_multiplies_the_minimum(self, alpha: float, quadratic: Quadratic) -> None:
        optimizer = ExactLineSearch(quadratic.parts, alpha, tolerance=1e-6, max_length=1e3)
        theta = quadratic.theta
        optimizer.step(quadratic.loss)
        assert quadratic.exact_multiple(theta, quadratic.theta) == pytest.approx(alpha, rel=1e-4)

    def test_the_last_length_saves_evaluations(self, quadratic: Quadratic) -> None:
        optimizer = ExactLineSearch(quadratic.parts, first_length=1e-7, max_length=1e3)
        costs = []
        for _ in range(6):
            optimizer.step(quadratic.loss)
            assert optimizer.last is not None
            costs.append(optimizer.last.cost.forwards)
        assert max(costs[2:]) < costs[0] / 2


def regression() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(1)
    x = torch.randn(96, 4, dtype=torch.float64)
    y = x @ torch.tensor([[1.0], [2.0], [-1.0], [0.5]], dtype=torch.float64)
    y = y + torch.randn(96, 1, dtype=torch.float64)
    return nn.Linear(4, 1).double(), x, y


@pytest.mark.parametrize("make", [ExactLineSearch, FullBatchPAL])
class TestFullLoss:
    """Along the batch's direction, to the minimum of the loss of all the data."""

    def test_the_minimum_is_that_of_all_the_data(self, make: Any) -> None:
        model, x, y = regression()
        loss_fn = nn.functional.mse_loss
        optimizer = make(model, full_loss=lambda: loss_fn(model(x), y))
        for i in range(6):
            part = slice(16 * i, 16 * i + 16)
            theta = nn.utils.parameters_to_vector(model.parameters()).detach()
            g = torch.cat(
                [
                    v.flatten()
                    for v in torch.autograd.grad(
                        loss_fn(model(x[part]), y[part]), list(model.parameters())
                    )
                ]
            )
            # the full loss along −g is a parabola: its vertex by hand
            features = torch.cat([x, torch.ones(96, 1, dtype=torch.float64)], dim=1)
            along = features @ g
            residual = features @ theta - y[:, 0]
            vertex = float((along @ residual) / (along @ along))
            optimizer.step(lambda part=part: loss_fn(model(x[part]), y[part]))
            after = nn.utils.parameters_to_vector(model.parameters()).detach()
            rate = float((theta - after) @ g / (g @ g))
            assert rate == pytest.approx(max(vertex, 0.0), rel=2e-2, abs=1e-6)
            assert optimizer.last.effective_lr == pytest.approx(rate)

    def test_passes_over_the_data_are_counted(self, make: Any) -> None:
        model, x, y = regression()

        class Full:
            batches = 3
            calls = 0

            def __call__(self) -> Tensor:
                Full.calls += 1
                return nn.functional.mse_loss(model(x), y)

        optimizer = make(model, full_loss=Full())
        calls = [0]

        def closure() -> Tensor:
            calls[0] += 1
            return nn.functional.mse_loss(model(x[:16]), y[:16])

        for _ in range(4):
            optimizer.step(closure)
        assert Full.calls >= 12
        assert optimizer.cost.forwards == calls[0] + 3 * Full.calls
        assert optimizer.cost.backwards == 4

    def test_a_copy_asks_for_its_own_full_loss(self, make: Any) -> None:
        model, x, y = regression()
        loss_fn = nn.functional.mse_loss
        optimizer = make(model, full_loss=lambda: loss_fn(model(x), y))
        optimizer.step(lambda: loss_fn(model(x[:16]), y[:16]))
        for twin, copied in (
            copy.deepcopy((model, optimizer)),
            pickle.loads(pickle.dumps((model, optimizer))),
        ):
            closure = lambda twin=twin: loss_fn(twin(x[:16]), y[:16])  # noqa: E731
            with pytest.raises(RuntimeError, match="full_loss"):
                copied.step(closure)
            copied.full_loss = lambda twin=twin: loss_fn(twin(x), y)
            copied.step(closure)
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        careless = make(model)
        careless.load_state_dict(torch.load(file, weights_only=True))
        with pytest.raises(RuntimeError, match="full_loss"):
            careless.step(lambda: loss_fn(model(x[:16]), y[:16]))

    def test_buffers_and_random_numbers_are_those_of_the_batch_alone(self, make: Any) -> None:
        data = batches(6)
        model, twin = noisy(), noisy()
        x, y = (torch.cat(part) for part in zip(*data, strict=True))
        optimizer = make(model, full_loss=lambda: nn.functional.cross_entropy(model(x), y))
        for batch in data:
            twin.load_state_dict(model.state_dict())
            torch.manual_seed(9)
            closure_for(twin, batch)()
            state = torch.get_rng_state()
            torch.manual_seed(9)
            optimizer.step(closure_for(model, batch))
            assert torch.equal(state, torch.get_rng_state())
            for name, buffer in model.norm.named_buffers():
                assert torch.equal(buffer, twin.norm.get_buffer(name)), name


def test_fbpal_walks_its_measuring_length_where_the_loss_bends_the_wrong_way() -> None:
    p = nn.Parameter(torch.tensor([0.2], dtype=torch.float64))
    optimizer = FullBatchPAL([p], measuring_length=0.25)
    optimizer.step(lambda: -(p**2).sum())
    assert optimizer.last is not None
    assert optimizer.last.status is Status.NOT_CONVEX
    assert float(p.detach()) == pytest.approx(0.45)


class TestPLS:
    @staticmethod
    def per_sample(
        model: nn.Module, x: Tensor, y: Tensor
    ) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
        def losses() -> Tensor:
            return (model(x) - y).square()[:, 0]

        return losses, lambda: losses().mean()

    def test_without_noise_every_accepted_step_meets_the_wolfe_conditions(
        self, quadratic: Quadratic
    ) -> None:
        optimizer = PLS(quadratic.parts, start=1e-3, averaging=0.0)
        accepted = 0
        for _ in range(15):
            # the problem has no batches: whatever was learned about noise is rounding
            memory = optimizer.memory
            memory.search = dataclasses.replace(memory.search, noise=None)
            memory.left_behind = None
            value, slope = line_through(quadratic)
            rate = rate_walked(quadratic, optimizer)
            assert optimizer.last is not None
            if optimizer.last.status is Status.ACCEPTED:
                accepted += 1
                assert value(rate) <= value(0.0) + 0.05 * rate * slope(0.0) + 1e-9
                assert abs(slope(rate)) <= 0.5 * abs(slope(0.0)) * (1 + 1e-9)
        assert accepted >= 12

    def test_noise_within_the_batch_against_per_sample_gradients(self) -> None:
        """torch.func's per-sample gradients are the oracle: the variance of their projection."""
        model, x, y = regression()
        losses, _ = self.per_sample(model, x, y)
        optimizer = PLS(model, start=1e-6)
        names = [name for name, _ in model.named_parameters()]
        params = {name: p.detach().clone() for name, p in model.named_parameters()}

        def one(weights: dict[str, Tensor], xi: Tensor, yi: Tensor) -> Tensor:
            out = torch.func.functional_call(model, weights, (xi[None],))
            return (out[0, 0] - yi[0]) ** 2

        grads = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0))(params, x, y)
        rows = torch.cat([grads[name].reshape(96, -1) for name in names], dim=1)
        direction = -rows.mean(0)
        slopes = rows @ direction / direction.norm()
        expected = {
            "value": float(losses().detach().var()) / 96,
            "slope": float(slopes.var()) / 96,
        }
        optimizer.step(losses)
        value, slope = optimizer.search.noise
        assert value == pytest.approx(expected["value"], rel=1e-9)
        assert slope == pytest.approx(expected["slope"], rel=1e-3)

    def test_noise_within_the_batch_is_exact_at_half_way_on_parabolas(self) -> None:
        model, x, y = regression()
        losses, _ = self.per_sample(model, x, y)
        start = 0.05
        theta = nn.utils.parameters_to_vector(model.parameters()).detach()
        features = torch.cat([x, torch.ones(96, 1, dtype=torch.float64)], dim=1)
        g = 2 * features.T @ (features @ theta - y[:, 0]) / 96
        half = features @ (theta - 0.5 * start * g) - y[:, 0]
        slopes = -2 * half * (features @ g) / g.norm()
        optimizer = PLS(model, start=start)
        optimizer.step(losses)
        assert optimizer.search.noise[1] == pytest.approx(float(slopes.var()) / 96)

    def test_noise_between_batches_tends_to_the_noise_there_is(self) -> None:
        """At a place that does not move, half squared differences average to the variances."""
        model, x, y = regression()
        optimizer = PLS(model, step_multiplier=0.0, averaging=0.98)
        theta = nn.utils.parameters_to_vector(model.parameters()).detach()
        generator = torch.Generator().manual_seed(2)
        values, noises = [], []
        for _ in range(600):
            part = torch.randint(0, 96, (16,), generator=generator)
            _, mean = self.per_sample(model, x[part], y[part])
            values.append(float(optimizer.step(mean)))
            noises.append(optimizer.search.noise[0])
        assert torch.equal(theta, nn.utils.parameters_to_vector(model.parameters()))
        sample = (model(x) - y).square().detach()
        expected = float(sample.var(unbiased=False)) / 16
        measured = sum(noises[100:]) / 500
        assert measured == pytest.approx(expected, rel=0.25)  # 500 values, averaged over 50 each
        assert float(torch.tensor(values).var()) == pytest.approx(expected, rel=0.25)

    def test_both_closures_train(self) -> None:
        """The two ways to measure noise lead to the same minimum."""
        ends = []
        for which in (0, 1):
            model, x, y = regression()
            optimizer = PLS(model, total_steps=120)
            for i in range(120):
                part = slice(24 * (i % 4), 24 * (i % 4) + 24)
                optimizer.step(self.per_sample(model, x[part], y[part])[which])
            ends.append(float((model(x) - y).detach().square().mean()))
        features = torch.cat([x, torch.ones(96, 1, dtype=torch.float64)], dim=1)
        best = torch.linalg.lstsq(features, y).solution
        lowest = float((features @ best - y).square().mean())
        assert max(ends) < 1.05 * lowest

    def test_sample_losses_cost_no_pass_of_their_own(self) -> None:
        model, x, y = regression()
        losses, _ = self.per_sample(model, x, y)
        calls = [0]

        def counted() -> Tensor:
            calls[0] += 1
            return losses()

        optimizer = PLS(model)
        for _ in range(5):
            optimizer.step(counted)
        assert optimizer.cost.forwards == calls[0] == optimizer.cost.backwards

    def test_sample_losses_survive_resume_and_report_the_mean(self) -> None:
        model, x, y = regression()
        losses, mean = self.per_sample(model, x, y)
        expected = mean().detach()
        optimizer = PLS(model)
        assert torch.equal(optimizer.step(losses), expected)
        twin, copied = pickle.loads(pickle.dumps((model, optimizer)))
        twin_losses, _ = self.per_sample(twin, x, y)
        for _ in range(4):
            optimizer.step(losses)
            copied.step(twin_losses)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.equal(p, q)

    def test_another_number_of_samples_is_refused(self) -> None:
        model, x, y = regression()
        sizes = iter([32, 16, 8, 4])

        def closure() -> Tensor:
            n = next(sizes)
            return (model(x[:n]) - y[:n]).square()[:, 0]

        with pytest.raises(ValueError, match="keep its batch"):
            PLS(model).step(closure)

    def test_a_step_that_ends_in_nan_makes_the_next_one_shorter(self) -> None:
        p = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
        optimizer = PLS([p], start=1.0)

        def closure() -> Tensor:
            return (p**2).sum() * (1.0 if float(p.detach()) > 0.999 else math.nan)

        optimizer.step(closure)
        assert optimizer.last is not None
        assert optimizer.last.status is Status.NON_FINITE
        assert optimizer.search.start == pytest.approx(0.1)


@pytest.mark.parametrize("name", NEW)
def test_settings_of_the_papers_are_the_defaults(name: str) -> None:
    p = [nn.Parameter(torch.zeros(2))]
    optimizer = NEW[name](p)
    expected: dict[str, Any] = {
        "sls": {"sufficient_decrease": 0.1, "shrink": 0.9, "max_t": 10.0, "start": 1.0},
        "gols": {"overshoot": 0.9, "factor": 2.0, "min_t": 1e-8, "max_t": 1e7},
        "pls": {"sufficient_decrease": 0.05, "curvature": 0.5, "threshold": 0.3, "growth": 1.3},
        "exact": {},
        "fbpal": {"measuring_length": 0.1},
    }[name]
    assert {key: getattr(optimizer.search, key) for key in expected} == expected
    assert optimizer.memory.direction == Steepest()
    assert optimizer.step_multiplier == 1.0


@pytest.mark.parametrize("make", [partial(ExactLineSearch, direction=ConjugateLike(0.4)), PLS, SLS])
def test_an_interrupted_step_leaves_the_optimizers_state_as_it_was(make: Any) -> None:
    """To the bit, which the shared contract does not ask for."""
    model, data = noisy(), batches(8)
    optimizer = make(model)
    for batch in data[:5]:
        optimizer.step(closure_for(model, batch))
    before = copy.deepcopy(optimizer.state_dict())
    for call in (1, 2, 3):
        calls = [0]

        def closure() -> Tensor:
            calls[0] += 1  # noqa: B023
            if calls[0] == call:  # noqa: B023
                raise KeyboardInterrupt
            return closure_for(model, data[5])()

        try:
            optimizer.step(closure)
        except KeyboardInterrupt:
            after = optimizer.state_dict()
            assert after["param_groups"] == before["param_groups"]
            for key, entries in before["state"].items():
                for name, value in entries.items():
                    assert torch.equal(value, after["state"][key][name]), name
