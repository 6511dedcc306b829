"""How a rate follows its measurements under averaged weights. Plain numbers only."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import pytest

from surefoot.measured.estimate import Measurement
from surefoot.measured.rate import HELD, PAST, RateState
from surefoot.outcome import Status
from surefoot.parabola import Parabola


def walk(
    steps: int, loss: Callable[[int], float], curvature: Callable[[int], float]
) -> list[tuple[int, float]]:
    """Step and rate at every measurement of a run whose slope along the update is −1."""
    state, course = RateState(), []
    for step in range(steps):
        if state.listens(step, 16) or step >= state.next:
            state = state.hears(step, loss(step))
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


def heard(loss: Callable[[int], float], steps: int = 1000) -> RateState:
    """The state after so many steps of which only the losses are heard."""
    state = RateState()
    for step in range(steps):
        if state.listens(step, 16):
            state = state.hears(step, loss(step))
    return state


@pytest.mark.parametrize(
    ("loss", "low", "high"),
    [
        (lambda step: 1.0 / (1 + step), 1.0, 1.0),  # it falls
        (lambda step: 1.0 + 0.2 * math.sin(7.0 * step), 0.3, 1.0),  # a plateau, noisy
        (lambda step: abs(step - 300) / 300 + 0.1 * math.sin(7.0 * step), 0.1, 0.3),  # it rises
        (lambda step: abs(step - 30) / 30 if step < 60 else 60.0 / step, 0.15, 0.9),  # it did
        (lambda step: math.nan, 1.0, 1.0),
    ],
)
def test_less_is_walked_while_the_loss_rises(
    loss: Callable[[int], float], low: float, high: float
) -> None:
    assert low <= heard(loss).ebb <= high


def test_what_was_taken_returns_as_the_loss_falls_and_more_with_it() -> None:
    state = dataclasses.replace(RateState(), ebb=0.2)
    for step in range(4000):
        if state.listens(step, 16):
            state = state.hears(step, 1.0 / (1 + step), most=2.0)
    assert state.ebb == 2.0
    for step in range(4000, 12_000):  # no more than α where it surely falls no longer
        if state.listens(step, 16):
            state = state.hears(step, 0.1 + 0.01 * math.sin(7.0 * step), most=2.0)
    assert 0.1 <= state.ebb < 0.5


@pytest.mark.parametrize(
    ("applied", "loosest", "falls", "slack"),
    [(1.0, 3.0, True, 3.0), (20.0, 3.0, True, 1.0), (1.0, 1.0, True, 1.0), (1.0, 3.0, False, 1.0)],
)
def test_the_bound_gives_way_while_the_loss_falls_and_the_minimum_is_far(
    applied: float, loosest: float, falls: bool, slack: float
) -> None:
    line = Measurement(0, -1.0, 0.01)  # its minimum is at 100
    state = dataclasses.replace(RateState(), measurements=(line,) * 8)
    for step in range(200):
        loss = 1.0 / (1 + step) if falls else 1.0 + 0.1 * math.sin(7.0 * step)
        state = state.hears(step, loss, loosest=loosest, applied=applied)
    assert state.slack == slack
    for step in range(200, 300):
        state = state.hears(step, 1.0, loosest=loosest, applied=applied)
    assert state.slack == 1.0


def test_losses_are_heard_ever_more_rarely_and_few_are_kept() -> None:
    states = [heard(lambda step: 1.0, steps) for steps in (32, 10_000)]
    assert [step for step, _ in states[0].course] == [*range(32)]
    assert len(states[1].course) <= 96
    late = [step for step, _ in states[1].course if step > 7_500]
    assert len(late) >= 4
    assert max(b - a for a, b in itertools.pairwise(late)) <= 10_000 // 8
