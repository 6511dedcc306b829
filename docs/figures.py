"""Draw the pictures of the documentation from recorded runs.

python docs/figures.py OUT.png RUN [RUN ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt

from surefoot_lab.records import RunRecord, read_runs

COLOURS = ("#c1440e", "#1f6f8b", "#7a9e3a", "#6c5b7b", "#9a9a9a", "#d9a441")


def validation(run: RunRecord) -> tuple[list[float], list[float]]:
    """Epochs and validation accuracies in percent."""
    points = [e for e in run.evaluations if e["split"] == "validation"]
    return [e["epoch"] for e in points], [100 * e["accuracy"] for e in points]


def rates(run: RunRecord) -> tuple[list[float], list[float]]:
    """Epochs and effective learning rates, the largest over the groups."""
    shown = [(s["epoch"], s["effective_lr"]) for s in run.steps if s["effective_lr"]]
    pairs = [(e, max(lr) if isinstance(lr, list) else lr) for e, lr in shown]
    return [e for e, lr in pairs if lr > 0], [lr for _, lr in pairs if lr > 0]


def test_accuracy(run: RunRecord) -> float:
    """Final test accuracy in percent."""
    return 100 * next(e["accuracy"] for e in reversed(run.evaluations) if e["split"] == "test")


def draw(runs: list[RunRecord]) -> plt.Figure:
    """Validation accuracy and effective learning rate, side by side."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.9), layout="constrained")
    runs = sorted(runs, key=test_accuracy, reverse=True)
    for run, colour in zip(runs, COLOURS, strict=False):
        left.plot(*validation(run), color=colour, label=f"{run.label}: {test_accuracy(run):.1f} %")
        right.plot(*rates(run), color=colour, linewidth=1.0)
    left.set(xlabel="epoch", ylabel="validation accuracy, %")
    right.set(xlabel="epoch", ylabel="effective learning rate", yscale="log", ylim=(1e-3, 30))
    left.legend(title="final test accuracy", frameon=False, loc="lower right")
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
    return figure


if __name__ == "__main__":
    matplotlib.use("Agg")
    out, *paths = sys.argv[1:]
    draw(list(read_runs([Path(path) for path in paths]))).savefig(out, dpi=130)
