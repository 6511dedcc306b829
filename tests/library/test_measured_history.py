"""What a measured optimizer tells of the measurements behind it."""

from __future__ import annotations

import copy
import math

from _measured import build, walk
from _problems import batches

from surefoot.measured.history import History, Moment


def test_every_measurement_is_in_the_history_with_the_rate_that_followed() -> None:
    model, _, optimizer = build("adamw", total_steps=40, overhead=0.5)
    seen = []
    for batch in batches(30):
        before = len(optimizer.history())
        walk(model, optimizer, [batch])
        if len(optimizer.history()) > before:
            seen.append((optimizer.last.value0, optimizer._stepper.rate.in_use, optimizer.rate))
    assert len(seen) > 10
    for moment, (loss, in_use, rate) in zip(optimizer.history(), seen, strict=True):
        assert (moment.loss, moment.rate) == (loss, in_use)
        assert (moment.low, moment.high) == (rate.low, rate.high)


def test_a_step_at_the_bound_of_the_history_is_as_long_as_a_step_may_be() -> None:
    model, _, optimizer = build("adamw", total_steps=400, overhead=9.0, max_change=1e-5)
    walk(model, optimizer, batches(20))
    moment, last = optimizer.history()[-1], optimizer.last
    assert last is not None
    assert moment.bound < moment.rate
    # at the bound, the step with α and horizon is the longest one; this one was shortened to it
    whole = optimizer._stepper._reach.alpha * (1.0 - 19 / 400)
    assert math.isclose(last.t, moment.bound * whole, rel_tol=0.02)


def test_the_history_is_in_the_checkpoint() -> None:
    model, _, optimizer = build("adamw", total_steps=60, overhead=0.5)
    walk(model, optimizer, batches(20))
    other_model, _, other = build("adamw", total_steps=60, overhead=0.5)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert other.history() == optimizer.history()
    assert copy.deepcopy(optimizer).history() == optimizer.history()


def test_a_long_history_keeps_both_ends_and_stays_short() -> None:
    history = History()
    for step in range(10_000):
        history.note(Moment(step, 1.0, 0.5, 2.0, math.inf, 3.0))
    steps = [moment.step for moment in history.moments]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0, 9_999)
    assert len(steps) <= 512
    assert steps[-100:] == list(range(9_900, 10_000))
