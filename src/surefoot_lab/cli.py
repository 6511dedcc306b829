"""The command `surefoot`: commands are looked up by name and imported when they are called."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from surefoot_lab._command import BAD_INPUT, INTERRUPTED, Command, OneLineParser
from surefoot_lab.errors import UserError, did_you_mean
from surefoot_lab.records.environment import version

_COMMANDS = (
    Command("train", "train one network as an experiment file says", "train_command", True),
    Command(
        "range-test",
        "measure a learning rate, and train with it if asked",
        "range_tests.command",
        True,
    ),
    Command("lines", "measure the loss along the steps of a training run", "lines.command", True),
    Command(
        "sweep", "run a grid of experiments on this machine or a cluster", "sweep.command", True
    ),
    Command("demo", "train and compare on bundled data, and write a report", "demo"),
    Command("report", "one HTML page from the records of runs", "report"),
    Command("ls", "list the runs below a folder", "list_runs"),
)
COMMANDS = {command.name: command for command in _COMMANDS}
# Packages that an extra other than `lab` installs, by the name that is imported.
EXTRAS = {"ray": "sweep"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `surefoot`.

    Args:
        argv: the words after `surefoot`; None takes them from the command line.

    Returns:
        The exit code: 0 for success, 1 for a run that failed, 2 for bad input (explained in one
        line on stderr), 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal may know fewer characters than names have
            stream.reconfigure(errors="replace")
    parser = _parser()
    if not words:
        parser.print_help()
        return BAD_INPUT
    _find_modules_here()
    os.environ.setdefault("MPLBACKEND", "Agg")  # pictures go to files
    try:
        if words[0] in COMMANDS:
            with _warnings_of_one_line():
                return COMMANDS[words[0]].run(words[1:])
        if not words[0].startswith("-"):
            hint = did_you_mean(words[0], list(COMMANDS))
            raise UserError(f"{words[0]}: no such command; {hint}")
        parser.parse_args(words)
    except UserError as error:
        return _refuse(str(error))
    except ModuleNotFoundError as error:  # a class path that is not there is a UserError
        missing = (error.name or "surefoot").partition(".")[0]
        if missing.startswith("surefoot"):
            raise
        extra = EXTRAS.get(missing, "lab")
        return _refuse(f"{words[0]} needs {missing}: pip install 'surefoot[{extra}]'")
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EIO):
            raise
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # for what Python still flushes
        return _refuse(f"what is printed cannot be written: {error.strerror}")
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as stop:  # argparse's way to end after --help
        return stop.code if isinstance(stop.code, int) else BAD_INPUT
    return 0


def _refuse(reason: str) -> int:
    rank = os.environ.get("RANK", "0")  # where torchrun or accelerate started several processes
    where = f" (process {rank})" if rank != "0" else ""
    print(f"surefoot: error: {reason}{where}", file=sys.stderr)
    return BAD_INPUT


def _find_modules_here() -> None:
    """Let class paths name modules of the current folder, as under `python -m surefoot_lab`.

    They come after Python's own modules, so that a file `queue.py` breaks nothing.
    """
    try:
        here = os.getcwd()
    except FileNotFoundError:  # the folder was removed
        return
    if here not in sys.path and "" not in sys.path:
        ends = ("site-packages", "dist-packages")
        places = (place for place, path in enumerate(sys.path) if path.endswith(ends))
        sys.path.insert(next(places, len(sys.path)), here)


@contextmanager
def _warnings_of_one_line() -> Iterator[None]:
    """A warning tells a user what is odd, not where in this package it was noticed."""

    def text(message: Any, *where: Any, **more: Any) -> str:
        return f"surefoot: warning: {' '.join(str(message).split())}\n"

    former = warnings.formatwarning
    warnings.formatwarning = text
    try:
        yield
    finally:
        warnings.formatwarning = former


def _parser() -> argparse.ArgumentParser:
    lines = [f"  {command.name:<12}{command.help}" for command in COMMANDS.values()]
    parser = OneLineParser(
        prog="surefoot",
        usage="surefoot COMMAND [ARGUMENTS]",
        description="Learning rates you measure instead of guess, for PyTorch.",
        epilog="\n".join(["commands:", *lines, "", "surefoot COMMAND --help explains each."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = version("surefoot") or "(not installed)"
    parser.add_argument("--version", action="version", version=f"surefoot {known}")
    parser.add_argument("command", nargs="?", metavar="COMMAND", help="see below")
    return parser
