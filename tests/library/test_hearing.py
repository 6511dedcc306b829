"""The loss that is heard on steps that do not measure."""

from __future__ import annotations

import gc
import itertools
import math
import threading

import pytest
import torch
import torch.utils.checkpoint
from _measured import loop_step
from torch import nn

from surefoot import MeasuredLR
from surefoot.replay import Hearing, backward


def net(*widths: int) -> nn.Sequential:
    torch.manual_seed(0)
    pairs = itertools.pairwise(widths)
    layers = [layer for a, b in pairs for layer in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("options", [{}, {"total_steps": 300, "max_change": math.inf}])
def test_losses_are_heard_between_measurements_and_cost_no_forward_pass(
    options: dict[str, float],
) -> None:
    model, passes = net(4, 16, 1), 0
    optimizer = MeasuredLR(torch.optim.AdamW(model.parameters()), model, **options)

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    model.register_forward_hook(count)
    losses = []
    for step in range(300):
        torch.manual_seed(step)
        x = torch.randn(32, 4)
        losses.append(loop_step(optimizer, lambda x=x: (model(x) - x[:, :1].sin()).square().mean()))
    rate = optimizer._stepper.rate
    measured = {point.step - 1 for point in optimizer.history()}
    heard = [(step, loss) for step, loss in rate.course if step not in measured]
    assert len(heard) > 5
    assert all(loss == pytest.approx(losses[step]) for step, loss in rate.course)
    assert passes == optimizer.cost.forwards


def test_a_scalers_factor_is_left_out() -> None:
    model, x, hearing = net(4, 8, 1), torch.ones(3, 4), Hearing()
    true = float(model(x).square().mean().detach())
    for factor in (1.0, 65536.0, 131072.0):
        hearing.start(list(model.parameters()))
        (model(x).square().mean() * torch.tensor(factor)).backward()
        assert hearing.finish() == pytest.approx(true)


def test_what_another_optimizer_differentiates_is_not_heard() -> None:
    generator, critic, hearing = net(2, 8, 4), net(4, 8, 1), Hearing()
    hearing.start(list(generator.parameters()))
    made = generator(torch.ones(3, 2))
    critic(made.detach()).mean().backward()
    own = 3.0 + critic(made).square().mean()
    own.backward()
    assert hearing.finish() == pytest.approx(float(own.detach()))


def test_torchs_own_function_is_back_when_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    own = getattr(torch.autograd.backward, "tells", torch.autograd.backward)
    monkeypatch.setattr(torch.autograd, "backward", own)  # optimizers of other tests may listen
    monkeypatch.setattr(backward, "_listeners", [])
    before, model = torch.autograd.backward, net(2, 1)
    first, second = Hearing(), Hearing()
    for hearing in (first, second):
        hearing.start(list(model.parameters()))
    assert torch.autograd.backward is not before
    model(torch.ones(1, 2)).sum().backward()
    assert first.finish() == second.finish()
    assert torch.autograd.backward is before
    first.start([])
    del first, hearing
    gc.collect()
    assert torch.autograd.backward is before


def test_a_gradient_that_was_given_and_a_backward_pass_inside_another_are_not_heard() -> None:
    model, hearing, x = net(2, 4), Hearing(), torch.ones(1, 2, requires_grad=True)
    hearing.start(list(model.parameters()))
    model(x).backward(torch.ones(1, 4))
    assert math.isnan(hearing.finish())
    hearing.start(list(model.parameters()))
    loss = torch.utils.checkpoint.checkpoint(model, x, use_reentrant=True).square().mean()
    loss.backward()
    assert hearing.finish() == pytest.approx(float(loss.detach()))


def test_another_threads_loss_is_not_heard() -> None:
    model, hearing = net(2, 1), Hearing()
    hearing.start(list(model.parameters()))
    thread = threading.Thread(target=lambda: model(torch.ones(1, 2)).sum().backward())
    thread.start()
    thread.join()
    assert math.isnan(hearing.finish())


def test_a_long_run_bounds_its_steps_more() -> None:
    lengths = []
    for steps in (1200, 40_000):
        model = net(4, 64, 64, 1)
        base = torch.optim.SGD(model.parameters(), 1.0)
        optimizer = MeasuredLR(base, model, total_steps=steps)
        longest = 0.0
        for step in range(30):
            torch.manual_seed(step)
            x = torch.randn(16, 4)
            before = torch.cat([p.detach().flatten() for p in model.parameters()])
            loop_step(optimizer, lambda x=x, model=model: (model(x) - 30.0).square().mean())
            after = torch.cat([p.detach().flatten() for p in model.parameters()])
            longest = max(longest, float((after - before).norm() / before.norm()))
        lengths.append(longest)
    assert lengths[0] == pytest.approx(0.03, rel=0.15)
    assert lengths[1] == pytest.approx(1.0 / math.sqrt(40_000), rel=0.15)


@pytest.mark.filterwarnings("ignore:most of the last")
def test_weights_that_have_to_grow_do_in_a_short_run() -> None:
    """Small features, full batches: the minimum is a hundred bounds away, and the loss falls."""
    ends = []
    for options in ({}, {"max_change": 0.03}):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
        x = torch.rand(200, 64) * 0.02
        y = (x @ torch.randn(64, 4)).argmax(1)
        base = torch.optim.AdamW(model.parameters())
        optimizer = MeasuredLR(base, model, total_steps=200, **options)
        for _ in range(200):
            end = loop_step(
                optimizer, lambda m=model, x=x, y=y: nn.functional.cross_entropy(m(x), y)
            )
        ends.append(end)
    assert ends[0] < 0.8 * ends[1]
