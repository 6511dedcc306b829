"""One optimizer step, whatever the optimizer wants to be given, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

import surefoot
from surefoot_lab.data.loader import Batch

Mode = Literal["none", "forward", "backward"]


def effective_lr(optimizer: torch.optim.Optimizer) -> float | list[float | None] | None:
    """The learning rate that was really applied last: one number, or one for each group.

    Line-search optimizers publish it as `effective_lr`; Prodigy and its kin multiply `lr` by
    their own estimate `d`. None for an optimizer that does not say.
    """
    rates: list[float | None] = []
    for group in optimizer.param_groups:
        rate = group.get("effective_lr", group.get("lr"))
        scale = 1.0 if "effective_lr" in group else float(group.get("d", 1.0))
        rates.append(None if rate is None else float(rate) * scale)
    return rates[0] if len(rates) == 1 else rates


def closure_mode(optimizer: torch.optim.Optimizer, wanted: str) -> Mode:
    """What `optimizer.step` is to be given: `wanted`, or for `auto` what the optimizer needs."""
    if wanted == "none" or wanted == "forward" or wanted == "backward":
        return wanted  # type: ignore[return-value]
    if isinstance(optimizer, surefoot.LineSearchOptimizer):
        return "forward"
    return "backward" if isinstance(optimizer, torch.optim.LBFGS) else "none"


class Stepper:
    """Take steps and count the passes through the network.

    Args:
        model: the network, in training mode.
        loss_function: of class scores and labels.
        optimizer: what steps.
        mode: what `optimizer.step` is given.
        backward: runs the backward pass of a loss (accelerate's).
    """

    def __init__(
        self,
        model: nn.Module,
        loss_function: Callable[[Tensor, Tensor], Tensor],
        optimizer: torch.optim.Optimizer,
        mode: Mode,
        backward: Callable[[Tensor], None],
    ) -> None:
        self._model = model
        self._loss_function = loss_function
        self._optimizer: Any = optimizer
        self._mode = mode
        self._backward = backward
        self._forwards = 0
        self._backwards = 0

    @property
    def cost(self) -> tuple[int, int]:
        """Forward and backward passes since the start of training."""
        if isinstance(self._optimizer, surefoot.LineSearchOptimizer):
            return self._optimizer.cost.forwards, self._optimizer.cost.backwards
        return self._forwards, self._backwards

    def state_dict(self) -> dict[str, int]:
        """The counters."""
        return {"forwards": self._forwards, "backwards": self._backwards}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on counting from saved counters."""
        self._forwards = state["forwards"]
        self._backwards = state["backwards"]

    def step(self, batch: Batch) -> Tensor:
        """Take one step; return the loss of the batch before it, detached."""
        if self._mode == "none":
            loss = self._forward(batch)
            self._optimizer.zero_grad()
            self._backward(loss)
            self._optimizer.step()
            return loss.detach()
        losses: list[Tensor] = []

        def closure(backwards: bool = True) -> Tensor:  # SaLSa asks for `backwards` by name
            loss = self._forward(batch)
            if not losses:
                losses.append(loss.detach())
            if self._mode == "backward" and backwards and loss.requires_grad:
                self._optimizer.zero_grad()
                self._backward(loss)
            return loss

        self._optimizer.step(closure)
        return losses[0]

    def _forward(self, batch: Batch) -> Tensor:
        images, labels = batch
        loss = self._loss_function(self._model(images), labels)
        self._forwards += 1
        if loss.requires_grad:  # whoever runs the backward pass, it is counted
            loss.register_hook(self._count_backward)  # type: ignore[no-untyped-call]
        return loss

    def _count_backward(self, _: Tensor) -> None:
        self._backwards += 1
