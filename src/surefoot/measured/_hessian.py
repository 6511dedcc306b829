"""Exact curvature along a direction: one Hessian-vector product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from surefoot._closure import Closure
from surefoot.directions import Direction
from surefoot.outcome import Cost

__all__ = ["curvature_along"]


def curvature_along(
    closure: Callable[[], Any], params: list[Tensor], direction: Direction, call: Closure
) -> float:
    """dᵀH d at the present weights; one forward and two backward passes, which are counted.

    Raises:
        RuntimeError: if the closure calls ``backward()`` itself, which frees what is needed.
    """
    if call.calls_backward:
        raise RuntimeError(
            'curvature="hessian" needs a closure that only returns the loss, without backward()'
        )
    with torch.enable_grad():
        loss = closure()
        grads = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
        parts = [
            weight * (grad * d).sum()
            for grad, d, weight in zip(grads, direction.tensors, direction.weights, strict=True)
            if grad is not None and grad.requires_grad
        ]
        call.cost = call.cost + Cost(1, 2, 1)
        if not parts:
            return 0.0  # a loss that is linear in the weights
        products = torch.autograd.grad(torch.stack(parts).sum(), params, allow_unused=True)
    dots = [
        weight * (hd * d).sum().double()
        for hd, d, weight in zip(products, direction.tensors, direction.weights, strict=True)
        if hd is not None
    ]
    return float(torch.stack(dots).sum()) if dots else 0.0
