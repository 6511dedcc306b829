"""The command `surefoot`: subcommands are looked up by name and imported when they are called."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from surefoot_lab.errors import UserError, did_you_mean, one_line

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130
# Packages that an extra other than `lab` installs, by the name that is imported.
EXTRAS = {"ray": "sweep"}
EXIT_CODES = {"finished": 0, "stopped": 0, "non_finite": 1, "failed": 1, "interrupted": INTERRUPTED}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `surefoot`.

    Args:
        argv: the words after `surefoot`; None takes them from the command line.

    Returns:
        The exit code: 0 for success, 1 for a run that failed, 2 for bad input (explained in one
        line on stderr), 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    if not words:
        parser.print_help()
        return BAD_INPUT
    _find_modules_here()
    try:
        if words[0] in COMMANDS:
            with _warnings_of_one_line():
                return COMMANDS[words[0]][1](words[1:])
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
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as stop:  # argparse's way to end after --help or an error
        return stop.code if isinstance(stop.code, int) else BAD_INPUT
    return 0


def _refuse(reason: str) -> int:
    where = f" (process {_rank()})" if _rank() else ""
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
    lines = [f"  {name:<12}{sentence}" for name, (sentence, _) in COMMANDS.items()]
    parser = _OneLineParser(
        prog="surefoot",
        usage="surefoot COMMAND [ARGUMENTS]",
        description="Learning rates you measure instead of guess, for PyTorch.",
        epilog="\n".join(["commands:", *lines, "", "surefoot COMMAND --help explains each."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"surefoot {_version()}")
    parser.add_argument("command", nargs="?", metavar="COMMAND", help="see below")
    return parser


class _OneLineParser(argparse.ArgumentParser):
    """argparse, but an error is one line."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(message)


def _train(words: Sequence[str]) -> int:
    from surefoot_lab.parse import parse_train, to_yaml

    arguments = parse_train(words)
    experiment = arguments.experiment
    if arguments.print_config:
        print(to_yaml(experiment, comments=True), end="")
        return 0
    from surefoot_lab.train import train

    run_dir = arguments.out or experiment.run_dir

    def run() -> Any:
        return train(experiment, run_dir, resume=arguments.resume, overwrite=arguments.overwrite)

    return conclude(run, run_dir)


def conclude(run: Callable[[], Any], run_dir: Path) -> int:
    """Carry out a run and say how it ended.

    Args:
        run: trains, and returns the record.
        run_dir: where.

    Returns:
        The exit code.

    Raises:
        UserError: what `run` raises, before anything was trained.
    """
    from surefoot_lab.train.log import TRACEBACK_NAME

    file = Path(run_dir) / TRACEBACK_NAME
    former = _written(file)
    try:
        record = run()
    except UserError:
        raise
    except Exception as error:  # of the model, the loss, the optimizer
        if _written(file) == former:  # nothing of this run stands there
            raise
        reason = one_line(error)
        name = type(error).__name__
        told = name if reason == name else f"{name}: {reason}"
        print(f"surefoot: error: the run failed: {told} (see {file})", file=sys.stderr)
        return FAILED
    end = record.end or {"reason": "interrupted", "message": None, "step": 0}
    message = f" ({end['message']})" if end["message"] else ""
    if _rank() == 0:
        print(f"{end['reason']} at step {end['step']}{message}: {run_dir}")
    return EXIT_CODES[end["reason"]]


def _written(file: Path) -> int | None:
    """When a file was written last, in nanoseconds; None if it is not there."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return None


def _range_test(words: Sequence[str]) -> int:
    from surefoot_lab import range_test

    return range_test.run(words)


def _sweep(words: Sequence[str]) -> int:
    from surefoot_lab.sweep import command

    return command.run(words)


def _lines(words: Sequence[str]) -> int:
    from surefoot_lab.lines import command

    return command.run(words)


def _module_command(name: str, module_path: str) -> Callable[[Sequence[str]], int]:
    """A command whose module has `add_arguments(parser)` and `main(args) -> int`."""

    def run(words: Sequence[str]) -> int:
        module = importlib.import_module(module_path)
        parser = _OneLineParser(prog=f"surefoot {name}", description=module.__doc__)
        module.add_arguments(parser)
        code: int = module.main(parser.parse_args(list(words)))
        return code

    return run


def _rank() -> int:
    """This process's number where torchrun or accelerate started several."""
    return int(os.environ.get("RANK", "0"))


def _version() -> str:
    try:
        return metadata.version("surefoot")
    except metadata.PackageNotFoundError:
        return "(not installed)"


COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "train": ("train one network as an experiment file says", _train),
    "range-test": ("measure a learning rate, and train with it if asked", _range_test),
    "lines": ("measure the loss along the steps of a training run", _lines),
    "sweep": ("run a grid of experiments on this machine or a cluster", _sweep),
    "demo": (
        "train and compare on bundled data, and write a report",
        _module_command("demo", "surefoot_lab.demo"),
    ),
    "report": (
        "one HTML page from the records of runs",
        _module_command("report", "surefoot_lab.report"),
    ),
}
