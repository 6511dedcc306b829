"""No step changes the weights by more than a share of the smallest norm that they had."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.optim import Optimizer

from surefoot import _params
from surefoot._networks import size_of
from surefoot._params import Copies

__all__ = ["Bound", "can_be_pulled_back"]


def can_be_pulled_back(optimizer: Optimizer) -> bool:
    """Whether weights may be moved behind the optimizer's back.

    Not those of optimizers with two sets of weights (schedule-free ones, which have ``train`` and
    ``eval``): they compute one set from the other.
    """
    return not all(callable(getattr(optimizer, name, None)) for name in ("train", "eval"))


class Bound:
    """Pulls a step that went too far back, on the line that it took.

    The loss of one batch may have its minimum far away, where rectifiers have died for good and
    other batches' losses are a hundred times as high: early in training, and where losses of
    several heads are added.

    The norm is the smallest that the weights had so far. Along updates whose length does not follow
    the gradient's (Muon), weights grow at every step and the minimum moves away with them, so a
    bound that grew along would hold nothing back.

    Args:
        share: of the weights' norm.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._copies = Copies()

    def take(self, params: Sequence[Tensor], smallest: float, factor: float) -> float:
        """Remember the weights before a step.

        Args:
            params: the weights.
            smallest: the smallest norm that they had before.
            factor: of the share, for this step.

        Returns:
            The smallest norm that they had, now included.
        """
        self._copies.take(params)
        smallest = min(smallest, size_of(params))
        self._limit = self._share * factor * smallest
        return smallest

    def hold(self) -> float:
        """Shorten the step since then to the bound; the share of it that is left."""
        moves = self._copies.difference()
        ones = [1.0] * len(moves)
        length = math.sqrt(_params.norm_sq(moves, ones))
        if length <= self._limit or not math.isfinite(length):
            return 1.0
        left = self._limit / length
        self._copies.put_moved(moves, ones, left)
        return left
