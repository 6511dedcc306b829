"""Loops as people write them, and what goes wrong in them: the rate is right, or it is said."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _measured import QuadraticModel, loop_step, measure_now
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from surefoot import MeasuredLR, Status
from surefoot.line import NotRepeatableError
from surefoot.replay import ReplayError

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
Y = torch.stack([X[:, 0] * X[:, 1], X[:, 2].sin()], 1)
F = nn.functional

# the bound decides in short runs on small data
pytestmark = pytest.mark.filterwarnings("ignore:most of the last 50 steps were shortened")


PLAIN: dict[str, Any] = {"averaging": False}


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))


def sgd(model: nn.Module, lr: float = 1e-3, **options: Any) -> MeasuredLR:
    return MeasuredLR(torch.optim.SGD(model.parameters(), lr), model, **PLAIN, **options)


def momentum(model: nn.Module, lr: float = 1e-3, **options: Any) -> MeasuredLR:
    return MeasuredLR(torch.optim.SGD(model.parameters(), lr, 0.9), model, **PLAIN, **options)


def adamw(model: nn.Module, lr: float = 1e-3, **options: Any) -> MeasuredLR:
    return MeasuredLR(torch.optim.AdamW(model.parameters(), lr), model, **PLAIN, **options)


def train(
    optimizer: Any, model: nn.Module, steps: int, data: tuple[Tensor, Tensor] = (X, Y)
) -> list[float]:
    x, y = data
    return [loop_step(optimizer, lambda: F.mse_loss(model(x), y)) for _ in range(steps)]


def warned(run: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run()
    return [str(w.message) for w in seen if not str(w.message).startswith("most of the last 50")]


def minimum_along(model: QuadraticModel, before: Tensor, after: Tensor) -> float:
    """Where the loss is least on the line of a move, as a multiple of it."""
    d = after - before
    return float(-(model.problem.gradient(before) @ d) / (d @ model.problem.A @ d))


def assert_measures_the_minimum(
    model: QuadraticModel, optimizer: MeasuredLR, step: Callable[[], Tensor | None], steps: int = 8
) -> None:
    """At every step, against the matrix; ``step`` may return where it begins."""
    for _ in range(steps):
        measure_now(optimizer)
        before = model.theta
        before = before if (begun := step()) is None else begun
        last = optimizer.last
        assert last is not None
        assert last.parabola is not None
        assert last.parabola.vertex is not None
        minimum = minimum_along(model, before, model.theta)
        assert last.parabola.vertex / last.t == pytest.approx(minimum, rel=1e-5)


# Gradients that are not the loss's alone


def test_a_clipped_norm_is_seen_and_the_slope_stays_the_gradients() -> None:
    model = QuadraticModel()
    optimizer = sgd(model, overhead=99.0)

    def step() -> None:
        model.loss().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    assert_measures_the_minimum(model, optimizer, step)  # warnings are errors
    assert optimizer._stepper.rate.slopes == "gradient"


def test_gradients_clipped_one_by_one_leave_the_slope_to_the_losses() -> None:
    model = QuadraticModel()
    optimizer = sgd(model, overhead=99.0)

    def step() -> None:
        model.loss().backward()
        nn.utils.clip_grad_value_(model.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()

    with pytest.warns(UserWarning, match="slopes are measured from losses") as seen:
        assert_measures_the_minimum(model, optimizer, step)
    assert len(seen) == 1
    assert optimizer._stepper.rate.slopes == "losses"


def test_accumulated_gradients_are_judged_by_the_last_micro_batch() -> None:
    """Three others pull elsewhere; the parabola is the last one's along what all four do."""
    model = QuadraticModel()
    optimizer = sgd(model, overhead=99.0)
    pull = torch.linspace(-30.0, 30.0, 10, dtype=torch.float64)

    def step() -> None:
        for sign in (1.0, -0.5, 1.0):
            (sign * pull @ model()).backward()
        model.loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    with pytest.warns(UserWarning, match="slopes are measured from losses"):
        assert_measures_the_minimum(model, optimizer, step)


