"""The loss that is heard on steps that do not measure."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from _measured import loop_step
from torch import Tensor, nn

from surefoot import MeasuredLR
from surefoot.replay import Recorder


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


def value_of(loss: Tensor, recorder: Recorder) -> float:
    loss.backward()
    tape = recorder.finish()
    assert tape is not None
    assert tape.problem() is None
    return float(tape.unscaled)


@pytest.mark.parametrize("hears_only", [False, True])
def test_a_scalers_factor_is_left_out(hears_only: bool) -> None:
    model, x = net(4, 8, 1), torch.ones(3, 4)
    recorder = Recorder(model)
    true = float(model(x).square().mean().detach())
    for factor in (1.0, 65536.0, 131072.0):
        recorder.arm(list(model.parameters()), hears_only=hears_only)
        loss = model(x).square().mean() * torch.tensor(factor)
        assert value_of(loss, recorder) == pytest.approx(true)


def test_what_another_optimizer_differentiates_is_not_heard() -> None:
    generator, critic = net(2, 8, 4), net(4, 8, 1)
    recorder = Recorder(generator)
    recorder.arm(list(generator.parameters()), hears_only=True)
    made = generator(torch.ones(3, 2))
    critic(made.detach()).mean().backward()
    own = 3.0 + critic(made).square().mean()
    assert value_of(own, recorder) == pytest.approx(float(own.detach()))


def test_a_long_run_bounds_its_steps_more() -> None:
    lengths = []
    for steps in (1000, 40_000):
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
