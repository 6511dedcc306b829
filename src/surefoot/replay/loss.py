"""What can be replayed: a loss, its value where it was computed, and its gradient's own scale."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from surefoot import _reduce
from surefoot._evaluation import Graphless, gradients_aside, is_compiled, scalar, unsynchronized
from surefoot._fresh_gradient import ROUGH, FreshGradient, version_of
from surefoot._quiet import Buffers, devices_of, undisturbed
from surefoot.replay._state import Surroundings, replaying


class ReplayError(RuntimeError):
    """The loss that was differentiated cannot be evaluated at other weights."""


def total(losses: Sequence[Tensor]) -> Tensor:
    """Their sum, in single precision where they have less; without a graph."""
    parts = [x.detach().reshape(()) for x in losses]
    return torch.stack([x.float() if x.dtype in ROUGH else x for x in parts]).sum()


class Loss(ABC):
    """A loss that was differentiated, and can be evaluated again.

    Args:
        model: whose buffers must be as before each time.
        params: the parameters that are trained, on the devices whose random numbers may be drawn.

    Attributes:
        values: what was differentiated, where it was computed; detached.
        backwards: backward passes since the last step, this one included.
        calls_backward: whether an evaluation differentiates, too.
        gradient: what the gradient was when it was fresh.
        graphless: evaluates without a graph, until one is seen to be needed.
    """

    backwards: int = 1
    calls_backward = False

    def __init__(self, model: nn.Module | None, params: Sequence[Tensor]) -> None:
        self._model, self._params = model, params
        self.values: list[Tensor] = []
        self.graphless, self.gradient = Graphless(), FreshGradient(params)
        self._before = Buffers(model).snapshot()
        self._surroundings = Surroundings.capture(devices_of(params))
        others = () if model is None else model.parameters()
        weights = {id(p): p for p in (*params, *others)}
        self._weights = [(p, version_of(p)) for p in weights.values()]

    @property
    def weights_have_moved(self) -> bool:
        """Whether another optimizer moved weights since the forward pass."""
        return any(version_of(p) != version for p, version in self._weights)

    @property
    def value(self) -> Tensor:
        """The loss where it was computed: the sum of what was differentiated."""
        return total(self.values)

    @property
    def dtype(self) -> torch.dtype:
        """The roughest of what was differentiated, which tells how well the loss is known."""
        return max((x.dtype for x in self.values), key=lambda each: torch.finfo(each).eps)

    @abstractmethod
    def problem(self) -> str | None:
        """Why it cannot be replayed, in one clause; None where it can."""

    @abstractmethod
    def _evaluate(self) -> Tensor:
        """The loss at the present weights."""

    def replay(self) -> float:
        """The loss at the present weights; leaves no trace in random states and buffers.

        Without a graph, unless the loss itself differentiates.
        """
        with undisturbed(self._model, self._surroundings.devices, self._before), replaying():
            return float(self._evaluate())

    def _without_graph(self, evaluate: Callable[[], Tensor]) -> Tensor:
        def rewind() -> None:
            self._surroundings.random.restore()
            self._before.restore()

        # without a graph a compiled model is another program, which rounds otherwise; FSDP2 would
        # await the backward pass
        if is_compiled(self._modules) and not _reduce.is_sharded([p for p, _ in self._weights]):
            self.graphless.needs_graph = True
        with unsynchronized(self._modules):
            return self.graphless(evaluate, rewind)

    @property
    def _modules(self) -> list[nn.Module | None]:
        """Whose forward passes are replayed."""
        return [self._model]

    @property
    def rounding(self) -> float:
        """Relative error below which differences of losses mean nothing: a few ulp."""
        return 4.0 * torch.finfo(self.dtype).eps

    @property
    def tolerance(self) -> float:
        """Relative error by which two evaluations at the same weights may differ.

        Their rounding; under autocast more, where a compiler is free to cast elsewhere.
        """
        low = [dtype for _, enabled, dtype in self._surroundings.autocast if enabled]
        return max(self.rounding, *(torch.finfo(dtype).eps / 128.0 for dtype in low), 0.0)


class Watched(Loss):
    """The loss that a function returns.

    Args:
        function: computes it from the present weights.
        params: the parameters.
        model: whose buffers must be as before each time.
    """

    def __init__(
        self, function: Callable[[], Any], params: Sequence[Tensor], model: nn.Module | None
    ) -> None:
        super().__init__(model, params)
        self._function = function

    def first(self) -> Any:
        """Run the function as it is meant to be run, and keep its loss."""
        with torch.enable_grad():
            loss = self._function()
        if loss is None:
            return None
        self.values = [scalar(loss)]
        if isinstance(loss, Tensor) and loss.requires_grad:
            self.gradient.watch(loss)
        return loss

    def with_backward(self, other: Loss | None) -> Watched:
        """The same, of a function that calls ``backward()``, whose gradient the other one saw."""
        self.calls_backward = True
        if other is not None:
            self.gradient = other.gradient
        return self

    def problem(self) -> str | None:
        """A function can always be called again."""
        return None

    def _evaluate(self) -> Tensor:
        with gradients_aside(self._params), self._surroundings.again():
            if not self.calls_backward:
                return self._without_graph(lambda: scalar(self._function()))
            with torch.enable_grad():
                return scalar(self._function())
