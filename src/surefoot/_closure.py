"""The user's closure: both conventions, every count, no trace in ``.grad``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from surefoot._heads import count_heads
from surefoot.outcome import Cost

__all__ = ["CLOSURE_HELP", "Closure"]

CLOSURE_HELP = """\
a line search evaluates the loss more than once a step, so step() needs a closure:

    def closure():
        return loss_fn(model(x), y)     # no zero_grad(), no backward(): the optimizer does both

    loss = optimizer.step(closure)
"""


class Closure:
    """Evaluates the user's closure and counts what that costs.

    The closure returns the loss. It may call ``backward()`` itself (the convention of torch's
    LBFGS, Lightning and Accelerate): that is noticed by the gradients it leaves, once a step.
    Such a closure runs its backward pass in every probe too, and the counter says so.
    """

    def __init__(
        self,
        closure: Callable[[], Any],
        params: Sequence[Tensor],
        scaler: Any = None,
        calls_backward: bool | None = None,
        *,
        counts_heads: bool = False,
    ) -> None:
        self._closure = closure
        self._params = params
        self._scaler = scaler
        self.calls_backward = calls_backward
        """Whether the closure computes gradients itself; None until it was seen."""
        self.cost = Cost()
        """What was spent so far."""
        self.heads = 1
        """How many heads the loss of :meth:`gradient` adds up, where they are counted."""
        self._counts_heads = counts_heads

    @property
    def gradient_scale(self) -> float:
        """What the gradients that :meth:`gradient` leaves are multiplied by."""
        return 1.0 if self._scaler is None else float(self._scaler.get_scale())

    def gradient(self) -> Tensor:
        """The loss, with the gradient left in ``.grad`` of every parameter."""
        for p in self._params:
            p.grad = None
        with torch.enable_grad():
            loss = self._closure()
        self.calls_backward = any(p.grad is not None for p in self._params)
        checked = _scalar(loss)
        if self._counts_heads:
            self.heads = count_heads(loss)
        self._count(backwards=1, probes=0)
        if self.calls_backward:
            if self._scaler is not None:
                raise RuntimeError(
                    "a closure that calls backward() cannot be combined with grad_scaler: let the "
                    "closure only return the unscaled loss; the optimizer scales and unscales"
                )
            return checked
        if not (isinstance(loss, Tensor) and loss.requires_grad):
            raise RuntimeError(
                "the closure's loss does not depend on any parameter of this optimizer, or was "
                "computed under no_grad: compute it from the model inside the closure"
            )
        with torch.enable_grad():  # the scaling is part of the graph
            (loss if self._scaler is None else self._scaler.scale(loss)).backward()
        return checked

    def value(self, *, probe: bool = True) -> Tensor:
        """The loss alone; ``.grad`` of every parameter is as before."""
        grads = [p.grad for p in self._params]
        # Out of the closure's reach: its zero_grad() would wipe, its backward() would overwrite
        # the very tensors that may be the direction we walk along.
        for p in self._params:
            p.grad = None
        try:
            # a closure whose convention is not yet known may call backward(), so it gets a graph
            with torch.set_grad_enabled(self.calls_backward is not False):
                loss = self._closure()
            if self.calls_backward is None:
                self.calls_backward = any(p.grad is not None for p in self._params)
        finally:
            for p, grad in zip(self._params, grads, strict=True):
                p.grad = grad
        self._count(backwards=int(self.calls_backward), probes=int(probe))
        return _scalar(loss)

    def _count(self, *, backwards: int, probes: int) -> None:
        self.cost = self.cost + Cost(1, backwards, probes)


def _scalar(loss: Any) -> Tensor:
    """The loss as a detached 0-dim tensor, or an error that says what came instead."""
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss.detach().reshape(())
    if isinstance(loss, float | int) and not isinstance(loss, bool):
        return torch.tensor(float(loss))
    came = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
    raise TypeError(f"the closure must return the loss as one number, but returned {came}")
