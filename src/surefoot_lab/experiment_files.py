"""Experiment files: YAML in which every key is a text and stands once."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from surefoot_lab.errors import UserError
from surefoot_lab.text_files import read_text
from surefoot_lab.values import NoName, check_name

_LARGEST = 100_000  # values of an experiment, aliases written out


def load(file: str) -> dict[str, Any]:
    """The settings of an experiment file.

    Raises:
        UserError: there is no such file, or it does not hold settings.
    """
    if Path(file).is_dir():
        raise UserError(f"{file}: is a folder; to go on with a run: --out {file} --resume")
    values = load_text(read_text(Path(file), file, "an experiment file"), file)
    if not isinstance(values, dict):
        raise UserError(f"{file}: must hold settings such as 'steps: 100', one a line")
    return values


def load_text(text: str, where: str) -> Any:
    """What a YAML text stands for; `1e-3` is a number and not a word.

    Args:
        text: the YAML.
        where: the file it comes from, for error messages.

    Raises:
        UserError: it is no YAML, or a key in it is no text, or stands twice.
    """
    import yaml

    try:
        values = yaml.load(text, Loader=_loader())
        if _size(values, {}) > _LARGEST:
            raise UserError(f"{where}: its aliases stand for more than {_LARGEST} values")
        return values
    except NoName as problem:
        raise UserError(f"{where}: {problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        reason = re.sub(r' in "<(unicode|byte) string>",', "", reason)
        raise UserError(f"{where}: not valid YAML: {reason[:200]}") from None


def _size(value: Any, known: dict[int, float]) -> float:
    """How many values there are once every alias is written out."""
    if not isinstance(value, dict | list):
        return 1.0
    if id(value) not in known:
        known[id(value)] = 0.0  # met again below, it holds itself: whoever checks values says so
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1.0 + sum(_size(each, known) for each in inner)
    return known[id(value)]


@functools.cache
def _loader() -> type:
    """PyYAML's safe loader, with numbers as Python writes them and with keys that are unique."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            lines: dict[str, int] = {}
            for key_node, _ in getattr(node, "value", []):
                if key_node.tag == "tag:yaml.org,2002:merge":
                    continue
                line = key_node.start_mark.line + 1
                key = self.construct_object(key_node, deep=True)
                check_name(key, f"line {line}")
                if key in lines:
                    raise NoName(
                        f"line {line}: {key!r} stands there a second time (the first is in line "
                        f"{lines[key]}); keep one"
                    )
                lines[key] = line
            return super().construct_mapping(node, deep)

    def sequence(loader: Any, node: Any) -> Any:
        return loader.construct_sequence(node, deep=True)

    Loader.add_constructor("tag:yaml.org,2002:python/tuple", sequence)
    # Of YAML 1.1's numbers, not those that nobody means: 010 is not 8, 1:30 not 90, a date a text.
    dropped = [f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp")]
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in dropped]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    digits = list("-+.0123456789")
    whole = re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$")
    Loader.add_implicit_resolver(dropped[0], whole, digits)
    number = r"[-+]?(\d[\d_]*\.\d*|\.\d+)([eE][-+]?\d+)?|[-+]?\d+[eE][-+]?\d+"
    special = r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
    Loader.add_implicit_resolver(dropped[1], re.compile(f"({number}|{special})$"), digits)
    return Loader
