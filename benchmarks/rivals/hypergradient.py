"""SGD whose learning rate goes downhill too (Baydin et al. 2018, Online Learning Rate Adaptation
with Hypergradient Descent), written here because no kept package has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class SGDHD(torch.optim.Optimizer):
    r"""SGD with hypergradient descent, with Nesterov's momentum if asked for (SGD-HD, SGDN-HD).

    With gradients g and update direction d = -∂(step)/∂α of the step before,

        α_t = α_{t-1} + β · g_t · d_{t-1},   v_t = μ v_{t-1} + g_t,
        d_t = g_t + μ v_t,                   θ_{t+1} = θ_t - α_t d_t.

    The rate of each group is its `lr`, so that a log sees it; a scheduler would overwrite it. It
    may become negative, as in the paper.

    Args:
        params: parameters or groups.
        lr: α_0, the rate to begin with.
        hypergrad_lr: β, how fast the rate moves.
        momentum: μ, of Nesterov; 0 is SGD-HD.
        weight_decay: added to the gradient.

    Example:
        >>> weight = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = SGDHD([weight], lr=0.1, hypergrad_lr=0.01)
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     (weight**2).sum().backward()
        ...     optimizer.step()
        >>> round(optimizer.param_groups[0]["lr"], 6)  # 0.1 + 0.01 * 1.6 * 2.0
        0.132
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        hypergrad_lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        for name, value in (("lr", lr), ("hypergrad_lr", hypergrad_lr), ("momentum", momentum)):
            if value < 0:
                raise ValueError(f"{name} must not be negative, but it is {value}")
        defaults = {
            **{"lr": lr, "hypergrad_lr": hypergrad_lr},
            **{"momentum": momentum, "weight_decay": weight_decay},
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One step of the rates, then of the weights."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            used = [p for p in group["params"] if p.grad is not None]
            grads = [p.grad.add(p, alpha=group["weight_decay"]) for p in used]
            # eq. (5): minus the derivative of this loss by the rate of the step before
            slope = sum(
                float((grad * self.state[p]["direction"]).sum())
                for p, grad in zip(used, grads, strict=True)
                if "direction" in self.state[p]
            )
            group["lr"] += group["hypergrad_lr"] * slope  # eq. (6), additive form
            for p, grad in zip(used, grads, strict=True):
                p.sub_(self._direction(p, grad, group["momentum"]), alpha=group["lr"])
        return loss

    def _direction(self, p: Tensor, grad: Tensor, momentum: float) -> Tensor:
        """Nesterov's direction in the form of torch.optim.SGD, kept for the next step."""
        state = self.state[p]
        direction = grad
        if momentum:
            velocity = state.get("velocity")
            state["velocity"] = grad.clone() if velocity is None else velocity * momentum + grad
            direction = grad + momentum * state["velocity"]
        state["direction"] = direction.clone()
        return direction
