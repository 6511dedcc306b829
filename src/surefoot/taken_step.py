"""The line of a step that the optimizer took: t = 0 where it began, t = 1 where it ended."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surefoot import _params, _reduce
from surefoot._networks import at_least_initial


@dataclass(eq=False)
class TakenStep:
    """One copy of the weights, and the way from it to where they are now.

    At every time the weights and the copy are two places on the line, so any third can be reached
    without a third set of tensors:

    .. math:: \\theta(t) = \\theta(a) + \\frac{t - a}{s - a} (\\theta(s) - \\theta(a))

    with *a* the place of the copy and *s* that of the weights.

    Args:
        process_group: processes that hold shards of the same weights.
    """

    process_group: Any = None

    def __post_init__(self) -> None:
        self._params: list[Tensor] = []
        self._copies: list[Tensor] = []
        self._slopes: list[float] = []
        self._anchor = self._place = 0.0

    @torch.no_grad()
    def begin(self, params: Sequence[Tensor]) -> None:
        """The optimizer is about to step: remember where."""
        self._is_sharded = _reduce.is_sharded(params)
        self._shares = _reduce.shard_shares(params)
        self._shapes = [tuple(p.shape) for p in params]
        self._params = _reduce.local(params)
        self._copies = [p.clone() for p in self._params]
        self._anchor, self._place = 0.0, 1.0

    def forget(self) -> None:
        """Give the memory back."""
        self._params, self._copies = [], []

    def slope_and_length(self, grads: Sequence[Tensor | None]) -> tuple[float, float]:
        """Derivative of the loss at t = 0 and Euclidean length, each per unit of ``t``.

        Call it before the weights are placed elsewhere.

        Args:
            grads: the gradient at t = 0, one a parameter; None for zero.
        """
        own = [None if g is None else _reduce.local([g])[0] for g in grads]
        self._slopes, squares = _params.slopes_and_norms_sq(self._params, self._copies, own)
        slope, square = self._sums(self._slopes, squares)
        return slope, math.sqrt(max(0.0, square))

    def slopes_of(self, parts: Sequence[Sequence[int]]) -> list[float]:
        """The slope of :meth:`slope_and_length`, by parts of the parameters.

        Args:
            parts: which of the parameters, by their places, belong to each.
        """
        own = ([s if i in part else 0.0 for i, s in enumerate(self._slopes)] for part in parts)
        return self._sums(*own)

    def _sums(self, *values: Sequence[float]) -> list[float]:
        """Of what each parameter's shard gave, over all of them and all processes."""
        own = [math.fsum(map(operator.mul, each, self._shares)) for each in values]
        return _reduce.over_shards(own, self._is_sharded, self.process_group)

    @contextmanager
    def staying(self, places: Sequence[int]) -> Iterator[None]:
        """Inside, these parameters are where the step began; call it at the step's end.

        Args:
            places: of the parameters among those that :meth:`begin` was given.
        """
        chosen = [self._params[i] for i in places], [self._copies[i] for i in places]
        _params.swap(*chosen)
        try:
            yield
        finally:
            _params.swap(*chosen)

    @torch.no_grad()
    def moves(self) -> list[Tensor]:
        """From t = 0 to where the weights are, one new tensor a parameter."""
        return list(torch._foreach_sub(self._params, self._copies)) if self._params else []

    def start_size(self) -> float:
        """The norm of the weights at the start; see :func:`surefoot._networks.at_least_initial`."""
        (square,) = self._sums(_params.norms_sq(self._copies))
        return at_least_initial(square, self._shapes)

    def keep_end(self) -> None:
        """From here on the end is what is kept to the bit, not the start; call it at the end."""
        if self._anchor == 0.0:
            self.go_to(0.0)  # they change places

    def go_to(self, t: float) -> None:
        """Place the weights at ``t``; where the copy is to the bit, and they change places."""
        if t == self._place:
            return
        if t == self._anchor:
            _params.swap(self._params, self._copies)
            self._anchor, self._place = self._place, self._anchor
            return
        stretch = (t - self._anchor) / (self._place - self._anchor)
        _params.lerp(self._params, self._copies, 1.0 - stretch)
        self._place = t

    def take_move(self) -> list[Tensor]:
        """The move per unit of ``t``, in the copy's memory; the line ends there."""
        per = 1.0 / (self._place - self._anchor)
        _params.momentum_update(self._copies, self._params, -per, per)
        move, self._copies = self._copies, []
        return move
