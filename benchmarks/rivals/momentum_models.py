"""MoMo and MoMo-Adam (Schaipp, Ohana, Eickenberg, Defazio, Gower 2023): they need the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import momo
import torch
from torch import Tensor

from benchmarks.rivals.remember import Remembers, fill_missing_gradients, parameters_of


class Momo(Remembers, momo.Momo):  # type: ignore[misc]  # its package has no types
    """MoMo. Its step is min(lr, what the averaged loss and its lower bound allow).

    Arguments are the package's. The step that was taken is in the group as `effective_lr`.
    """

    wants_closure: ClassVar[str] = "backward"
    remembered: ClassVar[tuple[str, ...]] = ("_number_steps", "loss_avg", "lb")

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """One step; the closure runs the backward pass."""
        with torch.enable_grad():
            loss = closure()
        fill_missing_gradients(self)
        watched = min(parameters_of(self), key=torch.Tensor.numel)
        before = watched.detach().clone()
        super().step(loss=loss.detach())
        self._publish(watched, before)
        return loss

    def _publish(self, watched: Tensor, before: Tensor) -> None:
        """What the package does not tell: it moved by minus tau times the averaged gradient."""
        group = self.param_groups[0]
        average = self.state[watched]["grad_avg"]
        moved = before - watched.detach() * (1 + group["lr"] * group["weight_decay"])
        square = float((average * average).sum())
        group["effective_lr"] = float((moved * average).sum()) / square if square else None


class MomoAdam(Remembers, momo.MomoAdam):  # type: ignore[misc]
    """MoMo with Adam's preconditioner. Arguments are the package's.

    Its step multiplies a preconditioned gradient and is not told: `effective_lr` is None.
    """

    wants_closure: ClassVar[str] = "backward"
    remembered: ClassVar[tuple[str, ...]] = ("_number_steps", "loss_avg", "lb")

    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, **settings)
        for group in self.param_groups:
            group["effective_lr"] = None
