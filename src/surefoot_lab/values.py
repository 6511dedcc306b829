"""Values of settings: checked by pydantic against dataclasses, and told to a user in one line."""

from __future__ import annotations

import ast
import dataclasses
import functools
import math
import os
import typing
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, cast

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from surefoot_lab.errors import UserError, did_you_mean

T = TypeVar("T")

_LARGEST_FLOAT = 2.0**53  # floats up to here are exact where they are whole
# What pydantic finds, in the words of an experiment file; all else in its own.
_SAID = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be finite",
    "bool_type": "must be true or false",
    "string_type": "must be a text (in quotes, if it looks like a number)",
    "literal_error": "must be one of {expected}",
    "dataclass_type": "must hold its settings one a line (such as 'class_path: ...')",
    "dict_type": "must hold its settings one a line",
    "tuple_type": "must be a list",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than": "must be below {lt}",
    "missing": "is missing",
    "value_error": "{error}",
}


class Settings:
    """Base of dataclasses whose values `validated` checks: other names are refused."""

    __pydantic_config__ = ConfigDict(extra="forbid")


def validated(kind: type[T], values: Any, key: str = "") -> T:
    """Make a dataclass of settings from nested mappings.

    A whole number may be written as `1e3`, and a number in quotes.

    Args:
        kind: the dataclass.
        values: a mapping of its fields, or one such object.
        key: where it stands in a file, for the error message.

    Raises:
        UserError: names the first value that cannot be used, and says what the setting takes.
    """
    try:
        given = dataclasses.asdict(values) if isinstance(values, Settings) else values  # type: ignore[call-overload]
        found: T = _adapter(cast(Hashable, kind)).validate_python(plain(given))
        return found
    except RecursionError:
        raise UserError(f"{key or 'settings'}: holds a mapping that holds itself") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    where = ".".join([key] * bool(key) + [str(part) for part in first["loc"]])
    if first["type"] == "unexpected_keyword_argument":
        known = [
            setting.key for setting in fields_of(cast(Hashable, kind), f"{key}." if key else "")
        ]
        raise UserError(f"{where}: no such setting; {what_instead(where, known)}")
    text = _SAID.get(first["type"], first["msg"]).format(**first.get("ctx", {}))
    told = first["type"] in ("value_error", "missing")
    said = "" if told else f", not {shown(first['input'])}"
    raise UserError(f"{where}: {text}{said}" if where else f"{text}{said}")


def what_instead(key: str, known: Sequence[str]) -> str:
    """What to write instead of a dotted key that is none: the nearest beside it, or where a class
    and its arguments go.
    """
    section = key.rpartition(".")[0]
    beside = [other for other in known if other.rpartition(".")[0] == section]
    said = did_you_mean(key.rpartition(".")[2], [other.rpartition(".")[2] for other in beside])
    if said.startswith("did") and section:
        return said.replace("'", f"'{section}.", 1)
    if f"{section}.init_args" in known:
        return f"a class goes into {section}.class_path, its arguments into {section}.init_args"
    if said.startswith("did"):
        return said
    heads = list(dict.fromkeys(other.partition(".")[0] for other in known))
    near = did_you_mean(key, known)
    return near if near.startswith("did") else f"known: {', '.join(heads)}"


@functools.cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, kind))


@dataclass(frozen=True)
class Setting:
    """One setting: its dotted key, type, default and the docstring's sentence."""

    key: str
    type: Any
    default: Any
    help: str


@functools.cache
def fields_of(kind: Hashable, prefix: str = "") -> tuple[Setting, ...]:
    """All settings of a dataclass, nested ones with dotted keys, in the order of the class."""
    from docstring_parser import parse

    described = parse(kind.__doc__ or "").params
    helps = {p.arg_name: " ".join((p.description or "").split()) for p in described}
    hints = typing.get_type_hints(kind)
    found: list[Setting] = []
    for item in dataclasses.fields(cast(Any, kind)):
        key, hint = prefix + item.name, hints[item.name]
        inner = [t for t in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(t)]
        if inner:
            found += fields_of(cast(Hashable, inner[0]), f"{key}.")
            continue
        default = item.default
        if item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        found.append(Setting(key, hint, default, helps[item.name]))
    return tuple(found)


