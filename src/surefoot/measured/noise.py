"""The gradient's noise, from slopes along the same move: the own batch's and a fresh one's.

A step's own gradient knows the batch that made it, the next one does not. Along the move *u*,

.. math:: a = \\langle g, u \\rangle, \\qquad f = \\langle g', u \\rangle - u^\\top H u

are the slope of the own batch and that of a fresh one, both at the step's start (the curvature is
the parabola's). Their difference is what the batch's noise did; over the fresh slope, it is the
noise scale in batches: with batches that many times as large, noise and signal would be equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.optim import Optimizer

from surefoot import _params, _reduce
from surefoot.measured._toy import WAYS, Toy, unheard
from surefoot.measured.estimate import Measurement, RateInterval, interval

__all__ = ["Fresh", "SlopePair", "noise_scale", "own_share"]

_KEPT = 64
_SETTLED = 200
_CHANGES = (0.1, 0.3)


class SlopePair(NamedTuple):
    """Both slopes of one step, at its start, per step."""

    step: int
    own: float
    fresh: float


class Fresh:
    """Keeps a measured step's move until the next gradient is there: one copy of the weights.

    Args:
        share: of an update that is the last gradient's; None where that is no fixed share.
    """

    def __init__(self, share: float | None, process_group: Any = None) -> None:
        self.share = share
        self.pairs: list[SlopePair] = []
        self._group = process_group
        self._waiting: tuple[int, float, float] | None = None
        self._params: list[Tensor] = []
        self._move: list[Tensor] = []

    @property
    def waits(self) -> bool:
        """Whether the next gradient is asked for."""
        return self._waiting is not None

    def begin(
        self,
        step: int,
        params: Sequence[Tensor],
        move: list[Tensor],
        own: float,
        curvature: float,
    ) -> None:
        """A step was made.

        Args:
            step: its number.
            params: that moved.
            move: by how much they would at t = 1; kept, not copied.
            own: slope of its batch at the start, per unit of t.
            curvature: along the move as far as it went: what the slope grew by, per unit of t.
        """
        self._waiting, self._params, self._move = (step, own, curvature), list(params), move

    def end(self, scale: float | None) -> None:
        """The next gradient is there.

        Args:
            scale: what it was multiplied by; None where unknown, and the pair is lost.
        """
        if self._waiting is None:
            return
        step, own, curvature = self._waiting
        grads = [p.grad for p in self._params if p.grad is not None]
        if scale is not None and len(grads) == len(self._params):
            sharded, shares = _reduce.is_sharded(self._params), _reduce.shard_shares(self._params)
            dots, _ = _params.dots_and_norms_sq(_reduce.local(grads), self._move)
            parts = [dot * share for dot, share in zip(dots, shares, strict=True)]
            (slope,) = _reduce.over_shards([math.fsum(parts)], sharded, self._group)
            if not sharded:
                slope = _reduce.mean(slope, self._group, self._params[0].device)
            fresh = slope / scale - curvature
            if math.isfinite(own) and math.isfinite(fresh):
                self.pairs = [*self.pairs, SlopePair(step, own, fresh)][-_KEPT:]
        self.forget()

    def forget(self) -> None:
        """Give the memory back."""
        self._waiting, self._params, self._move = None, [], []


def noise_scale(
    pairs: Sequence[SlopePair], share: float | None, confidence: float = 0.95
) -> RateInterval:
    r"""The gradient noise scale in batches of the size in use, and how sure it is.

    .. math:: N = \frac{\overline{a - f}}{s\, \bar f}, \qquad
              \text{for plain SGD } N = \frac{\operatorname{tr} \Sigma}{B \lVert G \rVert^2}

    with its interval by Fieller's theorem.

    Args:
        pairs: slopes of steps.
        share: s, of an update that is the last gradient's.
        confidence: share of such intervals that contain the truth.

    References: McCandlish et al., 1812.06162, whose simple noise scale is that of SGD; along the
    update of another optimizer it is measured in that one's own metric.
    """
    if share is None:
        return RateInterval(None)
    lines = [Measurement(p.step, (p.own - p.fresh) / share, -p.fresh) for p in pairs]
    return interval(lines, confidence)


def own_share(base: Optimizer) -> float | None:
    """The share of an update that is the last gradient's, found out on a toy copy.

    None where a larger gradient does not lengthen the update in proportion (Muon, signs).
    """
    with unheard():
        for how in WAYS:
            try:
                usual, more, most = (_update(base, how, 1.0 + c) for c in (0.0, *_CHANGES))
            except Exception:
                continue  # in any words that a stranger's code may choose
            some, all_ = (
                (x / usual - 1.0) / c for x, c in zip((more, most), _CHANGES, strict=True)
            )
            return all_ if 0.01 < all_ < 1.05 and abs(some - all_) < 0.2 * all_ else None
    return None


def _update(base: Optimizer, how: Any, times: float) -> float:
    """Length of the update after many equal gradients and one that is larger."""
    toy = Toy(base, how)
    for group in toy.base.param_groups:
        if "weight_decay" in group:
            group["weight_decay"] = 0.0
    toy.hold()
    for _ in range(_SETTLED):
        toy.step(1.0, 0)
        toy.put_back()
    toy.hold(times)
    return math.sqrt(sum(float(move.square().sum()) for move in toy.step(1.0, 0)))
