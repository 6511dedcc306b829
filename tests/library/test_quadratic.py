"""The definition: a step is α times the exact minimum of its line, at each step, in every mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from _problems import Quadratic

import surefoot
from surefoot import LABPAL, PAL, LineSearchOptimizer, Status

FAR = 1e6  # no cap on the way

PAL_SETTINGS: list[dict[str, Any]] = [
    {},
    {"direction_adaptation": 0.0},
    {"step_multiplier": 1.0, "measuring_length": 0.1},
    {"direction_adaptation": 0.9, "measuring_length": 30.0},
]
LABPAL_SETTINGS: list[dict[str, Any]] = [
    {"mode": mode, "measuring_batches": k, "momentum": beta, "batch_growth": growth}
    for mode in ("sgd", "nsgd")
    for k, beta, growth in [
        (1, 0.0, ()),
        (3, 0.0, ()),
        (2, 0.5, ()),
        (2, 0.0, ((0, 3),)),
        (2, 0.5, ((0, 2),)),
    ]
]


def walk(quadratic: Quadratic, optimizer: LineSearchOptimizer, updates: int = 20) -> list[float]:
    """The multiple of the exact line minimum that each update went."""
    multiples = []
    for _ in range(updates * 20):
        before = quadratic.theta
        optimizer.step(quadratic.loss)
        assert optimizer.last is not None
        if optimizer.last.length > 0.0:
            moved = quadratic.theta - before
            assert float(moved.norm()) == pytest.approx(optimizer.last.length, rel=1e-9)
            multiples.append(quadratic.exact_multiple(before, quadratic.theta))
        else:
            assert torch.equal(before, quadratic.theta)
        if len(multiples) == updates:
            return multiples
    raise AssertionError("too few updates")


@pytest.mark.parametrize("settings", PAL_SETTINGS)
def test_pal(quadratic: Quadratic, settings: dict[str, Any]) -> None:
    groups = [{"params": [p]} for p in quadratic.parts]
    optimizer = PAL(groups, max_length=FAR, **settings)
    alpha = optimizer.defaults["lr"]
    assert walk(quadratic, optimizer) == pytest.approx([alpha] * 20, rel=1e-6)


@pytest.mark.parametrize("settings", LABPAL_SETTINGS)
def test_labpal(quadratic: Quadratic, settings: dict[str, Any]) -> None:
    groups = [{"params": [p]} for p in quadratic.parts]
    optimizer = LABPAL(
        groups,
        reuse=1,
        rule="published",
        measuring_length=0.1,
        max_length=FAR,
        burn_in=400,
        **settings,
    )
    alpha = optimizer.defaults["lr"]
    assert walk(quadratic, optimizer) == pytest.approx([alpha] * 20, rel=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        PAL,
        lambda groups, **kw: LABPAL(
            groups, rule="published", reuse=1, burn_in=400, measuring_batches=2, **kw
        ),
    ],
)
def test_groups_with_different_lr_walk_one_measured_line(
    quadratic: Quadratic, make: Callable[..., LineSearchOptimizer]
) -> None:
    first, second = quadratic.parts
    groups = [{"params": [first], "lr": 1.5}, {"params": [second], "lr": 0.3}]
    optimizer = make(groups, max_length=FAR, measuring_length=0.1)
    # the largest α multiplies the minimum of the line that the groups' ratio tilts
    assert walk(quadratic, optimizer) == pytest.approx([1.5] * 20, rel=1e-6)
    assert optimizer.param_groups[1]["effective_lr"] == pytest.approx(
        0.2 * optimizer.param_groups[0]["effective_lr"], rel=1e-12
    )


def test_the_first_step_is_tilted_by_the_ratio_of_the_rates(quadratic: Quadratic) -> None:
    first, second = quadratic.parts
    before = quadratic.theta
    gradient = quadratic.gradient(before)
    PAL([{"params": [first], "lr": 1.0}, {"params": [second], "lr": 0.25}]).step(quadratic.loss)
    moved = (quadratic.theta - before) / gradient
    rates = -moved[: first.numel()], -moved[first.numel() :]
    assert torch.allclose(rates[0], rates[0][0].expand_as(rates[0]))
    assert torch.allclose(rates[1], 0.25 * rates[0][0].expand_as(rates[1]))


def test_released_fit_goes_twice_as_far(quadratic: Quadratic) -> None:
    optimizer = LABPAL(
        quadratic.parts,
        step_multiplier=1.0,
        reuse=1,
        rule="released",
        measuring_length=0.01,
        max_length=FAR,
        measuring_batches=2,
        burn_in=400,
    )
    multiples = walk(quadratic, optimizer)
    # from the description of the released differences: twice the minimum, less the near place
    # (0.0177 μ) over the minimum; both are lengths far below the minimum here
    assert multiples == pytest.approx([2.0] * 20, rel=2e-2)


def test_effective_lr_is_that_of_plain_sgd(quadratic: Quadratic) -> None:
    for optimizer in (
        PAL(quadratic.parts, direction_adaptation=0.0),
        LABPAL(quadratic.parts, measuring_batches=1),
        LABPAL(quadratic.parts, measuring_batches=1, mode="sgd"),
    ):
        before = quadratic.theta
        optimizer.step(quadratic.loss)
        rate = optimizer.param_groups[0]["effective_lr"]
        assert rate == optimizer.last.effective_lr > 0.0  # type: ignore[union-attr]
        assert torch.allclose(
            quadratic.theta, before - rate * quadratic.gradient(before), rtol=1e-12
        )


def test_effective_lr_with_direction_adaptation_is_that_of_momentum(quadratic: Quadratic) -> None:
    optimizer = PAL(quadratic.parts, direction_adaptation=0.4)
    direction = torch.zeros(10, dtype=torch.float64)
    for _ in range(5):
        before = quadratic.theta
        direction = -quadratic.gradient(before) + 0.4 * direction
        optimizer.step(quadratic.loss)
        rate = optimizer.param_groups[0]["effective_lr"]
        assert torch.allclose(quadratic.theta - before, rate * direction, rtol=1e-9)


def test_horizon_multiplies_the_step(quadratic: Quadratic) -> None:
    optimizer = PAL(quadratic.parts, max_length=FAR, total_steps=20)
    expected = [(1 / 0.6) * (1 - i / 20) for i in range(20)]
    assert walk(quadratic, optimizer) == pytest.approx(expected, rel=1e-6)
    with pytest.warns(UserWarning, match="total_steps=20"):
        optimizer.step(quadratic.loss)
    optimizer.total_steps = 42
    assert walk(quadratic, optimizer, updates=1) == pytest.approx([(1 / 0.6) * 0.5], rel=1e-6)


def test_cap_and_parabola_are_reported(quadratic: Quadratic) -> None:
    seen: list[surefoot.StepOutcome] = []
    optimizer = PAL(quadratic.parts, max_length=0.01, measuring_length=0.5, on_measure=seen.append)
    optimizer.step(quadratic.loss)
    assert seen[0].status is Status.CAPPED
    assert seen[0].length == pytest.approx(0.01)
    assert seen[0].parabola is not None
    assert seen[0].parabola.vertex > 0.01  # type: ignore[operator]
    assert seen[0] == optimizer.last
