"""What evaluations of a loss share: a graph where one is needed, gradients aside, one number."""

from __future__ import annotations

import contextlib
import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")

OF_NO_PARAMETER = (
    "the closure's loss does not depend on any parameter of this optimizer, or was computed under "
    "no_grad: compute it from the model inside the closure"
)

UNMOVED = (
    "the loss is the same to the bit after the weights have moved: compute the model's output "
    "inside the closure, not before it"
)
NOT_REPEATABLE = (
    "the loss was {first!r} and then {second!r} for the same weights and the same random numbers, "
    "so a step size cannot be measured with it. Does the forward pass or the closure draw a new "
    "batch, or from a random generator of its own? Draw them before. Are its buffers out of "
    "reach? Pass the model to the optimizer. Does another process or thread train the "
    "same weights? Then none of them can measure"
)


class Graphless:
    """Evaluates without recording a graph, but with one where the loss differentiates inside.

    A loss that holds derivatives (of a physics-informed net, a gradient penalty, forces) cannot be
    evaluated under ``no_grad``: torch raises. Then it is evaluated again, with a graph that is
    thrown away, and so are all later ones.
    """

    def __init__(self, needs_graph: bool = False) -> None:
        self.needs_graph = needs_graph
        """Whether an evaluation was seen to need a graph."""

    def __call__(self, evaluate: Callable[[], T], rewind: Callable[[], None] | None = None) -> T:
        """What ``evaluate`` returns; ``rewind`` is called between a failed try and the next."""
        if not self.needs_graph:
            try:
                with torch.no_grad():
                    return evaluate()
            except Exception as error:
                if not _asks_for_graph(error):
                    raise
            if rewind is not None:
                rewind()
        with torch.enable_grad():
            found = evaluate()
        self.needs_graph = True  # only now: where the second try fails, too, it was something else
        return found


def is_compiled(modules: Iterable[nn.Module | None]) -> bool:
    """Whether ``torch.compile`` has compiled a module or a part of one."""
    parts = (part for module in modules if module is not None for part in module.modules())
    return any(part._compiled_call_impl is not None or hasattr(part, "_orig_mod") for part in parts)


@contextlib.contextmanager
def unsynchronized(modules: Iterable[nn.Module | None]) -> Iterator[None]:
    """Inside, no forward pass makes DistributedDataParallel expect a backward pass."""
    with contextlib.ExitStack() as stack:
        if dist.is_available() and dist.is_initialized():
            parts = {part for module in modules if module is not None for part in module.modules()}
            for part in parts:
                if isinstance(part, DistributedDataParallel):
                    stack.enter_context(part.no_sync())
        yield


def _asks_for_graph(error: Exception) -> bool:
    """Whether it may be raised because no graph is recorded, as torch's own errors say."""
    return isinstance(error, AssertionError) or "grad" in str(error)


@contextlib.contextmanager
def gradients_aside(params: Sequence[Tensor]) -> Iterator[None]:
    """Inside, no parameter has a gradient; afterwards each has its own again.

    Out of reach of a closure: its ``zero_grad()`` would wipe, its ``backward()`` would overwrite
    the very tensors that may be the direction that is walked along.
    """
    kept = [p.grad for p in params]
    for p in params:
        p.grad = None
    try:
        yield
    finally:
        for p, grad in zip(params, kept, strict=True):
            p.grad = grad


def scalar(loss: Any) -> Tensor:
    """The loss as a detached tensor without dimensions, or an error that says what came instead."""
    if isinstance(loss, Tensor) and loss.numel() == 1 and loss.is_floating_point():
        return loss.detach().reshape(())
    if isinstance(loss, numbers.Real) and not isinstance(loss, bool):
        return torch.tensor(float(loss))
    came = repr(loss)
    if isinstance(loss, Tensor):
        came = f"a tensor of shape {tuple(loss.shape)} and {loss.dtype}"
    raise TypeError(f"the closure must return the loss as one number, but returned {came}")


def agree(again: float, once: float, rounding: float = 0.0) -> bool:
    """Whether two evaluations at the same weights gave the same loss.

    On the CPU they are the same to the bit. A few ulp are forgiven for accelerators' kernels that
    add in another order each time, and for those chosen by whether a graph is recorded.
    """
    return math.isclose(again, once, rel_tol=max(1e-5, 16.0 * rounding), abs_tol=1e-12)
