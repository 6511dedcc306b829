"""Losses that hold derivatives of the network: probes record a graph there, and only there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from _problems import LINE_SEARCHES
from torch import Tensor, nn

from surefoot import (
    PAL,
    MeasuredLR,
    ReplayError,
    range_test,
    sample_line,
)

every = pytest.mark.parametrize("make", LINE_SEARCHES.values(), ids=LINE_SEARCHES.keys())
X = torch.linspace(0.0, 1.0, 16, dtype=torch.float64).view(-1, 1).requires_grad_()


class Net(nn.Module):
    """Dropout and BatchNorm, so that a second try must hear the same numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Linear(1, 8), nn.BatchNorm1d(8)
        self.drop, self.last = nn.Dropout(0.2), nn.Linear(8, 1)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.drop(torch.tanh(self.norm(self.first(x)))))
        return out


def by_autograd(model: nn.Module) -> Tensor:
    """A slope by differentiation inside the loss, u' = 1."""
    slope = torch.autograd.grad(model(X).sum(), X, create_graph=True)[0]
    return (slope - 1.0).square().mean()


def with_the_graph_on(model: nn.Module) -> Tensor:
    with torch.enable_grad():
        return by_autograd(model)


@every
def test_steps_are_those_of_a_closure_that_switches_the_graph_on_itself(make: Any) -> None:
    ends = []
    for loss in (by_autograd, with_the_graph_on):
        model = Net()
        optimizer = make(model)
        torch.manual_seed(1)
        for _ in range(6):
            optimizer.step(partial(loss, model))
        ends.append(([p.detach() for p in model.parameters()], torch.get_rng_state()))
        assert model.norm.num_batches_tracked == 6
    for p, q in zip(ends[0][0], ends[1][0], strict=True):
        assert torch.allclose(p, q, rtol=1e-7, atol=1e-10)
    assert torch.equal(ends[0][1], ends[1][1])


@every
def test_the_failed_try_is_made_once_and_counted(make: Any) -> None:
    model, calls = Net(), 0
    optimizer = make(model)

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        return by_autograd(model)

    for _ in range(6):
        optimizer.step(closure)
    assert optimizer.cost.forwards == calls
    model, other = Net(), make(Net())
    other = make(model)
    for _ in range(6):
        other.step(partial(with_the_graph_on, model))
    assert optimizer.cost.forwards <= other.cost.forwards + 1


@every
def test_probes_of_other_losses_record_no_graph(make: Any) -> None:
    model, seen = Net(), []

    def closure() -> Tensor:
        seen.append(torch.is_grad_enabled())
        return (model(X) - X.detach()).square().mean()

    optimizer = make(model)
    for _ in range(3):
        optimizer.step(closure)
    assert seen.count(True) == optimizer.cost.backwards


@every
def test_check_closure_before_and_after_the_first_step(make: Any) -> None:
    model = Net()
    optimizer = make(model)
    optimizer.check_closure(partial(by_autograd, model))
    optimizer.step(partial(by_autograd, model))
    optimizer.check_closure(partial(by_autograd, model))


@pytest.mark.parametrize("name", ["labpal", "sls", "exact", "fbpal"])
def test_a_loss_that_asks_whether_there_is_a_graph_is_understood(name: str) -> None:
    """A penalty that is left out under no_grad: those that compare losses notice at once."""
    model = Net()

    def closure() -> Tensor:
        loss = (model(X) - 1.0).square().mean()
        return loss + by_autograd(model) if torch.is_grad_enabled() else loss

    optimizer = LINE_SEARCHES[name](model)
    for _ in range(4):
        optimizer.step(closure)
    optimizer.check_closure(closure)


def test_the_need_survives_a_checkpoint() -> None:
    model = Net()
    optimizer = PAL(model)
    optimizer.step(partial(by_autograd, model))
    fresh = PAL(model)
    fresh.load_state_dict(optimizer.state_dict())
    before = fresh.cost.forwards
    fresh.step(partial(by_autograd, model))
    assert fresh.cost.forwards == before + 2


