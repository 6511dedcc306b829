"""List the runs below a folder: what they are, how they ended, what they reached."""

from __future__ import annotations

import argparse

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
    from surefoot_lab.records import read_runs

    try:
        runs = read_runs(options.folders)
    except FileNotFoundError as error:
        raise UserError(str(error)) from None
    for run in runs:
        print(f"{run.path}: {run}")
    return 0
