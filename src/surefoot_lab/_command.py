"""What all commands share: how one is found, its parser, the codes it may end with."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from surefoot_lab.errors import UserError
from surefoot_lab.parse import joined

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130
EXIT_CODES = {"finished": 0, "stopped": 0, "non_finite": 1, "failed": 1, "interrupted": INTERRUPTED}


class Module(Protocol):
    """What the module of a command has; its docstring is what `--help` says."""

    __doc__: str | None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's own options."""

    def main(self, options: argparse.Namespace) -> int:
        """Carry it out; the exit code."""


@dataclass(frozen=True)
class Command:
    """One of `surefoot`'s commands.

    Attributes:
        name: the word on the command line.
        help: one sentence for `surefoot --help`.
        module: import path of its `Module`, imported when the command is called.
        takes_experiment: words that are not its options are an experiment file and `--KEY VALUE`
            overrides of its settings; they are `options.words`.
    """

    name: str
    help: str
    module: str
    takes_experiment: bool = False

    def run(self, words: Sequence[str]) -> int:
        """Parse the words after the command's name, and carry it out.

        Raises:
            UserError: a word cannot be used.
        """
        module = cast(Module, importlib.import_module(self.module))
        parser = OneLineParser(
            prog=f"surefoot {self.name}", description=module.__doc__, allow_abbrev=False
        )
        module.add_arguments(parser)
        if not self.takes_experiment:
            return module.main(parser.parse_args(list(words)))
        parser.usage = f"surefoot {self.name} [EXPERIMENT.yaml] [OPTIONS] [--KEY VALUE ...]"
        options, rest = parser.parse_known_args(joined(words))
        options.words = rest
        return module.main(options)


class OneLineParser(argparse.ArgumentParser):
    """argparse, but an error is one line."""

    def error(self, message: str) -> Any:
        """Raise it."""
        raise UserError(message)
