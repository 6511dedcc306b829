"""A closure that was given to ``step()``: called once, and what it turned out to do."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from surefoot._evaluation import OF_NO_PARAMETER, agree
from surefoot._quiet import devices_of
from surefoot.line import NotRepeatableError
from surefoot.measured import notices
from surefoot.replay import Loss, Tape, Watched
from surefoot.replay.loss import have_changed, marks

__all__ = ["Called", "call", "check_repeatable"]


@dataclass(frozen=True)
class Called:
    """A closure after its call.

    Args:
        loss: what it returned; None from Lightning's manual optimization or a batch left out.
        differentiates: whether it called ``backward()``.
        watched: the closure, to be run again, on steps that measure.
    """

    loss: Any
    differentiates: bool
    watched: Watched | None

    def differentiate(self, params: Sequence[Tensor]) -> float:
        """Call ``backward()`` in its stead; the loss."""
        if not (isinstance(self.loss, Tensor) and self.loss.requires_grad):
            raise RuntimeError(OF_NO_PARAMETER)
        with torch.enable_grad():
            self.loss.backward()
        if all(p.grad is None for p in params):
            raise RuntimeError(OF_NO_PARAMETER)
        return float(self.loss.detach())

    def replayable(self, tape: Tape | None) -> Loss | None:
        """What to measure after a closure that differentiates: its tape, or the whole of it."""
        if self.watched is None or (tape is not None and tape.problem() is None):
            return tape
        self.watched.calls_backward = True
        if tape is not None:
            self.watched.gradient = tape.gradient
        return self.watched


def call(closure: Callable[[], Any], params: Sequence[Tensor], watched: Watched | None) -> Called:
    """Call the closure, through ``watched`` on steps that measure."""
    before = marks(params)
    if watched is not None:
        loss = watched.first()
    else:
        with torch.enable_grad():
            loss = closure()
    return Called(loss, have_changed(before, params), watched)


def check_repeatable(
    closure: Callable[[], Any],
    params: Sequence[Tensor],
    model: nn.Module | None,
    calls_backward: bool,
) -> None:
    """Evaluate a loss twice and compare. Leaves no trace.

    Raises:
        NotRepeatableError: if the losses differ.
    """
    watched = Watched(closure, params, model, devices_of(params))
    watched.calls_backward = calls_backward
    first, second = watched.replay(), watched.replay()
    if not (math.isnan(first) or agree(first, second)):
        raise NotRepeatableError(notices.NOT_REPEATABLE.format(first=first, second=second))
