"""Batches of any form: where their tensors are, how many samples they hold, how many there are."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any

import torch


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with every tensor in it on ``device``; tuples, lists and mappings are walked."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(to_device(value, device) for value in batch)
    if hasattr(batch, "to"):  # BatchEncoding, PackedSequence and their like
        return batch.to(device)
    return batch


def pair_in(batch: Any, remedy: str = "") -> tuple[Any, Any]:
    """Inputs and targets of a batch.

    Raises:
        TypeError: it is no pair; the message ends with the remedy.
    """
    if isinstance(batch, (list, tuple)) and len(batch) == 2:
        return batch[0], batch[1]
    kind = f"{len(batch)} entries" if isinstance(batch, (list, tuple)) else type(batch).__name__
    raise TypeError(f"batches must be pairs (inputs, targets), but the loader gives {kind}{remedy}")


def samples_in(batch: Any) -> int:
    """How many samples a batch holds: the first dimension of the first tensor found."""
    if isinstance(batch, torch.Tensor):
        return int(batch.shape[0]) if batch.ndim else 1
    values = batch.values() if isinstance(batch, Mapping) else batch
    if isinstance(values, Iterable) and not isinstance(values, (str, bytes)):
        return next(filter(None, map(samples_in, values)), 0)
    return 0


def length_of(loader: Any) -> int | None:
    """How many batches a loader gives; None where it does not tell."""
    try:
        return len(loader)
    except Exception:  # some have a __len__ that raises what it likes
        return None


def endless(loader: Iterable[Any]) -> Generator[Any, None, None]:
    """The loader's batches, from the front again when it is through.

    An iterator (a generator, ``iter(loader)``) can be read only once: its batches are kept for
    the further rounds.

    Raises:
        ValueError: if a round yields nothing.
    """
    once = isinstance(loader, Iterator)
    for round_ in itertools.count():
        empty = True
        for batch in itertools.cycle(loader) if once else loader:
            empty = False
            yield batch
        if empty and round_:
            raise ValueError(
                "the loader can be read only once: pass one that begins anew, or a smaller num_iter"
            )
        if empty:
            raise ValueError("the loader is empty: it gave no batch")
