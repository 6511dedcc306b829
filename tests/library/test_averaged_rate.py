"""How a rate follows its measurements under averaged weights. Plain numbers only."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest

from surefoot.measured.rate import HELD, PAST, RateState
from surefoot.outcome import Status
from surefoot.parabola import Parabola


def walk(
    steps: int, loss: Callable[[int], float], curvature: Callable[[int], float]
) -> list[tuple[int, float]]:
    """Step and rate at every measurement of a run whose slope along the update is −1."""
    state, course = RateState(), []
    for step in range(steps):
        if step >= state.next:
            parabola = Parabola(loss(step), -1.0, curvature(step))
            state = state.learned(
                step,
                Status.MINIMUM,
                parabola,
                probed=1.0,
                filling=1.0,
                total_steps=None,
                averaged=True,
            )
            assert state.in_use is not None
            course.append((step, state.in_use))
    return course


def test_curvature_that_follows_the_rate_down_takes_a_third_of_it() -> None:
    course = walk(1000, lambda s: 1.0 / (1 + s), lambda s: 0.1 if s < 200 else 0.25)
    highest = max(rate for _, rate in course)
    assert highest == max(rate for step, rate in course if step < 250)
    assert course[-1][1] == highest / HELD


def test_it_is_not_held_where_the_batchs_own_loss_would_rise() -> None:
    course = walk(1000, lambda s: 1.0 / (1 + s), lambda s: 0.1 if s < 200 else 2.0)
    assert course[-1][1] == pytest.approx(PAST / 2.0, rel=0.01)


def test_where_the_loss_rises_the_rate_is_what_is_measured() -> None:
    course = walk(1000, lambda s: abs(s - 300.0), lambda s: 0.1 if s < 300 else 10.0)
    assert max(rate for _, rate in course) > 9.0
    assert course[-1][1] < 0.11


def test_measurements_become_rare_as_the_run_grows() -> None:
    steps = [step for step, _ in walk(20_000, lambda s: 1.0, lambda s: 1.0)]
    assert steps[:16] == [*range(16)]
    assert len(steps) < 160
    assert all(b - a <= max(16, a // 16) for a, b in itertools.pairwise(steps))


@pytest.mark.parametrize(
    ("loss", "low", "high"),
    [
        (lambda step: 1.0 / (1 + step), 1.0, 1.0),  # it falls
        (lambda step: 1.0 + 0.2 * math.sin(7.0 * step), 1.0, 1.0),  # a plateau, noisy
        (lambda step: abs(step - 300) / 300 + 0.1 * math.sin(7.0 * step), 0.1, 0.5),  # it rises
    ],
)
def test_under_a_horizon_less_of_it_is_walked_while_the_loss_rises(
    loss: Callable[[int], float], low: float, high: float
) -> None:
    state = RateState()
    for step in range(1000):
        if step >= state.next:
            parabola = Parabola(loss(step), -1.0, 0.1)
            state = state.learned(
                step, Status.MINIMUM, parabola, probed=1.0, filling=1.0, total_steps=1000
            )
    assert low <= state.ebb <= high
