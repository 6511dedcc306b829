"""The figures of a comparison as columns of text: the terminal and the page show the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from surefoot_lab.compare.summary import (
    MethodSummary,
    RunSummary,
    Spread,
    level_with_best,
    ranked_by,
)
from surefoot_lab.compare.text import NOTHING, number, percent, seconds, times

Row = TypeVar("Row")


@dataclass(frozen=True)
class Cell:
    """What is shown, and the number it is sorted by (None: after all others).

    `is_level`: it cannot be told from the first method's.
    """

    text: str
    sort: float | None
    detail: str = ""
    is_level: bool = False


@dataclass(frozen=True)
class Column:
    """One figure; `first` is the direction that a first click on the heading sorts in."""

    figure: str
    heading: str
    help: str
    first: str
    cells: dict[str, Cell]


Text = Callable[[Spread | None], str]
_FIGURES: tuple[tuple[str, str, str, str, Text], ...] = (
    ("test_accuracy", "Test accuracy", "last evaluation", "descending", percent),
    ("best_validation_accuracy", "Best validation", "highest over the run", "descending", percent),
    ("validation_accuracy", "Final validation", "last evaluation", "descending", percent),
    ("test_loss", "Test loss", "last evaluation", "ascending", number),
    ("validation_loss", "Validation loss", "last evaluation", "ascending", number),
    ("relative_cost", "Cost", "forward-equivalents over those of plain SGD", "ascending", times),
    ("seconds", "Seconds", "of training, evaluation not counted", "ascending", seconds),
)
# What says less than another column, and is shown only where that one is empty.
_STAND_INS = {
    "validation_accuracy": "test_accuracy",
    "test_loss": "test_accuracy",
    "validation_loss": "validation_accuracy",
}


def method_columns(methods: Iterable[MethodSummary]) -> list[Column]:
    """The columns of the comparison by label; one that no method has a figure for is left out.

    Final validation accuracy and losses stand in where there is no test accuracy.
    """
    methods = list(methods)
    ranked = ranked_by(methods)
    level = [m.label for m in level_with_best(methods, ranked)] if ranked else []

    def cell(method: MethodSummary, figure: str, text: Text) -> Cell:
        spread = method.spread(figure)
        if spread is None:
            return Cell(NOTHING, None)
        each = ", ".join(text(Spread((value,))) for value in spread.values)
        is_level = figure == ranked and method.label in level
        return Cell(text(spread), spread.mean, f"n = {spread.n}: {each}", is_level)

    return _without_stand_ins(_columns({method.label: method for method in methods}, cell))


def run_columns(runs: Iterable[RunSummary]) -> list[Column]:
    """The columns of the list of single runs, by path."""
    by_path = {run.path: run for run in runs}

    def cell(run: RunSummary, figure: str, text: Text) -> Cell:
        value = getattr(run, figure)
        return Cell(NOTHING, None) if value is None else Cell(text(Spread((value,))), value)

    batches = {path: Cell(f"{run.steps:,}", run.steps) for path, run in by_path.items()}
    return [Column("steps", "Batches", "", "descending", batches), *_columns(by_path, cell)]


def _columns(rows: Mapping[str, Row], cell_of: Callable[[Row, str, Text], Cell]) -> list[Column]:
    columns = [
        Column(
            figure,
            heading,
            help_,
            first,
            {k: cell_of(row, figure, text) for k, row in rows.items()},
        )
        for figure, heading, help_, first, text in _FIGURES
    ]
    return [c for c in columns if any(cell.sort is not None for cell in c.cells.values())]


def _without_stand_ins(columns: list[Column]) -> list[Column]:
    there = [column.figure for column in columns]
    return [column for column in columns if _STAND_INS.get(column.figure) not in there]
