"""Who is told when the loop calls ``backward()``: a function in its place, while anybody listens.

A dispatch mode would see every operation of the backward pass as well, and take longer than all of
them on a small network; a hook has to know the loss beforehand.
"""

from __future__ import annotations

import functools
import math
import sys
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from surefoot._fresh_gradient import have_changed, marks
from surefoot.replay.loss import total

__all__ = ["Hearing", "Listener", "factor_of"]

_listeners: list[weakref.ref[Listener]] = []


class Listener(ABC):
    """Is told of the backward passes of its thread, from :meth:`listen` to :meth:`turn_away`."""

    _thread: int | None = None

    def listen(self) -> None:
        """Be told from here on."""
        if self._thread is None:
            _listeners.append(weakref.ref(self, _forget))
        self._thread = threading.get_ident()
        current = torch.autograd.backward
        if not hasattr(current, "tells"):
            torch.autograd.backward = _telling(current)

    def turn_away(self) -> None:
        """Be told no more."""
        if self._thread is not None:
            self._thread = None
            _forget(weakref.ref(self))

    @abstractmethod
    def begins(self, loss: Tensor) -> Callable[[], None]:
        """A backward pass begins at ``loss``, of one element; what to do at its end."""


def _forget(gone: weakref.ref[Listener]) -> None:
    """One listens no more; after the last, torch's own function is back in its place."""
    if sys.is_finalizing():
        return
    _listeners[:] = [each for each in _listeners if each is not gone and each() is not gone()]
    current = torch.autograd.backward
    if not _listeners and hasattr(current, "tells"):  # else somebody has put theirs around it
        torch.autograd.backward = current.tells


def _telling(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def backward(tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any) -> None:
        ends = []
        if _listeners and torch._C._current_graph_task_id() == -1:  # else a part of another one
            thread = threading.get_ident()
            told = [x for x in (each() for each in _listeners) if x is not None]
            losses = [tensors] if isinstance(tensors, Tensor) else [*tensors]
            given = [grad_tensors] if isinstance(grad_tensors, Tensor | None) else [*grad_tensors]
            given += [None] * len(losses)
            for loss, gradient in zip(losses, given, strict=False):
                if isinstance(loss, Tensor) and loss.numel() == 1 and gradient is None:
                    ends += [x.begins(loss) for x in told if x._thread == thread]
        original(tensors, grad_tensors, *args, **kwargs)
        for end in ends:
            end()

    dynamo = "torch._dynamo" in sys.modules
    run: Any = torch.compiler.disable(backward, recursive=False) if dynamo else backward
    run.tells = original
    return run  # type: ignore[no-any-return]


class Hearing(Listener):
    """The value of the loss that a loop differentiates, and nothing of how it was computed.

    Attributes:
        losses: that gave the parameters a gradient, without a scaler's factor; detached.
    """

    def __init__(self) -> None:
        self._params: Sequence[Tensor] = ()
        self.losses: list[Tensor] = []

    def start(self, params: Sequence[Tensor]) -> None:
        """Hear the next loss.

        Args:
            params: the parameters that are trained.
        """
        self._params, self.losses = params, []
        self.listen()

    def begins(self, loss: Tensor) -> Callable[[], None]:
        """Keep the loss if these parameters turn out to have a part in it."""
        before, factor, value = marks(self._params), factor_of(loss), loss.detach().clone()

        def end() -> None:
            if have_changed(before, self._params):
                self.losses.append(value if factor is None else value.float() / factor)

        return end

    def finish(self) -> float:
        """The sum of what was heard; NaN where nothing was."""
        self.turn_away()
        return float(total(self.losses)) if self.losses else math.nan


def factor_of(loss: Tensor) -> Tensor | None:
    """What a scaler has multiplied the loss by, which changes on the way."""
    node: Any = loss.grad_fn
    if loss.dim() > 0 or node is None or node.name() != "MulBackward0":
        return None
    factor: Tensor | None = node._saved_other
    is_scale = factor is not None and factor.dim() == 0 and factor.dtype is torch.float32
    return factor if is_scale and node.next_functions[1][0] is None else None
