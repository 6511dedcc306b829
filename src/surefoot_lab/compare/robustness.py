"""What a method reaches over a whole grid of its settings, and what searching the grid costs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surefoot_lab.compare.summary import RunSummary, Spread, State, summarize_run

if TYPE_CHECKING:
    from surefoot_lab.records import RunRecord


@dataclass(frozen=True)
class GridCell:
    """One combination of settings, over its seeds.

    Attributes:
        settings: dotted keys and values.
        runs: one a seed.
    """

    settings: Mapping[str, Any]
    runs: tuple[RunSummary, ...]

    def mean(self, figure: str) -> float:
        """Mean accuracy over the seeds; a run that did not finish counts as 0.

        A rate at which training breaks down is the worst result that a setting can have, and a
        figure from which it dropped out would praise the method for it.
        """
        return statistics.fmean(
            (getattr(run, figure) or 0.0) if run.state is State.FINISHED else 0.0
            for run in self.runs
        )


@dataclass(frozen=True)
class Robustness:
    """One method over its grid.

    Attributes:
        method: its name without the cell.
        cells: all combinations, best first (by mean validation accuracy).
    """

    method: str
    cells: tuple[GridCell, ...]

    @property
    def best(self) -> GridCell:
        """The cell that a user would choose: by validation, never by test accuracy."""
        return self.cells[0]

    def maximum(self, figure: str) -> float:
        """The figure of the best cell."""
        return max(cell.mean(figure) for cell in self.cells)

    def median(self, figure: str) -> float:
        """The figure of the middle cell: what an unlucky guess within the grid comes to."""
        return statistics.median(cell.mean(figure) for cell in self.cells)

    def worst(self, figure: str) -> float:
        """The figure of the worst cell."""
        return min(cell.mean(figure) for cell in self.cells)

    @property
    def chosen(self) -> Spread | None:
        """Test accuracy of the best cell over its seeds."""
        return Spread.of(run.test_accuracy for run in self.best.runs)

    @property
    def unfinished(self) -> int:
        """Runs that broke off, diverged or failed."""
        return sum(run.state is not State.FINISHED for cell in self.cells for run in cell.runs)

    @property
    def spent(self) -> int:
        """Forward-equivalents of all runs together: the price of having searched."""
        return sum(run.forward_equivalents or 0 for cell in self.cells for run in cell.runs)

    @property
    def tuning_factor(self) -> float | None:
        """What the search spent over what one run of the chosen cell spends."""
        single = [run.forward_equivalents for run in self.best.runs if run.forward_equivalents]
        return self.spent / statistics.fmean(single) if single else None

    @property
    def keys(self) -> list[str]:
        """The settings that vary, in the order of the sweep."""
        keys = list(dict.fromkeys(key for cell in self.cells for key in cell.settings))
        return [key for key in keys if len({_word(c.settings.get(key)) for c in self.cells}) > 1]


def robustness(runs: Iterable[RunRecord]) -> list[Robustness]:
    """Gather the trials of sweeps by method, the best first; other runs are left out."""
    groups: dict[str, dict[str, list[tuple[Mapping[str, Any], RunSummary]]]] = {}
    for run in runs:
        if not run.sweep:
            continue
        cell = run.sweep.get("cell") or {}
        method = str(run.sweep.get("method") or run.label)
        cells = groups.setdefault(method, {})
        cells.setdefault(_word(cell), []).append((cell, summarize_run(run)))
    found = []
    for method, cells in groups.items():
        gathered = [
            GridCell(rows[0][0], tuple(summary for _, summary in rows)) for rows in cells.values()
        ]
        gathered.sort(key=lambda cell: (-cell.mean("validation_accuracy"), _word(cell.settings)))
        found.append(Robustness(method, tuple(gathered)))
    return sorted(found, key=lambda r: (-r.best.mean("validation_accuracy"), r.method))


def heat_map(grid: Robustness, figure: str, columns: str, rows: str) -> Any:
    """The grid as a rectangle: for each pair of values, the best over all other settings.

    Args:
        grid: a method's cells.
        figure: the accuracy shown.
        columns: key of the setting along the horizontal axis.
        rows: key of the other one.

    Returns:
        A pandas DataFrame; its index and columns are the values as texts, numbers by size. NaN
        where the grid has no such cell.
    """
    import pandas

    cells = [
        (_word(cell.settings.get(columns)), _word(cell.settings.get(rows)), cell.mean(figure))
        for cell in grid.cells
    ]
    best = pandas.DataFrame(cells, columns=["column", "row", "value"])
    best = best.pivot_table("value", "row", "column", aggfunc="max")
    return best.sort_index(axis=0, key=_by_size).sort_index(axis=1, key=_by_size)


def _by_size(words: Any) -> Any:
    """Numbers by size, anything else by the alphabet."""
    try:
        return words.astype(float)
    except ValueError:
        return words


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
