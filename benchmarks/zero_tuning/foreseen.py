"""Do a run's first 16 measurements tell whether it will end more than 5 behind the ceiling?

    python benchmarks/zero_tuning/foreseen.py benchmarks/zero_tuning/ceilings.jsonl runs.jsonl

Runs are lines of `suite_run.py` that hold what was measured first. For every signal: the threshold and side that part
the runs of the first 25 tasks best, how often the warning was right there, and how often on the second confirmation
set, which had no say in the threshold.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import suite_score
from kept_back import SECOND_CONFIRMATION

BEHIND = 5.0
First = list[dict[str, Any]]


def spread(first: First) -> float:
    """Width of the last interval, as a logarithm; infinite where it has no upper end."""
    low, high = first[-1]["low"], first[-1]["high"]
    return math.log(high / low) if low > 0 and math.isfinite(high) else math.inf


def scatter(first: First) -> float:
    """Standard deviation of the logarithms of the minima."""
    found = [math.log(line["vertex"]) for line in first if (line["vertex"] or 0) > 0]
    return statistics.pstdev(found) if len(found) > 1 else math.inf


def noise(first: First) -> float:
    """Noise scale, in batches."""
    return first[-1]["noise"] if first[-1]["noise"] is not None else math.inf


def misfit(first: First) -> float:
    """Largest distance from a parabola, in units of what the slope promised."""
    return max((line["misfit"] or 0.0) for line in first)


def bounded(first: First) -> float:
    """Share of steps that ended before their minimum."""
    return statistics.fmean(line["status"] == "capped" for line in first)


def endless(first: First) -> float:
    """Share of lines without a minimum."""
    return statistics.fmean(line["vertex"] is None for line in first)


def within(first: First) -> float:
    """The last step over its own minimum."""
    vertex = first[-1]["vertex"]
    return first[-1]["t"] / vertex if vertex else 0.0


SIGNALS: tuple[Callable[[First], float], ...] = (
    spread, scatter, noise, misfit, bounded, endless, within,
)  # fmt: skip


def best_threshold(values: list[float], failed: list[bool]) -> tuple[float, bool]:
    """Where and on which side to warn: the largest sum of the share of failures found and of good runs spared."""

    def worth(cut: float, above: bool) -> float:
        warned = [(value > cut) == above for value in values]
        found = sum(w and f for w, f in zip(warned, failed, strict=True)) / sum(failed)
        spared = sum(not (w or f) for w, f in zip(warned, failed, strict=True))
        return found + spared / (len(failed) - sum(failed))

    places = sorted({value for value in values if math.isfinite(value)})
    return max(((cut, above) for cut in places for above in (True, False)), key=lambda c: worth(*c))


def tally(warned: list[bool], failed: list[bool]) -> str:
    """How often right: of the warnings, of the failures, of all."""
    both = sum(w and f for w, f in zip(warned, failed, strict=True))
    right = sum(w == f for w, f in zip(warned, failed, strict=True))
    return f"{both} of {sum(warned)} | {both} of {sum(failed)} | {right} of {len(failed)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ceilings", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--way", default="measured AdamW, averaged")
    options = parser.parse_args()
    tops = suite_score.ceilings(suite_score.read([options.ceilings]))
    runs = [json.loads(line) for path in options.runs for line in path.read_text().splitlines()]
    runs = [run for run in runs if run["name"] == options.way and run.get("first")]
    for run in runs:
        gap = suite_score.gap(run["task"], run["figures"][-1], tops[run["task"]][1])
        run["failed"] = not gap <= BEHIND
    parts = [
        [run for run in runs if (run["task"] in SECOND_CONFIRMATION) == second]
        for second in (False, True)
    ]
    columns = "warnings right | failures found | all right"
    print(f"| warn where | first tasks: {columns} | second set: {columns} |")
    print("|---" * 7 + "|")
    for signal in SIGNALS:
        values = [[signal(run["first"]) for run in part] for part in parts]
        failed = [[run["failed"] for run in part] for part in parts]
        cut, above = best_threshold(values[0], failed[0])
        told = [
            tally([(value > cut) == above for value in own], bad)
            for own, bad in zip(values, failed, strict=True)
        ]
        words = f"{signal.__name__} {'>' if above else '≤'} {cut:.3g}"
        print(f"| {words} | {told[0]} | {told[1]} |")


if __name__ == "__main__":
    main()