def plain(value: Any) -> Any:
    """The same in Python's own types: NumPy's numbers and arrays, tuples, ranges, paths are not."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return plain(value.tolist()) if hasattr(value, "dtype") else value
    return value


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A mapping of mappings by dotted keys, without what is null or empty: nobody asked for it."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            found |= flat(item, f"{prefix}{key}.")
        elif item not in (None, ""):
            found[f"{prefix}{key}"] = item
    return found


def number(value: Any) -> Any:
    """The number that a value means: of a text, of NumPy; a whole one as an int."""
    value = plain(value)
    if isinstance(value, str):
        value = _number_or_list(value)
    if isinstance(value, float) and value.is_integer() and abs(value) <= _LARGEST_FLOAT:
        return int(value)
    return value


def arguments(value: Any) -> Any:
    """The arguments of a class, down to those of a class inside: plain values by their names.

    null is no arguments. A number in quotes is a number, `(0.9, 0.999)` a list.

    Raises:
        ValueError: names what is no name, or no value that a file could hold.
    """
    value = plain(value)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"must be a mapping of argument names to values, not {shown(value)}")
    return _argument("", value)


def _argument(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        for name in value:
            check_name(name, key)
        inner = {name: _argument(f"{key}.{name}".strip("."), v) for name, v in value.items()}
        if "class_path" in inner and inner.get("init_args", {}) is None:
            inner["init_args"] = {}
        return inner
    if isinstance(value, list):
        return [_argument(f"{key}[{place}]", item) for place, item in enumerate(value)]
    if isinstance(value, str):
        return _number_or_list(value)
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(f"{key} must not be nan; give it a value")
    if value is None or isinstance(value, bool | int | float):
        return value
    raise ValueError(
        f"{key} must be a number, a text, true, false, null, a list or a mapping, "
        f"not {shown(value)}"
    )


class NoName(ValueError):
    """A key that cannot be one; the message says where it stands."""


def check_name(name: Any, inside: str) -> None:
    """Refuse a key that is no text, such as the 1 of `{lr: 0,1}`.

    Raises:
        NoName: names it, and what was probably meant.
    """
    where = f"{inside}: " if inside else ""
    if not isinstance(name, str) or not name:
        raise NoName(
            f"{where}{shown(name)} is no name of a setting (numbers are written 0.1 and not "
            "0,1; words such as true, null and dates in quotes)"
        )
    if name.endswith(")") and "(" not in name:
        raise NoName(f"{where}{name!r} is no name; write lists as [0.9, 0.999]")


def shown(value: Any) -> str:
    """A value as an error message quotes it, in the words of a file."""
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _number_or_list(text: str) -> Any:
    """The number that a text is, or the list that a Python tuple of numbers is; else the text."""
    stripped = text.strip()
    try:
        if stripped.startswith("("):
            items = ast.literal_eval(stripped)
            numbers = isinstance(items, tuple) and all(type(i) in (int, float) for i in items)
            return list(items) if items and numbers else text
        number = int(stripped) if stripped.lstrip("+-").isdigit() else float(stripped)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return number if isinstance(number, int) or math.isfinite(number) else text


# The types of settings. Strict: a text is no truth, and a truth is no number.
Whole = Annotated[int, Field(strict=True), BeforeValidator(number)]
Real = Annotated[float, Field(strict=True), BeforeValidator(number)]
Finite = Annotated[Real, Field(allow_inf_nan=False)]
Truth = Annotated[bool, Field(strict=True)]
Positive = Annotated[Whole, Field(ge=1)]
NotNegative = Annotated[Real, Field(ge=0, allow_inf_nan=False)]
Arguments = Annotated[dict[str, Any], BeforeValidator(arguments)]
