"""The quiet room: measuring leaves no trace in buffers, random numbers, weights or gradients."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from _problems import Noisy, assert_same, batches, closure_for, noisy, snapshot
from torch import Tensor, nn

from surefoot import LABPAL, PAL, SLS, NotRepeatableError
from surefoot._closure import Closure
from surefoot._quiet import Buffers, QuietRoom, RngState
from surefoot.directions import steepest
from surefoot.line import Line


def line_through(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Line, QuietRoom, Closure]:
    params = list(model.parameters())
    call = Closure(closure_for(model, batch), params)
    room = QuietRoom(params, model)
    room.__enter__()
    value0 = float(call.gradient())
    direction = steepest([p.grad for p in params if p.grad is not None], [1.0] * len(params))
    return Line(params, direction, call, room, value0), room, call


def test_evaluating_the_start_twice_gives_the_same_loss_to_the_bit() -> None:
    model, (batch,) = noisy(), batches(1)
    line, room, _ = line_through(model, batch)
    with line:
        assert line.value(0.0) == line.value0
        line.value(0.3)
        assert line.value(0.0) == line.value0
    room.__exit__(None, None, None)


def test_values_and_slopes_are_those_of_the_moved_net() -> None:
    model, (batch,) = noisy().double(), batches(1)
    batch = batch[0].double(), batch[1]
    torch.manual_seed(7)
    line, room, _ = line_through(model, batch)
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    kept = [g.clone() for g in grads]
    with line:
        values = [line.value(t) for t in (0.1, 0.1 - 1e-5, 0.1 + 1e-5)]
        _, slope = line.value_and_slope(0.1)
    room.__exit__(None, None, None)
    assert slope == pytest.approx((values[2] - values[1]) / 2e-5, rel=1e-5)
    assert all(torch.equal(p.grad, k) for p, k in zip(model.parameters(), kept, strict=True))  # type: ignore[arg-type]

    twin = noisy().double()
    with torch.no_grad():
        for p, g in zip(twin.parameters(), kept, strict=True):
            p.add_(g, alpha=-0.1)
    torch.manual_seed(7)
    assert values[0] == pytest.approx(closure_for(twin, batch)().item(), rel=1e-14)


class Spectral(nn.Module):
    """Power iteration: the buffer itself changes the loss of the next forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


def test_buffers_that_change_the_loss_are_put_back_before_every_probe() -> None:
    model = Spectral()
    x, y = torch.randn(8, 6), torch.randint(0, 3, (8,))
    line, room, _ = line_through(model, (x, y))
    with line:
        assert line.value(0.0) == line.value(0.0) == line.value0
    room.__exit__(None, None, None)


def test_rebound_buffers_are_rebound() -> None:
    module = nn.BatchNorm1d(2)
    original = module.running_mean
    buffers = Buffers(module).snapshot()
    module.running_mean = torch.full((2,), 9.0)
    buffers.restore()
    assert module.running_mean is original
    assert torch.equal(original, torch.zeros(2))  # type: ignore[arg-type]


def test_labpal_says_so_when_the_closure_is_not_repeatable() -> None:
    model = nn.Linear(3, 1)
    drawn = np.random.default_rng(0)

    def closure() -> Tensor:
        x = torch.from_numpy(drawn.normal(size=(4, 3)).astype(np.float32))
        loss: Tensor = model(x).square().mean()
        return loss

    with pytest.raises(NotRepeatableError, match="draw a new"):
        LABPAL(model).step(closure)


def test_any_optimizer_can_be_asked_to_check_a_closure() -> None:
    model = noisy()
    optimizer = PAL(model)
    (batch,) = batches(1)
    state, weights = torch.get_rng_state(), snapshot(model)
    optimizer.check_closure(closure_for(model, batch))
    assert_same(snapshot(model), weights)
    assert torch.equal(torch.get_rng_state(), state)
    numbers = iter(range(10))
    with pytest.raises(NotRepeatableError):
        optimizer.check_closure(lambda: model(batch[0]).mean() + next(numbers))


@pytest.mark.parametrize("make", [PAL, SLS, LABPAL])
def test_python_and_numpy_draw_the_same_numbers_in_every_evaluation(make: Any) -> None:
    model, (batch,) = noisy(), batches(1)
    plain, drawn = closure_for(model, batch), []

    def closure() -> Tensor:
        drawn.append(random.random() + np.random.random())  # noqa: NPY002
        return (1.0 + drawn[-1]) * plain()

    random.seed(3), np.random.seed(3)  # noqa: NPY002
    once = random.random() + np.random.random(), random.random(), np.random.random()  # noqa: NPY002
    random.seed(3), np.random.seed(3)  # noqa: NPY002
    make(model).step(closure)
    assert drawn == [once[0]] * len(drawn)
    assert len(drawn) > 1
    assert (random.random(), np.random.random()) == once[1:]  # noqa: NPY002


def test_numpy_is_left_alone() -> None:
    model, (batch,) = noisy(), batches(1)
    before: Any = np.random.get_state()  # noqa: NPY002
    PAL(model).step(closure_for(model, batch))
    after: Any = np.random.get_state()  # noqa: NPY002
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_grads_end_as_the_gradient_at_the_start() -> None:
    model, (batch,) = noisy(), batches(1)
    twin = noisy()
    torch.manual_seed(2)
    closure_for(twin, batch)().backward()
    torch.manual_seed(2)
    PAL(model).step(closure_for(model, batch))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)  # type: ignore[arg-type]


def test_random_state_round_trip() -> None:
    kept = RngState.capture()
    first = torch.rand(3)
    kept.restore()
    assert torch.equal(first, torch.rand(3))


def test_modules_without_buffers_cost_nothing() -> None:
    assert isinstance(noisy(), Noisy)
    Buffers(None).snapshot().restore()
    Buffers(nn.Linear(2, 2)).snapshot().restore()
