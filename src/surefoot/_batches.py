"""Batches of any form: where their tensors are, and how many samples they hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
        for value in values:
            count = samples_in(value)
            if count:
                return count
    return 0
