"""Where a data loader stands, as far as it shows: generators, samplers, its own saved state."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator
from typing import Any

import torch


class LoaderPosition:
    """What can be remembered of a loader's position.

    - the state of every ``torch.Generator`` that the loader or its samplers own,
    - ``state_dict`` of a stateful loader or sampler,
    - plain counters of samplers (``epoch``, ``counter`` ...),
    - persistent workers that did not exist before: they are let go, since their random state
      has moved on.

    A loader without any of this (a list, a plain ``DataLoader``) draws its order from the global
    random state, which is restored elsewhere. What a data set counts inside itself is out of reach.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        parts = _parts(loader)
        generators = [getattr(part, "generator", None) for part in parts]
        self._generators = [
            (g, g.get_state()) for g in generators if isinstance(g, torch.Generator)
        ]
        self._states = list(_states(parts))
        self._counters = [(p, _counters(p)) for p in parts if p is not loader]
        self._had_workers = getattr(loader, "_iterator", None) is not None

    def restore(self) -> None:
        if not self._had_workers and getattr(self._loader, "_iterator", None) is not None:
            self._loader._iterator = None
        for part, counters in self._counters:
            for name, value in counters.items():
                setattr(part, name, value)
        for part, state in self._states:
            # a copy again: some loaders keep what they are given
            try:
                part.load_state_dict(copy.deepcopy(state))
            except Exception as error:  # no reason to lose what was measured
                warnings.warn(
                    f"{type(part).__name__} did not take its position back: {error}", stacklevel=2
                )
        self.rewind()

    def rewind(self) -> None:
        """Put the generators alone back, so that the next pass draws the same order again."""
        for generator, state in self._generators:
            generator.set_state(state)


def _parts(loader: Any) -> list[Any]:
    """The loader, its batch sampler and the samplers below."""
    found: dict[int, Any] = {}
    waiting = [loader]
    while waiting:
        part = waiting.pop()
        if part is not None and id(part) not in found:
            found[id(part)] = part
            waiting += [getattr(part, name, None) for name in ("batch_sampler", "sampler")]
    return list(found.values())


def _states(parts: list[Any]) -> Iterator[tuple[Any, Any]]:
    """The saved states of those that have one; some only pretend to, and raise when asked."""
    for part in parts:
        with contextlib.suppress(Exception):
            if callable(part.load_state_dict):
                yield part, copy.deepcopy(part.state_dict())


def _counters(part: Any) -> dict[str, Any]:
    attributes = getattr(part, "__dict__", {})
    return {n: v for n, v in attributes.items() if isinstance(v, (bool, int, float))}
