"""Agreement between processes: every rank must see the same numbers before it decides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed(group: Any = None) -> bool:
    """Whether there is a process group with more than one process to agree with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1


def mean(value: float, group: Any = None, device: torch.device | None = None) -> float:
    """The mean of ``value`` over all processes of ``group``, the same on each of them, to the bit.

    One rank's NaN becomes everybody's, so a rejected trial is rejected by all. Without a process
    group this returns ``value`` itself.
    """
    if not is_distributed(group):
        return value
    return _sums([value], group, device)[0] / dist.get_world_size(group)


def _sums(values: Sequence[float], group: Any, device: torch.device | None = None) -> list[float]:
    """Over all processes. NCCL reduces tensors on the accelerator only; gloo takes either."""
    on = torch.device("cpu")
    if dist.get_backend(group) == "nccl":
        on = device or torch.device("cuda", torch.cuda.current_device())
    total = torch.tensor(list(values), dtype=torch.float64, device=on)
    dist.all_reduce(total, group=group)
    return [float(x) for x in total.tolist()]


def local(tensors: Sequence[Tensor]) -> list[Tensor]:
    """This process's shards of DTensors (FSDP2, tensor parallelism); other tensors as they are."""
    return [getattr(t, "_local_tensor", t) for t in tensors]


def is_sharded(tensors: Sequence[Tensor]) -> bool:
    """Whether any of them is a DTensor."""
    return any(hasattr(t, "_local_tensor") for t in tensors)


def shard_shares(tensors: Sequence[Tensor]) -> list[float]:
    """By what each process's part counts in a sum over all of them: replicas count once."""
    if not is_sharded(tensors):
        return [1.0] * len(tensors)
    return [_share(t) for t in tensors]


def _share(t: Any) -> float:
    if not hasattr(t, "_local_tensor"):  # beside DTensors: the same on every process
        return 1.0 / dist.get_world_size()
    placed = zip(t.device_mesh.shape, t.placements, strict=True)
    copies: int = math.prod(size for size, place in placed if not place.is_shard())
    return 1.0 / copies


def over_shards(values: Sequence[float], sharded: bool, group: Any = None) -> list[float]:
    """Sums over the processes that hold shards; the values themselves where nothing is sharded."""
    if not sharded or not is_distributed(group):
        return list(values)
    return _sums(values, group)
