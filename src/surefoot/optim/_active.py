"""The parameters that a step moves, and their gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surefoot import _params


@dataclass
class Active:
    """The parameters that have a gradient now, in the order of the groups."""

    params: list[Tensor]
    grads: list[Tensor]
    ratios: list[float]
    """Each parameter's group ``lr`` over the largest one: how fast it moves on the line."""

    @property
    def ones(self) -> list[float]:
        """A weight of 1 for each parameter."""
        return [1.0] * len(self.params)

    @property
    def is_finite(self) -> bool:
        """Whether the gradient is."""
        return math.isfinite(_params.norm_sq(self.grads, self.ratios))

    def memory(self, state: dict[Tensor, Any], key: str) -> list[Tensor]:
        """A tensor like each parameter from the optimizer's state, zeros where there is none."""
        for p in self.params:
            if key not in state[p]:
                state[p][key] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return [state[p][key] for p in self.params]
