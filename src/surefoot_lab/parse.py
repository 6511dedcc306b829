"""From a YAML file and command-line overrides to an Experiment, with errors of one line."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import re
import tempfile
import textwrap
import typing
from collections.abc import Sequence
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

SWEEP_KEYS = tuple(item.name for item in dataclasses.fields(SweepConfig))
FLAGS = ("--help", "-h", "--print-config", "--resume", "--overwrite")


@dataclass
class TrainArguments:
    """What `surefoot train` was asked to do.

    Attributes:
        experiment: the experiment, file and overrides merged; None if only `--out` was given.
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
    arguments = _experiment_file_first(argv)
    out = _value_of(arguments, "--out")
    if "--resume" in arguments and arguments[:1] != ["--config"] and out:
        arguments = ["--config", _experiment_of_run(Path(out)), *arguments]
    try:
        namespace = make_parser().parse_args(arguments)
    except argparse.ArgumentError as error:
        where = arguments[1] if arguments[:1] == ["--config"] else "command line"
        raise UserError(_explain(str(error), where)) from None
    values = namespace.as_dict()
    own = {key: values.pop(key) for key in ("out", "resume", "overwrite", "print_config")}
    values.pop("config")
    experiment = from_dict(values)
    experiment.check()
    if own["resume"] and own["overwrite"]:
        raise UserError("--resume and --overwrite exclude each other: keep the run or replace it")
    own["out"] = Path(own["out"]) if own["out"] else None
    return TrainArguments(experiment, **own)


def parse_values(values: dict[str, Any], where: str) -> Experiment:
    """Check the values of an experiment against its settings, and make it.

    Args:
        values: nested dictionaries, as a YAML file holds them.
        where: the file they stand in, for error messages.

    Raises:
        UserError: a key or value cannot be used.
    """
    try:
        namespace = _parser_of_values().parse_object(values)
    except argparse.ArgumentError as error:
        raise UserError(_explain(str(error), where)) from None
    taken = namespace.as_dict()
    for key in ("config", "out", "resume", "overwrite", "print_config"):
        taken.pop(key, None)
    experiment = from_dict(taken)
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
    import yaml

    if not Path(file).is_file():
        raise UserError(f"{file}: no such experiment file")
    try:
        values = yaml.load(Path(file).read_text(encoding="utf-8"), Loader=_loader())
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{file}: must hold settings such as 'steps: 100', one a line")
    found = {key: values.pop(key) for key in sections if key in values}
    with tempfile.TemporaryDirectory() as place:
        rest = Path(place) / Path(file).name
        rest.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        try:
            experiment = parse_train([str(rest), *overrides]).experiment
        except UserError as error:
            raise UserError(str(error).replace(str(rest), file)) from None
    return experiment, found


def _loader() -> type:
    """YAML as in experiment files, where 1e-3 is a number and not a word."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789."))
    return Loader


@functools.cache
def _parser_of_values() -> Any:
    """One parser for all cells of a sweep: to build it takes longer than to use it."""
    return make_parser()


def make_parser() -> Any:
    """Build the parser of `surefoot train`: one option per setting of an experiment."""
    from jsonargparse import ActionConfigFile, ArgumentParser

    parser = ArgumentParser(
        prog="surefoot train",
        usage="surefoot train [EXPERIMENT.yaml] [--resume] [--out RUN] [--KEY VALUE ...]",
        description="Train one network as an experiment file says; every setting of the file can "
        "be overridden by its dotted key. Without a file: digits, a small conv net, LABPAL.",
        exit_on_error=False,
        print_config=None,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action=ActionConfigFile, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=str | None, help="run directory; default runs/NAME/LABEL")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the run directory's checkpoint"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the run in the run directory"
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the experiment as commented YAML"
    )
    for setting in fields_of():
        parser.add_argument(
            f"--{setting.key}",
            type=setting.type,
            default=setting.default,
            help=setting.help.replace("%", "%%"),
        )
    return parser


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


def _experiment_file_first(argv: Sequence[str]) -> list[str]:
    """Move the experiment file to the front, so that overrides win wherever it stands."""
    rest: list[str] = []
    file: str | None = None
    words = iter(argv)
    for word in words:
        if word in FLAGS or (word.startswith("-") and "=" in word):
            rest.append(word)
        elif word.startswith("-"):
            value = next(words, None)
            if value is None:
                raise UserError(f"{word}: needs a value")
            rest.append(f"{word}={value}")  # one word, so that -1e-3 is not read as an option
        elif file is None:
            file = word
        else:
            raise UserError(f"{word}: one experiment file at a time, and {file} is given already")
    if file is None:
        return rest
    if not Path(file).is_file():
        raise UserError(f"{file}: no such experiment file")
    return ["--config", file, *rest]


def _experiment_of_run(run_dir: Path) -> str:
    file = run_dir / "experiment.yaml"
    if not file.is_file():
        raise UserError(f"{run_dir}: nothing to resume (it has no experiment.yaml)")
    return str(file)


def _value_of(arguments: Sequence[str], option: str) -> str | None:
    for word in arguments:
        if word.startswith(option + "="):
            return word.partition("=")[2]
    return None


def _explain(message: str, where: str) -> str:
    """Turn an error of the parser into one line: the key, what it takes, what it was given."""
    if message.startswith("Unexpected config"):
        return f"{where}: must hold settings such as 'steps: 100', one a line"
    if message.startswith("Problems parsing config"):
        problem = " ".join(message.partition(":")[2].split()).replace(' in "<unicode string>",', "")
        return f"{where}: not valid YAML: {problem}"
    settings = {setting.key: setting for setting in fields_of()}
    unknown = re.match(r"unrecognized arguments: --([^\s=]+)|Option '([^']+)' is not", message)
    if unknown:
        key = unknown.group(1) or unknown.group(2)
        if key.partition(".")[0] in SWEEP_KEYS:
            raise UserError(f"{key}: belongs to a sweep of many runs; use surefoot sweep")
        known = [*settings, "out", "resume", "overwrite", "print-config"]
        return f"{key}: no such setting; {did_you_mean(key, known)}"
    wrong = re.match(r'Parser key "([^"]+)":', message)
    if wrong and wrong.group(1) in settings:
        setting = settings[wrong.group(1)]
        given = re.search(r"(?:Given value|Got value|value): (.*)\s*$", message)
        got = f", not {given.group(1).strip()!r}" if given else ""
        return f"{setting.key}: must be {_type_words(setting.type)}{got}"
    return " ".join(message.split())


def _type_words(hint: Any) -> str:
    """Say in words what a setting takes."""
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(str(choice) for choice in arguments)
    if typing.get_origin(hint) is dict:
        return "a mapping of argument names to values"
    if type(None) in arguments:
        others = [argument for argument in arguments if argument is not type(None)]
        return f"{_type_words(others[0])} or null"
    return names.get(hint, str(hint))
