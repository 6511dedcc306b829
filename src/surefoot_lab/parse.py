"""From a YAML file and command-line overrides to an Experiment, with errors of one line."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surefoot_lab.config import (
    Experiment,
    SweepConfig,
    UserError,
    did_you_mean,
    fields_of,
    from_dict,
)
from surefoot_lab.experiment_files import load, load_text
from surefoot_lab.values import check_name, shown, typed

SWEEP_KEYS = tuple(item.name for item in dataclasses.fields(SweepConfig))
FLAGS = ("--help", "-h", "--print-config", "--resume", "--overwrite")
SECTIONS = tuple(dict.fromkeys(s.key.partition(".")[0] for s in fields_of() if "." in s.key))


@dataclass
class TrainArguments:
    """What `surefoot train` was asked to do.

    Attributes:
        experiment: the experiment, file and overrides merged.
        out: the run directory, or None for the usual place.
        resume: go on from the checkpoint in the run directory.
        overwrite: replace a run that is already there.
        print_config: only print the experiment as commented YAML.
    """

    experiment: Experiment
    out: Path | None
    resume: bool
    overwrite: bool
    print_config: bool


def parse_train(argv: Sequence[str]) -> TrainArguments:
    """Read the arguments of `surefoot train`.

    Args:
        argv: the words after `train`: an experiment file, anywhere, and `--key value` overrides.

    Returns:
        The merged experiment and what to do with it.

    Raises:
        UserError: a key, value or file cannot be used.
    """
    file, overrides, flags = _sorted_out(argv)
    if flags & {"--help", "-h"}:
        _help().print_help()
        raise SystemExit(0)
    out = next((value for key, value in overrides if key == "out"), None)
    overrides = [(key, value) for key, value in overrides if key != "out"]
    if out is not None and (not out.strip() or "\0" in out):
        raise UserError(f"--out: names no directory: {out!r}")
    if {"--resume", "--overwrite"} <= flags:
        raise UserError("--resume and --overwrite exclude each other: keep the run or replace it")
    if "--resume" in flags and file is None and out:
        file = _experiment_of_run(Path(out))
    experiment = parse_values(load(file) if file else {}, file or "command line", overrides)
    return TrainArguments(
        experiment,
        out=Path(out) if out else None,
        resume="--resume" in flags,
        overwrite="--overwrite" in flags,
        print_config="--print-config" in flags,
    )


def parse_values(
    values: Mapping[str, Any], where: str, overrides: Iterable[tuple[str, str]] = ()
) -> Experiment:
    """Check the values of an experiment against its settings, and make it.

    Args:
        values: nested dictionaries, as a YAML file holds them.
        where: the file they stand in, for error messages.
        overrides: dotted keys and their values as words of a command line.

    Raises:
        UserError: a key or value cannot be used.
    """
    settings = copy.deepcopy(dict(values))
    # the whole before its parts, and a class before the arguments that it may drop
    for key, text in sorted(
        overrides, key=lambda pair: (pair[0].count("."), not _is_class(pair[0]))
    ):
        _override(settings, key, _value_of(key, text))
    try:
        experiment = from_dict(_checked(settings, where))
    except RecursionError:
        raise UserError(f"{where}: holds a mapping that holds itself") from None
    experiment.check()
    return experiment


def parse_with_sections(
    file: str, overrides: Sequence[str], sections: Sequence[str]
) -> tuple[Experiment, dict[str, Any]]:
    """An experiment file that holds further sections, taken apart.

    Args:
        file: the file.
        overrides: `--key value` words for the experiment.
        sections: names of the sections that are not the experiment's.

    Returns:
        The experiment, and the sections that are there.

    Raises:
        UserError: something in it cannot be used.
    """
    second, pairs, flags = _sorted_out(overrides)
    if second is not None:
        raise UserError(f"{second}: one experiment file at a time, and {file} is given already")
    if flags:
        raise UserError(f"{min(flags)}: is an option of surefoot train alone")
    values = load(file)
    found = {key: values.pop(key) for key in sections if key in values}
    return parse_values(values, file, pairs), found


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


def joined(words: Sequence[str]) -> list[str]:
    """The same words, each `--key value` of an experiment as one, `--key=value`.

    So the parser of a command's own options cannot take the value for something else.
    """
    rest = list(words)
    found: list[str] = []
    while rest:
        word = rest.pop(0)
        key = word.removeprefix("--")
        if word.startswith("--") and "=" not in word and rest and _is_setting(key):
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
    for setting in fields_of():
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


def _help() -> argparse.ArgumentParser:
    """What `surefoot train --help` shows: one option per setting of an experiment."""
    parser = argparse.ArgumentParser(
        prog="surefoot train",
        usage="surefoot train [EXPERIMENT.yaml] [--resume] [--out RUN] [--KEY VALUE ...]",
        description="Train one network as an experiment file says; every setting of the file can "
        "be overridden by its dotted key. Another class_path leaves out the arguments that the "
        "file gives to its own. Without a file: digits, a small conv net, measured AdamW.",
    )
    parser.add_argument("--out", metavar="RUN", help="run directory; default runs/NAME/LABEL")
    for flag, does in (
        ("--resume", "go on from the run directory's checkpoint"),
        ("--overwrite", "replace the run in the run directory"),
        ("--print-config", "print the experiment as commented YAML"),
    ):
        parser.add_argument(flag, action="store_true", help=does)
    for setting in fields_of():
        does = setting.help.replace("%", "%%")
        default = shown(setting.default).replace("%", "%%")
        name = setting.key.rpartition(".")[2].upper()
        parser.add_argument(f"--{setting.key}", metavar=name, help=f"{does} (default: {default})")
    return parser


def _sorted_out(argv: Sequence[str]) -> tuple[str | None, list[tuple[str, str]], set[str]]:
    """The experiment file, the overrides and the flags, in whatever order they stand."""
    file: str | None = None
    overrides: list[tuple[str, str]] = []
    flags: set[str] = set()
    words = iter(argv)
    for word in words:
        if word in FLAGS:
            flags.add(word)
        elif word.startswith("-"):
            key, given, value = word.partition("=")
            if key in FLAGS:
                raise UserError(f"{key}: takes no value")
            if not key.startswith("--") or not key.strip("-"):
                raise UserError(f"{word}: unrecognized; settings are given as --KEY VALUE")
            if not given and (following := next(words, None)) is not None:
                given, value = "=", following
            if not given:
                raise UserError(f"{word}: needs a value")
            overrides.append((key[2:], value))
        elif file is None:
            file = word
        else:
            raise UserError(f"{word}: one experiment file at a time, and {file} is given already")
    return file, overrides, flags


def _is_class(key: str) -> bool:
    return key.rpartition(".")[2] == "class_path"


def _is_setting(key: str) -> bool:
    return key.partition(".")[0] in {s.key.partition(".")[0] for s in fields_of()}


def _value_of(key: str, text: str) -> Any:
    """What a word of the command line stands for: as in a file, but a text needs no quotes."""
    kinds = {setting.key: setting.type for setting in fields_of()}
    if kinds.get(key) in (str, str | None):
        return None if text == "null" and kinds[key] is not str else text
    try:
        value = load_text(text, f"--{key}")
    except UserError:
        if text.lstrip()[:1] in ("[", "{"):
            raise
        return text
    # a number where none is wanted is told as it was typed
    return value if isinstance(value, bool | list | dict | None) or _is_argument(key) else text


def _is_argument(key: str) -> bool:
    return ".init_args." in f"{key}."


def _override(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a key from the command line; another class does not inherit the old one's arguments."""
    _check_key(key)
    if _is_class(key):
        defaults = {setting.key: setting.default for setting in fields_of()}
        owner: Any = values
        *parents, _ = key.split(".")
        for parent in parents:
            owner = owner.get(parent) if isinstance(owner, Mapping) else None
        owner = owner if isinstance(owner, dict) else {}
        old = owner.get("class_path", defaults.get(key))
        if str(old).rpartition(".")[2] != str(value).rpartition(".")[2]:
            owner.pop("init_args", None)
    put(values, key, value)


