"""Tables of what `batch.py` and `suite_run.py` trained: ceilings, and gaps to them.

    python benchmarks/zero_tuning/suite_score.py RESULTS.jsonl ... --plan surefoot

A gap is in points of accuracy, in percent of the ceiling's loss, or in points of the residual; positive is worse. The
ceiling is the best mean among the cells that ran with the most seeds, chosen by the figure it is judged by.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import defaultdict
from pathlib import Path

import suite
from every_task import FIRST, TASKS
from kept_back import SECOND_CONFIRMATION
from unseen import THIRD_CONFIRMATION

ACCURACY = {
    "vit", "resnet", "fashion-convnet", "digits-mlp", "digits-former", "gcn", "mixer", "shapes-1d", "adapters",
    "graph-attention", "noisy-table", "contrastive", "distillation", "dense-net", "sorting",
    "recommender", "binarized",
}  # fmt: skip
RESIDUAL = {"linear-far", "polynomial", "pinn", "adding", "dynamics"}
Cells = dict[tuple[str, str, str], dict[int, list[float]]]


def read(paths: list[Path]) -> Cells:
    """(task, plan, name) → seed → figures at the four marks."""
    cells: Cells = defaultdict(dict)
    for path in paths:
        for line in path.read_text().splitlines():
            run = json.loads(line)
            cells[run["task"], run["plan"], run["name"]][run["seed"]] = run["figures"]
    return cells


def last(seeds: dict[int, list[float]]) -> float:
    """The mean of the last figures; nan where one is missing."""
    values = [v[-1] if len(v) == len(suite.MARKS) else math.nan for v in seeds.values()]
    return statistics.fmean(values)


def gap(task: str, value: float, ceiling: float) -> float:
    """How far behind."""
    if task in ACCURACY:
        return 100.0 * (ceiling - value)
    if task in RESIDUAL:
        return 100.0 * (value - ceiling)
    return 100.0 * (value - ceiling) / abs(ceiling)


def short(value: float) -> str:
    """A gap for a table."""
    return f"{value:.1f}" if value < 1000.0 else "> 1000"


def ceilings(cells: Cells, without: str = " ") -> dict[str, tuple[str, float, int]]:
    """task → name, figure and seeds of the best cell; cells that begin with `without` do not count."""
    found = {}
    for task in {key[0] for key in cells}:
        all_of = {
            name: (last(seeds), len(seeds))
            for (of, plan, name), seeds in cells.items()
            if of == task and plan == "ceilings" and not name.startswith(without)
        }
        most = max((n for _, n in all_of.values()), default=0)
        whole = {k: v for k, (v, n) in all_of.items() if n == most and not math.isnan(v)}
        if whole:
            best = (max if task in ACCURACY else min)(whole, key=whole.__getitem__)
            found[task] = (best, whole[best], most)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--plan")
    parser.add_argument("--set", choices=["first", "second", "third"], help="only these tasks")
    options = parser.parse_args()
    cells = read(options.results)
    tops = ceilings(cells)
    others = ceilings(cells, without="schedule-free")
    wanted = {"first": FIRST, "second": SECOND_CONFIRMATION, "third": THIRD_CONFIRMATION}
    order = [t for t in wanted.get(options.set, TASKS) if t in tops]
    if not options.plan:
        print(
            "| task | ceiling | figure | seeds | without schedule-free |",
            "|---|---|---|---|---|",
            sep="\n",
        )
        for task in order:
            name, value, n = tops[task]
            print(
                f"| {task} | {name} | {value:.4g} | {n} | {others[task][0]}: {others[task][1]:.4g} |"
            )
        return
    names = list(dict.fromkeys(name for _, plan, name in cells if plan == options.plan))
    order = [t for t in order if any((t, options.plan, name) in cells for name in names)]
    print("| candidate | " + " | ".join(order) + " | mean | median | worst | ranks |")
    print("|---" * (len(order) + 5) + "|")
    rows = []
    for name in names:
        shown, gaps = [], []
        for task in order:
            seeds = cells.get((task, options.plan, name))
            if not seeds:
                shown.append("–")
                continue
            value = gap(task, last(seeds), tops[task][1])
            gaps.append(value if math.isfinite(value) else math.inf)
            shown.append(short(value) + ("" if len(seeds) == 3 else f" (n = {len(seeds)})"))
        rows.append((statistics.fmean(gaps), statistics.median(gaps), max(gaps), name, shown))
    worsts = sorted(row[2] for row in rows)
    for rank, (mean, median, worst, name, shown) in enumerate(sorted(rows), 1):
        words = (
            f"{short(mean)} | {short(median)} | {short(worst)} | {rank}, {worsts.index(worst) + 1}"
        )
        print(f"| {name} | " + " | ".join(shown) + f" | {words} |")


if __name__ == "__main__":
    main()
