"""The command `surefoot`: subcommands are looked up by name and imported when they are called."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from surefoot_lab.config import UserError, did_you_mean

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130
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
    try:
        if words[0] in COMMANDS:
            return COMMANDS[words[0]][1](words[1:])
        if not words[0].startswith("-"):
            hint = did_you_mean(words[0], list(COMMANDS))
            raise UserError(f"{words[0]}: no such command; {hint}")
        parser.parse_args(words)
    except UserError as error:
        where = f" (process {_rank()})" if _rank() else ""
        print(f"surefoot: error: {error}{where}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as stop:  # argparse's way to end after --help or an error
        return stop.code if isinstance(stop.code, int) else BAD_INPUT
    return 0


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
    from surefoot_lab.train.log import TRACEBACK_NAME

    run_dir = arguments.out or experiment.run_dir
    try:
        record = train(experiment, run_dir, resume=arguments.resume, overwrite=arguments.overwrite)
    except UserError:
        raise
    except (
        Exception
    ) as error:  # of the model, the loss, the optimizer: recorded before it came here
        where = Path(run_dir) / TRACEBACK_NAME
        if not where.is_file():
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        print(f"surefoot: error: the run failed: {reason} (see {where})", file=sys.stderr)
        return FAILED
    end = record.end or {"reason": "interrupted", "message": None, "step": 0}
    message = f" ({end['message']})" if end["message"] else ""
    if _rank() == 0:
        print(f"{end['reason']} at step {end['step']}{message}: {run_dir}")
    return EXIT_CODES[end["reason"]]


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
