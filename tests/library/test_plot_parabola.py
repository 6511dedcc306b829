"""The picture of a measurement holds the numbers of the measurement."""

from __future__ import annotations

import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

import surefoot.plots  # noqa: E402
from surefoot import PAL, Status, StepOutcome  # noqa: E402


def test_the_drawn_parabola_and_step_are_the_measured_ones() -> None:
    p = torch.nn.Parameter(torch.tensor([2.0, -1.0], dtype=torch.float64))
    optimizer = PAL([p])
    optimizer.step(lambda: (p**4).sum())
    outcome = optimizer.last
    assert outcome is not None
    assert outcome.parabola is not None
    _, ax = plt.subplots()
    sample = [(0.1 * i, 5.0 + i) for i in range(5)]
    assert surefoot.plots.parabola(outcome, sample, ax=ax) is ax
    lines = {line.get_label(): line for line in ax.get_lines()}
    x, y = lines["measured parabola"].get_data()
    q = outcome.parabola
    assert np.allclose(y, q.value0 + q.slope0 * x + 0.5 * q.curvature * x**2)
    assert np.allclose(lines["loss along the line"].get_ydata(), [5, 6, 7, 8, 9])
    assert lines[f"step ({outcome.status})"].get_xdata()[0] == pytest.approx(outcome.length)
    assert lines["its minimum"].get_xdata()[0] == pytest.approx(outcome.length * 0.6)
    plt.close("all")


def test_a_step_without_a_measurement_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        surefoot.plots.parabola(StepOutcome(1.0, 1.0, Status.REUSED, 2.0))