def test_an_error_of_the_closures_own_is_not_hidden() -> None:
    model, calls = Net(), 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise ValueError("no gradient in this file")  # the word alone means nothing
        return (model(X) - 1.0).square().mean()

    with pytest.raises(ValueError, match="in this file"):
        PAL(model).step(closure)


class Force(nn.Module):
    """Differentiates in its forward pass, in evaluation mode as well."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return -torch.autograd.grad(self.net(x).sum(), x, create_graph=True)[0]


def forces() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    return Force(), [(torch.randn(8, 3), torch.randn(8, 3)) for _ in range(4)]


def test_a_range_test_validates_it() -> None:
    model, data = forces()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    curve = range_test(
        model, sgd, data, nn.functional.mse_loss, num_iter=12, val_loader=data, val_share=1.0
    )
    with torch.enable_grad():
        start = sum(float(nn.functional.mse_loss(model(x), y).detach()) for x, y in data) / 4
    assert len(curve.validation) == 6
    assert curve.validation[0].loss == pytest.approx(start, rel=1e-4)


def test_its_line_can_be_sampled() -> None:
    model, data = forces()
    sample = sample_line(model, nn.functional.mse_loss, data, lengths=(-0.1, 0.1))
    model.requires_grad_(True)
    start = [float(nn.functional.mse_loss(model(x), y).detach()) for x, y in data]
    assert [row[1] for row in sample.batch_losses] == pytest.approx(start, rel=1e-6)


def asks_for_a_graph(model: nn.Module) -> Tensor:
    loss = (model(X) - 1.0).square().mean()
    return loss + by_autograd(model) if loss.requires_grad else loss


def swallows_the_error(model: nn.Module) -> Tensor:
    loss = (model(X) - 1.0).square().mean()
    try:
        return loss + by_autograd(model)
    except RuntimeError:
        return loss


def meta_learns(model: nn.Module) -> Tensor:
    weights = dict(model.named_parameters())
    inner = torch.func.functional_call(model, weights, (X[:8],)).square().mean()
    gradients = torch.autograd.grad(inner, list(weights.values()))
    fast = {n: p - 0.1 * g for (n, p), g in zip(weights.items(), gradients, strict=True)}
    return (torch.func.functional_call(model, fast, (X[8:],)) - 1.0).square().mean()


WATCHED = [by_autograd, asks_for_a_graph, swallows_the_error, meta_learns]


@pytest.mark.parametrize("loss", WATCHED)
def test_measured_by_watching(loss: Callable[[nn.Module], Tensor]) -> None:
    """The slope of the first parabola is that of the gradient: the same loss at both places."""
    model = Net()
    optimizer = MeasuredLR(torch.optim.SGD(model.parameters(), lr=1e-3), model)

    def step() -> None:
        optimizer.watch(lambda: loss(model)).backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(5):
        step()
        assert optimizer.last is not None
        assert optimizer.last.status.measured
        parabola = optimizer.last.parabola
        assert parabola is not None
        assert parabola.slope0 == pytest.approx(optimizer.last.slope0, rel=1e-3)
    fresh = MeasuredLR(torch.optim.SGD(model.parameters(), lr=1e-3), model)
    fresh.load_state_dict(optimizer.state_dict())
    forwards = fresh.cost.forwards
    for each in (optimizer, fresh):
        each.watch(lambda: loss(model)).backward()
        each.step()
        each.zero_grad()
    assert fresh.cost.forwards - forwards == optimizer.cost.forwards - forwards


def test_a_model_called_with_other_weights_is_named() -> None:
    """Its replay would look at the model's own."""
    model = Net()
    optimizer = MeasuredLR(torch.optim.SGD(model.parameters(), lr=1e-3), model)
    with pytest.raises(ReplayError, match=r"other weights than its own.*\n(.|\n)*watch"):
        for _ in range(4):
            meta_learns(model).backward()
            optimizer.step()
