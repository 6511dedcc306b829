"""The simplified Hessian-free estimate against curvatures that are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from surefoot.lr_range import HessianFreeRate


def descend(
    w: nn.Parameter, curvature: torch.Tensor, monitor: HessianFreeRate, opt: torch.optim.Optimizer
) -> float:
    opt.zero_grad()
    (0.5 * curvature * w.square()).sum().backward()
    opt.step()
    return monitor.update()


@pytest.mark.parametrize("every", [1, 4])
def test_it_is_the_inverse_curvature_of_a_parabola(every: int) -> None:
    w = nn.Parameter(torch.tensor([3.0, -2.0], dtype=torch.float64))
    optimizer = torch.optim.SGD([w], lr=1e-4)
    monitor = HessianFreeRate(optimizer, every=every)
    for _ in range(5 * every):
        rate = descend(w, torch.tensor(8.0), monitor, optimizer)
    assert rate == pytest.approx(1.0 / 8.0, rel=0.01)


def test_it_follows_the_formula_on_three_sets_of_weights() -> None:
    torch.manual_seed(0)
    weights = torch.randn(4, 7, dtype=torch.float64)
    p = nn.Parameter(weights[0].clone())
    optimizer = torch.optim.SGD([p], lr=0.3)
    monitor = HessianFreeRate(optimizer, smoothing=0.9)
    assert math.isnan(monitor.rates[0])
    expected, rates = [], []
    for k in (1, 2, 3):
        p.data.copy_(weights[k])
        rates.append(monitor.update())
        if k >= 2:
            a, b, c = weights[k - 2], weights[k - 1], weights[k]
            expected.append(0.3 * float((b - a).abs().sum() / (2 * b - a - c).abs().sum()))
    assert math.isnan(rates[0])
    assert rates[1] == pytest.approx(expected[0], rel=1e-6)
    assert rates[2] == pytest.approx((0.9 * expected[0] + expected[1]) / 1.9, rel=1e-6)


def test_each_group_has_its_own() -> None:
    a, b = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [a]}, {"params": [b], "lr": 1e-3}], lr=1e-4)
    monitor = HessianFreeRate(optimizer)
    for _ in range(4):
        optimizer.zero_grad()
        (0.5 * (2.0 * a.square() + 50.0 * b.square())).sum().backward()
        optimizer.step()
        rate = monitor.update()
    assert monitor.rates == pytest.approx([0.5, 0.02], rel=1e-3)
    assert rate == monitor.rates[0]


def test_weights_that_stand_still_or_turn_to_nan_give_no_number() -> None:
    p = nn.Parameter(torch.ones(3))
    monitor = HessianFreeRate(torch.optim.SGD([p], lr=0.1))
    assert all(math.isnan(monitor.update()) for _ in range(4))
    p.data.fill_(math.nan)
    assert math.isnan(monitor.update())


def test_it_reads_the_rate_that_was_really_applied() -> None:
    p = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    optimizer = torch.optim.SGD([p], lr=1.0)
    optimizer.param_groups[0]["effective_lr"] = 0.01
    monitor = HessianFreeRate(optimizer)
    for _ in range(3):
        p.data.mul_(1.0 - 0.01 * 4.0)  # gradient descent at 0.01 on curvature 4
        rate = monitor.update()
    assert rate == pytest.approx(0.25, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"), [({"every": 0}, "every"), ({"smoothing": 1.0}, "smo")]
)
def test_bad_settings_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HessianFreeRate(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), **options)
