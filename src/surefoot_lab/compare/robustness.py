"""What a method reaches over a whole grid of its settings, and what searching the grid costs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from surefoot_lab.compare.summary import Spread, State, summarize_run

if TYPE_CHECKING:
    from surefoot_lab.records import RunRecord

FIGURES = ("validation_accuracy", "test_accuracy")


@dataclass(frozen=True)
class Robustness:
    """One method over its grid.

    Attributes:
        method: its name without the cell.
        cells: a row each, best first (by mean validation accuracy): its `settings` by dotted key,
            its `runs`, one a seed, and the mean `validation_accuracy` and `test_accuracy` of
            these. A run that did not finish counts as 0: a rate at which training breaks down is
            the worst result that a setting can have, and a figure from which it dropped out would
            praise the method for it.
    """

    method: str
    cells: pd.DataFrame

    @property
    def chosen(self) -> Spread | None:
        """Test accuracy over its seeds of the cell that a user would choose: by validation."""
        return Spread.of(run.test_accuracy for run in self.cells["runs"].iloc[0])

    @property
    def unfinished(self) -> int:
        """Runs that broke off, diverged or failed."""
        return sum(run.state is not State.FINISHED for runs in self.cells["runs"] for run in runs)

    @property
    def tuning_factor(self) -> float | None:
        """What the search spent over what one run of the chosen cell spends."""
        spent = sum(run.forward_equivalents or 0 for runs in self.cells["runs"] for run in runs)
        single = Spread.of(run.forward_equivalents for run in self.cells["runs"].iloc[0])
        return spent / single.mean if single and single.mean else None

    @property
    def keys(self) -> list[str]:
        """The settings that vary, in the order of the sweep."""
        values = pd.DataFrame(self.cells["settings"].tolist(), dtype=object).map(_word)
        return [key for key in values if values[key].nunique() > 1]

    def heat_map(self, columns: str, rows: str) -> pd.DataFrame:
        """Test accuracy as a rectangle: for each pair of values, the best over all other settings.

        Args:
            columns: key of the setting along the horizontal axis.
            rows: key of the other one.

        Returns:
            Its index and columns are the values as texts, numbers by size. NaN where the grid has
            no such cell.
        """
        found = pd.DataFrame(
            {
                "column": [_word(cell.get(columns)) for cell in self.cells["settings"]],
                "row": [_word(cell.get(rows)) for cell in self.cells["settings"]],
                "value": self.cells["test_accuracy"],
            }
        ).pivot_table("value", "row", "column", aggfunc="max")
        return found.sort_index(axis=0, key=_by_size).sort_index(axis=1, key=_by_size)


def robustness(runs: Iterable[RunRecord]) -> list[Robustness]:
    """Gather the trials of sweeps by method, the best first; other runs are left out."""
    rows: list[dict[str, Any]] = []
    for run in runs:
        if run.sweep:
            cell, found = run.sweep.get("cell") or {}, summarize_run(run)
            finished = found.state is State.FINISHED
            rows.append(
                {
                    **{"method": str(run.sweep.get("method") or run.label), "word": _word(cell)},
                    **{"settings": cell, "runs": found},
                    **{f: (finished and getattr(found, f)) or 0.0 for f in FIGURES},
                }
            )
    if not rows:
        return []
    gathered = {"settings": "first", "runs": tuple, **dict.fromkeys(FIGURES, "mean")}
    cells = pd.DataFrame(rows).groupby(["method", "word"], sort=False).agg(gathered).reset_index()
    cells = cells.sort_values([FIGURES[0], "word"], ascending=[False, True])
    return [Robustness(str(name), own) for name, own in cells.groupby("method", sort=False)]


def _by_size(words: Any) -> Any:
    """Numbers by size, anything else by the alphabet."""
    try:
        return words.astype(float)
    except ValueError:
        return words


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
