"""The report: records in, one self-contained HTML page out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from surefoot_lab.errors import UserError, of_the_system
from surefoot_lab.report.page import render_report, write_report

if TYPE_CHECKING:
    from surefoot_lab.records import RunRecord

__all__ = ["add_arguments", "conclude", "main", "render_report", "write_report"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `surefoot report`."""
    parser.add_argument("runs", nargs="+", help="run directories, or folders that hold them")
    parser.add_argument("--out", default="report.html", help="the page to write")
    parser.add_argument("--title", default=None, help="heading of the page")


def main(args: argparse.Namespace) -> int:
    """Run `surefoot report`.

    Raises:
        UserError: there is no run to report on, or the page cannot be written.
    """
    from surefoot_lab.records import read_runs

    try:
        runs = read_runs(args.runs)
    except OSError as error:
        said = str(error) if error.filename is None else f"{error.filename}: {error.strerror}"
        raise UserError(said) from None
    conclude(runs, Path(args.out), title=args.title)
    return 0


def conclude(runs: Sequence[RunRecord], path: Path, *, title: str | None) -> None:
    """Write the page, and say what stands on it: table, advice, what is wrong, where it is.

    Raises:
        UserError: the page cannot be written.
    """
    from rich.console import Console

    from surefoot_lab.compare import advise, summarize, terminal_table

    with of_the_system(path):
        write_report(runs, path, title=title)
    console, methods = Console(highlight=False), summarize(runs)
    console.print(terminal_table(methods))
    if (advice := advise(runs, methods)) is not None:
        console.print(f"\n{advice.sentence}\n", markup=False)
    for run in runs:
        for problem in run.problems:
            text = f"{run.path}: {problem}"
            console.print(text, style="yellow", markup=False, soft_wrap=True)
    console.print(f"{len(runs)} runs: {path.resolve()}", markup=False, soft_wrap=True)
