"""The README's picture, from the table of the tasks that were kept back in zero-tuning.md.

python docs/front_figure.py
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt

from surefoot.plots._style import COLOURS, INK, dress

DOCS = Path(__file__).parent
ROWS = {
    "measured AdamW, nothing given": "measured AdamW\nnothing chosen",
    "measured AdamW, `total_steps`": "measured AdamW\nlength of the run given",
    "measured Muon, nothing given": "measured Muon\nnothing chosen",
    "Prodigy + cosine": "Prodigy, cosine decay\nlength of the run given",
    "Prodigy schedule-free": "Prodigy schedule-free\nnothing chosen",
    "schedule-free AdamW": "schedule-free AdamW\ndefault rate",
    "AdamW 1e-3, linear": "AdamW at 1e-3, linear decay\nlength of the run given",
}


def gaps() -> tuple[list[str], dict[str, tuple[list[float], float]]]:
    """The tasks, and each method's gap to the best searched setting on them, and its median."""
    text = (DOCS / "zero-tuning.md").read_text(encoding="utf-8")
    table = text[text.index("### Six tasks that had no say") :]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| ")]
    tasks = [cell.strip() for cell in rows[0][1:-4]]
    found: dict[str, tuple[list[float], float]] = {}
    for name, *cells in rows[1:]:
        name = re.sub(r"\*", "", name).strip()
        if name in ROWS and name not in found:
            figures = [float(c.strip().replace("−", "-")) for c in cells[:-1]]
            found[name] = figures[: len(tasks)], figures[-2]
    return tasks, found


def draw() -> plt.Figure:
    """A dot a task, a bar at the median."""
    tasks, found = gaps()
    figure, ax = plt.subplots(figsize=(8.0, 4.9), layout="constrained")
    for place, (name, label) in enumerate(ROWS.items()):
        values, middle = found[name]
        colour = COLOURS[0] if label.startswith("measured") else "0.45"
        spread = [place + 0.09 * ((i * 5) % 7 - 3) / 3 for i in range(len(values))]
        ax.scatter(values, spread, s=34, color=colour, alpha=0.75, lw=0)
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
    ax.set_xlim(-8.0, 200.0)
    ticks = (0, 5, 10, 30, 100)
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.set_yticks(range(len(ROWS)), list(ROWS.values()), fontsize=9.5)
    ax.set_ylim(len(ROWS) - 0.5, -0.62)
    dress(
        ax, f"behind the best, points or % of the loss; dots: {len(tasks)} tasks, bars: medians", ""
    )
    ax.tick_params(axis="y", length=0)
    return figure


if __name__ == "__main__":
    matplotlib.use("Agg")
    draw().savefig(DOCS / "images" / "kept-back.png", dpi=120)
