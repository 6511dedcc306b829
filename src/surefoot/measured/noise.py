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
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor
from torch.optim import Optimizer

from surefoot import _params, _reduce
from surefoot.measured._toy import Toy, Way, first_answer
from surefoot.measured.estimate import Measurement, RateInterval, interval

__all__ = ["SlopePair", "Waiting", "noise_scale", "own_share"]

_SETTLED = 200
_CHANGES = (0.1, 0.3)


class SlopePair(NamedTuple):
    """Both slopes of one step, at its start, per step."""

    step: int
    own: float
    fresh: float


@dataclass(frozen=True)
class Waiting:
    """A measured step that waits for the next gradient, with one copy of the weights.

    Args:
        step: its number.
        params: that moved.
        move: by how much they would at t = 1.
        own: slope of its batch at the start, per unit of t.
        curvature: along the move as far as it went: what the slope grew by, per unit of t.
    """

    step: int
    params: Sequence[Tensor]
    move: list[Tensor]
    own: float
    curvature: float

    def end(self, scale: float | None, process_group: Any) -> list[SlopePair]:
        """The next gradient is there: both slopes, if they can be told.

        Args:
            scale: what it was multiplied by; None where unknown.
            process_group: processes to agree with.
        """
        params, grads = self.params, [p.grad for p in self.params if p.grad is not None]
        if scale is None or len(grads) < len(params):
            return []
        sharded, shares = _reduce.is_sharded(params), _reduce.shard_shares(params)
        dots, _ = _params.dots_and_norms_sq(_reduce.local(grads), self.move)
        parts = [dot * share for dot, share in zip(dots, shares, strict=True)]
        (slope,) = _reduce.over_shards([math.fsum(parts)], sharded, process_group)
        if not sharded:
            slope = _reduce.mean(slope, process_group, params[0].device)
        pair = SlopePair(self.step, self.own, slope / scale - self.curvature)
        return [pair] if all(map(math.isfinite, pair)) else []


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
    lengths = first_answer(lambda how: [_update(base, how, 1.0 + c) for c in (0.0, *_CHANGES)])
    if lengths is None:
        return None
    usual, *longer = lengths
    some, all_ = ((x / usual - 1.0) / c for x, c in zip(longer, _CHANGES, strict=True))
    return all_ if 0.01 < all_ < 1.05 and abs(some - all_) < 0.2 * all_ else None


def _update(base: Optimizer, how: Way, times: float) -> float:
    """Length of the update after many equal gradients and one that is larger."""
    toy = Toy(base, how)
    for group in toy.base.param_groups:
        if "weight_decay" in group:
            group["weight_decay"] = 0.0
    toy.hold(_SETTLED)
    (moves,) = toy.hold(1, times)
    return math.sqrt(sum(float(move.square().sum()) for move in moves))
