"""Pictures of lines hold the numbers of the lines."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from surefoot import plots  # noqa: E402
from surefoot.shape import (  # noqa: E402
    LineSample,
    StepOnLine,
    batch_size_effect,
    default_lengths,
    steps_on_line,
)

GRID = default_lengths(21, 1.0)


def sample(minimum: float = 0.3, batches: int = 6, **more: Any) -> LineSample:
    rows = tuple(
        tuple((s - minimum - 0.1 * (b - (batches - 1) / 2)) ** 2 + 0.5 for s in GRID)
        for b in range(batches)
    )
    own = tuple(1.5 * (s - 0.5) ** 2 for s in GRID)
    settings = {"direction_norm": 2.0, "slope0": -1.5, "own_losses": own, "kind": "gradient"}
    return LineSample(GRID, rows, (4,) * batches, **{**settings, **more})


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


def drawn(ax: Any) -> dict[str, Any]:
    return {line.get_label().split(" (")[0]: line for line in ax.get_lines()}


def test_the_drawn_losses_are_the_sampled_ones() -> None:
    line = sample()
    _, ax = plt.subplots()
    assert line.plot(ax) is ax
    lines = drawn(ax)
    assert lines["full batch"].get_xdata() == pytest.approx(GRID)
    assert lines["full batch"].get_ydata() == pytest.approx(line.losses)
    assert lines["direction's batch"].get_ydata() == pytest.approx(line.own_losses)
    thin = [x for x in ax.get_lines() if x.get_linewidth() < 0.7]
    assert len(thin) == 6
    assert lines["full batch"].get_linewidth() > 3 * thin[0].get_linewidth()
    assert thin[2].get_ydata() == pytest.approx(line.batch_losses[2])
    x = np.array(GRID)
    a, b, c = np.polyfit(x, line.losses, 2)
    assert lines["parabola"].get_ydata() == pytest.approx(a * x**2 + b * x + c)


def test_the_band_is_twice_the_standard_error() -> None:
    line = sample()
    ax = line.plot()
    assert line.standard_errors is not None
    (band,) = ax.collections
    vertices = band.get_paths()[0].vertices
    for s, loss, error in zip(GRID, line.losses, line.standard_errors, strict=True):
        at = vertices[np.isclose(vertices[:, 0], s)][:, 1]
        assert at.min() == pytest.approx(loss - 2 * error)
        assert at.max() == pytest.approx(loss + 2 * error)


def test_every_step_is_marked_where_it_ends() -> None:
    line = sample()
    steps = steps_on_line(line, rates={"SGD 0.1": 0.1, "SGD 7": 7.0})
    ax = line.plot(steps=steps)
    lines = drawn(ax)
    for name, step in steps.items():
        if name == "SGD 7":
            assert len(lines[name].get_xdata()) == 0
            assert "outside" in lines[name].get_label()
            continue
        assert lines[name].get_xdata() == pytest.approx([step.length])
        assert lines[name].get_ydata() == pytest.approx([step.loss])
    markers = [lines[name].get_marker() for name in steps]
    assert len(set(markers)) == len(markers)


def test_what_was_not_sampled_is_not_drawn() -> None:
    row = tuple((s - 0.2) ** 2 for s in GRID)
    ax = LineSample(GRID, (row,), (4,)).plot(legend=False)
    assert set(drawn(ax)) >= {"full batch", "parabola"}
    assert "direction's batch" not in drawn(ax)
    assert ax.get_legend() is None
    assert not ax.collections


def test_losses_that_are_not_finite_do_not_stop_the_picture() -> None:
    row = tuple(math.nan if s > 0.5 else (s - 0.2) ** 2 for s in GRID)
    ax = LineSample(GRID, (row,), (4,)).plot()
    assert all(map(math.isfinite, ax.get_ylim()))
    assert "parabola" in drawn(ax)


def test_a_batch_far_away_does_not_flatten_the_line() -> None:
    line = sample(batches=4)
    far = tuple(1e4 + s for s in GRID)
    shifted = LineSample(GRID, (*line.batch_losses, far), (1000,) * 4 + (1,))
    ax = shifted.plot()
    low, high = ax.get_ylim()
    assert high - low < 3 * (max(shifted.losses) - min(shifted.losses))


def test_small_multiples_share_one_legend() -> None:
    lines = [sample(0.1 * k, step=10 * k) for k in range(5)]
    figure = plots.line_grid(lines, [steps_on_line(line) for line in lines], columns=3)
    assert [ax.get_title() for ax in figure.axes] == [f"step {10 * k}" for k in range(5)]
    assert all(ax.get_legend() is None for ax in figure.axes)
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert {"full batch", "PAL", "minimum"} <= set(names)
    assert drawn(figure.axes[3])["minimum"].get_xdata() == pytest.approx([0.3])
    with pytest.raises(ValueError, match="5 lines"):
        plots.line_grid(lines, [{}])


def test_figures_over_training() -> None:
    ax = plots.over_training(
        [0, 10, 20], {"a": [1.0, 2.0, 6.0], "b": [1.0, math.nan, 3.0]}, log=True, ylabel="error"
    )
    assert ax.get_yscale() == "log"
    assert drawn(ax)["a"].get_ydata() == pytest.approx([1.0, 2.0, 6.0])


def test_steps_against_norms() -> None:
    ax = plots.steps_against_norms([1.0, 2.0], [0.1, 0.3], rate=0.12)
    points, line = ax.get_lines()
    assert points.get_xydata().tolist() == [[1.0, 0.1], [2.0, 0.3]]
    x, y = line.get_data()
    assert y == pytest.approx([0.12 * v for v in x])


def test_batch_sizes() -> None:
    samples = {n: [sample(0.3, direction_norm=8 / n)] for n in (2, 8)}
    rows = batch_size_effect(samples)
    lines = drawn(plots.batch_sizes(rows))
    assert lines["optimal rate"].get_ydata() == pytest.approx([1.0, 4.0])
    assert lines["gradient norm"].get_ydata() == pytest.approx([1.0, 0.25])
    assert lines["batch size"].get_ydata() == pytest.approx([1.0, 4.0])


def test_a_step_outside_with_an_unknown_loss_has_a_name_only() -> None:
    ax = sample().plot(steps={"lost": StepOnLine(0.5, math.nan, 0.1, math.nan)})
    assert "outside" in drawn(ax)["lost"].get_label()
