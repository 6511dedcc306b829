"""Plain twins, written from the papers with one flat vector, walked in step with the optimizers."""

from __future__ import annotations

import math

import pytest
import torch
from _problems import batches
from torch import Tensor, nn

from surefoot import LABPAL, PAL

# the twins go as far as the papers say
pytestmark = pytest.mark.filterwarnings("ignore:a step of length")


def net() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3 * 8 * 8, 12), nn.Tanh(), nn.Linear(12, 5)
    ).double()


def flat(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def loss_at(model: nn.Module, theta: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    shapes = {name: p.shape for name, p in model.named_parameters()}
    parts = theta.split([math.prod(s) for s in shapes.values()])
    named = {n: part.view(s) for (n, s), part in zip(shapes.items(), parts, strict=True)}
    logits = torch.func.functional_call(model, named, (batch[0].double(),))
    return nn.functional.cross_entropy(logits, batch[1])


def gradient_at(model: nn.Module, theta: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    theta = theta.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss_at(model, theta, batch), theta)
    return grad


@pytest.mark.parametrize("beta", [0.0, 0.4])
@pytest.mark.parametrize("mu", [0.1, 1.0])
def test_pal_step_by_step(beta: float, mu: float) -> None:
    model = net()
    optimizer = PAL(model, direction_adaptation=beta, measuring_length=mu, max_length=3.16)
    theta, d = flat(model), torch.zeros_like(flat(model))
    kinds = set()
    for batch in batches(20):
        x, y = batch[0].double(), batch[1]
        optimizer.step(lambda: nn.functional.cross_entropy(model(x), y))  # noqa: B023
        # 1903.11991, algorithm 1
        g = gradient_at(model, theta, batch)
        d = -g + beta * d
        unit = d / d.norm()
        b = float(g @ unit)
        a = (
            float(loss_at(model, theta + mu * unit, batch) - loss_at(model, theta, batch) - b * mu)
            / mu**2
        )
        if a > 0 and b < 0:
            s = min(1 / 0.6 * -b / (2 * a), 3.16)
        else:
            s = mu if b < 0 else 0.0
        theta = theta + s * unit
        kinds.add((a > 0, b < 0))
        assert optimizer.last is not None
        assert optimizer.last.length == pytest.approx(s, rel=1e-7)
        assert torch.allclose(flat(model), theta, rtol=1e-8, atol=1e-10)
    assert (True, True) in kinds


@pytest.mark.parametrize("mode", ["sgd", "nsgd"])
@pytest.mark.parametrize("beta", [0.0, 0.6])
@pytest.mark.parametrize("m", [1, 2])
def test_labpal_step_by_step(mode: str, beta: float, m: int) -> None:
    """k = 3, n = 4, two updates of burn-in, the mean of all after; μ = 0.1; decay over 60 calls."""
    model = net()
    optimizer = LABPAL(
        model,
        step_multiplier=1.5,
        rule="published",
        mode=mode,
        measuring_batches=3,
        reuse=4,
        measuring_length=0.1,
        max_length=50.0,
        momentum=beta,
        burn_in=2,
        total_steps=60,
        batch_growth=((0, m),),
    )
    theta, v = flat(model), torch.zeros_like(flat(model))
    data = iter(batches(60))
    calls = 0

    def feed() -> tuple[Tensor, Tensor]:
        nonlocal calls
        batch = next(data)
        x, y = batch[0].double(), batch[1]
        optimizer.step(lambda: nn.functional.cross_entropy(model(x), y))
        calls += 1
        return batch

    rate, trusted, since = None, [], 0
    for update in range(9):
        measure = rate is None or since >= 4 or (not trusted and update > 2)
        own = [feed() for _ in range(m)]
        v = beta * v + sum(gradient_at(model, theta, batch) for batch in own) / m
        if measure:
            fresh = [feed() for _ in range(2 * m)]
            # of the direction's own batches the last stands for all of them
            weighted = [(m, own[-1]), *((1, batch) for batch in fresh)]
            unit = -v / v.norm()
            places = (0.0, 0.05, 0.1)
            f0, f1, f2 = (
                sum(w * loss_at(model, theta + s * unit, b).item() for w, b in weighted) / (3 * m)
                for s in places
            )
            curvature = (f0 - 2 * f1 + f2) / 0.05**2
            slope = (4 * f1 - 3 * f0 - f2) / 0.1
            assert curvature > 0 > slope
            measured = -slope / curvature / (1.0 if mode == "nsgd" else float(v.norm()))
            since = 0
            if update > 2:
                trusted = [*trusted, measured]
            rate = sum(trusted) / len(trusted) if trusted else measured
        assert rate is not None
        horizon = 1 - (calls - 1) / 60
        step = 1.5 * horizon * rate / (float(v.norm()) if mode == "nsgd" else 1.0)
        theta = theta - step * v
        since += 1
        assert torch.allclose(flat(model), theta, rtol=1e-7, atol=1e-9), update
        assert optimizer.param_groups[0]["effective_lr"] == pytest.approx(step, rel=1e-6)
