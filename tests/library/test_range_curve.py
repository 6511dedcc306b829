"""What a range curve does with what was measured: keep it, apply it, draw it, say why it ended."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from surefoot.lr_range import (
    NoSuggestion,
    Ramp,
    RangeCurve,
    StopReason,
    StopRule,
    ValidationPoint,
    range_test,
)
from surefoot.outcome import Cost


def make_curve(losses: list[float], **options: Any) -> RangeCurve:
    """A curve over rates from 1e-5 to 1, whatever its length."""
    n = len(losses)
    ramp = Ramp((1e-5,), (1.0,), num_iter=n, step_mode="exp")
    lr = [1e-5 * 1e5 ** (i / (n - 1)) for i in range(n)]
    return RangeCurve(lr=lr, loss=losses, ramp=ramp, **options)


FALLING = [2.3, 2.3, 2.2, 2.0, 1.5, 1.2, 1.1, 1.3, 2.0, 3.0]


def rich_curve() -> RangeCurve:
    return RangeCurve(
        lr=[0.1, 0.2, 0.3],
        loss=[1.0, math.inf, math.nan],
        ramp=Ramp((0.1, 0.0), (0.3, 0.0), num_iter=3, step_mode="linear"),
        stop=StopReason.NON_FINITE,
        accuracy=[0.1, 0.2, 0.0],
        validation=[ValidationPoint(1, 0.2, -math.inf, None, 10)],
        optimizer="SGD",
        batch_norm=True,
        cost=Cost(5, 3, 0),
        seconds=0.1 + 0.2,
    )


def test_json_brings_every_number_back(tmp_path: Path) -> None:
    curve = rich_curve()
    path = tmp_path / "curve.json"
    text = curve.to_json(path)
    json.loads(text, parse_constant=pytest.fail)  # strict: no bare NaN
    for again in (RangeCurve.from_json(text), RangeCurve.from_json(path)):
        # repr, since NaN is not equal to itself
        assert repr(vars(again)) == repr(vars(curve))
    assert RangeCurve.from_json(str(path)).ramp == curve.ramp


@pytest.mark.parametrize(
    "text",
    ["{}", '{"schema": 2}', '{"schema": 1, "lr": [1]}', "{not json", '{"schema":1,"ramp":3}'],
)
def test_what_is_no_curve_is_refused_by_name(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="this text is not a range curve"):
        RangeCurve.from_json(text)
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json is not a range curve"):
        RangeCurve.from_json(path)


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="3 learning rates but 2 values of loss"):
        RangeCurve(lr=[1, 2, 3], loss=[1, 2], ramp=Ramp((1,), (3,), 3, "linear"))


def two_groups() -> torch.optim.SGD:
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    return torch.optim.SGD([{"params": [a], "lr": 0.2}, {"params": [b], "lr": 0.02}])


def test_apply_sets_the_rate_and_what_a_scheduler_starts_from() -> None:
    optimizer = two_groups()
    optimizer.param_groups[0]["initial_lr"] = 0.5  # left over from an earlier scheduler
    curve = make_curve(FALLING)
    changes = curve.apply(optimizer, 0.003)
    assert changes == [
        {"group": 0, "lr": (0.2, 0.003), "initial_lr": (0.5, 0.003)},
        {
            "group": 1,
            "lr": (0.02, pytest.approx(0.0003)),
            "initial_lr": (None, pytest.approx(3e-4)),
        },
    ]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    assert scheduler.get_last_lr() == pytest.approx([0.003, 0.0003])


def test_apply_takes_the_suggestion_or_the_name_of_a_rule() -> None:
    curve = make_curve(FALLING)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.2)
    curve.apply(optimizer)
    assert optimizer.param_groups[0]["lr"] == curve.suggestion() == float(curve)
    curve.apply(optimizer, "minimum_tenth")
    assert optimizer.param_groups[0]["lr"] == curve.suggestion("minimum_tenth")


def test_apply_warns_where_a_scheduler_would_overwrite_it() -> None:
    optimizer = two_groups()
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    with pytest.warns(UserWarning, match="scheduler was built on this optimizer"):
        make_curve(FALLING).apply(optimizer, 0.1)


def test_apply_refuses_another_number_of_groups() -> None:
    with pytest.raises(ValueError, match="measured with 3 param groups, this optimizer has 2"):
        RangeCurve([0.1], [1.0], Ramp((0.1,) * 3, (1.0,) * 3, 2, "exp")).apply(two_groups(), 0.1)


def test_no_suggestion_says_why_and_what_to_do() -> None:
    flat = make_curve([2.3, 2.31] * 10)
    with pytest.raises(NoSuggestion, match=r"does not fall.*widen the range"):
        flat.suggestion()
    assert "suggestion none" in repr(flat)
    with pytest.raises(ValueError, match="no rule 'best'; there are consensus, steepest"):
        flat.suggest("best")


def test_messages_name_the_place() -> None:
    assert rich_curve().message == (
        "the loss was NaN or infinite at iteration 3 of 3, learning rate 0.3"
    )
    assert make_curve(FALLING).message == "all 10 iterations were made, up to learning rate 1"


# -- why a test ends ------------------------------------------------------------------------------


def feed(
    losses: list[float], num_iter: int = 100, threshold: float | None = 4.0
) -> tuple[int, StopReason | None]:
    rule = StopRule(threshold, num_iter)
    for i, loss in enumerate(losses):
        reason = rule.update(loss)
        if reason is not None:
            return i, reason
    return len(losses), None


def descent(n: int = 30) -> list[float]:
    """A loss that falls by 1 with a little scatter."""
    return [2.0 - k / n + 0.01 * (-1) ** k for k in range(n)]


@pytest.mark.parametrize("shift", [0.0, -3.0, -100.0, 7.0])
def test_divergence_is_seen_wherever_zero_lies(shift: float) -> None:
    losses = [loss + shift for loss in [*descent(), *(1.0 + 3.0**k for k in range(20))]]
    where, reason = feed(losses)
    assert reason is StopReason.DIVERGED
    # far above the best, but not later than a doubling of the shift itself would need
    assert 30 + 5 <= where <= 30 + 9


def test_a_single_spike_is_not_a_divergence() -> None:
    losses = descent()
    losses[10] = 1e4
    assert feed(losses) == (30, None)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_losses_that_are_not_finite_end_the_test_where_they_come_in_a_row(bad: float) -> None:
    assert feed([*descent(), *5 * [bad], 1.0]) == (34, StopReason.NON_FINITE)
    one_in_five = [*descent(), *5 * [bad, bad, bad, bad, 1.0]]
    assert feed(one_in_five) == (len(one_in_five), None)


def test_the_stop_can_be_switched_off() -> None:
    losses = [*descent(), *(3.0**k for k in range(20)), math.nan, math.inf]
    assert feed(losses, threshold=None) == (len(losses), None)


def test_a_dead_network_is_a_plateau() -> None:
    dead = [2.0 + 1e-6 * (-1) ** k for k in range(40)]
    where, reason = feed([*descent(), *dead])
    assert reason is StopReason.PLATEAU
    assert 40 <= where <= 55


def test_a_slow_start_is_not_a_plateau() -> None:
    flat = [2.0 + 0.01 * (-1) ** k for k in range(60)]
    assert feed([*flat, *descent()]) == (90, None)


def test_null_among_the_losses_is_nan() -> None:
    losses = [2.0 - 0.05 * i for i in range(30)] + [0.6 + 0.3 * i for i in range(10)]
    losses[7] = math.nan
    curve = make_curve(losses)
    text = json.dumps({**json.loads(curve.to_json()), "loss": [*losses[:7], None, *losses[8:]]})
    again = RangeCurve.from_json(text)
    assert math.isnan(again.loss[7])
    assert again.suggest() == curve.suggest()


def test_the_curve_says_why_it_ended() -> None:
    model = nn.Linear(4, 1, bias=False)
    torch.manual_seed(0)
    x = torch.randn(32, 4)

    def run(**options: Any) -> RangeCurve:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        mse = nn.functional.mse_loss
        return range_test(model, optimizer, [(x, x.sum(1, keepdim=True))], mse, **options)

    diverged = run(start_lr=1e-3, end_lr=1e3)
    assert diverged.stop is StopReason.DIVERGED
    assert len(diverged.lr) < 100
    assert "diverged at iteration" in diverged.message
    to_the_end = run(start_lr=1e-3, end_lr=1e30, diverge_threshold=None)
    assert to_the_end.stop is StopReason.FINISHED
    assert len(to_the_end.lr) == 100
    assert not math.isfinite(to_the_end.loss[-1])


# -- pictures -------------------------------------------------------------------------------------


def test_plot_draws_into_axes_and_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    monkeypatch.setattr(pyplot, "show", lambda *_, **__: pytest.fail("nothing is to be shown"))
    curve = make_curve([*FALLING, math.nan])
    figure, ax = pyplot.subplots()
    assert curve.plot(ax) is ax
    assert ax.get_xscale() == "log"
    (line, *_) = ax.get_lines()
    assert list(line.get_xdata()) == curve.lr
    assert ax.get_legend() is None  # one curve, one dot
    pyplot.close(figure)
    ax = curve.plot(suggestions=curve.suggestions())
    named = [text.get_text() for text in ax.get_legend().get_texts()]
    assert f"steepest: {curve.suggestion('steepest'):.2g}" in named
    pyplot.close(ax.figure)


def test_plot_keeps_the_fall_in_view_and_survives_nothing_but_nan() -> None:
    from matplotlib import pyplot

    ax = make_curve([*FALLING, *FALLING, 1e9]).plot()
    assert ax.get_ylim()[1] < 10.0
    pyplot.close(ax.figure)
    ax = make_curve([math.nan] * 6).plot()
    pyplot.close(ax.figure)
    ax = make_curve([2.0] * 6).plot()
    pyplot.close(ax.figure)
