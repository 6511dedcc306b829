"""Batches from any iterable, as many as are asked for."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Any


def endless(loader: Iterable[Any]) -> Generator[Any, None, None]:
    """The loader's batches, from the front again when it is through.

    An iterator (a generator, ``iter(loader)``) can be read only once: its batches are kept for
    the further rounds.

    Raises:
        ValueError: if a round yields nothing.
    """
    if isinstance(loader, Iterator):
        yield from _remembered(loader)
    rounds = 0
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty and rounds:
            raise ValueError(
                "the loader can be read only once: pass one that begins anew, or a smaller num_iter"
            )
        if empty:
            raise ValueError("the loader is empty: it gave no batch")
        rounds += 1


def _remembered(iterator: Iterator[Any]) -> Iterator[Any]:
    seen = []
    for batch in iterator:
        seen.append(batch)
        yield batch
    while seen:
        yield from seen
    raise ValueError("the loader is empty: it gave no batch")
