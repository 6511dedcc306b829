"""Whether numbers are finite and how loud a gradient is, on all processes that hold shards."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from surefoot import _params, _reduce

__all__ = ["GradientGauge", "are_finite"]


class GradientGauge:
    """How loud the gradient is, by the small tensors of it: cheap enough for every step."""

    def __init__(self) -> None:
        self._chosen: list[Tensor] = []
        self._is_sharded = False

    def norm(self, active: Callable[[], Sequence[Tensor]]) -> float:
        """The norm of the chosen gradients, over all shards; not finite where one is not.

        Args:
            active: the parameters with a gradient; asked only where a chosen one has none.
        """
        grads = [p.grad for p in self._chosen if p.grad is not None]
        if not grads or len(grads) < len(self._chosen):
            self._chosen = _small_ones(active())
            grads = [p.grad for p in self._chosen if p.grad is not None]
            self._is_sharded = _reduce.is_sharded(grads)
        if not self._is_sharded:
            return math.sqrt(math.fsum(_params.norms_sq(grads)))
        square = math.fsum(_params.norms_sq(_reduce.local(grads)))
        return math.sqrt(_reduce.over_shards([square], True)[0])


def _small_ones(active: Sequence[Tensor]) -> list[Tensor]:
    """The smallest tensors, up to a twentieth of all elements; the last ones first among equals."""
    most = max(4096, sum(p.numel() for p in active) // 20)
    chosen: list[Tensor] = []
    late_first = list(reversed(active))
    for p in sorted(late_first, key=lambda p: p.numel()):
        most -= p.numel()
        if chosen and (most < 0 or len(chosen) == 4):
            break
        chosen.append(p)
    return chosen


def are_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all elements are finite; the same answer on every process."""
    own = _reduce.local(tensors)
    # a square may overflow where the number does not
    bad = not all(map(math.isfinite, _params.norms_sq(own))) and not all(
        bool(torch.isfinite(t).all()) for t in own
    )
    return _reduce.over_shards([float(bad)], _reduce.is_sharded(tensors))[0] == 0.0
