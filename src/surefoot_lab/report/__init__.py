"""The report: records in, one self-contained HTML page out."""

from __future__ import annotations

import argparse

from surefoot_lab.errors import UserError
from surefoot_lab.report.page import render_report, write_report

__all__ = ["add_arguments", "main", "render_report", "write_report"]


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
    from rich.console import Console

    from surefoot_lab.compare import summarize, terminal_table
    from surefoot_lab.records import read_runs

    try:
        runs = read_runs(args.runs)
    except OSError as error:
        raise UserError(_reason(error)) from None
    try:
        path = write_report(runs, args.out, title=args.title)
    except OSError as error:
        raise UserError(f"--out {args.out}: {error.strerror}") from None
    console = Console(highlight=False)
    console.print(terminal_table(summarize(runs)))
    for run in runs:
        for problem in run.problems:
            text = f"{run.path}: {problem}"
            console.print(text, style="yellow", markup=False, soft_wrap=True)
    console.print(f"{len(runs)} runs: {path.resolve()}", markup=False, soft_wrap=True)
    return 0


def _reason(error: OSError) -> str:
    return str(error) if error.filename is None else f"{error.filename}: {error.strerror}"
