"""Everything that can be wrong with a range test, found before its first batch."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from surefoot._batches import length_of
from surefoot._networks import check_belongs
from surefoot._no_trace import unwrapped
from surefoot._numbers import check_callable, check_number, kind_of
from surefoot.lr_range.ramp import check_rates


def check_inputs(
    model: Any, optimizer: Any, loaders: dict[str, Any], functions: dict[str, Any], scaler: Any
) -> None:
    """Raise a TypeError or ValueError that names the culprit and the remedy."""
    given = {name for name, value in functions.items() if value is not None}
    if not isinstance(model, nn.Module) and not (model is None and "step_fn" in given):
        raise TypeError(f"model must be a torch.nn.Module, got {kind_of(model)}")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {kind_of(optimizer)}")
    for name, value in functions.items():
        check_callable(name, value)
    if scaler is not None and not hasattr(scaler, "unscale_"):
        raise TypeError(f"grad_scaler must be a torch.amp.GradScaler, got {kind_of(scaler)}")
    if {"loss_fn", "step_fn"} <= given:
        raise ValueError("pass loss_fn or step_fn, not both")
    for name, loader in loaders.items():
        if loader is not None or name == "loader":
            _check_loader(name, loader)
    _check_optimizer(optimizer)
    if model is not None:
        _check_model(model)
        check_belongs(optimizer, model)


def _check_loader(name: str, loader: Any) -> None:
    if not isinstance(loader, Iterable):
        raise TypeError(f"{name} must be an iterable of batches, got {type(loader).__name__}")
    if name == "val_loader" and isinstance(loader, Iterator):
        raise TypeError("val_loader is an iterator, which can be read only once; pass the iterable")
    if length_of(loader) == 0:
        raise ValueError(f"{name} is empty: it has no batches")


# told by name: arrows between the packages of the library do not point sideways
_MEASURING = {
    "LineSearchOptimizer": "{} measures its own step: its lr multiplies that step, so there "
    "is no learning rate to look for",
    "MeasuredLR": "{} measures the learning rate itself, so there is none to look for; to test the "
    "optimizer it wraps, pass that one",
}


def _check_optimizer(optimizer: Optimizer) -> None:
    for wrapped in unwrapped(optimizer):
        for cls in type(wrapped).__mro__:
            if cls.__module__.startswith("surefoot.") and cls.__name__ in _MEASURING:
                raise TypeError(_MEASURING[cls.__name__].format(type(wrapped).__name__))
        closure = inspect.signature(wrapped.step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise TypeError(
                f"{type(wrapped).__name__}.step() needs a closure; a range test works for "
                "optimizers whose step() does not"
            )
    if not optimizer.param_groups:
        raise ValueError("the optimizer has no param groups")
    check_rates(unwrapped(optimizer)[-1])
    if not any(p.requires_grad for group in optimizer.param_groups for p in group["params"]):
        raise ValueError("no parameter of the optimizer requires a gradient: nothing would train")


def _check_model(model: nn.Module) -> None:
    if not model.training:
        raise ValueError(
            "the model is in evaluation mode, and the test would not see what training does; "
            "call model.train() first (submodules may stay in evaluation mode)"
        )
    if any(is_lazy(p) for p in model.parameters()):
        raise ValueError("the model has uninitialized lazy parameters; run one batch through it")


def check_settings(diverge_threshold: float | None, val_loader: Any, val_share: float) -> None:
    """Raise a ValueError that names the setting and what it may be."""
    if diverge_threshold is not None:  # None never stops
        check_number("diverge_threshold", diverge_threshold, at_least=0.0, above=True)
    if val_loader is not None:
        check_number("val_share", val_share, at_least=0.0, above=True)
        if val_share > 1.0:
            raise ValueError(f"val_share must lie in (0, 1], got {val_share!r}")


def iterations(num_iter: int | None, epochs: float | None, loader: Any, accumulation: int) -> int:
    """The number of iterations, from itself or from a number of epochs; 100 if neither is given."""
    if epochs is None:
        return 100 if num_iter is None else num_iter
    epochs = check_number("epochs", epochs, at_least=0.0, above=True)
    if num_iter is not None:
        raise ValueError("pass num_iter or epochs, not both")
    length = length_of(loader)
    if length is None:
        raise ValueError("epochs needs a loader with a length; pass num_iter instead")
    return max(2, round(epochs * length / accumulation))
