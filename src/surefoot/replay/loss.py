"""What can be replayed: a loss, its value where it was computed, and its gradient's own scale."""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Variable

from surefoot._quiet import Buffers
from surefoot.replay._state import Surroundings, no_trace, replaying

__all__ = ["FreshGradient", "Loss", "ReplayError", "Watched", "scalar", "when_done"]


class ReplayError(RuntimeError):
    """The loss that was differentiated cannot be evaluated at other weights."""


class FreshGradient:
    """How large each gradient was when ``backward()`` ended, before anybody clipped or unscaled it.

    Args:
        params: the parameters.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self._params = params
        self._norms: list[Tensor | None] | None = None

    def watch(self, loss: Tensor) -> None:
        """Look when the backward pass that begins at ``loss`` ends."""
        when_done(loss, self._look)

    def _look(self) -> None:
        self._norms = [None if p.grad is None else _norm(p.grad) for p in self._params]

    def scale_since(self, params: Sequence[Tensor]) -> float | None:
        """What all gradients were multiplied by since then; None where that is no one number."""
        if self._norms is None:
            return None
        before = {id(p): n for p, n in zip(self._params, self._norms, strict=True)}
        pairs = [(_norm(p.grad), before.get(id(p))) for p in params if p.grad is not None]
        if any(was is None for _, was in pairs):
            return None
        ratios, largest = [], 0.0
        for now, was in pairs:
            assert was is not None
            if float(was) > 0.0:
                ratios.append((float(now) / float(was), float(was)))
                largest = max(largest, float(was))
        if not ratios:
            return None
        loud = [ratio for ratio, was in ratios if was > 1e-3 * largest]
        low, high = min(loud), max(loud)
        rough = any(p.dtype in (torch.float16, torch.bfloat16) for p in params)
        if not (
            low > 0.0 and math.isfinite(high) and high - low <= (2e-2 if rough else 1e-4) * high
        ):
            return None
        return 1.0 if low <= 1.0 <= high else 0.5 * (low + high)


def when_done(loss: Tensor, callback: Callable[[], None]) -> None:
    """Call back when the backward pass that begins at ``loss`` has ended."""
    queue = Variable._execution_engine.queue_callback
    # twice: DistributedDataParallel's own callback, which ends the exchange, comes before
    loss.register_hook(lambda _: queue(lambda: queue(callback)))


def _norm(grad: Tensor) -> Tensor:
    grad = getattr(grad, "_local_tensor", grad)  # a shard's own, of a DTensor
    rough = grad.dtype in (torch.float16, torch.bfloat16)
    return torch.linalg.vector_norm(  # type: ignore[no-any-return]
        grad.detach(), dtype=torch.float32 if rough else None
    )


class Loss(ABC):
    """A loss that was differentiated, and can be evaluated again.

    Attributes:
        backwards: backward passes since the last step, this one included.
        calls_backward: whether an evaluation differentiates, too.
        gradient: what the gradient was when it was fresh; None where nobody saw that.
    """

    backwards: int = 1
    calls_backward = False
    gradient: FreshGradient | None = None

    def __init__(self, model: nn.Module | None, params: Sequence[Tensor]) -> None:
        self._model = model
        self._needs_graph = False
        others = () if model is None else model.parameters()
        weights = {id(p): p for p in (*params, *others)}
        self._weights = [(p, p._version) for p in weights.values()]

    @property
    def weights_have_moved(self) -> bool:
        """Whether another optimizer moved weights since the forward pass."""
        return any(p._version != version for p, version in self._weights)

    @property
    @abstractmethod
    def value(self) -> Tensor:
        """The loss where it was computed, detached."""

    @abstractmethod
    def problem(self) -> str | None:
        """Why it cannot be replayed, in one clause; None where it can."""

    @abstractmethod
    def _evaluate(self) -> Tensor:
        """The loss at the present weights."""

    @property
    @abstractmethod
    def _start(self) -> tuple[Surroundings, Buffers | None]:
        """What to begin with."""

    def replay(self) -> float:
        """The loss at the present weights; leaves no trace in random states and buffers.

        Without a graph, unless the loss itself differentiates.
        """
        with self._again():
            return float(self._evaluate())

    @contextlib.contextmanager
    def _again(self) -> Iterator[None]:
        surroundings, before = self._start
        with no_trace(surroundings.devices, self._model, before), replaying():
            yield

    def _with_graph_if_needed(self, evaluate: Callable[[], Any]) -> Any:
        if not self._needs_graph:
            try:
                with torch.no_grad():
                    return evaluate()
            except RuntimeError as error:
                if "require" not in str(error) or "grad" not in str(error):
                    raise
                self._needs_graph = True
                surroundings, before = self._start
                surroundings.random.restore()
                if before is not None:
                    before.restore()
        with torch.enable_grad():
            return evaluate()


class Watched(Loss):
    """The loss that a function returns.

    Args:
        function: computes it from the present weights.
        params: the parameters.
        model: whose buffers must be as before each time.
        devices: whose random numbers it may draw.
    """

    def __init__(
        self,
        function: Callable[[], Any],
        params: Sequence[Tensor],
        model: nn.Module | None,
        devices: Sequence[torch.device],
    ) -> None:
        super().__init__(model, params)
        self._function, self._params = function, params
        self._before = Buffers(model).snapshot()
        self._surroundings = Surroundings.capture(devices)
        self.gradient = FreshGradient(params)
        self._value: Tensor | None = None

    def first(self) -> Any:
        """Run the function as it is meant to be run, and keep its loss."""
        with torch.enable_grad():
            loss = self._function()
        if loss is None:
            return None
        self._value = scalar(loss)
        if isinstance(loss, Tensor) and loss.requires_grad and self.gradient is not None:
            self.gradient.watch(loss)
        return loss

    @property
    def value(self) -> Tensor:
        """The loss where it was computed, detached."""
        assert self._value is not None
        return self._value

    def problem(self) -> str | None:
        """A function can always be called again."""
        return None

    @property
    def _start(self) -> tuple[Surroundings, Buffers | None]:
        return self._surroundings, self._before

    def _evaluate(self) -> Tensor:
        grads = [p.grad for p in self._params]
        for p in self._params:
            p.grad = None  # out of reach of the function's zero_grad() and backward()
        try:
            with self._surroundings.again():
                if self.calls_backward:
                    with torch.enable_grad():
                        return scalar(self._function())
                return scalar(self._with_graph_if_needed(self._function))
        finally:
            for p, grad in zip(self._params, grads, strict=True):
                p.grad = grad


def scalar(loss: Any) -> Tensor:
    """The loss as a detached tensor without dimensions, or an error that says what came instead."""
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss.detach().reshape(())
    if isinstance(loss, float | int) and not isinstance(loss, bool):
        return torch.tensor(float(loss))
    came = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
    raise TypeError(f"the closure must return the loss as one number, but returned {came}")