WRITES: dict[str, Callable[[Tensor], Any]] = {
    "in place": lambda p: p.mul_(0.99),
    "many at once": lambda p: torch._foreach_mul_([p], 0.99),
    "through a view": lambda p: p.view(-1).mul_(0.99),
    "copied": lambda p: p.copy_(0.99 * p),
}


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_weights_written_after_the_backward_pass_are_where_the_line_begins(
    write: Any, grad: bool
) -> None:
    """Weight decay by hand, say: no part of the loss, and not made again at each of its replays."""
    model = QuadraticModel()
    optimizer = sgd(model, overhead=99.0)

    def step() -> Tensor:
        model.loss().backward()
        p = next(model.parameters())
        with torch.set_grad_enabled(grad):
            write(p.data if grad else p)
        begun = model.theta
        optimizer.step()
        optimizer.zero_grad()
        return begun

    assert_measures_the_minimum(model, optimizer, step)


def test_gradients_taken_elsewhere_are_judged_where_the_weights_are() -> None:
    """Sharpness-aware minimization: up the gradient, a second gradient, back, and the step."""
    model = QuadraticModel()
    optimizer = sgd(model, overhead=99.0)

    def step() -> None:
        model.loss().backward()
        ups = [0.05 * p.grad for p in model.parameters()]
        with torch.no_grad():
            torch._foreach_add_(list(model.parameters()), ups)
        optimizer.zero_grad()
        model.loss().backward()
        with torch.no_grad():
            torch._foreach_sub_(list(model.parameters()), ups)
        optimizer.step()
        optimizer.zero_grad()

    assert_measures_the_minimum(model, optimizer, step)


