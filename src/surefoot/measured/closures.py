"""A closure that was given to ``step()``: what is done in its stead, and what is measured of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from surefoot._evaluation import OF_NO_PARAMETER, agree
from surefoot.line import NotRepeatableError
from surefoot.measured import notices
from surefoot.replay import Loss, Tape, Watched

__all__ = ["check_repeatable", "differentiate", "replayable"]


def differentiate(loss: Any, params: Sequence[Tensor]) -> float:
    """Call ``backward()`` in the stead of a closure that only returned the loss; its value."""
    if not (isinstance(loss, Tensor) and loss.requires_grad):
        raise RuntimeError(OF_NO_PARAMETER)
    with torch.enable_grad():
        loss.backward()
    if all(p.grad is None for p in params):
        raise RuntimeError(OF_NO_PARAMETER)
    return float(loss.detach())


def replayable(watched: Watched | None, tape: Tape | None) -> Loss | None:
    """What to measure after a closure that differentiates: its tape, or the whole of it."""
    if watched is None or (tape is not None and tape.problem() is None):
        return tape
    watched.calls_backward = True
    if tape is not None:
        watched.gradient = tape.gradient
    return watched


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
    watched = Watched(closure, params, model)
    watched.calls_backward = calls_backward
    first, second = watched.replay(), watched.replay()
    if not (math.isnan(first) or agree(first, second)):
        raise NotRepeatableError(notices.NOT_REPEATABLE.format(first=first, second=second))
