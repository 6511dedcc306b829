"""One optimizer step, whatever the optimizer wants to be given, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

import surefoot
from surefoot_lab.data.loader import Batch
from surefoot_lab.errors import UserError
from surefoot_lab.training.processes import Team

Mode = Literal["none", "forward", "backward"]


def effective_lr(optimizer: torch.optim.Optimizer) -> float | list[float | None] | None:
    """The learning rate that was really applied last: one number, or one for each group.

    Optimizers that measure publish it as `effective_lr`; Prodigy and its kin, measured or not,
    multiply it by their own estimate `d`. None for an optimizer that does not say.
    """
    rates: list[float | None] = []
    for group in optimizer.param_groups:
        rate = group.get("effective_lr", group.get("lr"))
        scale = float(group.get("d", 1.0))
        rates.append(None if rate is None else float(rate) * scale)
    return rates[0] if len(rates) == 1 else rates


def measures(optimizer: Any) -> bool:
    """Whether the optimizer evaluates the loss to find its steps, and tells what that cost."""
    return isinstance(optimizer, surefoot.LineSearchOptimizer | surefoot.MeasuredLR)


def closure_mode(optimizer: torch.optim.Optimizer, wanted: str) -> Mode:
    """What `optimizer.step` is to be given: `wanted`, or for `auto` what the optimizer needs.

    Raises:
        UserError: the optimizer cannot do without a closure.
    """
    if wanted == "none" and isinstance(optimizer, surefoot.LineSearchOptimizer | torch.optim.LBFGS):
        name = type(optimizer).__name__
        raise UserError(f"train.closure: {name} cannot step without one; use auto")
    if wanted != "auto":
        return cast(Mode, wanted)
    if measures(optimizer):
        return "forward"
    if getattr(optimizer, "wants_closure", None) == "backward":  # an adapted rival says so
        return "backward"
    return "backward" if isinstance(optimizer, torch.optim.LBFGS) else "none"


@dataclass(eq=False)
class Stepper:
    """Take steps and count the passes through the network.

    Attributes:
        model: the network, in training mode.
        loss_function: of the network's outputs and labels.
        optimizer: what steps.
        mode: what `optimizer.step` is given.
        backward: runs the backward pass of a loss (accelerate's).
        team: the processes that share each batch.
        accumulate: pieces that this process's share is cut into, to save memory.
    """

    model: nn.Module
    loss_function: Callable[[Any, Tensor], Tensor]
    optimizer: Any
    mode: Mode
    backward: Callable[[Tensor], None]
    team: Team = field(default_factory=Team)
    accumulate: int = 1
    _forwards: int = field(default=0, init=False)
    _backwards: int = field(default=0, init=False)

    @property
    def cost(self) -> tuple[int, int]:
        """Forward and backward passes since the start of training."""
        if measures(self.optimizer):
            return self.optimizer.cost.forwards, self.optimizer.cost.backwards
        return self._forwards, self._backwards

    def state_dict(self) -> dict[str, int]:
        """The counters."""
        return {"forwards": self._forwards, "backwards": self._backwards}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on counting from saved counters."""
        self._forwards = state["forwards"]
        self._backwards = state["backwards"]

    def step(self, batch: Batch) -> Tensor:
        """Take one step; return the loss of this process's share before it, detached.

        Args:
            batch: the batch of all processes, drawn alike by each.
        """
        pieces = [batch]
        if self.team.size > 1 or self.accumulate > 1:
            pieces = self.team.share(batch, self.accumulate)  # type: ignore[assignment]
        if self.mode == "none":
            self.optimizer.zero_grad()
            loss = self._gradient(pieces)
            self.optimizer.step()
            return loss
        losses: list[Tensor] = []

        def closure(backwards: bool = True) -> Tensor:  # SaLSa asks for `backwards` by name
            if self.mode == "backward":
                loss = self._foreign(pieces, backwards)
            else:
                loss = self._forward_only(pieces)
            if not losses:
                losses.append(loss.detach())
            return loss

        self.optimizer.step(closure)
        return losses[0]

    def _forward_only(self, pieces: list[Batch]) -> Tensor:
        """The loss, whose backward pass whoever asked for it runs."""
        if len(pieces) == 1 or not torch.is_grad_enabled():
            return self._pass(pieces)
        # All pieces' graphs at once would need the memory that the cutting is to save: so the
        # backward passes are run here, and their sum is handed out when it is asked for.
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        kept = [p.grad for p in params]
        for p in params:
            p.grad = None
        try:
            loss = self._gradient(pieces)
            grads = [p.grad for p in params]
        finally:
            for p, grad in zip(params, kept, strict=True):
                p.grad = grad
        return _Ready.apply(loss, grads, *params)  # type: ignore[no-any-return]

    def _foreign(self, pieces: list[Batch], backwards: bool) -> Tensor:
        """The loss, its gradient left in `.grad`, for optimizers that know of no processes."""
        if backwards and torch.is_grad_enabled():
            self.optimizer.zero_grad()
            loss = self._gradient(pieces) if len(pieces) > 1 else self._pass(pieces)
            if len(pieces) == 1:
                self.backward(loss)
        else:
            loss = self._pass(pieces)
        if self.team.size == 1:
            return loss
        # An optimizer that decides by its own share's loss would part from the other ranks.
        return loss + (self.team.mean(loss) - loss).detach()

    def _gradient(self, pieces: list[Batch]) -> Tensor:
        """Forward and backward, piece by piece; the mean loss, detached."""
        total: Tensor | float = 0.0
        for place, piece in enumerate(pieces):
            last = place == len(pieces) - 1
            exchanges = last or self.team.size == 1  # once, with the last piece
            with nullcontext() if exchanges else self.model.no_sync():  # type: ignore[operator]
                loss = self._forward(piece, counted=last) / len(pieces)
                self.backward(loss)
            total = total + loss.detach()
        return total  # type: ignore[return-value]

    def _pass(self, pieces: list[Batch]) -> Tensor:
        losses = [
            self._forward(piece, counted=place == len(pieces) - 1)
            for place, piece in enumerate(pieces)
        ]
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()

    def _forward(self, batch: Batch, *, counted: bool) -> Tensor:
        """The loss of one piece; a whole batch, all its pieces, counts as one pass."""
        images, labels = batch
        loss = self.loss_function(self.model(images), labels)
        self._forwards += counted
        if counted and loss.requires_grad:  # whoever runs the backward pass, it is counted
            loss.register_hook(self._count_backward)  # type: ignore[no-untyped-call]
        return loss

    def _count_backward(self, _: Tensor) -> None:
        self._backwards += 1


class _Ready(torch.autograd.Function):
    """A loss whose gradient was computed before."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, grads: list[Tensor | None], *params: Tensor) -> Tensor:
        """Keep the gradients for `backward`."""
        ctx.grads = grads
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> Any:
        """Hand them out."""
        return None, None, *(None if g is None else g * scale for g in ctx.grads)
