"""Batches from any iterable, as many as are asked for."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator
from typing import Any


def endless(loader: Iterable[Any]) -> Generator[Any, None, None]:
    """The loader's batches, from the front again when it is through.

    An iterator (a generator, ``iter(loader)``) can be read only once: its batches are kept for
    the further rounds.

    Raises:
        ValueError: if a round yields nothing.
    """
    once = isinstance(loader, Iterator)
    kept: list[Any] = []
    for round_ in itertools.count():
        empty = True
        for batch in kept if once and round_ else loader:
            if once and not round_:
                kept.append(batch)
            empty = False
            yield batch
        if empty and round_:
            raise ValueError(
                "the loader can be read only once: pass one that begins anew, or a smaller num_iter"
            )
        if empty:
            raise ValueError("the loader is empty: it gave no batch")
