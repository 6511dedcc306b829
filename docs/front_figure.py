"""The README's picture, from the table of the tasks that were kept back in zero-tuning.md.

python docs/front_figure.py
"""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt

from surefoot.plots._style import COLOURS, INK, dress

DOCS = Path(__file__).parent
ROWS = {
    "averaged, nothing given": "measured AdamW\nnothing chosen",
    "with `total_steps`, linear decay": "measured AdamW\nlength of the run given",
    "schedule-free AdamW 2.5e-3": "schedule-free AdamW\ndefault rate",
    "AdamW 1e-3, linear": "AdamW at 1e-3, linear decay\nlength of the run given",
}


def gaps() -> tuple[list[str], dict[str, list[float]]]:
    """The tasks, and each method's gap to the best searched setting on them."""
    text = (DOCS / "zero-tuning.md").read_text(encoding="utf-8")
    table = text[text.index("Confirmation, the library itself") :]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| ")][:5]
    tasks = [cell.strip() for cell in rows[0][1:-2]]
    found = {}
    for name, *cells in rows[1:]:
        found[re.sub(r"\*", "", name).strip()] = [
            float(cell.strip().replace("−", "-")) for cell in cells[:-2]
        ]
    return tasks, found


def draw() -> plt.Figure:
    """A dot a task, a bar at the median."""
    tasks, found = gaps()
    figure, ax = plt.subplots(figsize=(8.0, 3.7), layout="constrained")
    for place, (name, label) in enumerate(ROWS.items()):
        values = found[name]
        colour = COLOURS[0] if label.startswith("measured") else "0.45"
        spread = [place + 0.09 * ((i * 5) % 7 - 3) / 3 for i in range(len(values))]
        ax.scatter(values, spread, s=34, color=colour, alpha=0.75, lw=0)
        middle = statistics.median(values)
        ax.plot([middle] * 2, [place - 0.3, place + 0.3], color=INK, lw=2.5)
        ax.annotate(
            f"{middle:.1f}",
            (middle, place - 0.32),
            ha="center",
            va="bottom",
            fontsize=9,
            fontweight="bold",
            color=INK,
        )
    ax.axvline(0.0, color=COLOURS[2], lw=2.0, zorder=0)
    ax.text(0.0, -0.78, "best of 47 tuned settings", color=COLOURS[2], ha="center", fontsize=9.5)
    ax.set_xscale("symlog", linthresh=10.0)
    ax.set_xlim(-8.0, 1000.0)
    ticks = (0, 5, 10, 30, 100, 300, 1000)
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.set_yticks(range(len(ROWS)), list(ROWS.values()), fontsize=9.5)
    ax.set_ylim(len(ROWS) - 0.5, -0.62)
    ax.set_xlabel(
        "gap behind the best, points or % of the loss; "
        f"a dot is one of {len(tasks)} tasks, a bar the median"
    )
    dress(ax)
    ax.tick_params(axis="y", length=0)
    return figure


if __name__ == "__main__":
    matplotlib.use("Agg")
    draw().savefig(DOCS / "images" / "kept-back.png", dpi=120)
