"""What the adapted optimizers share: state their packages forget, gradients that are missing."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor


class Remembers:
    """Puts attributes into `state_dict` that are state but are kept elsewhere.

    A class lists their names in `remembered`; they may be tensors, numbers, or not there yet.
    """

    remembered: ClassVar[tuple[str, ...]] = ()

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state and the remembered attributes."""
        state: dict[str, Any] = super().state_dict()  # type: ignore[misc]
        values = {name: getattr(self, name) for name in self.remembered if hasattr(self, name)}
        return {**state, "remembered": {name: _copied(value) for name, value in values.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put all back, tensors on the parameters' device."""
        own = {name: value for name, value in state_dict.items() if name != "remembered"}
        super().load_state_dict(own)  # type: ignore[misc]
        device = self.param_groups[0]["params"][0].device  # type: ignore[attr-defined]
        for name, value in state_dict["remembered"].items():
            moved = value.to(device, copy=True) if isinstance(value, Tensor) else value
            setattr(self, name, moved)


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The parameters of all groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def fill_missing_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Zeros where a parameter took no part in the loss, for optimizers that expect a gradient."""
    for parameter in parameters_of(optimizer):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
