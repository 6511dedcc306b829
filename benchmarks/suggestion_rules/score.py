"""Scores every rule by the accuracy that training with its suggestion reaches.

    python benchmarks/suggestion_rules/score.py results.json

For each curve of `measure.py`: the rule's rate, and the accuracy at that rate, read off the grid of
trainings (linear in the logarithm of the rate). The table gives how many points of accuracy that is
below the best of the grid: mean, worst, and each setting's mean over its seeds.
"""

from __future__ import annotations

import bisect
import json
import math
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from surefoot.lr_range import RULES, RangeCurve


def accuracy_at(rate: float, grid: list[float], accuracy: list[float]) -> float:
    """Accuracy of training with a maximum of `rate`; the grid's ends hold beyond it."""
    right = bisect.bisect_left(grid, rate)
    if right == 0 or right == len(grid):
        return accuracy[min(right, len(grid) - 1)]
    share = math.log(rate / grid[right - 1]) / math.log(grid[right] / grid[right - 1])
    return accuracy[right - 1] + share * (accuracy[right] - accuracy[right - 1])


def losses_of(rule: str, factor: float, results: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Points of accuracy lost against the best of the grid, by setting; 100 without an answer."""
    lost = defaultdict(list)
    for result in results:
        curve = RangeCurve.from_json(json.dumps(result["curve"]))
        rate = curve.suggest(rule).rate
        best = max(result["accuracy"])
        reached = (
            accuracy_at(rate * factor, result["grid"], result["accuracy"]) if rate else best - 1.0
        )
        lost[result["setting"]].append(100.0 * (best - reached))
    return lost


def main() -> None:
    content = json.loads(Path(sys.argv[1]).read_text())
    results = content["results"]
    settings = list(dict.fromkeys(result["setting"] for result in results))
    rows = []
    for rule in RULES:
        for factor in (1.0, 3.0):
            lost = losses_of(rule, factor, results)
            every = [value for values in lost.values() for value in values]
            name = rule if factor == 1.0 else f"{factor:g} x {rule}"
            each = [f"{statistics.fmean(lost[setting]):.1f}" for setting in settings]
            rows.append((statistics.fmean(every), max(every), name, each))
    print(f"{len(results)} curves, torch {content['torch']}, {content['machine']}\n")
    print("| rule | mean | worst |", " | ".join(settings), "|")
    print("|---" * (3 + len(settings)) + "|")
    for average, worst, name, each in sorted(rows):
        print(f"| {name} | {average:.1f} | {worst:.1f} |", " | ".join(each), "|")


if __name__ == "__main__":
    main()
