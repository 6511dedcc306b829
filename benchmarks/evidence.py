"""Table and picture of docs/evidence.md, from the records beside the benchmarks.

    python benchmarks/evidence.py

Writes the table between the two marks of docs/evidence.md, and docs/evidence.png.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from scipy import stats

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"


@dataclass(frozen=True)
class Row:
    """A task of the table.

    Args:
        title: in table and picture.
        unit: of the figure; percent of what is right, or a loss.
        searched: the beginning of the name of the method that a search found, or of all its cells.
        published: somebody else's figure, and how it came about.
    """

    title: str
    unit: str
    searched: str
    published: str


ROWS = {
    "quadratic_deep": Row(
        "DeepOBS quadratic_deep", "loss", "Adam 0.0398", "87.11 ± .02 (36 rates)"
    ),
    "quadratic_reshuffled": Row("the same, reshuffled", "loss", "Adam 0.0398", "–"),
    "fmnist_2c2d": Row("DeepOBS fmnist_2c2d", "%", "Adam 0.000251", "92.34 ± .29 at 46,800 steps"),
    "fmnist_vae": Row("DeepOBS fmnist_vae", "loss", "Adam 0.000158", "23.07 ± .09 at 93,700 steps"),
    "cifar10_3c3d": Row(
        "DeepOBS cifar10_3c3d", "%", "Adam 0.000398", "84.75 ± .35 at 39,000 steps"
    ),
    "char_rnn": Row("char RNN, Shakespeare", "%", "Adam 0.00251", "–"),
    "nanogpt": Row("nanoGPT, CPU recipe", "loss", "AdamW 0", "1.88 at 2,000 steps"),
    "nanogpt_gpu": Row(
        "nanoGPT, GPU recipe, best of 20 evaluations", "loss", "AdamW 0", "1.4697 at 5,000 steps"
    ),
    "mnist1d_mlp": Row("MNIST-1D MLP", "%", "Adam 0.01", "68"),
    "mnist1d_cnn": Row("MNIST-1D CNN", "%", "Adam 0.01", "94"),
    "mnist1d_gru": Row("MNIST-1D GRU", "%", "Adam 0.01", "91"),
}
OURS = (
    "measured AdamW",
    "measured AdamW, length known",
    "measured Muon",
    "measured Muon, length known",
)
Runs = dict[tuple[str, int], dict[str, list[dict[str, Any]]]]


def read(folder: Path) -> list[dict[str, Any]]:
    """The yardsticks' records, beside their benchmarks; those of the papers' claims are others."""
    files = sorted(folder.glob("*/results.jsonl"))
    lines = (json.loads(line) for file in files for line in file.read_text().splitlines())
    return [record for record in lines if "task" in record]


def by_task(records: list[dict[str, Any]]) -> Runs:
    """(task, steps) to method to its runs."""
    found: Runs = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record["task"] in ROWS:
            found[record["task"], record["steps"]][record["method"]].append(record)
    order = list(ROWS)
    return dict(sorted(found.items(), key=lambda item: (order.index(item[0][0]), item[0][1])))


def mean_and_half(figures: list[float]) -> tuple[float, float]:
    """Mean, and half of its 95 % interval; NaN for one run."""
    mean = float(np.mean(figures))
    if len(figures) < 2:
        return mean, math.nan
    error = float(np.std(figures, ddof=1)) / math.sqrt(len(figures))
    return mean, float(stats.t.ppf(0.975, len(figures) - 1)) * error


def told(runs: list[dict[str, Any]] | None, unit: str) -> str:
    """A cell."""
    if not runs:
        return "–"
    figures = [r["figure"] for r in runs]
    mean, half = mean_and_half(figures)
    digits = 1 if unit == "%" else 2 if mean > 20 else 3
    if len(runs) == 2:
        return " and ".join(f"{figure:.{digits}f}" for figure in figures)
    spread = "" if math.isnan(half) else f" ± {half:.{digits}f}"
    return f"{mean:.{digits}f}{spread} ({len(runs)})"


def searched(task: str, methods: dict[str, list[dict[str, Any]]], ending: str) -> str | None:
    """The name of the searched method with this schedule; of several cells the best."""
    row = ROWS[task]
    names = [n for n in methods if n.startswith(row.searched) and n.endswith(ending)]
    names = [n for n in names if ending or not n.endswith(("linear", "recipe"))]
    sign = 1.0 if row.unit == "%" else -1.0
    return max(names, key=lambda n: sign * np.mean([r["figure"] for r in methods[n]]), default=None)


def table(runs: Runs) -> str:
    """Markdown."""
    lines = [
        "| task, steps | measured AdamW | length known | measured Muon | length known | searched rate, constant | searched rate, linear | others | published |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (task, steps), methods in runs.items():
        row = ROWS[task]
        constant, falling = (searched(task, methods, ending) for ending in ("", "linear"))
        cells = [told(methods.get(name), row.unit) for name in OURS]
        for name in (constant, falling):
            count = methods[name][0]["attempts"] if name else 1
            attempts = f", {count} attempts" if count > 1 else ""
            cells.append(f"{told(methods.get(name or ''), row.unit)}{attempts}")
        used, other = {*OURS, constant, falling}, searched(task, methods, "recipe")
        used |= {n for n in methods if n.startswith(row.searched) and n != other}
        rest = [f"{n}: {told(r, row.unit)}" for n, r in methods.items() if n not in used]
        unit = ", %" if row.unit == "%" else ", loss"
        lines.append(
            f"| {row.title}{unit}, {steps:,} | {' | '.join(cells)} | {'; '.join(rest) or '–'} | {row.published} |"
        )
    return "\n".join(lines)


def solved(records: list[dict[str, Any]]) -> str:
    """LightBench, Markdown."""
    found = [r for r in records if "level" in r]
    if not found:
        return ""
    levels = list(dict.fromkeys(r["level"] for r in found))
    lines = [
        f"| LightBench, solved in one attempt | {' | '.join(levels)} | all |",
        "|---|" + "---|" * (len(levels) + 1),
    ]
    for method in dict.fromkeys(r["method"] for r in found):
        mine = [r for r in found if r["method"] == method]
        parts = [[r for r in mine if r["level"] == level] for level in levels] + [mine]
        cells = [f"{sum(r['solved'] for r in part)} of {len(part)}" for part in parts]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def source(records: list[dict[str, Any]]) -> str:
    """What everything ran on."""
    keys = ("hardware", "torch", "surefoot", "commit")
    kept = [sorted({r[key] for r in records if key in r}) for key in keys]
    names = ("", "torch ", "surefoot ", "commit ")
    parts = [name + ", ".join(values) for name, values in zip(names, kept, strict=True) if values]
    return "One thread; " + "; ".join(parts) + "."


def draw(runs: Runs) -> plt.Figure:
    """Attempts against the distance to the searched constant rate, a mark a method and task."""
    figure, ax = plt.subplots(figsize=(10, 5), layout="constrained")
    markers = "osD^vP*Xh<>pd8"
    colours = {"measured AdamW": "#c1440e", "measured AdamW, length known": "#d9a441"}
    colours |= {"measured Muon": "#6c5b7b", "measured Muon, length known": "#b39ddb"}
    tasks = []
    for i, ((task, steps), methods) in enumerate(runs.items()):
        row, constant = ROWS[task], searched(task, methods, "")
        yardstick = constant or searched(task, methods, "linear")
        if yardstick is None:
            continue
        base = mean_and_half([r["figure"] for r in methods[yardstick]])[0]
        best = {searched(task, methods, ending) for ending in ("", "linear", "recipe")}
        for name, found in methods.items():
            if name.startswith(row.searched) and name not in best:
                continue
            mean = mean_and_half([r["figure"] for r in found])[0]
            gap = base - mean if row.unit == "%" else 100.0 * (mean - base) / base
            place = found[0]["attempts"] * 1.03 ** (i - len(runs) / 2)
            colour = colours.get(name, "#1f6f8b" if found[0]["attempts"] > 1 else "#9a9a9a")
            ax.plot(place, gap, markers[i % len(markers)], color=colour, alpha=0.85)
        marker = {"marker": markers[i % len(markers)], "linestyle": "", "color": "#444444"}
        tasks.append(plt.Line2D([], [], label=f"{row.title}, {steps:,}", **marker))
    ax.axhline(0.0, color="black", linewidth=0.8)
    ax.set(xscale="log", xlabel="attempts (runs that the figure costs)")
    ax.set_yscale("symlog", linscale=0.5)
    ticks = [-10, -5, -2, -1, 0, 1, 2, 5, 10]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    low, high = ax.get_ylim()
    ax.set_ylim(1.3 * min(low, -1.0), 1.3 * max(high, 1.0))
    ax.set_ylabel("behind the searched constant rate,\npoints or % of the loss; less is better")
    ax.set_xticks([1, 3, 10, 36], ["1", "3", "10", "36"])
    ax.minorticks_off()
    handles = [
        plt.Line2D([], [], marker="s", linestyle="", color=c, label=n) for n, c in colours.items()
    ]
    handles += [
        plt.Line2D([], [], marker="s", linestyle="", color="#1f6f8b", label="searched"),
        plt.Line2D([], [], marker="s", linestyle="", color="#9a9a9a", label="other methods"),
    ]
    figure.legend(handles=handles, frameon=False, loc="outside right upper")
    figure.legend(handles=tasks, frameon=False, loc="outside right lower")
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def page(text: str, records: list[dict[str, Any]]) -> str:
    """The page with its table made anew."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    parts = [table(by_task(records)), solved(records), source(records)]
    return before + BEGIN + "\n\n" + "\n\n".join(p for p in parts if p) + "\n\n" + END + after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=Path, default=HERE)
    parser.add_argument("--page", type=Path, default=DOCS / "evidence.md")
    parser.add_argument("--picture", type=Path, default=DOCS / "evidence.png")
    options = parser.parse_args()
    records = read(options.records)
    options.page.write_text(page(options.page.read_text(), records))
    draw(by_task(records)).savefig(options.picture, dpi=130)


if __name__ == "__main__":
    main()
