"""Dataclasses to plain values and back: how everything that is remembered goes into checkpoints."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """A dataclass as a dict of numbers, texts and lists, which any checkpoint keeps.

    Raises:
        TypeError: for values of other kinds.
    """
    if dataclasses.is_dataclass(value):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [to_plain(v) for v in value]
    if isinstance(value, enum.Enum):
        return value.value
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"a checkpoint keeps numbers, texts and lists of them, not {value!r}")


def from_plain(like: T, kept: Mapping[str, Any]) -> T:
    """``like`` with the values that were kept; what an older checkpoint lacks stays as it is.

    Args:
        like: a dataclass; where a field of it is one, so is what is read. Where the metadata of a
            field names a NamedTuple as its ``entry``, every entry is made one.
        kept: what :func:`to_plain` gave, or a part of it.
    """
    found = {}
    for field in (f for f in dataclasses.fields(like) if f.name in kept):  # type: ignore[arg-type]
        now, value = getattr(like, field.name), kept[field.name]
        nested = dataclasses.is_dataclass(now) and isinstance(value, Mapping)
        found[field.name] = from_plain(now, value) if nested else _tuples(value)
        if "entry" in field.metadata:
            found[field.name] = tuple(map(field.metadata["entry"]._make, value))
    return dataclasses.replace(like, **found)  # type: ignore[type-var]


def first_group_of(state_dict: Any) -> Mapping[str, Any]:
    """The first group of an optimizer's ``state_dict``.

    Raises:
        ValueError: it is none.
    """
    groups = state_dict.get("param_groups") if isinstance(state_dict, Mapping) else None
    if not groups:
        raise ValueError(
            "load_state_dict() takes what an optimizer's state_dict() returned; this has no "
            "param_groups"
        )
    first: Mapping[str, Any] = groups[0]
    return first


def unknown_in(kept: Mapping[str, Any], like: Any) -> list[str]:
    """Names in what :func:`to_plain` gave that no field of ``like``, or inside of it, has."""
    found = []
    for name, value in kept.items():
        now = getattr(like, name, None)
        if not hasattr(like, name):
            found.append(name)
        elif dataclasses.is_dataclass(now) and isinstance(value, Mapping):
            found += unknown_in(value, now)
    return found


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value
