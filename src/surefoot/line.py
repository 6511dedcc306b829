"""The line: the loss along one direction, measured in a quiet room, with everything put back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from surefoot import _reduce
from surefoot._closure import Closure
from surefoot._evaluation import agree, gradients_aside
from surefoot._params import Copies, dot_and_norm_sq
from surefoot._quiet import QuietRoom
from surefoot.directions import Direction


class NotRepeatableError(RuntimeError):
    """The closure gave two different losses for the same weights and the same random numbers."""


class Walkable(Protocol):
    """What a search needs of a line."""

    @property
    def direction_norm(self) -> float:
        """Euclidean length of one unit of ``t``."""

    @property
    def value0(self) -> float:
        """Loss at ``t = 0``."""

    @property
    def slope0(self) -> float | None:
        """Derivative at ``t = 0`` per unit of ``t``, where it is known."""

    def value(self, t: float) -> float:
        """Loss at ``t``."""

    def value_and_slope(self, t: float) -> tuple[float, float]:
        """Loss and its derivative per unit of ``t``, both at ``t``."""


class Line:
    r"""The loss along one direction, :math:`t \mapsto L(\theta_0 + t\,d)`.

    A context manager: inside, :meth:`value` moves the weights and evaluates the closure;
    on leaving, the weights are back at the start bit for bit, or at :meth:`commit`'s place.
    An exception always ends at the start.

    Args:
        params: the parameters that move.
        direction: where to, see :class:`surefoot.directions.Direction`.
        closure: evaluates the loss at the present weights.
        room: the quiet room the first evaluation at ``t = 0`` was made in.
        value0: loss at the start.
        copies: memory to keep the start in; its own where None.
        process_group: processes to average losses over; None for torch's default group.
        untried: whether the closure has not yet been seen at other weights; then the first probe
            makes sure that it looks at them.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        direction: Direction,
        closure: Closure,
        room: QuietRoom,
        value0: float,
        *,
        copies: Copies | None = None,
        process_group: Any = None,
        untried: bool = False,
    ) -> None:
        self._params = params
        self._direction = direction
        self._closure = closure
        self._room = room
        self._value0 = value0
        self._copies = Copies() if copies is None else copies
        self._group = process_group
        self._place = 0.0
        self._left = False
        exact = all(p.dtype is torch.float64 for p in params)
        largest = max(map(abs, direction.weights), default=0.0)
        self._end = torch.finfo(torch.float64 if exact else torch.float32).max / (largest or 1.0)
        self._untried = untried

    @property
    def direction_norm(self) -> float:
        """Euclidean length of one unit of ``t``."""
        return self._direction.norm

    @property
    def value0(self) -> float:
        """Loss at ``t = 0``."""
        return self._value0

    @property
    def slope0(self) -> float | None:
        """Derivative at ``t = 0`` per unit of ``t``; None where no gradient was at hand."""
        return self._direction.slope0

    def __enter__(self) -> Line:
        self._place, self._left = 0.0, False  # nothing is copied before the first move
        return self

    def __exit__(self, *raised: object) -> None:
        if self._left:
            self._copies.put_back()

    def value(self, t: float) -> float:
        """Loss at ``t``, averaged over all processes. One forward pass.

        Infinite, without one, where ``t`` is beyond the numbers that weights can be moved by.
        """
        if abs(t) > self._end:
            return math.inf
        self._move(t)
        self._room.repeat()
        loss = self._closure.value(rewind=self._room.rewind)
        value = _reduce.mean(float(loss), self._group, loss.device)
        self._check_moves(t, value, torch.finfo(loss.dtype).eps)
        return value

    def _check_moves(self, t: float, value: float, eps: float) -> None:
        """Notice a loss that does not look at the weights: the same bits where it must differ."""
        if not self._untried or t == 0.0 or self.slope0 is None:
            return
        self._untried = False
        if value == self._value0 and abs(self.slope0 * t) > 1000.0 * eps * abs(value):
            raise RuntimeError(
                "the loss is the same to the bit after the weights have moved: compute the "
                "model's output inside the closure, not before it"
            )

    def slope(self, t: float) -> float:
        """Derivative of the loss along the line at ``t``. One forward and one backward pass."""
        return self.value_and_slope(t)[1]

    def value_and_slope(self, t: float) -> tuple[float, float]:
        """Loss and its derivative along the line at ``t``. One forward and one backward pass.

        ``.grad`` is as before afterwards. Both numbers are averaged over all processes.
        """
        if abs(t) > self._end:
            return math.inf, math.nan
        self._move(t)
        self._room.repeat()
        with gradients_aside(self._params):
            loss = self._closure.gradient()
            reached = [i for i, p in enumerate(self._params) if p.grad is not None]
            dot, _ = dot_and_norm_sq(
                [g for p in self._params if (g := p.grad) is not None],
                [self._direction.tensors[i] for i in reached],
                [self._direction.weights[i] for i in reached],
            )
        slope = dot / self._closure.gradient_scale
        return (
            _reduce.mean(float(loss), self._group, loss.device),
            _reduce.mean(slope, self._group, loss.device),
        )

    def check_repeatable(self) -> None:
        """Evaluate ``t = 0`` once more and compare. One forward pass.

        Raises:
            NotRepeatableError: if the loss differs from the first evaluation.
        """
        again = self.value(0.0)
        if math.isnan(again) or agree(again, self._value0):
            return
        if self._closure.calls_backward is False and not self._closure.needs_graph:
            self._closure.needs_graph = True  # a loss may ask by itself whether there is a graph
            if agree(self.value(0.0), self._value0):
                return
            self._closure.needs_graph = False
        raise NotRepeatableError(
            f"the closure gave {self._value0!r} and then {again!r} for the same weights and the "
            "same random numbers, so a step size cannot be measured with it. Does it draw a new "
            "batch, or from a random generator of its own? Draw them before step(closure). "
            "Are its buffers out of reach? Pass the model itself as the first argument."
        )

    def commit(self, t: float) -> None:
        """End the visit at ``t`` instead of the start."""
        if t != 0.0 and self._left:
            tensors, weights = self._direction.tensors, self._direction.weights
            self._copies.go_on(tensors, weights, self._place, t)
        else:
            self._move(t)
        self._left = False

    def _move(self, t: float) -> None:
        tensors, weights = self._direction.tensors, self._direction.weights
        if t == 0.0:
            if self._left:
                self._copies.put_back()
        elif self._left:
            self._copies.put_moved(tensors, weights, t)
        else:
            self._left = True  # first, so that an interrupted move is undone as well
            self._copies.leave(self._params, tensors, weights, t)
        self._place = t
