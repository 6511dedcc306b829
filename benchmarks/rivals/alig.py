"""ALI-G (Berrada, Zisserman, Kumar 2020): Polyak's step, as if the smallest loss were zero."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from pytorch_optimizer import AliG as PackagedAliG
from torch import Tensor


class AliG(PackagedAliG):  # type: ignore[misc]
    """ALI-G: the rate is loss / ||gradient||², at most `max_lr`.

    The package calls the closure without gradients and expects a number; here the closure may run
    the backward pass.

    Args:
        params: the parameters.
        max_lr: the largest rate, the paper's η; null for none.
        momentum: Nesterov's.
        adjusted_momentum: PyTorch's form of it.
    """

    wants_closure: ClassVar[str] = "backward"

    def __init__(
        self,
        params: Iterable[Any],
        max_lr: float | None = 0.1,
        momentum: float = 0.0,
        adjusted_momentum: bool = False,
    ) -> None:
        super().__init__(params, max_lr, momentum=momentum, adjusted_momentum=adjusted_momentum)

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """One step; the closure runs the backward pass."""
        with torch.enable_grad():
            loss = closure()
        value = float(loss.detach())
        super().step(lambda: value)
        for group in self.param_groups:
            group["effective_lr"] = group["step_size"]
        return loss
