"""The comparison as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from surefoot_lab.compare.columns import method_columns
from surefoot_lab.compare.summary import MethodSummary
from surefoot_lab.compare.text import failures


def terminal_table(methods: Sequence[MethodSummary]) -> Table:
    """A rich table that fits 80 columns, one method a row, in the order given."""
    notes = [
        "mean ± standard deviation over the runs that finished; cost: forward passes, a backward "
        "counted as two, over those of plain SGD"
    ]
    notes += [f"{m.label}: {failures(m)} of {len(m.runs)}" for m in methods if m.failures]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption_justify="left")
    table.caption = Text("\n".join(notes))  # Text: a label may hold what rich would read as markup
    table.add_column("Method", overflow="fold", min_width=10)
    columns = method_columns(methods)
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
            *(column.cells[method.label].text for column in columns),
            Text(method.rates, style="green" if method.rates == "measured" else ""),
            Text(runs, style="red" if method.failures else ""),
        )
    return table