def _check_key(key: str) -> None:
    """Refuse a key of the command line that no experiment has."""
    known = [setting.key for setting in fields_of()]
    sections = {setting.partition(".")[0] for setting in known if "." in setting}
    head = key.partition(".init_args.")[0]
    if key in known or key in sections or (_is_argument(key) and f"{head}.init_args" in known):
        return
    raise _no_such(key, [*known, "out", "resume", "overwrite", "print-config"])


def _no_such(key: str, known: Collection[str]) -> UserError:
    if key.partition(".")[0] in SWEEP_KEYS:
        return UserError(f"{key}: belongs to a sweep of many runs; use surefoot sweep")
    return UserError(f"{key}: no such setting; {did_you_mean(key, list(known))}")


def _checked(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values in the types of their settings; a section that is null is all defaults."""
    settings = {setting.key: setting for setting in fields_of()}
    found: dict[str, Any] = {}
    for key, value in values.items():
        check_name(key, where)
        if key in settings:
            found[key] = typed(key, value, settings[key].type)
        elif key not in SECTIONS:
            raise _no_such(key, settings)
        elif value is None or isinstance(value, Mapping):
            found[key] = {}
            for name, item in (value or {}).items():
                check_name(name, key)
                dotted = f"{key}.{name}"
                if dotted not in settings:
                    raise _no_such(dotted, settings)
                found[key][name] = typed(dotted, item, settings[dotted].type)
        else:
            found[key] = value  # refused where the section is made
    return found


def _experiment_of_run(run_dir: Path) -> str:
    file = run_dir / "experiment.yaml"
    if not file.is_file():
        raise UserError(f"{run_dir}: nothing to resume (it has no experiment.yaml)")
    return str(file)
