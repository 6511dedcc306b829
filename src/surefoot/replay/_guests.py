"""What hangs on a module and is no part of it: its copies and its files do without."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

from torch import nn

__all__ = ["Guest", "Hook", "ModeSwitch", "hide_guests"]


class Guest:
    """What copies of the module do without."""


class Hook(Guest):
    """A hook on a module; a copy that is made of it all the same does nothing.

    Args:
        run: what torch is to call; its answer counts.
    """

    def __init__(self, run: Callable[..., Any] | None) -> None:
        self._run = run

    def __call__(self, *args: Any) -> Any:
        """What torch calls."""
        return None if self._run is None else self._run(*args)

    def __deepcopy__(self, memo: Any) -> Hook:
        return Hook(None)

    def __reduce__(self) -> Any:
        return (Hook, (None,))


def hide_guests(module: nn.Module) -> None:
    """Let :mod:`pickle` and :mod:`copy` take the module for one without guests.

    A file of a whole module then loads where this library is not installed, and with
    ``weights_only=True``.
    """
    if "__reduce_ex__" not in vars(module):
        vars(module)["__reduce_ex__"] = Hook(functools.partial(_reduce, weakref.ref(module)))


def _reduce(weak: weakref.ref[nn.Module], protocol: Any) -> Any:
    module = weak()
    assert module is not None
    reduced = type(module).__reduce_ex__(module, protocol)
    if isinstance(reduced, tuple) and len(reduced) > 2 and isinstance(reduced[2], dict):
        return (*reduced[:2], _without_guests(reduced[2]), *reduced[3:])
    return reduced


def _without_guests(state: dict[str, Any]) -> dict[str, Any]:
    """A module's attributes without guests, and without what torch notes about their hooks."""
    tables = {k: v for k, v in state.items() if "hooks" in k and isinstance(v, dict)}
    theirs = {
        key for table in tables.values() for key, hook in table.items() if isinstance(hook, Guest)
    }
    kept = {k: v for k, v in state.items() if not isinstance(v, Guest)}
    for name, table in tables.items():
        kept[name] = type(table)((k, v) for k, v in table.items() if k not in theirs)
    return kept


class ModeSwitch(Guest):
    """Tells of ``train()`` and ``eval()``, of the module itself or of one that contains it.

    Args:
        module: it hears of it, too, where it has a ``train`` of its own making.
        told: called with the module when that is done.
    """

    def __init__(self, module: nn.Module, told: Callable[[nn.Module], None]) -> None:
        self._module = weakref.ref(module)
        found = vars(module).get("train")
        self._first: ModeSwitch = found._first if isinstance(found, ModeSwitch) else self
        self._told: Callable[[nn.Module], None] | None = told
        self._all = [self]
        if self._first is self:
            self._plain = found
            vars(module)["train"] = self
        else:
            self._first._all.append(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module = self._module()
        assert module is not None
        plain = self._plain if self._plain is not None else type(module).train.__get__(module)
        result = plain(*args, **kwargs)
        # what the last one put on, it takes off first
        for switch in list(reversed(self._all) if module.training else self._all):
            if switch._told is not None:
                switch._told(module)
        return result

    def remove(self) -> None:
        """Tell no more."""
        first, module, self._told = self._first, self._module(), None
        if self in first._all:
            first._all.remove(self)
        if module is not None and not first._all and vars(module).get("train") is first:
            if first._plain is None:
                del vars(module)["train"]
            else:
                vars(module)["train"] = first._plain
