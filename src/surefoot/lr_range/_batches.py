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
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise ValueError("the loader is empty: it gave no batch")


def _remembered(iterator: Iterator[Any]) -> Iterator[Any]:
    seen = []
    for batch in iterator:
        seen.append(batch)
        yield batch
    while seen:
        yield from seen
    raise ValueError("the loader is empty: it gave no batch")
