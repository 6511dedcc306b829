"""Pictures of several range tests hold all of them, on the same axes."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator

import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from surefoot import plots  # noqa: E402
from surefoot.lr_range import Ramp, RangeCurve, Suggestion, ValidationPoint  # noqa: E402

FALLING = [2.3, 2.3, 2.2, 2.0, 1.5, 1.2, 1.1, 1.3, 2.0, 3.0]


def make_curve(losses: list[float], end: float = 1.0, validated: bool = False) -> RangeCurve:
    n = len(losses)
    ramp = Ramp((1e-5,), (end,), num_iter=n, step_mode="exp")
    lr = [ramp.rates(i)[0] for i in range(n)]
    points = [ValidationPoint(i, lr[i], losses[i] + 1, None, 10) for i in range(1, n, 2)]
    return RangeCurve(lr=lr, loss=losses, ramp=ramp, validation=points if validated else [])


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


def test_each_curve_is_drawn_with_its_default_suggestion() -> None:
    curves = {"one": make_curve(FALLING), "two": make_curve(FALLING, 10.0)}
    ax = plots.range_curves(curves)
    assert ax.get_xscale() == "log"
    drawn = {line.get_label().split(":")[0]: line for line in ax.lines}
    places = [line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 2]
    assert places == [curve.suggestion() for curve in curves.values()]
    for label, curve in curves.items():
        assert list(drawn[label].get_xdata()) == curve.lr
        assert list(drawn[label].get_ydata()) == curve.loss
        assert drawn[label].get_label() == f"{label}: {curve.suggestion():.2g}"


def test_the_validation_loss_is_drawn_only_if_all_have_it() -> None:
    some, every = make_curve(FALLING), make_curve(FALLING, validated=True)
    ax = plots.range_curves({"a": every, "b": some})
    assert ax.get_ylabel() == "training loss"
    ax = plots.range_curves({"a": every, "b": every}, plt.figure().subplots())
    assert ax.get_ylabel() == "validation loss"
    assert list(ax.lines[0].get_ydata()) == [point.loss for point in every.validation]


def test_every_fall_is_in_the_picture_and_no_flight() -> None:
    high = [v + 5 for v in FALLING]
    ax = plots.range_curves(
        {"low": make_curve([*FALLING, 1e9, math.nan]), "high": make_curve(high)}
    )
    low, top = ax.get_ylim()
    assert low < min(FALLING)
    assert sorted(high)[7] < top < 30


def test_panels_share_their_axes() -> None:
    panels = {f"batch size {k}": {"a": make_curve([v * k for v in FALLING])} for k in (1, 2, 3, 4)}
    figure = plots.range_grid(panels)
    assert [ax.get_title() for ax in figure.axes] == list(panels)
    assert len({ax.get_ylim() for ax in figure.axes}) == 1
    assert len({ax.get_xlim() for ax in figure.axes}) == 1
    low, top = figure.axes[0].get_ylim()
    assert low < min(FALLING)
    assert top > 4 * sorted(FALLING)[7]


def test_a_curve_without_an_answer_is_drawn_all_the_same() -> None:
    ax = plots.range_curves({"a": make_curve([math.nan, math.inf])})
    assert [line.get_label() for line in ax.lines] == ["a: none"]


def test_nothing_to_draw_is_an_error() -> None:
    for empty in ({}, {"a panel": {}}):
        with pytest.raises(ValueError, match="no range curve"):
            plots.range_grid(empty)


@pytest.mark.parametrize("validated", [False, True])
def test_marks_lie_on_the_curve_and_the_default_is_named(validated: bool) -> None:
    losses = [*(2.3 for _ in range(20)), *FALLING, 9e9]
    curve = make_curve(losses, validated=validated)
    alone = curve.plot()
    (dot,) = (line for line in alone.lines if len(line.get_xdata()) == 1)
    assert float(dot.get_xdata()[0]) == curve.suggestion()
    assert sum(len(line.get_xdata()) > 2 for line in alone.lines) == 1
    ax = curve.plot(suggestions=curve.suggestions())
    drawn = {line.get_label(): line for line in ax.lines}
    read = drawn["validation loss" if validated else "training loss"]
    rates, values = (list(map(float, xs)) for xs in (read.get_xdata(), read.get_ydata()))
    marks = {name: line for name, line in drawn.items() if len(line.get_xdata()) == 1}
    assert len(marks) >= 5
    for label, mark in marks.items():
        rate, height = float(mark.get_xdata()[0]), float(mark.get_ydata()[0])
        i = min(max(bisect.bisect_left(rates, rate), 1), len(rates) - 1)
        low, high = sorted(values[i - 1 : i + 1])
        assert low - 1e-9 <= height <= high + 1e-9, label
        assert ax.get_ylim()[0] <= height <= ax.get_ylim()[1]
        assert (mark.get_alpha() == 1.0) == label.startswith("consensus")
    assert [text.get_text() for text in ax.texts] == [f"suggested: {curve.suggestion():.2g}"]


def test_a_mark_in_flight_leaves_its_line_and_its_name() -> None:
    curve = make_curve([*(2.3 for _ in range(20)), *FALLING, 9e9])
    there = Suggestion(curve.lr[-1], "farthest")
    ax = curve.plot(suggestions={"farthest": there})
    (named,) = [line for line in ax.lines if line.get_label().startswith("farthest")]
    assert list(named.get_xdata()) == [curve.lr[-1]] * 2


def test_the_loss_at_a_rate() -> None:
    curve = make_curve([2.0, 1.0, math.nan, 3.0])
    assert curve.loss_at(math.sqrt(curve.lr[0] * curve.lr[1])) == pytest.approx(1.5)
    assert curve.loss_at(curve.lr[2]) == pytest.approx(2.0)
    assert (curve.loss_at(1e-9), curve.loss_at(1e9)) == (2.0, 3.0)
    assert math.isnan(make_curve([math.nan, math.inf]).loss_at(1e-3))
