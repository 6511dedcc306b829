"""The line: the loss along one direction, measured in a quiet room, with everything put back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from surefoot import _reduce
from surefoot._closure import Closure
from surefoot._evaluation import NOT_REPEATABLE, UNMOVED, agree, gradients_aside
from surefoot._params import Copies, add_scaled
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


@dataclass(eq=False)
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
        copies: memory to keep the start in.
        process_group: processes to average losses over; None for torch's default group.
        untried: whether the closure has not yet been seen at other weights; then the first probe
            makes sure that it looks at them.

    Attributes:
        direction_norm: Euclidean length of one unit of ``t``.
        slope0: derivative at ``t = 0`` per unit of ``t``; None where no gradient was at hand.
    """

    params: Sequence[Tensor]
    direction: Direction
    closure: Closure
    room: QuietRoom
    value0: float
    _: KW_ONLY
    copies: Copies = field(default_factory=Copies)
    process_group: Any = None
    untried: bool = False

    def __post_init__(self) -> None:
        self.direction_norm, self.slope0 = self.direction.norm, self.direction.slope0
        self._place, self._left = 0.0, False
        exact = all(p.dtype is torch.float64 for p in self.params)
        self._along = self.direction.tensors, self.direction.weights
        largest = max(map(abs, self.direction.weights), default=0.0)
        self._end = torch.finfo(torch.float64 if exact else torch.float32).max / (largest or 1.0)

    def __enter__(self) -> Line:
        return self  # nothing is copied before the first move

    def __exit__(self, *raised: object) -> None:
        if self._left:
            self.copies.put_back()

    def value(self, t: float) -> float:
        """Loss at ``t``, averaged over all processes. One forward pass.

        Infinite, without one, where ``t`` is beyond the numbers that weights can be moved by.
        """
        if abs(t) > self._end:
            return math.inf
        self._move(t)
        self.room.repeat()
        loss = self.closure.value(rewind=self.room.rewind)
        value = _reduce.mean(float(loss), self.process_group, loss.device)
        if self.untried and t != 0.0 and self.slope0 is not None:
            self.untried = False
            # a loss that does not look at the weights has the same bits where it must differ
            least = 1000.0 * torch.finfo(loss.dtype).eps * abs(value)
            if value == self.value0 and abs(self.slope0 * t) > least:
                raise RuntimeError(UNMOVED)
        return value

    def value_and_slope(self, t: float) -> tuple[float, float]:
        """Loss and its derivative along the line at ``t``. One forward and one backward pass.

        ``.grad`` is as before afterwards. Both numbers are averaged over all processes.
        """
        if abs(t) > self._end:
            return math.inf, math.nan
        self._move(t)
        self.room.repeat()
        with gradients_aside(self.params):
            loss = self.closure.gradient()
            dot = self.direction.slope_for([p.grad for p in self.params])
        slope = dot / self.closure.gradient_scale
        group, device = self.process_group, loss.device
        return _reduce.mean(float(loss), group, device), _reduce.mean(slope, group, device)

    def check_repeatable(self) -> None:
        """Evaluate ``t = 0`` once more and compare. One forward pass.

        Raises:
            NotRepeatableError: if the loss differs from the first evaluation.
        """
        again = self.value(0.0)
        if math.isnan(again) or agree(again, self.value0):
            return
        if self.closure.calls_backward is False and not self.closure.needs_graph:
            self.closure.needs_graph = True  # a loss may ask by itself whether there is a graph
            if agree(self.value(0.0), self.value0):
                return
            self.closure.needs_graph = False
        raise NotRepeatableError(NOT_REPEATABLE.format(first=self.value0, second=again))

    def commit(self, t: float) -> None:
        """End the visit at ``t`` instead of the start."""
        if t != 0.0 and self._left:
            self.copies.go_on(*self._along, self._place, t)
        else:
            self._move(t)
        self._left = False

    def _move(self, t: float) -> None:
        if t == 0.0:
            if self._left:
                self.copies.put_back()
        elif self._left:
            self.copies.put_moved(*self._along, t)
        else:
            self._left = True  # first, so that an interrupted move is undone as well
            self.copies.take(self.params)
            add_scaled(self.params, *self._along, t)
        self._place = t
