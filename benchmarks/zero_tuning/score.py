"""The scoreboard of what `run.py` trained: gaps to the tuned ceiling, as a table and a picture.

    python benchmarks/zero_tuning/score.py runs/zero-tuning [--onto FILE.json] [--out docs/zero-tuning]

A gap is in points of accuracy, or in percent of the ceiling's loss; positive is worse. The ceiling
of a task is the best mean over all seeds among the cells of the grid that were run with all of
them. It is chosen by the figure it is judged by, so luck makes it too high rather than too low.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from methods import ABLATION, OURS, RIVALS, grid
from run import SEEDS, run_dir, score_of
from tasks import tasks

from surefoot_lab.compare import interval


@dataclass(frozen=True)
class Gap:
    """A method on a task: the mean gap over the seeds, and half of its 95 % interval."""

    mean: float
    half_width: float
    n: int

    def __str__(self) -> str:
        if not math.isfinite(self.mean):
            return "fails"
        width = f" ± {self.half_width:.1f}" if math.isfinite(self.half_width) else ""
        return f"{self.mean:.1f}{width}" + ("" if self.n == len(SEEDS) else f" (n = {self.n})")


def scores(out: Path, name: str, label: str, figure: str) -> list[float]:
    """The figures of the seeds that ran, larger is better; -inf for one that failed."""
    paths = [run_dir(out, name, label, seed) for seed in SEEDS]
    return [score_of(path, figure) for path in paths if (path / "record.jsonl").exists()]


def ceiling(out: Path, name: str, figure: str) -> tuple[str, float] | None:
    """The best cell of the grid, and its mean."""
    found = {label: scores(out, name, label, figure) for label in grid()}
    whole = {k: statistics.fmean(v) for k, v in found.items() if len(v) == len(SEEDS)}
    if not whole:
        return None
    best = max(whole, key=whole.__getitem__)
    return best, whole[best]


def gap_of(values: list[float], top: float, figure: str) -> Gap:
    """Each seed's gap, averaged."""
    gaps = [100.0 * (top - v) / (1.0 if figure == "accuracy" else abs(top)) for v in values]
    if any(math.isinf(gap) for gap in gaps):
        return Gap(math.inf, math.nan, len(gaps))
    if len(gaps) < 2:
        return Gap(gaps[0], math.nan, 1)
    found = interval(gaps)
    return Gap(statistics.fmean(gaps), (found.high - found.low) / 2.0, len(gaps))


Ceilings = dict[str, tuple[str, float]]
Gaps = dict[str, dict[str, Gap]]


def read_scores(path: Path) -> tuple[Ceilings, Gaps]:
    """What `--out` wrote before: rows that are measured anew are compared with its ceilings."""
    plain = json.loads(path.read_text())
    tops = {name: (top["cell"], top["value"]) for name, top in plain["ceilings"].items()}
    rows = {
        label: {
            n: Gap(math.inf if g[0] is None else g[0], math.nan if g[1] is None else g[1], g[2])
            for n, g in row.items()
        }
        for label, row in plain["gaps"].items()
    }
    return tops, rows


def collect(
    out: Path, labels: list[str], only: list[str] | None = None, onto: Path | None = None
) -> tuple[Ceilings, Gaps]:
    """Ceilings by task, and gaps by method and task."""
    known = tasks(Path("data"))
    ceilings: Ceilings = {}
    before, gaps = ({}, {}) if onto is None else read_scores(onto)
    for name, task in known.items():
        top = ceiling(out, name, task.figure) or before.get(name)
        if top is None or (only and name not in only):
            continue
        ceilings[name] = top
        for label in labels:
            values = scores(out, name, label, task.figure)
            if values:
                gaps.setdefault(label, {})[name] = gap_of(values, top[1], task.figure)
    return ceilings, gaps


def mean_and_worst(row: dict[str, Gap], names: list[str]) -> tuple[float, float]:
    """Over the tasks; infinite where one failed or is missing."""
    values = [row[name].mean if name in row else math.inf for name in names]
    return statistics.fmean(values), max(values)


def table(ceilings: Ceilings, gaps: Gaps) -> str:
    """Markdown, the smallest mean gap first."""
    names = list(ceilings)
    lines = [
        "| method | " + " | ".join(names) + " | mean | worst |",
        "|---" * (len(names) + 3) + "|",
    ]
    ceiling_cells = [f"{top[0]}: {abs(top[1]):.4g}" for top in ceilings.values()]
    lines.append("| *ceiling* | " + " | ".join(ceiling_cells) + " | 0 | 0 |")
    for label, row in sorted(gaps.items(), key=lambda item: mean_and_worst(item[1], names)):
        mean, worst = (
            f"{v:.1f}" if math.isfinite(v) else "fails" for v in mean_and_worst(row, names)
        )
        bold = f"**{label}**" if label in OURS else label
        cells = [str(row[name]) if name in row else "–" for name in names]
        lines.append(f"| {bold} | " + " | ".join(cells) + f" | {mean} | {worst} |")
    return "\n".join(lines) + "\n"


def picture(ceilings: Ceilings, gaps: Gaps, path: Path) -> None:
    """Every method's gaps, a dot a task, on an axis that is linear near zero."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(ceilings)
    rows = sorted(gaps.items(), key=lambda item: mean_and_worst(item[1], names), reverse=True)
    figure, axes = pyplot.subplots(figsize=(8, 0.34 * len(rows) + 1.4), layout="constrained")
    markers = "osD^vP*X"
    for marker, name in zip(markers, names, strict=False):
        shown = [
            (row[name].mean, y)
            for y, (_, row) in enumerate(rows)
            if name in row and math.isfinite(row[name].mean)
        ]
        axes.plot(*zip(*shown, strict=True), marker, label=name, alpha=0.8, markersize=6)
    axes.set_xscale("symlog", linthresh=2.0)
    axes.axvline(0.0, color="0.5", linewidth=1)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    for tick, (label, _) in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if label in OURS else "normal")
    axes.set_xlabel("gap to the tuned ceiling: points of accuracy, or % of its loss")
    axes.grid(axis="both", alpha=0.25)
    axes.legend(fontsize=8, loc="upper right")
    figure.savefig(path, dpi=130)


def or_none(value: float) -> float | None:
    """What JSON has no number for is null: a gap where a run failed, an interval of one seed."""
    return value if math.isfinite(value) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--out", type=Path, help="also writes OUT.json and OUT.png")
    parser.add_argument("--onto", type=Path, help="such a file: what was not run is from there")
    parser.add_argument("--tasks", nargs="*", help="only these")
    parser.add_argument(
        "--ablation", action="store_true", help="MeasuredLR and it without its parts"
    )
    options = parser.parse_args()
    whole = [label for label in OURS if any(part.startswith(f"{label},") for part in ABLATION)]
    labels = [*whole, *ABLATION] if options.ablation else [*OURS, *RIVALS]
    ceilings, gaps = collect(options.runs, labels, options.tasks, options.onto)
    print(table(ceilings, gaps))
    if options.out is not None:
        plain = {
            "ceilings": {name: {"cell": top[0], "value": top[1]} for name, top in ceilings.items()},
            "gaps": {
                label: {n: [or_none(g.mean), or_none(g.half_width), g.n] for n, g in row.items()}
                for label, row in gaps.items()
            },
        }
        text = json.dumps(plain, indent=1, allow_nan=False)
        options.out.with_suffix(".json").write_text(text + "\n")
        picture(ceilings, gaps, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
