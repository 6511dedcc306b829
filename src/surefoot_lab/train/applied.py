"""Proof that a setting reached what it sets: its value as the built object holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from surefoot_lab.errors import UserError

if TYPE_CHECKING:
    from surefoot_lab.train.assemble import Parts

_NOWHERE = object()


def applied(parts: Parts) -> dict[str, Any]:
    """Settings by dotted key, each read back from the object it was meant for.

    An argument that its object keeps nowhere (such as the widths of a network) is left out; the
    number of parameters says what became of those.
    """
    built = {"model": parts.model, "optimizer": parts.optimizer, "scheduler": parts.scheduler}
    found: dict[str, Any] = {
        "seed": torch.initial_seed(),
        "steps": parts.extent.total_steps,
        "batch_size": parts.loader.batch_size,
        "model.parameters": sum(p.numel() for p in parts.model.parameters()),
    }
    for section, part in built.items():
        if part is not None:
            found[f"{section}.class_path"] = type(part).__name__
            groups = parts.optimizer if section == "scheduler" else part
            found |= _arguments(section, part, groups, parts.resolved[section]["init_args"])
    return found


def check_applied(found: Mapping[str, Any], cell: Mapping[str, Any]) -> None:
    """Refuse a trial whose own settings did not reach what they set.

    Args:
        found: what `applied` found.
        cell: the trial's settings by dotted key; a whole section is a mapping.

    Raises:
        UserError: names the first setting that was asked for and not found.
    """
    for key, wanted in _leaves(cell):
        if key not in found or key.endswith("class_path") or wanted in ("auto", None):
            continue
        if _plain(wanted) != found[key]:
            raise UserError(
                f"{key}: the sweep asks for {wanted!r}, but what was built has {found[key]!r} "
                "(does the scheduler overwrite it?)"
            )


def _arguments(
    section: str, built: Any, groups: Any, init_args: Mapping[str, Any]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, given in init_args.items():
        key = f"{section}.init_args.{name}"
        if isinstance(given, Mapping) and "class_path" in given:  # an optimizer that is wrapped
            inner = getattr(built, name, None)
            found[f"{key}.class_path"] = type(inner).__name__
            found |= _arguments(key, inner, inner, given.get("init_args") or {})
            continue
        group: dict[str, Any] = next(iter(getattr(groups, "param_groups", [])), {})
        words = ("initial_lr", "lr") if name == "lr" else (name,)  # where a scheduler starts
        kept = [group[word] for word in words if word in group]
        own = vars(built) if built is not None else {}
        kept += [own[word] for word in (name, f"_{name}") if word in own]
        if isinstance(getattr(type(built), name, None), property):
            kept.append(getattr(built, name))
        values = [value for value in map(_plain, kept) if value is not _NOWHERE]
        if values:
            found[key] = values[0]
    return found


def _plain(value: Any) -> Any:
    """The value in the types of a record; `_NOWHERE` for what is no plain value."""
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, tuple | list):
        items = [_plain(item) for item in value]
        return _NOWHERE if any(item is _NOWHERE for item in items) else items
    return value if value is None or isinstance(value, bool | int | float | str) else _NOWHERE


def _leaves(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        inside = isinstance(value, Mapping)
        found += _leaves(value, f"{prefix}{key}.") if inside else [(f"{prefix}{key}", value)]
    return found
