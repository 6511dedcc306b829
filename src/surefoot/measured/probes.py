"""Losses at places on the line of a step that was taken."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch.distributed as dist
from torch import Tensor, nn

from surefoot import _reduce
from surefoot.measured.rate import BEYOND
from surefoot.outcome import Cost, Status, StepOutcome
from surefoot.replay import Loss
from surefoot.searches.least_squares import LeastSquaresSearch
from surefoot.taken_step import TakenStep

__all__ = ["Probes"]

_MAX_TRIES = 8


@dataclass
class Probes:
    """The line of a taken step, as a search asks for it; counts what it spends.

    Args:
        line: the step; ``t`` is its place there.
        loss: what is evaluated.
        value0: the loss at t = 0, averaged over the processes.
        model: whose gathered shards are stale once the weights have moved; None for none.
        params: that the step moves.
        scale: what their gradients were multiplied by since ``backward()``; None where unknown.

    Attributes:
        slope: derivative of the loss at the step's start, where the gradient tells it.
        slope0: the same, per unit of ``t``; None where it is to come from losses.
        direction_norm: the step's length.
        values: what was evaluated, by ``t``.
    """

    line: TakenStep
    loss: Loss
    value0: float
    model: nn.Module | None
    params: list[Tensor]
    scale: float | None
    slope: float | None = None
    slope0: float | None = None
    direction_norm: float = math.nan
    cost: Cost = field(default_factory=Cost)
    values: dict[float, float] = field(default_factory=dict)

    def look_at_step(self, grads: list[Tensor | None]) -> None:
        """Its length, and its slope unless the gradient is not the loss's own.

        Args:
            grads: the gradients before the step, whose end is not yet left.
        """
        slope, self.direction_norm = self.line.slope_and_length(grads)
        if self.scale is None:
            return
        after = self.loss.gradient.scale_since(self.params)  # some optimizers write into gradients
        if after is not None and math.isclose(after, self.scale, rel_tol=1e-4):
            if not _reduce.is_sharded(self.params):
                slope = _reduce.mean(slope, self.line.process_group, self.params[0].device)
            self.slope = slope / self.scale

    def value(self, t: float) -> float:
        """The loss at ``t``; what was evaluated once is known."""
        if t not in self.values:
            self.line.go_to(t)
            self.values[t] = self.evaluate()
        return self.values[t]

    def value_and_slope(self, t: float) -> tuple[float, float]:
        """No search that is used here asks for it."""
        raise NotImplementedError

    def evaluate(self) -> float:
        """The loss where the weights are now."""
        _reshard(self.model)
        try:
            value = self.loss.replay()
        finally:
            _reshard(self.model)
        self.cost = self.cost + Cost(1, int(self.loss.calls_backward), 1)
        return _reduce.mean(value, self.line.process_group, self.loss.value.device)

    def fit(self, places: tuple[float, ...]) -> StepOutcome:
        """The parabola through the losses at the places, its minimum."""
        return LeastSquaresSearch(places, BEYOND * max(places), self.loss.rounding)(self)

    @property
    def seen(self) -> tuple[float, ...]:
        """Where it was looked, and the loss was finite; all places if it was nowhere."""
        finite = tuple(t for t, value in self.values.items() if math.isfinite(value))
        return finite or tuple(self.values)

    def search(self, reach: float, most: float, *, keeps_end: bool) -> StepOutcome:
        """Follow the minimum from a first place until a probe lies near it.

        Args:
            reach: where to probe first.
            most: how far to look where the loss does not bend upwards.
            keeps_end: keep the line's end to the bit, not its start.
        """
        if keeps_end:
            self.value(1.0)  # before the end is what is kept: there it cannot be visited
            self.line.keep_end()
        for _ in range(_MAX_TRIES):
            found = self.fit((reach,) if self.slope0 is not None else (reach, 0.5 * reach))
            if (following := _follow(found, reach, most)) is None:
                break
            reach = following
        return found


def _follow(found: StepOutcome, reach: float, most: float) -> float | None:
    """Where to probe instead, if the place was far from the minimum; None if it was not."""
    if found.status is Status.NON_FINITE:
        return reach / 10.0
    if found.status is Status.FLAT:
        return reach * 10.0
    if found.status is Status.NOT_CONVEX:
        return min(reach * 4.0, most) if reach < most else None
    if found.status is Status.NOT_DESCENT or reach / 3.0 <= found.t <= reach * 3.0:
        return None
    return min(max(found.t, reach / 10.0), reach * 10.0)


def _reshard(model: nn.Module | None) -> None:
    """FSDP2 keeps the root's gathered weights: after a move they are another place's."""
    if model is None or not (dist.is_available() and dist.is_initialized()):
        return
    for module in model.modules():
        if hasattr(module, "reshard") and hasattr(module, "unshard"):
            module.reshard()  # type: ignore[operator]
