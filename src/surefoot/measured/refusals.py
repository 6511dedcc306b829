"""What MeasuredLR refuses at once, in a line that says why."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from surefoot._networks import check_belongs
from surefoot._numbers import kind_of
from surefoot._plain import first_group_of
from surefoot.measured import notices
from surefoot.measured.checkpoint import STATE
from surefoot.measured.wrapper import Wrapper
from surefoot.optim.base import LineSearchOptimizer

__all__ = ["check_base", "check_checkpoint", "check_model", "check_scaler", "check_sparse"]


# What schedulers, torch's and this library's wrappers add to a group.
_OF_SCHEDULES = {"initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum", "swa_lr"} | {
    *("param_names", "effective_lr", STATE)
}


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


def check_checkpoint(optimizer: Optimizer, state_dict: Any) -> None:
    """Refuse what another optimizer remembers, which would be noticed at a later step only.

    Settings come and go with versions of torch: what both lacks some and has others is another's.
    """
    found = first_group_of(state_dict).keys() - _OF_SCHEDULES - {"params"}
    known = optimizer.param_groups[0].keys() | optimizer.defaults.keys()
    strange, missing = sorted(found - known), sorted(optimizer.defaults.keys() - found)
    if strange and missing:
        raise ValueError(
            f"the checkpoint is of another optimizer than {type(optimizer).__name__}: it has "
            f"{', '.join(strange)}, but no {', '.join(missing)}"
        )


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
