"""Rules that read a rate off a curve: their definitions, and curves that are hard to read."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from surefoot.lr_range import (
    RULES,
    NoSuggestion,
    Ramp,
    RangeCurve,
    StopReason,
    Suggestion,
    ValidationPoint,
    range_test,
)

RATES_ALL = ("steepest", "valley", "smith_base", "smith_max")


def make_curve(
    loss: Callable[[float], float],
    *,
    n: int = 100,
    start: float = 1e-6,
    end: float = 10.0,
    noise: float = 0.0,
    **options: object,
) -> RangeCurve:
    """A curve whose loss is a function of log10 of the rate, with normal noise on top."""
    ramp = Ramp((start,), (end,), n, "exp")
    lr = [start * (end / start) ** (i / (n - 1)) for i in range(n)]
    scatter = random.Random(7)
    losses = [loss(math.log10(rate)) + scatter.gauss(0.0, noise) for rate in lr]
    return RangeCurve(lr=lr, loss=losses, ramp=ramp, **options)  # type: ignore[arg-type]


def typical(x: float) -> float:
    """Flat at 2.3, steepest at x = -2, lowest near x = -1, in flight above x = 0."""
    return 2.3 - 1.2 / (1.0 + math.exp(-5.0 * (x + 2.0))) + 0.5 * max(0.0, x + 0.8) ** 3


def decades(a: float, b: float) -> float:
    return abs(math.log10(a / b))


# -- definitions ----------------------------------------------------------------------------------


def test_steepest_is_where_the_loss_falls_fastest_per_decade() -> None:
    assert decades(make_curve(typical).suggestion("steepest"), 1e-2) < 0.08


def test_steepest_reads_a_linear_ramp_per_decade_too() -> None:
    n = 400
    ramp = Ramp((0.0,), (0.4,), n, "linear")
    lr = [0.4 * i / (n - 1) for i in range(n)]
    losses = [typical(math.log10(rate)) if rate else 2.3 for rate in lr]
    curve = RangeCurve(lr=lr, loss=losses, ramp=ramp)
    # ten of the 400 points lie below the steepest place, so it is known less exactly than above
    assert decades(curve.suggestion("steepest"), 1e-2) < 0.25


def test_noise_where_the_points_of_a_linear_ramp_crowd_is_not_steep() -> None:
    n = 400
    ramp = Ramp((0.0,), (0.4,), n, "linear")
    lr = [0.4 * i / (n - 1) for i in range(n)]
    for seed in range(40):
        scatter = random.Random(seed)
        losses = [
            (typical(math.log10(rate)) if rate else 2.3) + scatter.gauss(0.0, 0.06) for rate in lr
        ]
        curve = RangeCurve(lr=lr, loss=losses, ramp=ramp)
        assert decades(curve.suggestion("steepest"), 1e-2) < 0.4


def test_minimum_tenth_is_a_tenth_of_the_lowest() -> None:
    curve = make_curve(typical)
    lowest = curve.lr[min(range(100), key=curve.loss.__getitem__)]
    # the rise behind is steeper than the fall before: smoothing moves the lowest place left
    assert decades(curve.suggestion("minimum_tenth"), lowest / 10.0) < 0.2


def test_valley_is_the_middle_of_the_longest_fall() -> None:
    # a straight fall from x = -4 to x = -2, flat before, rising after
    curve = make_curve(lambda x: 1.0 + max(0.0, min(1.0, -(x + 2.0) / 2.0)) + max(0.0, x + 2.0))
    # the first twentieth of the fall does not count: the middle of -3.9 to -2
    assert decades(curve.suggestion("valley"), 10**-2.95) < 0.1


def test_smith_bounds_are_where_the_accuracy_starts_to_rise_and_stops() -> None:
    def accuracy(x: float) -> float:  # rises from 0.1 to 0.6 between x = -3 and x = -1
        return 0.1 + 0.25 * max(0.0, min(2.0, x + 3.0)) - 0.2 * max(0.0, x)

    curve = make_curve(typical)
    validation = [
        ValidationPoint(i, curve.lr[i], 9.9, accuracy(math.log10(curve.lr[i])), 100)
        for i in range(0, 100, 2)
    ]
    curve = RangeCurve(lr=curve.lr, loss=curve.loss, ramp=curve.ramp, validation=validation)
    base, top = curve.suggest("smith_base"), curve.suggest("smith_max")
    assert base.evidence["read_from"] == top.evidence["read_from"] == "validation error"
    # a tenth and nine tenths of the rise, on a straight line
    assert decades(float(base), 10**-2.8) < 0.2
    assert decades(float(top), 10**-1.2) < 0.2
    assert top.evidence["why"] == "slows"


def test_smith_max_stops_where_the_accuracy_gets_ragged() -> None:
    scatter = random.Random(3)
    curve = make_curve(typical)
    accuracy = []
    for rate in curve.lr:
        x = math.log10(rate)
        noise = 0.005 if x < -1.5 else 0.08
        accuracy.append(0.1 + 0.2 * max(0.0, x + 3.0) + scatter.gauss(0.0, noise))
    ragged = RangeCurve(lr=curve.lr, loss=curve.loss, ramp=curve.ramp, accuracy=accuracy)
    found = ragged.suggest("smith_max")
    assert found.evidence["why"] == "ragged"
    assert decades(float(found), 10**-1.5) < 0.4


def test_validation_losses_are_preferred_where_there_are_enough() -> None:
    curve = make_curve(typical)
    points = [
        ValidationPoint(i, curve.lr[i], typical(math.log10(curve.lr[i]) + 1.0), None, 10)
        for i in range(0, 100, 4)
    ]
    both = RangeCurve(lr=curve.lr, loss=curve.loss, ramp=curve.ramp, validation=points)
    assert decades(both.suggestion("steepest"), 1e-3) < 0.25
    few = RangeCurve(lr=curve.lr, loss=curve.loss, ramp=curve.ramp, validation=points[:9])
    assert few.suggestion("steepest") == curve.suggestion("steepest")


# -- curves that are hard to read: a number or a reason, never a crash ----------------------------


def test_noise_moves_the_answers_little() -> None:
    clean, noisy = make_curve(typical), make_curve(typical, noise=0.05)
    for rule in ("steepest", "valley", "minimum_tenth", "smith_max"):
        assert decades(noisy.suggestion(rule), clean.suggestion(rule)) < 0.45, rule


@pytest.mark.parametrize("at", [0, 3, 40, 60, 95])
@pytest.mark.parametrize("height", [50.0, -50.0])
def test_a_spike_moves_no_answer_far(at: int, height: float) -> None:
    clean = make_curve(typical, noise=0.02)
    losses = list(clean.loss)
    losses[at] += height
    spiked = RangeCurve(lr=clean.lr, loss=losses, ramp=clean.ramp)
    for rule in ("steepest", "valley", "minimum_tenth", "smith_base", "smith_max"):
        assert decades(spiked.suggestion(rule), clean.suggestion(rule)) < 0.3, rule


@pytest.mark.parametrize("tail", [math.nan, math.inf])
def test_a_tail_that_is_not_finite_does_not_count(tail: float) -> None:
    clean = make_curve(typical)
    losses = [*clean.loss[:80], *[tail] * 20]
    curve = RangeCurve(lr=clean.lr, loss=losses, ramp=clean.ramp, stop=StopReason.NON_FINITE)
    for rule in ("steepest", "valley", "minimum_tenth", "smith_max"):
        assert decades(curve.suggestion(rule), clean.suggestion(rule)) < 0.15, rule


def test_the_height_of_the_flight_does_not_matter() -> None:
    gentle = make_curve(lambda x: typical(x) + 5.0 * max(0.0, x) ** 2)
    steep = make_curve(lambda x: typical(x) + 5.0 * math.expm1(40.0 * max(0.0, x)))
    for rule in ("steepest", "valley", "minimum_tenth", "smith_max"):
        assert gentle.suggestion(rule) == steep.suggestion(rule), rule


@settings(max_examples=25, deadline=None)
@given(shift=st.floats(-1e3, 1e3), scale=st.floats(1e-3, 1e3), faster=st.floats(1e-3, 1e3))
def test_only_the_shape_counts(shift: float, scale: float, faster: float) -> None:
    """Losses may be shifted (below zero, too) and scaled; rates scale their suggestions."""
    curve = make_curve(typical, noise=0.02)
    other = RangeCurve(
        lr=[faster * rate for rate in curve.lr],
        loss=[shift + scale * loss for loss in curve.loss],
        ramp=curve.ramp,
    )
    for rule in RULES:
        assert other.suggestion(rule) == pytest.approx(faster * curve.suggestion(rule)), rule


def test_five_points_suffice_and_four_say_so() -> None:
    five = make_curve(typical, n=5, start=1e-4, end=1.0)
    for rule in ("steepest", "valley", "smith_max"):
        assert 1e-4 <= five.suggestion(rule) <= 1.0, rule
    four = make_curve(typical, n=4)
    for rule in RULES:
        assert "4 finite points" in four.suggest(rule).reason, rule


@pytest.mark.parametrize("noise", [0.0, 0.01, 1.0])
def test_a_flat_curve_has_no_answer_and_says_why(noise: float) -> None:
    flat = make_curve(lambda _: 2.3, noise=noise)
    for rule in RULES:
        found = flat.suggest(rule)
        assert not found, rule
        assert "does not fall" in found.reason, found
        with pytest.raises(NoSuggestion, match=f"rule '{rule}'"):
            float(found)


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_curve_that_only_falls_answers_where_it_can(noise: float) -> None:
    falling = make_curve(lambda x: 3.0 - math.exp(0.5 * x), noise=noise)
    for rule in ("steepest", "valley", "smith_base", "smith_max"):
        assert falling.suggest(rule), rule
    assert "still falling" in falling.suggest("minimum_tenth").reason


def test_a_curve_that_only_rises_says_so() -> None:
    rising = make_curve(lambda x: math.exp(x), stop=StopReason.DIVERGED)
    for rule in RULES:
        assert "does not fall" in rising.suggest(rule).reason, rule


@settings(max_examples=150, deadline=None)
@given(
    losses=st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=40),
    stop=st.sampled_from(list(StopReason)),
)
def test_no_curve_crashes_a_rule(losses: list[float], stop: StopReason) -> None:
    n = len(losses)
    ramp = Ramp((1e-4,), (1.0,), max(n, 2), "exp")
    curve = RangeCurve(
        lr=[ramp.rates(i)[0] for i in range(n)],
        loss=losses,
        ramp=ramp,
        accuracy=[min(max(loss, 0.0), 1.0) for loss in losses],
        stop=stop,
    )
    for rule in RULES:
        found = curve.suggest(rule)
        assert isinstance(found, Suggestion)
        assert (found.rate is None) == bool(found.reason)
        if found.rate is not None:
            assert math.isfinite(found.rate)
            assert found.rate > 0.0
    repr(curve)


# -- BatchNorm ------------------------------------------------------------------------------------


def test_the_default_knows_that_batch_norm_stands_five_times_more() -> None:
    plain, normed = (make_curve(typical, batch_norm=known) for known in (False, True))
    assert normed.suggestion() == pytest.approx(5.0 * plain.suggestion(), rel=1e-12)
    assert make_curve(typical).suggestion() == plain.suggestion()  # an old curve does not know
    for rule in RATES_ALL:
        assert normed.suggest(rule).rate == plain.suggest(rule).rate


def test_a_range_test_sees_whether_the_network_has_batch_norm() -> None:
    torch.manual_seed(0)
    data = [(torch.randn(8, 4), torch.randint(0, 3, (8,)))]
    plain = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    normed = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    for model, known in ((plain, False), (normed, True)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        curve = range_test(model, optimizer, data, nn.functional.cross_entropy, num_iter=10)
        assert curve.batch_norm is known
    optimizer = torch.optim.SGD(normed.parameters(), lr=0.1)
    steps = range_test(
        None, optimizer, data, step_fn=lambda b: normed(b[0]).square().mean(), num_iter=10
    )
    assert steps.batch_norm is None
