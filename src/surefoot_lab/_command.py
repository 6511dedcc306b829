"""What all commands share: how one is found, its parser, the codes it may end with."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from surefoot_lab.errors import UserError
from surefoot_lab.parse import joined
from surefoot_lab.values import fields_of, shown, validated

T = TypeVar("T")

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130
EXIT_CODES = {"finished": 0, "stopped": 0, "non_finite": 1, "failed": 1, "interrupted": INTERRUPTED}


@dataclass(frozen=True)
class Command:
    """One of `surefoot`'s commands.

    Attributes:
        name: the word on the command line.
        help: one sentence for `surefoot --help`.
        module: path of its module in this package, imported when the command is called: it has
            `add_arguments(parser)` and `main(options) -> int`, and its docstring is the help.
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
        words = [re.sub("(?<==)~/", f"{Path.home()}/", word, count=1) for word in words]
        module: Any = importlib.import_module(f"surefoot_lab.{self.module}")
        parser = OneLineParser(
            prog=f"surefoot {self.name}", description=module.__doc__, allow_abbrev=False
        )
        module.add_arguments(parser)
        if not self.takes_experiment:
            return int(module.main(parser.parse_args(list(words))))
        parser.usage = f"surefoot {self.name} [EXPERIMENT.yaml] [OPTIONS] [--KEY VALUE ...]"
        options, rest = parser.parse_known_args(joined(words))
        options.words = rest
        return int(module.main(options))


class OneLineParser(argparse.ArgumentParser):
    """argparse, but an error is one line."""

    def error(self, message: str) -> Any:
        """Raise it."""
        raise UserError(message)


def add_settings(parser: argparse._ActionsContainer, kind: Any) -> None:
    """An option for each setting of a dataclass, explained by its docstring."""
    for setting in fields_of(kind):
        name = f"--{setting.key.replace('_', '-')}"
        said = setting.help.rstrip(".").replace("%", "%%")
        if setting.default is False:
            parser.add_argument(name, action="store_true", default=None, help=said)
            continue
        if setting.default not in (None, ()):
            said += f" (default: {shown(setting.default)})"
        several = "+" if "tuple" in str(setting.type) else None
        parser.add_argument(name, nargs=several, metavar="VALUE", help=said)


def settings_of(
    options: argparse.Namespace, kind: type[T], section: Any = None, key: str = ""
) -> T:
    """The settings given as options, over those of a section of the file.

    Raises:
        UserError: one of them cannot be used.
    """
    if section is not None and not isinstance(section, dict):
        return validated(kind, section, key)
    named = [setting.key for setting in fields_of(cast(Hashable, kind))]
    given = {name: value for name in named if (value := getattr(options, name)) is not None}
    return validated(kind, {**(section or {}), **given}, key)
