"""What MeasuredLR refuses at once, in a line that says why."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from surefoot._networks import check_belongs
from surefoot._numbers import kind_of
from surefoot.measured import notices
from surefoot.measured.wrapper import Wrapper
from surefoot.optim.base import LineSearchOptimizer

__all__ = ["check_base", "check_model", "check_scaler", "check_sparse"]


def check_base(optimizer: Any) -> None:
    """Refuse what cannot be wrapped."""
    if isinstance(optimizer, LineSearchOptimizer | Wrapper):
        raise TypeError(f"{type(optimizer).__name__} measures its steps already")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"the first argument must be a torch optimizer, got {kind_of(optimizer)}: "
            "MeasuredLR(torch.optim.AdamW(model.parameters()), model)"
        )


def check_model(optimizer: Optimizer, model: Any) -> None:
    """The model must own what the optimizer trains."""
    if isinstance(model, torch.jit.RecursiveScriptModule):  # type: ignore[attr-defined]
        raise TypeError("a scripted model takes no hooks: train nn.Sequential(model) instead")
    check_belongs(optimizer, model)


def check_sparse(active: list[Tensor]) -> None:
    """Nothing is measured along sparse gradients."""
    if any(p.grad is not None and p.grad.is_sparse for p in active):
        raise RuntimeError(
            "MeasuredLR does not support sparse gradients: build the embedding with sparse=False"
        )


def check_scaler() -> None:
    """``scaler.step(optimizer, closure)`` would run the closure's backward pass unscaled."""
    frame = sys._getframe(2)
    for _ in range(12):  # torch's wrappers of step() are between
        scaler = frame.f_locals.get("self")
        if isinstance(scaler, torch.amp.GradScaler) and scaler.is_enabled():
            raise RuntimeError(notices.SCALER)
        if frame.f_back is None:
            return
        frame = frame.f_back
