"""The figures of a comparison as columns of text: the terminal and the page show the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from surefoot_lab.compare.summary import (
    MethodSummary,
    RunSummary,
    Spread,
    level_with_best,
    ranked_by,
)
from surefoot_lab.compare.text import NOTHING, number, percent, seconds, times


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


_FIGURES: tuple[tuple[str, str, str, str, Callable[[Spread | None], str]], ...] = (
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
    columns = {}
    for figure, heading, help_, first, text in _FIGURES:
        cells = {}
        for method in methods:
            spread = method.spread(figure)
            detail = "" if spread is None else _detail(spread, text)
            is_level = figure == ranked and method.label in level
            mean = None if spread is None else spread.mean
            cells[method.label] = Cell(text(spread), mean, detail, is_level)
        if any(cell.sort is not None for cell in cells.values()):
            columns[figure] = Column(figure, heading, help_, first, cells)
    return [c for figure, c in columns.items() if _STAND_INS.get(figure) not in columns]


def run_columns(runs: Iterable[RunSummary]) -> list[Column]:
    """The columns of the list of single runs, by path."""
    runs = list(runs)
    batches = {run.path: Cell(f"{run.steps:,}", run.steps) for run in runs}
    columns = [Column("steps", "Batches", "", "descending", batches)]
    for figure, heading, help_, first, text in _FIGURES:
        cells = {run.path: _cell(getattr(run, figure), text) for run in runs}
        if any(cell.sort is not None for cell in cells.values()):
            columns.append(Column(figure, heading, help_, first, cells))
    return columns


def _cell(value: float | None, text: Callable[[Spread | None], str]) -> Cell:
    return Cell(NOTHING, None) if value is None else Cell(text(Spread((value,))), value)


def _detail(spread: Spread, text: Callable[[Spread | None], str]) -> str:
    return f"n = {spread.n}: " + ", ".join(text(Spread((value,))) for value in spread.values)
