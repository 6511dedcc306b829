"""From a YAML file and command-line overrides to an Experiment, with errors of one line."""

from __future__ import annotations

import copy
import dataclasses
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from surefoot_lab.config import Experiment, SweepConfig
from surefoot_lab.errors import UserError
from surefoot_lab.experiment_files import load, load_text
from surefoot_lab.values import fields_of, shown, validated, what_instead

SWEEP_KEYS = tuple(item.name for item in dataclasses.fields(SweepConfig))


class Parsed(NamedTuple):
    """What the words of a command line say.

    Attributes:
        experiment: file and overrides merged.
        file: the experiment file, or None.
        sections: those of the file that are not the experiment's, as asked for.
    """

    experiment: Experiment
    file: str | None
    sections: dict[str, Any]


def parse_words(words: Sequence[str], sections: Sequence[str] = ()) -> Parsed:
    """Read an experiment file, anywhere among the words, and `--key value` overrides.

    Args:
        words: of the command line, without a command's own options.
        sections: names of sections that the file may hold besides the experiment.

    Raises:
        UserError: a key, value or file cannot be used.
    """
    file, overrides = _sorted_out(words)
    values = load(file) if file else {}
    found = {key: values.pop(key) for key in sections if key in values}
    return Parsed(parse_values(values, overrides), file, found)


def parse_values(
    values: Mapping[str, Any], overrides: Iterable[tuple[str, str]] = ()
) -> Experiment:
    """Check the values of an experiment against its settings, and make it.

    Args:
        values: nested dictionaries, as a YAML file holds them.
        overrides: dotted keys and their values as words of a command line.

    Raises:
        UserError: a key or value cannot be used.
    """
    settings = copy.deepcopy(dict(values))
    for key in settings:
        if key in SWEEP_KEYS:
            raise UserError(f"{key}: belongs to a sweep of many runs; use surefoot sweep")
    # the whole before its parts, and a class before the arguments that it may drop
    for key, text in sorted(
        overrides, key=lambda pair: (pair[0].count("."), not _is_class(pair[0]))
    ):
        _override(settings, key, _value_of(key, text))
    experiment = validated(Experiment, settings)
    experiment.check()
    return experiment


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in nested dictionaries; what is missing or null on the way is made.

    Raises:
        UserError: something on the way is no mapping.
    """
    *parents, last = key.split(".")
    for depth, parent in enumerate(parents):
        if values.get(parent) is None:
            values[parent] = {}
        if not isinstance(values[parent], dict):
            head = ".".join(parents[: depth + 1])
            raise UserError(f"{key}: {head} is {shown(values[parent])}, which has no settings")
        values = values[parent]
    values[last] = value


def check_key(key: str, what: str = "") -> None:
    """Refuse a dotted key that no experiment has.

    Args:
        key: of a setting, a section, or an argument.
        what: where it stands, for the error message.

    Raises:
        UserError: proposes the nearest.
    """
    known = [setting.key for setting in fields_of(Experiment)]
    sections = {setting.partition(".")[0] for setting in known if "." in setting}
    head, inside, _ = key.partition(".init_args.")
    if key not in known and key not in sections and not (inside and f"{head}.init_args" in known):
        raise UserError(f"{what}{key}: no such setting; {what_instead(key, known)}")


def joined(words: Sequence[str]) -> list[str]:
    """The same words, each `--key value` of an experiment as one, `--key=value`.

    So the parser of a command's own options cannot take the value for something else.
    """
    heads = {setting.key.partition(".")[0] for setting in fields_of(Experiment)}
    rest = list(words)
    found: list[str] = []
    while rest:
        word = rest.pop(0)
        key = word.removeprefix("--").partition(".")[0]
        if word.startswith("--") and "=" not in word and rest and key in heads:
            word = f"{word}={rest.pop(0)}"
        found.append(word)
    return found


def to_yaml(experiment: Experiment, *, comments: bool = False) -> str:
    """Write an experiment as YAML.

    Args:
        experiment: what to write.
        comments: put each setting's description above it.
    """
    import yaml

    values = experiment.to_dict()
    if not comments:
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    lines: list[str] = []
    section = ""
    for setting in fields_of(Experiment):
        head, _, key = setting.key.rpartition(".")
        if head != section:
            lines.append(f"{head}:")
            section = head
        indent = "  " if head else ""
        value = (values[head] if head else values)[key]
        wrapped = textwrap.wrap(setting.help, width=96 - len(indent))
        lines += [f"{indent}# {line}" for line in wrapped]
        dumped = yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True)
        lines.append(textwrap.indent(dumped.rstrip(), indent))
    return "\n".join(lines) + "\n"


def _sorted_out(argv: Sequence[str]) -> tuple[str | None, list[tuple[str, str]]]:
    """The experiment file and the overrides, in whatever order they stand."""
    file: str | None = None
    overrides: list[tuple[str, str]] = []
    for word in joined(argv):
        if word.startswith("-"):
            key, given, value = word.partition("=")
            if not key.startswith("--") or not key.strip("-"):
                raise UserError(f"{word}: unrecognized; settings are given as --KEY VALUE")
            check_key(key[2:])
            if not given or not value.strip():
                raise UserError(f"{word}: needs a value")
            overrides.append((key[2:], value))
        elif file is None:
            file = word
        else:
            raise UserError(f"{word}: one experiment file at a time, and {file} is given already")
    return file, overrides


def _is_class(key: str) -> bool:
    return key.rpartition(".")[2] == "class_path"


def _value_of(key: str, text: str) -> Any:
    """What a word of the command line stands for: as in a file, but a text needs no quotes."""
    kinds = {setting.key: setting.type for setting in fields_of(Experiment)}
    if kinds.get(key) in (str, str | None):
        return None if text == "null" and kinds[key] is not str else text
    try:
        return load_text(text, f"--{key}")
    except UserError:
        if text.lstrip()[:1] in ("[", "{"):
            raise
        return text


def _override(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a key from the command line; another class does not inherit the old one's arguments."""
    if _is_class(key):
        defaults = {setting.key: setting.default for setting in fields_of(Experiment)}
        owner: Any = values
        *parents, _ = key.split(".")
        for parent in parents:
            owner = owner.get(parent) if isinstance(owner, Mapping) else None
        owner = owner if isinstance(owner, dict) else {}
        old = owner.get("class_path", defaults.get(key))
        if str(old).rpartition(".")[2] != str(value).rpartition(".")[2]:
            owner.pop("init_args", None)
    put(values, key, value)
