"""How soon a run is good, and how far a method is from the best one on the same seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surefoot_lab.compare.intervals import Interval
from surefoot_lab.compare.summary import MethodSummary, Spread

if TYPE_CHECKING:
    from surefoot_lab.records import RunRecord


@dataclass(frozen=True)
class Milestone:
    """One method.

    Attributes:
        label: the method.
        reached: of each run the first evaluation that met the target; those that never got there
            are left out.
        runs: number of runs, those included.
        behind: test accuracy minus that of the first method, by seed; None for that method
            itself and where no seed is shared.
    """

    label: str
    reached: tuple[dict[str, Any], ...]
    runs: int
    behind: Interval | None

    def spent(self, figure: str) -> Spread | None:
        """The spread of `step`, `cost` or `seconds` until the target."""
        return Spread.of(line.get(figure) for line in self.reached)


def common_target(methods: Iterable[MethodSummary]) -> float | None:
    """A validation accuracy that tells methods apart: the middle method's best, in whole percent.

    Half of the methods reach it or nearly so; a target of the best method alone would leave the
    others without a time, one of the worst would be met at once by all.
    """
    best = [s.mean for m in methods if (s := m.spread("best_validation_accuracy")) is not None]
    # rounded first: 100 * 0.65 is a hair below 65
    return math.floor(round(100 * statistics.median(best), 6)) / 100 if best else None


def time_to_target(run: RunRecord, target: float) -> dict[str, Any] | None:
    """The first evaluation whose validation accuracy is at least the target; None if none is."""
    lines = (line for line in run.split("validation") if line.get("accuracy") is not None)
    return next((line for line in lines if line["accuracy"] >= target), None)


def milestones(
    runs: Sequence[RunRecord], methods: Sequence[MethodSummary], target: float
) -> list[Milestone]:
    """How soon each method is at the target, in the order given."""
    found = []
    for method in methods:
        own = [run for run in runs if run.label == method.label]
        times = [line for run in own if (line := time_to_target(run, target)) is not None]
        other = method is not methods[0]
        behind = method.difference(methods[0], "test_accuracy") if other else None
        found.append(Milestone(method.label, tuple(times), len(own), behind))
    return found
