"""Train one network as an experiment file says; every setting of the file can be overridden by its
dotted key. Another class_path leaves out the arguments that the file gives to its own. Without a
file: digits, a small conv net, measured AdamW.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from surefoot_lab._command import EXIT_CODES, FAILED
from surefoot_lab.config import Experiment
from surefoot_lab.errors import UserError, named
from surefoot_lab.parse import parse_words, to_yaml
from surefoot_lab.records import RECORDED, TRACEBACK_NAME
from surefoot_lab.values import fields_of, shown

if TYPE_CHECKING:
    from surefoot_lab.records import RunRecord


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `surefoot train`; its settings stand in the help alone."""
    add_run_arguments(parser).add_argument(
        "--resume", action="store_true", help="go on from the run directory's checkpoint"
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the experiment as commented YAML"
    )
    parser.epilog = "settings:"
    for setting in fields_of(Experiment):
        does = f"{setting.help} (default: {shown(setting.default)})"
        text = textwrap.fill(does, 96, initial_indent=" " * 6, subsequent_indent=" " * 6)
        parser.epilog += f"\n  --{setting.key}\n{text}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def add_run_arguments(parser: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """Declare where a run goes; what excludes its replacement can be added to the result."""
    parser.add_argument("--out", metavar="RUN", help="run directory; default runs/NAME/LABEL")
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--overwrite", action="store_true", help="replace the run in the run directory"
    )
    return group


def main(options: argparse.Namespace) -> int:
    """Run `surefoot train`."""
    words, out = options.words, options.out
    if out is not None and (not out.strip() or "\0" in out):
        raise UserError(f"--out: names no directory: {out!r}")
    if options.resume and out and parse_words(words).file is None:
        file = Path(out) / "experiment.yaml"
        if not file.is_file():
            raise UserError(f"{out}: nothing to resume (it has no experiment.yaml)")
        words = [str(file), *words]
    experiment = parse_words(words).experiment
    if options.print_config:
        print(to_yaml(experiment, comments=True), end="")
        return 0
    from surefoot_lab.training import train  # torch comes in here, not with --help

    run_dir = Path(out) if out else experiment.run_dir
    settings = {"resume": options.resume, "overwrite": options.overwrite}
    return conclude(lambda: train(experiment, run_dir, **settings), run_dir)


def conclude(run: Callable[[], RunRecord], run_dir: Path) -> int:
    """Carry out a run and say how it ended.

    Args:
        run: trains, and returns the record.
        run_dir: where.

    Returns:
        The exit code.

    Raises:
        UserError: what `run` raises, before anything was trained.
    """
    try:
        record = run()
    except UserError:
        raise
    except Exception as error:  # of the model, the loss, the optimizer
        if not hasattr(error, RECORDED):
            raise
        where = run_dir / TRACEBACK_NAME
        print(f"surefoot: error: the run failed: {named(error)} (see {where})", file=sys.stderr)
        return FAILED
    end = record.end or {"reason": "interrupted", "message": None, "step": 0}
    message = f" ({end['message']})" if end["message"] else ""
    if os.environ.get("RANK", "0") == "0":
        print(f"{end['reason']} at step {end['step']}{message}: {run_dir}")
    return EXIT_CODES[end["reason"]]
