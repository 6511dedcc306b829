"""Methods as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from surefoot_lab.compare.columns import Cell, method_columns
from surefoot_lab.compare.summary import MethodSummary
from surefoot_lab.compare.text import LEVEL, LEVEL_MEANS, failures


def terminal_table(methods: Sequence[MethodSummary]) -> Table:
    """A rich table that fits 80 columns, one method a row, in the order given."""
    notes = [
        "mean ± standard deviation over the runs that finished; cost: forward passes, a backward "
        "counted as two, over those of plain SGD"
    ]
    notes += [f"{m.label}: {failures(m)} of {len(m.runs)}" for m in methods if m.failures]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption_justify="left")
    table.add_column("Method", overflow="fold", min_width=10)
    columns = method_columns(methods)
    if any(cell.is_level for column in columns for cell in column.cells.values()):
        notes.insert(1, f"{LEVEL} within noise of the first: {LEVEL_MEANS}")
    table.caption = Text("\n".join(notes))  # Text: a label may hold what rich would read as markup
    for column in columns:
        table.add_column(column.heading.replace(" ", "\n"), justify="right", no_wrap=True)
    table.add_column("Learning\nrate")
    table.add_column("Runs", justify="right", no_wrap=True)
    for method in methods:
        runs = str(len(method.runs))
        if method.failures:
            runs = f"{method.finished} of {runs}"
        table.add_row(
            Text(method.label),
            *(_shown(column.cells[method.label]) for column in columns),
            Text(method.rates, style="green" if method.rates == "measured" else ""),
            Text(runs, style="red" if method.failures else ""),
        )
    return table


def _shown(cell: Cell) -> str:
    return f"{LEVEL} {cell.text}" if cell.is_level else cell.text
