"""Values of settings: of which type they must be, and how they are told to a user."""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Mapping
from typing import Any

from surefoot_lab.errors import UserError

_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
_TUPLE = re.compile(r"\(([^()]*,[^()]*)\)")
_LARGEST_FLOAT = 2.0**53  # floats up to here are exact where they are whole


def plain(value: Any) -> Any:
    """The same in Python's own types: NumPy's numbers and arrays, tuples and ranges leave them."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [plain(item) for item in value]
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return plain(value.tolist()) if hasattr(value, "dtype") else value
    return value


def typed(key: str, value: Any, hint: Any) -> Any:
    """The value of a setting, in the type that the setting has.

    A whole number may be written as `1e3`, and a number in quotes. null is refused where nothing
    says that it may be null, but for arguments, which it leaves away.

    Args:
        key: the dotted key, for the error message.
        value: as it stands in a file, or was given in Python.
        hint: the type of the dataclass's field.

    Raises:
        UserError: says what the setting takes, and what it was given.
    """
    value = plain(value)
    choices = typing.get_args(hint)
    if typing.get_origin(hint) is dict:
        return arguments(key, value)
    if typing.get_origin(hint) is typing.Literal:
        if value in choices and isinstance(value, str):
            return value
    elif type(None) in choices:
        if value is None:
            return None
        inner = next(choice for choice in choices if choice is not type(None))
        found = _converted(value, inner)
        if found is not None:
            return found
    else:
        found = _converted(value, hint)
        if found is not None:
            return found
    quotes = "; put it in quotes" if _is_text(hint) and not isinstance(value, list | dict) else ""
    quotes = "" if value is None else quotes
    raise UserError(f"{key}: must be {type_words(hint)}, not {shown(value)}{quotes}")


def arguments(key: str, value: Any) -> dict[str, Any]:
    """The arguments of a class, down to those of a class inside: plain values by their names.

    null is no arguments. A number in quotes is a number, `(0.9, 0.999)` a list.

    Raises:
        UserError: names what is no name, or no value that a file could hold.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"{key}: must be a mapping of argument names to values, not {shown(value)}")
    found = _argument(key, value)
    assert isinstance(found, dict)
    return found


def _argument(key: str, value: Any) -> Any:
    value = plain(value)
    if isinstance(value, Mapping):
        for name in value:
            check_name(name, key)
        inner = {name: _argument(f"{key}.{name}", item) for name, item in value.items()}
        if "class_path" in inner and inner.get("init_args", {}) is None:
            inner["init_args"] = {}
        return inner
    if isinstance(value, list):
        return [_argument(f"{key}[{place}]", item) for place, item in enumerate(value)]
    if isinstance(value, str):
        return _number_or_list(value)
    if isinstance(value, float) and math.isnan(value):
        raise UserError(f"{key}: must not be nan; give it a value")
    if value is None or isinstance(value, bool | int | float):
        return value
    raise UserError(
        f"{key}: must be a number, a text, true, false, null, a list or a mapping, "
        f"not {shown(value)}"
    )


def check_name(name: Any, inside: str) -> None:
    """Refuse a key that is no text, such as the 1 of `{lr: 0,1}`.

    Raises:
        UserError: names it, and what was probably meant.
    """
    if not isinstance(name, str) or not name:
        raise UserError(
            f"{inside}: {shown(name)} is no name of a setting (numbers are written 0.1 and not "
            "0,1; words such as true, null and dates in quotes)"
        )
    if name.endswith(")") and "(" not in name:
        raise UserError(f"{inside}: {name!r} is no name; write lists as [0.9, 0.999]")


def shown(value: Any) -> str:
    """A value as an error message quotes it, in the words of a file."""
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def type_words(hint: Any) -> str:
    """Say in words what a setting takes."""
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    choices = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(str(choice) for choice in choices)
    if typing.get_origin(hint) is dict:
        return "a mapping of argument names to values"
    if type(None) in choices:
        others = [choice for choice in choices if choice is not type(None)]
        return f"{type_words(others[0])} or null"
    return names.get(hint, str(hint))


def _is_text(hint: Any) -> bool:
    return hint is str or (str in typing.get_args(hint))


def _converted(value: Any, kind: type) -> Any:
    """The value as a `kind`, or None if it is none."""
    if isinstance(value, str) and kind in (int, float):
        value = _number_or_list(value, words=True)
    if isinstance(value, bool) != (kind is bool):
        return None
    if kind is int and isinstance(value, float):
        whole = value.is_integer() and abs(value) <= _LARGEST_FLOAT
        return int(value) if whole else None
    if kind is float and isinstance(value, int):
        return float(value) if abs(value) < 1e300 else None
    return value if isinstance(value, kind) else None


def _number_or_list(text: str, words: bool = False) -> Any:
    """The number that a text is, or the list that a Python tuple is; else the text."""
    stripped = text.strip()
    if _NUMBER.fullmatch(stripped):
        return int(stripped) if re.fullmatch(r"[-+]?\d+", stripped) else float(stripped)
    if words and stripped.lower() in (".inf", "-.inf", ".nan", "inf", "-inf", "nan"):
        return float(stripped.replace(".", ""))
    items = _TUPLE.fullmatch(stripped)
    if items:
        parts = [part.strip() for part in items.group(1).split(",") if part.strip()]
        if parts and all(_NUMBER.fullmatch(part) for part in parts):
            return [_number_or_list(part) for part in parts]
    return text
