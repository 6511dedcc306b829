"""The user's closure: both conventions, every count, no trace in ``.grad``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from torch import Tensor

from surefoot._evaluation import OF_NO_PARAMETER, Graphless, gradients_aside, scalar
from surefoot._fresh_gradient import FreshGradient
from surefoot._heads import count_heads
from surefoot.outcome import Cost

_HELP = """\
a line search evaluates the loss more than once a step, so step() needs a closure:

    def closure():
        return loss_fn(model(x), y)     # no zero_grad(), no backward(): the optimizer does both

    loss = optimizer.step(closure)
"""


@dataclass(eq=False)
class Closure:
    """Evaluates the user's closure and counts what that costs.

    The closure returns the loss. It may call ``backward()`` itself (the convention of torch's
    LBFGS, Lightning and Accelerate): that is noticed by the gradients it leaves, once a step.
    Such a closure runs its backward pass in every probe too, and the counter says so.

    Args:
        closure: the user's.
        params: of the optimizer.
        scaler: for fp16.
        calls_backward: whether it computes gradients itself; None until it was seen.
        needs_graph: whether its loss differentiates inside, so that it is not to be had under
            ``no_grad``.
        counts_heads: whether :meth:`gradient` counts the heads that the loss adds up.
        watches: whether :meth:`gradient` looks at what becomes of gradients in the closure.
        heads: how many those are.
        has_own_gradient: False if the closure was seen to change its gradients after
            ``backward()``, by clipping them, say.
        cost: what was spent so far.
    """

    closure: Callable[[], Any]
    params: Sequence[Tensor]
    scaler: Any = None
    calls_backward: bool | None = None
    _: KW_ONLY
    needs_graph: bool = False
    counts_heads: bool = False
    watches: bool = False
    heads: int = 1
    has_own_gradient: bool = True
    cost: Cost = field(default_factory=Cost)

    @property
    def gradient_scale(self) -> float:
        """What the gradients that :meth:`gradient` leaves are multiplied by."""
        return 1.0 if self.scaler is None else float(self.scaler.get_scale())

    def gradient(self) -> Tensor:
        """The loss, with the gradient left in ``.grad`` of every parameter."""
        for p in self.params:
            p.grad = None
        fresh = FreshGradient(self.params)
        watching = self.watches and self.calls_backward is not False
        with torch.enable_grad(), fresh.watching() if watching else nullcontext():
            loss = self.closure()
        found = [p for p in self.params if p.grad is not None]
        self.calls_backward = bool(found)
        if watching and found:
            self.has_own_gradient = fresh.scale_since(found) == 1.0
        checked = scalar(loss)
        if self.counts_heads:
            self.heads = count_heads(loss)
        self.cost = self.cost + Cost(1, 1, 0)
        if self.calls_backward:
            if self.scaler is not None:
                raise RuntimeError(
                    "a closure that calls backward() cannot be combined with grad_scaler: let the "
                    "closure only return the unscaled loss; the optimizer scales and unscales"
                )
            return checked
        if not isinstance(loss, Tensor):
            raise TypeError(
                f"the closure returned {loss!r}, a number without a gradient: return the loss as "
                "the tensor it is, without .item() or float()"
            )
        if not loss.requires_grad:
            raise RuntimeError(OF_NO_PARAMETER)
        with torch.enable_grad():  # the scaling is part of the graph
            (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        if all(p.grad is None for p in self.params):
            raise RuntimeError(OF_NO_PARAMETER)
        return checked

    def value(self, *, rewind: Callable[[], None] | None = None) -> Tensor:
        """The loss alone; ``.grad`` of every parameter is as before.

        Args:
            rewind: puts buffers and random state back, should the closure have to run again
                because it needs a graph.
        """
        tries = 1
        with gradients_aside(self.params):
            if self.calls_backward is False:
                graphless = Graphless(self.needs_graph)
                loss = graphless(self.closure, rewind)
                tries += graphless.needs_graph and not self.needs_graph  # the first one failed
                self.needs_graph = graphless.needs_graph
            else:  # may call backward() where its convention is not yet known: it gets a graph
                with torch.enable_grad():
                    loss = self.closure()
            if self.calls_backward is None:
                self.calls_backward = any(p.grad is not None for p in self.params)
        self.cost = self.cost + Cost(tries, int(self.calls_backward), tries)
        return scalar(loss)


def checked_closure(closure: Any) -> Callable[[], Any]:
    """Refuse what is no closure: most often nothing, or the loss itself."""
    if callable(closure):
        return closure  # type: ignore[no-any-return]
    got = "" if closure is None else f"step() got {type(closure).__name__} instead of a closure; "
    raise TypeError(got + _HELP)
