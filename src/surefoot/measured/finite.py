"""Whether numbers are finite, on all processes that hold shards of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from surefoot import _params, _reduce

__all__ = ["are_finite", "has_finite_gradient", "smallest"]


def smallest(active: Sequence[Tensor]) -> Tensor | None:
    """The last of the parameters with the fewest elements: its gradient is quickly looked at."""
    return min(reversed(active), key=lambda p: p.numel(), default=None)


def has_finite_gradient(active: Sequence[Tensor]) -> bool:
    """Whether the gradient of every parameter is finite; the same answer on every process."""
    return are_finite([p.grad for p in active if p.grad is not None])


def are_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all elements are finite; the same answer on every process."""
    own = _reduce.local(tensors)
    # a square may overflow where the number does not
    bad = not all(map(math.isfinite, _params.norms_sq(own))) and not all(
        bool(torch.isfinite(t).all()) for t in own
    )
    return _reduce.over_shards([float(bad)], _reduce.is_sharded(tensors))[0] == 0.0
