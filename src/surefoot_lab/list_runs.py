"""List the runs below a folder: what they are, how they ended, what they reached."""

from __future__ import annotations

import argparse
from pathlib import Path

from surefoot_lab.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `surefoot ls`."""
    parser.add_argument(
        "folders", nargs="*", default=["runs"], help="where to look (default: runs)"
    )


def main(options: argparse.Namespace) -> int:
    """Run `surefoot ls`.

    Raises:
        UserError: there is no such folder, or no run in it.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from surefoot_lab.records import read_runs
    from surefoot_lab.records.views import facts

    try:
        runs = read_runs(options.folders)
    except FileNotFoundError as error:
        raise UserError(str(error)) from None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("Run", "Method", "Seed", "End", "Validation", "Test", "Seconds"):
        right = heading in ("Seed", "Validation", "Test", "Seconds")
        table.add_column(heading, overflow="fold", justify="right" if right else "left")
    for run in sorted(runs, key=lambda run: str(run.path)):
        found = dict(facts(run))
        seed = "–" if run.seed is None else str(run.seed)
        figures = [found.get(name, "–").rpartition(" ")[2] for name in ("validation", "test")]
        seconds = found.get("time", "–").partition(" ")[0]
        row = (_short(run.path), run.label, seed, found["end"], *figures, seconds)
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)
    return 0


def _short(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd().resolve()))
    except ValueError:
        return str(path)