@pytest.mark.parametrize("unscales", [False, True])
def test_a_grad_scalers_factor_is_seen(unscales: bool) -> None:
    model = QuadraticModel().float()
    model.problem.A, model.problem.b = model.problem.A.float(), model.problem.b.float()
    optimizer = sgd(model, overhead=99.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(4):
        measure_now(optimizer)
        before = model.theta
        scaler.scale(model.loss()).backward()
        if unscales:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        last = optimizer.last
        assert last is not None
        assert last.parabola is not None
        minimum = minimum_along(model, before, model.theta)
        assert last.parabola.vertex / last.t == pytest.approx(minimum, rel=0.02)
    assert optimizer._stepper.rate.slopes == "gradient"


@pytest.mark.filterwarnings("ignore:.*so slopes are measured from losses")
def test_two_optimizers_may_share_a_loss() -> None:
    """Each measures its own weights' step, wherever the other's have gone."""
    model = mlp()
    halves = [
        MeasuredLR(torch.optim.AdamW(model[i].parameters()), model, overhead=0.3) for i in (0, 2)
    ]
    losses = []
    for _ in range(80):
        loss = F.mse_loss(model(X), Y)
        loss.backward()
        for half in halves:
            half.step()
        for half in halves:
            half.zero_grad()
        losses.append(float(loss.detach()))
    assert all(half.rate.value is not None and half.rate.n >= 4 for half in halves)
    assert losses[-1] < 0.85 * losses[0]


def test_a_gan_trains_with_two_of_them() -> None:
    torch.manual_seed(0)
    maker = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1))
    judge = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 1))
    makers = MeasuredLR(
        torch.optim.Adam(maker.parameters(), 1e-3, betas=(0.5, 0.99)), maker, overhead=0.2
    )
    judges = MeasuredLR(
        torch.optim.Adam(judge.parameters(), 1e-3, betas=(0.5, 0.99)), judge, overhead=0.2
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(50):
            real, noise = 3.0 + 0.5 * torch.randn(64, 1), torch.randn(64, 4)
            made = maker(noise)
            judges.zero_grad()
            right, wrong = judge(real), judge(made.detach())
            (F.softplus(-right).mean() + F.softplus(wrong).mean()).backward()
            judges.step()
            makers.zero_grad()
            F.softplus(-judge(made)).mean().backward()
            makers.step()
    assert makers.rate.n >= 4
    assert judges.rate.n >= 4
    for p in (*maker.parameters(), *judge.parameters()):
        assert torch.isfinite(p).all()


# Batches


def test_what_is_added_up_for_a_log_is_no_part_of_the_loss() -> None:
    """Two losses differentiated one after the other, and their sum printed: the last counts."""
    model = mlp()
    optimizer = adamw(model)
    for _ in range(6):  # all of which measure
        optimizer.zero_grad()
        first = model(X).square().mean()
        first.backward()
        second = (model(X) - Y).square().mean()
        second.backward()
        assert (first + second).isfinite()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # slopes are measured from losses
            optimizer.step()
        assert optimizer.last is not None
        assert optimizer.last.value0 == pytest.approx(second.item())


def test_a_batch_overwritten_before_the_step_is_kept_from_the_next_one_on() -> None:
    """As nanoGPT fetches the next batch between forward and backward pass."""
    model = mlp()
    optimizer = adamw(model, total_steps=60, overhead=0.2)
    source = torch.Generator().manual_seed(2)
    x, y = X.clone(), Y.clone()
    statuses = []
    for _ in range(60):
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        places = torch.randint(0, 64, (64,), generator=source)
        statuses.append(optimizer.last.status if optimizer.last else None)
        optimizer.zero_grad()
        loss = None
        x.copy_(X[places])
        y.copy_(Y[places])
    assert Status.COLLECTING not in statuses  # overwritten after the step: nothing to heal
    model = mlp()
    optimizer = adamw(model, total_steps=60, overhead=0.2)
    statuses = []
    for _ in range(60):
        F.mse_loss(model(x), y).backward()
        places = torch.randint(0, 64, (64,), generator=source)
        x.copy_(X[places])
        y.copy_(Y[places])
        optimizer.step()
        optimizer.zero_grad()
        assert optimizer.last is not None
        statuses.append(optimizer.last.status)
    assert statuses[0] is Status.COLLECTING
    assert statuses[1].measured
    assert sum(status.measured for status in statuses) >= 8


def test_one_loss_in_ten_a_thousand_times_as_large_leaves_a_rate_that_trains() -> None:
    model = mlp()
    optimizer = adamw(model, total_steps=400)
    losses = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k in range(400):
            factor = 1000.0 if k % 10 == 9 else 1.0
            losses.append(loop_step(optimizer, lambda: factor * F.mse_loss(model(X), Y)))  # noqa: B023
    kept = [loss for k, loss in enumerate(losses) if k % 10 != 9]
    assert kept[-1] < 0.1 * kept[0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_third_of_the_batches_may_be_left_out(bad: float) -> None:
    model = mlp()
    optimizer = adamw(model, total_steps=300)
    losses = []
    for k in range(300):
        factor = bad if k % 3 == 1 else 1.0
        before = [p.detach().clone() for p in model.parameters()]
        losses.append(loop_step(optimizer, lambda: factor * F.mse_loss(model(X), Y)))  # noqa: B023
        if k % 3 == 1:
            assert optimizer.last is not None
            assert optimizer.last.status is Status.NON_FINITE
            assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert losses[-1] < 0.2 * losses[0]


def test_forty_bad_batches_in_a_row_are_told_once_and_survived() -> None:
    model = mlp()
    optimizer = adamw(model, total_steps=300)
    train(optimizer, model, 60)
    before = optimizer._stepper.rate.in_use
    bad = (torch.full_like(X, math.nan), Y)
    messages = warned(lambda: train(optimizer, model, 40, bad))
    assert len(messages) == 1
    assert "not finite 3 times in a row" in messages[0]
    assert optimizer._stepper.rate.in_use == before
    losses = train(optimizer, model, 200)
    assert losses[-1] < 0.5 * losses[0]


def test_weights_that_are_no_numbers_end_the_run() -> None:
    model = mlp()
    optimizer = adamw(model)
    train(optimizer, model, 5)
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    with (
        pytest.warns(UserWarning, match="not finite"),
        pytest.raises(RuntimeError, match="the weights hold NaN"),
    ):
        train(optimizer, model, 5)


def test_a_hundred_bad_batches_end_the_run() -> None:
    model = mlp()
    optimizer = adamw(model)
    with (
        pytest.warns(UserWarning, match="not finite"),
        pytest.raises(RuntimeError, match="100 losses in a row were not finite"),
    ):
        train(optimizer, model, 101, (X * math.nan, Y))


# Scales


@pytest.mark.parametrize("make", [momentum, adamw])
@pytest.mark.parametrize("unit", [1e-10, 1e-3, 10.0])
def test_the_unit_does_not_matter(unit: float, make: Any) -> None:
    """A base's lr from far too small to far too large ends alike."""
    model = mlp()
    if make is adamw:  # decay at a rate of 10 would leave nothing of a toy's weights
        base = torch.optim.AdamW(model.parameters(), unit, weight_decay=0.0)
        optimizer = MeasuredLR(base, model, total_steps=300)
    else:
        optimizer = make(model, unit, total_steps=300)
    losses = train(optimizer, model, 300)
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("make", [momentum, adamw])
def test_nor_does_the_scale_of_the_loss(make: Any) -> None:
    found = []
    for scale in (1.0, 1e-10):
        model = mlp()
        optimizer = make(model, total_steps=300)
        losses = [loop_step(optimizer, lambda: scale * F.mse_loss(model(X), Y)) for _ in range(300)]  # noqa: B023
        found.append(losses[-1] / losses[0])
    assert found[0] < 0.1
    if make is momentum:
        assert found[1] < 0.1
    else:  # Adam's own epsilon stands in the way
        assert found[1] < 0.95


@pytest.mark.filterwarnings("ignore:.*so slopes are measured from losses", "ignore:no learning")
@pytest.mark.parametrize("steps", [100, 300, 1000])
@pytest.mark.parametrize("make", [sgd, momentum, adamw])
def test_no_run_ends_worse_than_it_was(make: Any, steps: int) -> None:
    """With nothing chosen, on all data at once."""
    model = mlp()
    losses = train(make(model, total_steps=steps), model, steps)
    assert max(losses) < 1.5 * losses[0]
    assert losses[-1] < (0.5 if steps == 100 else 0.1) * losses[0]


@pytest.mark.parametrize("depth", [6, 12, 20])
@pytest.mark.parametrize("options", [{}, {"total_steps": 100}], ids=["averaged", "decayed"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_deep_linear_net_leaves_its_saddle_and_stays(
    depth: int, options: dict[str, Any], momentum: float
) -> None:
    """At the start all is flat; a little farther gradients are a million times as large."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(depth)))
    x = torch.randn(64, 64)
    y = x.roll(1, 1)
    optimizer = MeasuredLR(torch.optim.SGD(model.parameters(), 0.05, momentum), model, **options)
    losses = []
    for k in range(100):
        rows = slice(16 * (k % 4), 16 * (k % 4) + 16)
        losses.append(
            loop_step(optimizer, lambda rows=rows: nn.functional.mse_loss(model(x[rows]), y[rows]))
        )
    assert max(losses[-20:]) < 1.5
    assert all(math.isfinite(loss) for loss in losses)


def test_a_nearly_flat_start_does_not_end_the_run() -> None:
    """The first parabola's minimum is absurdly far: the last layer begins at nearly zero."""
    model = mlp()
    with torch.no_grad():
        model[2].weight.mul_(1e-6)
        model[2].bias.zero_()
    losses = train(optimizer := adamw(model, total_steps=300), model, 300)
    assert max(losses) < 3 * losses[0]
    assert losses[-1] < 0.2 * losses[0]
    assert optimizer.rate.value is not None


@pytest.mark.filterwarnings("ignore:the loss along the updates is no parabola")
@pytest.mark.parametrize("options", [{}, {"total_steps": 100}], ids=["averaged", "decayed"])
@pytest.mark.parametrize("rough", [lambda x: x.bfloat16(), lambda x: x + 3e4], ids=["bf16", "far"])
def test_first_steps_that_drown_in_the_loss_are_followed_by_larger_ones(
    rough: Callable[[Tensor], Tensor], options: dict[str, Any]
) -> None:
    """They say only that the rate is too low."""
    model = mlp()
    optimizer = MeasuredLR(torch.optim.AdamW(model.parameters(), 1e-4), model, **options)
    start = F.mse_loss(model(X), Y).item()
    for _ in range(100):
        loop_step(optimizer, lambda: rough(F.mse_loss(model(X), Y)))
    assert F.mse_loss(model(X), Y) < 0.7 * start
    assert optimizer.rate.value is not None


def test_a_loss_at_its_floor_does_not_let_the_rate_run_away() -> None:
    """Solved to rounding, with noise that nothing can fit, long after."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
    optimizer = adamw(model, overhead=0.3)
    y = X[:, :2] @ torch.tensor([[1.0, -0.5], [0.3, 2.0]])

    def loss() -> Tensor:
        return F.mse_loss(model(X), y) + 1.0

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        losses = [loop_step(optimizer, loss) for _ in range(800)]
    assert max(losses[400:]) < 1.05
    assert optimizer._stepper.rate.in_use is not None
    assert optimizer._stepper.rate.in_use < 1e4


def test_a_flat_loss_is_told_once_and_moves_nothing() -> None:
    model = mlp()
    optimizer = sgd(model, overhead=9.0)
    before = model[0].weight.detach().clone()
    (message,) = warned(
        lambda: [loop_step(optimizer, lambda: 0.0 * F.mse_loss(model(X), Y)) for _ in range(40)]
    )
    assert "no learning rate could be measured" in message
    assert torch.equal(before, model[0].weight)


def test_a_loss_out_of_its_range_twice_halves_the_rate() -> None:
    model = mlp()
    optimizer = adamw(model, overhead=99.0)

    def step(offset: float) -> float:
        measure_now(optimizer)
        loop_step(optimizer, lambda: F.mse_loss(model(X), Y) + offset)
        assert optimizer._stepper.rate.in_use is not None
        return optimizer._stepper.rate.in_use

    for _ in range(20):
        calm = step(0.0)
    assert step(1000.0) > 0.6 * calm  # an outlier of the data
    assert step(1000.0) <= 0.5 * optimizer._stepper.rate.in_use * 4  # type: ignore[operator]


# What is no parabola


def test_where_the_loss_has_no_minimum_the_rate_grows_step_by_step() -> None:
    p = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = MeasuredLR(torch.optim.SGD([p], 1e-3), overhead=99.0, averaging=False)
    rates = []
    for _ in range(8):
        loop_step(optimizer, lambda: optimizer.watch(lambda: p.sum()))
        rates.append(optimizer._stepper.rate.in_use)
    assert all(a <= b <= 2.0 * a * (1 + 1e-12) for a, b in itertools.pairwise(rates))


@pytest.mark.filterwarnings("ignore:the loss or its gradient was not finite")
def test_a_cliff_behind_the_minimum_is_not_jumped_into() -> None:
    """The loss is no number beyond a distance that the first probe would overstep."""
    p = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = MeasuredLR(torch.optim.SGD([p], 1.0), overhead=99.0, averaging=False)

    def loss() -> Tensor:
        return torch.where(p < 0.995, torch.nan, p * 100.0).sum()

    for _ in range(40):
        measure_now(optimizer)
        loop_step(optimizer, lambda: optimizer.watch(loss))
        assert torch.isfinite(loss())


def test_losses_that_are_no_parabola_are_told_by_warning_and_status() -> None:
    def statuses(kinked: bool) -> list[Status]:
        p = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
        optimizer = MeasuredLR(torch.optim.SGD([p], 0.1), overhead=99.0, frozen=True)

        def loss() -> Tensor:
            away = p - 0.93
            return (away.abs() if kinked else away.square()).sum()

        told = []
        for _ in range(60):
            measure_now(optimizer)
            with torch.no_grad():
                p.fill_(1.0)
            loop_step(optimizer, lambda: optimizer.watch(loss))
            assert optimizer.last is not None
            told.append(optimizer.last.status)
        return told

    with pytest.warns(UserWarning, match="no parabola"):
        told = statuses(kinked=True)
    assert set(told[-20:]) == {Status.MISFIT}
    assert Status.MISFIT.measured
    assert Status.MISFIT not in statuses(kinked=False)


# What cannot be measured is said


def test_a_loss_that_cannot_be_repeated_is_refused_at_first() -> None:
    model = mlp()
    optimizer = adamw(model)
    calls = itertools.count()

    def loss() -> Tensor:
        return F.mse_loss(model(X), Y) * (1.0 + 0.1 * next(calls))

    with pytest.raises(NotRepeatableError, match="same weights and the same random numbers"):
        loop_step(optimizer, lambda: optimizer.watch(loss))


def test_a_forward_pass_out_of_sight_is_told_with_the_way_out() -> None:
    other, trained = mlp(), mlp()
    base = torch.optim.AdamW([*trained.parameters(), *other.parameters()])
    optimizer = MeasuredLR(base, other)
    with pytest.raises(ReplayError, match="no forward pass of the model was seen") as caught:
        train(optimizer, trained, 3)
    assert "optimizer.watch(lambda" in str(caught.value)
    assert "Is the model that was passed the one that the loop calls?" in str(caught.value)
    for _ in range(3):
        loop_step(optimizer, lambda: optimizer.watch(lambda: F.mse_loss(trained(X), Y)))
    assert optimizer.rate.value is not None


def test_the_wrong_model_is_named() -> None:
    with pytest.raises(ValueError, match="none of the optimizer's parameters belongs"):
        MeasuredLR(torch.optim.AdamW(mlp().parameters()), mlp())


def test_an_output_computed_outside_the_closure_is_named() -> None:
    model = mlp()
    optimizer = adamw(model)
    out = model(X)

    def steps() -> None:
        for _ in range(3):
            optimizer.step(lambda: F.mse_loss(out, Y))

    with pytest.raises(RuntimeError, match="inside the closure"):
        steps()


def test_a_loss_without_a_graph_is_named() -> None:
    model = mlp()
    with pytest.raises(RuntimeError, match="does not depend on any parameter"):
        adamw(model).step(lambda: F.mse_loss(model(X), Y).detach())


def test_step_takes_no_loss() -> None:
    model = mlp()
    with pytest.raises(TypeError, match=r"step\(\) takes no loss"):
        adamw(model).step(F.mse_loss(model(X), Y))


def test_a_closure_must_return_one_number() -> None:
    model = mlp()
    with pytest.raises(TypeError, match=r"one number, but returned a tensor of shape \(64, 2\)"):
        adamw(model).step(lambda: (model(X) - Y) ** 2)


def test_sparse_gradients_are_refused() -> None:
    model = nn.Embedding(4, 2, sparse=True)
    optimizer = MeasuredLR(torch.optim.SGD(model.parameters(), 0.1), model)
    with pytest.raises(RuntimeError, match="sparse=False"):
        loop_step(optimizer, lambda: model(torch.tensor([1])).square().sum())


def test_a_scaler_with_a_closure_is_refused() -> None:
    model = mlp()
    optimizer, scaler = adamw(model), torch.amp.GradScaler("cpu")
    scaler.scale(F.mse_loss(model(X), Y)).backward()
    with pytest.raises(RuntimeError, match="without the scale"):
        scaler.step(optimizer, lambda: F.mse_loss(model(X), Y))


# Schedules


def test_a_peak_that_is_meant_as_a_rate_is_told() -> None:
    model = mlp()
    optimizer = adamw(model, horizon="none")
    scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=40, cycle_momentum=False)
    messages = warned(lambda: [(train(optimizer, model, 1), scheduler.step()) for _ in range(30)])
    (message,) = [m for m in messages if "max_lr" in m]
    assert "max_lr=0.1 is 100 times the group's lr" in message


def test_a_schedule_on_top_of_the_horizon_is_told_once() -> None:
    model = mlp()
    optimizer = adamw(model, total_steps=100)
    scheduler = LambdaLR(optimizer, lambda k: 1 - k / 100)
    messages = warned(lambda: [(train(optimizer, model, 1), scheduler.step()) for _ in range(90)])
    (message,) = messages
    assert "falls twice" in message
    assert 'horizon="none"' in message


def test_a_run_beyond_its_length_is_told_once() -> None:
    model = mlp()
    optimizer = adamw(model, total_steps=20)
    train(optimizer, model, 20)
    (message,) = warned(lambda: train(optimizer, model, 20))
    assert "total_steps=20" in message


# Nothing to do


def test_a_warm_up_that_begins_at_zero_measures_when_it_moves() -> None:
    model = mlp()
    base = torch.optim.AdamW(model.parameters())
    optimizer = MeasuredLR(base, model)
    scheduler = LambdaLR(optimizer, lambda k: min(1.0, k / 5))
    before = model[0].weight.detach().clone()
    train(optimizer, model, 1)
    assert torch.equal(before, model[0].weight)
    for _ in range(20):
        scheduler.step()
        train(optimizer, model, 1)
    assert optimizer.rate.value is not None
    assert not torch.equal(before, model[0].weight)


def test_a_step_without_gradients_does_nothing() -> None:
    model = mlp()
    optimizer = adamw(model)
    optimizer.step()
    losses = train(optimizer, model, 50)
    assert losses[-1] < losses[0]


def test_it_trains_under_bf16_autocast() -> None:
    model = mlp()
    optimizer = adamw(model, total_steps=200)

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return F.mse_loss(model(X), Y)

    losses = [loop_step(optimizer, loss) for _ in range(200)]
    assert all(p.dtype is torch.float32 for p in model.parameters())
    assert losses[-1] < 0.4 * losses[0]


def test_an_interrupted_replay_leaves_the_weights_where_the_step_began() -> None:
    """To the bit; the next step goes on."""
    model = mlp()
    optimizer = adamw(model, overhead=99.0)
    train(optimizer, model, 6)
    for at in (2, 3):
        measure_now(optimizer)
        before = [p.detach().clone() for p in model.parameters()]
        random = torch.get_rng_state()
        calls = itertools.count(1)

        def loss() -> Tensor:
            if next(calls) == at:  # noqa: B023
                raise KeyboardInterrupt
            return F.mse_loss(model(X), Y)

        # replays the start, too
        optimizer._stepper.rate = dataclasses.replace(optimizer._stepper.rate, attempts=16)
        with pytest.raises(KeyboardInterrupt):
            loop_step(optimizer, lambda: optimizer.watch(loss))
        for p, was in zip(model.parameters(), before, strict=True):
            torch.testing.assert_close(p, was, rtol=1e-6, atol=1e-7)
        assert torch.equal(random, torch.get_rng_state())
        optimizer.zero_grad()
    assert train(optimizer, model, 30)[-1] < 10.0


def test_the_search_for_a_model_ends_with_its_optimizer() -> None:
    hooks = nn.modules.module._global_forward_pre_hooks
    before = len(hooks)
    optimizer = MeasuredLR(torch.optim.SGD(mlp().parameters(), 0.1))
    assert len(hooks) == before + 1
    del optimizer
    gc.collect()
    assert len(hooks) == before


def test_an_evaluation_that_no_step_follows_records_nothing() -> None:
    """With gradients enabled, as scripts forget; a tape left on would slow every operation down."""
    from surefoot.replay.tape import _on

    model = mlp()
    optimizer = adamw(model, overhead=99.0)
    loop_step(optimizer, lambda: F.mse_loss(model(X), Y))
    model.eval()
    model(X)
    assert _on == []


def test_a_loop_that_breaks_off_leaves_nothing_on() -> None:
    from surefoot.replay.tape import _on

    model = mlp()
    optimizer = adamw(model)
    model(X)
    assert len(_on) == 1
    del optimizer, model
    gc.collect()
    assert _on == []


def test_a_recorder_that_ends_while_a_tape_stops_disturbs_nothing(monkeypatch: Any) -> None:
    """Garbage is collected at any moment: here in the middle of what takes the tape off."""
    from surefoot.replay import tape as module

    model = mlp()
    optimizer = adamw(model, overhead=99.0)
    pop = module._get_current_dispatch_mode

    def collected() -> Any:
        module.stop_abandoned()
        return pop()

    monkeypatch.setattr(module, "_get_current_dispatch_mode", collected)
    for _ in range(5):
        loop_step(optimizer, lambda: F.mse_loss(model(X), Y))
    assert module._on == []
    assert optimizer.last.status.measured


def _half(dtype: torch.dtype, eps: float) -> tuple[MeasuredLR, Callable[[], Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 3)).to(dtype)
    optimizer = MeasuredLR(torch.optim.AdamW(model.parameters(), eps=eps), model)
    x, y = torch.randn(64, 10).to(dtype), torch.arange(64) % 3
    return optimizer, lambda: nn.functional.cross_entropy(model(x), y)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float32])
def test_weights_in_half_precision_are_told_and_do_not_end_the_run(
    dtype: torch.dtype, cast: torch.dtype
) -> None:
    """A loss of few bits is the same at two places; so are weights of few bits."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        optimizer, loss = _half(dtype, 1e-4)
        losses = [loop_step(optimizer, lambda: loss().to(cast)) for _ in range(60)]
    assert "weights in half precision round small steps away" in str(told[0].message)
    assert losses[-1] < 0.85 * losses[0]
    assert all(p.isfinite().all() for p in optimizer.param_groups[0]["params"])


@pytest.mark.filterwarnings("ignore:weights in half precision")
def test_a_step_that_is_not_finite_is_named_and_not_taken() -> None:
    """AdamW's eps of 1e-8 is 0 in half precision, and so is the square of a small gradient."""
    optimizer, loss = _half(torch.float16, 1e-8)
    params = optimizer.param_groups[0]["params"]
    before = [p.clone() for p in params]
    with pytest.raises(RuntimeError, match=r"AdamW's own step is not finite.*torch\.float16"):
        loop_step(optimizer, loss)
    assert all(torch.equal(p, old) for p, old in zip(params, before, strict=True))


def test_a_group_that_joins_is_no_foreign_gradient(recwarn: pytest.WarningsRecorder) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.Tanh())
    head = nn.Linear(32, 3)
    optimizer = MeasuredLR(torch.optim.AdamW(model.parameters()), nn.Sequential(model, head))
    x, y = torch.randn(64, 10), torch.arange(64) % 3
    for i in range(40):
        if i == 10:
            optimizer.add_param_group({"params": head.parameters()})
        loop_step(optimizer, lambda: nn.functional.cross_entropy(head(model(x)), y))
    assert not recwarn.list
