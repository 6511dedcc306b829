"""Several processes, one line: the same direction for all, everybody's batches for each."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from surefoot import _reduce
from surefoot.directions import Direction
from surefoot.shape._walk import Row


def agree_on_direction(direction: Direction, group: Any = None) -> Direction:
    """The first process's direction, on all of them."""
    if not _reduce.is_distributed(group):
        return direction
    source = dist.get_global_rank(group, 0) if group is not None else 0
    tensors = [t.detach().clone() for t in direction.tensors]
    for tensor in tensors:
        dist.broadcast(tensor, source, group=group)
    numbers: list[Any] = [direction.weights, direction.norm, direction.slope0]
    dist.broadcast_object_list(numbers, source, group=group)
    return Direction(tensors, *numbers)


def gather_rows(
    rows: list[Row], own: Row | None, group: Any = None
) -> tuple[list[Row], Row | None]:
    """Everybody's rows in the order of the processes, and the first one's own row."""
    if not _reduce.is_distributed(group):
        return rows, own
    everybody: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(everybody, (rows, own), group=group)
    return [row for theirs, _ in everybody for row in theirs], everybody[0][1]
