"""What a measured optimizer tells of its run, and the picture of it."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch

import surefoot
from surefoot.measured.history import RatePoint, remember

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

# a net this small grows from nothing: the bound decides, and says so
pytestmark = pytest.mark.filterwarnings("ignore:most of the last")


def run(total_steps: int | None, steps: int = 60) -> tuple[surefoot.MeasuredLR, list]:
    torch.manual_seed(0)
    x = torch.randn(256, 5)
    y = x @ torch.randn(5, 1) + 0.1 * torch.randn(256, 1)
    model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    base = torch.optim.AdamW(model.parameters(), lr=0.002)
    seen: list[tuple[int, float]] = []
    optimizer = surefoot.MeasuredLR(
        base,
        model,
        total_steps=total_steps,
        on_measure=lambda o: seen.append(o.effective_lr),
    )
    for _ in range(steps):
        rows = torch.randint(0, 256, (64,))
        torch.nn.functional.mse_loss(model(x[rows]), y[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer, seen


@pytest.mark.parametrize("total_steps", [None, 600])
def test_a_point_for_every_measurement(total_steps: int | None) -> None:
    optimizer, seen = run(total_steps)
    points = optimizer.history()
    assert [p.effective_lr for p in points] == seen
    assert all(a.step < b.step for a, b in itertools.pairwise(points))
    last, rate = points[-1], optimizer.rate
    assert rate.value is not None
    assert (last.measured, last.low) == pytest.approx((0.002 * rate.value, 0.002 * rate.low))
    if total_steps:
        assert [p.decay for p in points] == pytest.approx([1 - (p.step - 1) / 600 for p in points])
        assert all(p.effective_lr <= 1.01 * p.bound for p in points[1:])
    else:
        assert {p.decay for p in points} == {1.0}
        assert {p.bound for p in points} == {math.inf}
    assert copy.deepcopy(optimizer).history() == points


def test_a_long_history_is_thinned_out_and_keeps_its_ends() -> None:
    points: list[RatePoint] = []
    for step in range(10_000):
        remember(points, RatePoint(step, 1.0, 1.0, 0.5, 2.0, math.inf, 1.0))
    assert len(points) <= 4096
    assert (points[0].step, points[-1].step) == (0, 9_999)
    assert all(a.step < b.step for a, b in itertools.pairwise(points))


def test_the_picture_draws_what_was_measured() -> None:
    optimizer, _ = run(600)
    points = optimizer.history()
    ax = surefoot.plots.rate(optimizer)
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert list(lines["applied"].get_ydata()) == [p.effective_lr for p in points]
    assert list(lines["applied"].get_xdata()) == [p.step for p in points]
    named = {text.get_text() for text in ax.get_legend().get_texts()}
    assert {"applied", "measured minimum", "95 % interval", "decay"} <= named
    pyplot.close("all")


def test_nothing_measured_is_no_picture() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        surefoot.plots.rate([])
