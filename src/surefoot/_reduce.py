"""Agreement between processes: every rank must see the same numbers before it decides."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

__all__ = ["is_distributed", "mean"]


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
    # NCCL reduces tensors on the accelerator only; gloo takes either
    on = device if device is not None and dist.get_backend(group) == "nccl" else torch.device("cpu")
    # MPS has no float64; everywhere else the mean of losses deserves it
    dtype = torch.float32 if on.type == "mps" else torch.float64
    total = torch.tensor(value, dtype=dtype, device=on)
    dist.all_reduce(total, group=group)
    return float(total.item()) / dist.get_world_size(group)
