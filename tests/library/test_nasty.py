"""Losses a search should survive: NaN beyond a place, plateaus, cliffs, ascent, tiny slopes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from surefoot import LABPAL, PAL, LineSearchOptimizer, Status

MAKERS: dict[str, Callable[..., LineSearchOptimizer]] = {
    "pal": PAL,
    "labpal": lambda p, **kw: LABPAL(p, measuring_batches=1, reuse=1, measuring_length=1.0, **kw),
}
both = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


def one(start: float = 0.0) -> nn.Parameter:
    return nn.Parameter(torch.tensor([start, start], dtype=torch.float64))


@both
def test_nan_beyond_a_place_is_rejected(make: Any) -> None:
    p = one(5.0)
    optimizer = make([p])

    def closure() -> Tensor:
        inside = (p - 3.0).abs().max() <= 2.0
        return (p.square().sum()) + (0.0 if inside else float("nan"))

    optimizer.step(closure)  # at the start the loss is finite, at the probe it must be judged
    p2 = one(0.0)
    optimizer = make([p2])
    optimizer.step(lambda: torch.where(p2 < -0.5, torch.sqrt(-1.0 - 0.0 * p2), p2).sum())
    assert optimizer.last.status is Status.NON_FINITE
    assert optimizer.last.length == 0.0
    assert torch.equal(p2.detach(), one(0.0).detach())


@both
def test_a_finite_loss_with_a_nan_gradient_is_rejected(make: Any) -> None:
    p = one(0.0)
    optimizer = make([p])
    optimizer.step(lambda: p.abs().sqrt().sum() * 0.0 + p.sum() * 0.0)
    assert optimizer.last.status is Status.NON_FINITE
    assert torch.equal(p.detach(), one(0.0).detach())


@both
def test_a_plateau_is_flat(make: Any) -> None:
    p = one(1.0)
    optimizer = make([p])
    optimizer.step(lambda: (p * 0.0).sum() + 3.0)
    assert optimizer.last.status is Status.FLAT
    assert optimizer.last.length == 0.0


@both
def test_a_slope_of_1e_30_on_a_loss_of_one_drowns(make: Any) -> None:
    p = one(1.0)
    optimizer = make([p])
    optimizer.step(lambda: 1.0 + 1e-30 * p.sum())
    assert optimizer.last.status is Status.FLAT
    assert torch.equal(p.detach(), one(1.0).detach())


@both
def test_a_tiny_loss_alone_is_not_flat(make: Any) -> None:
    """Scale is not noise: 1e-30 times a parabola has the same minimum."""
    p, q = one(3.0), one(3.0)
    make([p], max_length=1e9).step(lambda: p.square().sum())
    make([q], max_length=1e9).step(lambda: 1e-30 * q.square().sum())
    assert torch.allclose(p, q, rtol=1e-9)


@both
def test_a_straight_line_is_not_convex_and_walks_the_measuring_length(make: Any) -> None:
    p = one(1.0)
    optimizer = (
        make([p], measuring_length=0.5)
        if make is PAL
        else LABPAL([p], measuring_batches=1, reuse=1, measuring_length=0.5, step_multiplier=1.0)
    )
    optimizer.step(lambda: p.sum())
    assert optimizer.last.status is Status.NOT_CONVEX
    assert optimizer.last.length == pytest.approx(0.5)


@both
def test_a_concave_line_is_not_convex(make: Any) -> None:
    p = one(1.0)
    optimizer = make([p])
    optimizer.step(lambda: -p.square().sum())
    assert optimizer.last.status is Status.NOT_CONVEX
    assert 0.0 < optimizer.last.length <= optimizer.param_groups[0]["lr"]


@both
def test_a_cliff_never_ends_beyond_the_cap(make: Any) -> None:
    p = one(1.0)
    optimizer = make([p], max_length=0.2)
    optimizer.step(lambda: p.sum() + 1e6 * torch.relu(-p + 0.9).sum())
    assert optimizer.last.length <= 0.2 * optimizer.param_groups[0]["lr"] + 1e-12
    assert torch.isfinite(p).all()


def test_pal_stands_still_where_its_direction_climbs() -> None:
    p = one(0.0)
    optimizer = PAL([p], direction_adaptation=0.9)
    optimizer.step(lambda: 100.0 * p.sum())  # a strong memory of walking down
    before = p.detach().clone()
    optimizer.step(lambda: -p.sum())  # and now up is down
    assert optimizer.last is not None
    assert optimizer.last.status is Status.NOT_DESCENT
    assert torch.equal(p.detach(), before)


def test_labpal_keeps_its_last_rate_when_there_is_no_minimum() -> None:
    p = one(4.0)
    optimizer = LABPAL(
        [p],
        rule="published",
        step_multiplier=1.0,
        measuring_batches=1,
        reuse=1,
        measuring_length=0.1,
    )
    optimizer.step(lambda: p.square().sum())
    assert optimizer.last is not None
    length = optimizer.last.length
    assert optimizer.last.status is Status.CAPPED
    optimizer.step(lambda: -p.square().sum())
    assert optimizer.last.status is Status.NOT_CONVEX
    assert optimizer.last.length == pytest.approx(length)


def test_a_probe_that_drowns_is_not_believed_in_float32() -> None:
    """Losses near 1000 in float32 have a grain of 6e-5: a probe at 1e-4 measures nothing."""
    p = nn.Parameter(torch.tensor([1.0, 1.0]))

    def closure() -> Tensor:
        return 1000.0 + 0.05 * (p - 3.0).square().sum()

    for optimizer in (
        PAL([p], measuring_length=1e-4),
        LABPAL([p], measuring_batches=1, measuring_length=1e-4),
    ):
        optimizer.step(closure)
        assert optimizer.last is not None
        assert optimizer.last.status is Status.FLAT
        assert optimizer.last.length == 0.0


def test_the_precision_of_the_loss_can_be_given() -> None:
    p = one(1.0)
    PAL([p], loss_precision=0.004).step(lambda: 10.0 + 0.001 * p.sum())
    assert torch.equal(p.detach(), one(1.0).detach())
