"""torch.compile and activation checkpointing: the same steps; a replay is one graph more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from _clients import STEPS, adamw, assert_measured, assert_same, batch, frozen, measured, net
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from surefoot import MeasuredLR
from surefoot.replay import Recorder

pytestmark = pytest.mark.filterwarnings("ignore")  # the compiler's own


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def train(forward: Callable[[Tensor], Tensor], optimizer: Any, steps: int = STEPS) -> None:
    torch.manual_seed(3)
    for k in range(steps):
        x, y = batch(k)
        F.mse_loss(forward(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="aot_eager")


Setup = Callable[[nn.Module], tuple[Any, MeasuredLR]]


def given(model: nn.Module) -> tuple[Any, MeasuredLR]:
    wrapped = compiled(model)
    return wrapped, measured(wrapped)


def inner(model: nn.Module) -> tuple[Any, MeasuredLR]:
    return compiled(model), measured(model)


def in_place(model: nn.Module) -> tuple[Any, MeasuredLR]:
    model.compile(backend="aot_eager")
    return model, measured(model)


def not_given(model: nn.Module) -> tuple[Any, MeasuredLR]:
    optimizer = MeasuredLR(adamw(model), total_steps=STEPS, overhead=0.5)
    return compiled(model), optimizer


@pytest.mark.parametrize("setup", [given, inner, in_place, not_given])
def test_compiled_before_wrapping(setup: Setup) -> None:
    eager, model = net(), net()
    train(eager, expected := measured(eager))
    forward, optimizer = setup(model)
    train(forward, optimizer)
    assert optimizer.rate.n == expected.rate.n
    for p, q in zip(eager.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    assert graphs() == 1


def compiled_later(model: nn.Module) -> tuple[Any, MeasuredLR]:
    optimizer = measured(model)
    return compiled(model), optimizer


def in_place_later(model: nn.Module) -> tuple[Any, MeasuredLR]:
    optimizer = measured(model)
    model.compile(backend="aot_eager")
    return model, optimizer


@pytest.mark.parametrize("setup", [compiled_later, in_place_later])
def test_compiled_after_wrapping_costs_one_step(setup: Setup) -> None:
    eager, model = net(), net()
    forward, optimizer = setup(model)
    train(forward, optimizer, 1)
    assert_same(eager, model)  # the first step looks for the model that was compiled
    train(forward, optimizer)
    assert_measured(optimizer)
    assert graphs() <= 3


def test_frozen_trains_as_the_plain_optimizer() -> None:
    first, second = compiled(net(dropout=0.1)), compiled(net(dropout=0.1))
    train(first, adamw(first))
    train(second, optimizer := frozen(second))
    assert_same(first, second)
    assert_measured(optimizer)


def test_a_compiled_criterion() -> None:
    eager, model = net(), net()
    steps = 2 * STEPS  # at the first of which losses are heard, by its Python
    train(eager, measured(eager), steps)
    optimizer, criterion = measured(model), torch.compile(F.mse_loss, backend="aot_eager")
    torch.manual_seed(3)
    for k in range(steps):
        x, y = batch(k)
        criterion(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert_measured(optimizer)
    assert_same(eager, model)
    assert graphs() == 1


def test_a_loss_compiled_with_its_model_is_watched() -> None:
    model = net()
    optimizer = measured(model)
    loss_of = torch.compile(lambda x, y: F.mse_loss(model(x), y), backend="aot_eager")
    for k in range(STEPS):
        x, y = batch(k)
        optimizer.watch(lambda: loss_of(x, y)).backward()  # noqa: B023
        optimizer.step()
        optimizer.zero_grad()
    assert_measured(optimizer)


def test_a_compiled_step() -> None:
    eager, model = net(), net()
    train(eager, measured(eager))
    optimizer = measured(model)
    step = torch.compile(lambda: optimizer.step(), backend="aot_eager")
    torch.manual_seed(3)
    for k in range(STEPS):
        x, y = batch(k)
        F.mse_loss(model(x), y).backward()
        step()
        optimizer.zero_grad()
    assert_same(eager, model)


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.net, self.reentrant = net(dropout=0.1), reentrant

    def forward(self, x: Tensor) -> Tensor:
        if self.reentrant is None:
            return self.net(x)  # type: ignore[no-any-return]
        inputs = x.clone().requires_grad_()
        hidden = checkpoint(self.net[:3], inputs, use_reentrant=self.reentrant)
        return self.net[3](hidden)  # type: ignore[no-any-return]


@pytest.mark.parametrize("reentrant", [False, True])
def test_activations_that_are_computed_again(reentrant: bool) -> None:
    plain, model = Checkpointed(None), Checkpointed(reentrant)
    train(plain, measured(plain))
    train(model, optimizer := measured(model))
    assert_same(plain, model)
    assert_measured(optimizer)


def test_a_model_that_is_checkpointed_as_a_whole() -> None:
    plain, model = net(dropout=0.1), net(dropout=0.1)
    train(plain, measured(plain))
    train(lambda x: checkpoint(model, x, use_reentrant=False), optimizer := measured(model))
    assert_same(plain, model)
    assert_measured(optimizer)


def test_a_step_that_records_nothing_leaves_the_hooks_out_of_the_graph() -> None:
    """Once the module that the loop calls is known, none below it has a hook."""
    model = net()
    forward = compiled(model)
    recorder = Recorder(forward)
    recorder.arm([*model.parameters()])
    forward(batch(0)[0]).sum().backward()
    assert recorder.finish() is not None
    assert recorder.finish() is None  # what a step that does not measure asks for
    recorder.arm([*model.parameters()])
    assert not [m for m in model.modules() if m._forward_hooks]
    recorder.disarm()
