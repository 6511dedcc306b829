"""BatchNorm's statistics at other weights than those that were trained with."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from surefoot.replay._state import Surroundings, no_trace, replaying

__all__ = ["FreshStatistics"]

_BATCHES = 16
"""Of the last batches, that the statistics are measured on."""


class FreshStatistics:
    """Measures running means and variances on the last batches, at the weights of the moment.

    Args:
        model: the model; nothing happens where it has no BatchNorm with running statistics.
    """

    def __init__(self, model: nn.Module | None) -> None:
        modules = () if model is None else model.modules()
        self._norms = [m for m in modules if isinstance(m, _BatchNorm) and m.track_running_stats]
        self._batches: deque[Any] = deque(maxlen=_BATCHES)
        self._kept: list[tuple[torch.Tensor, torch.Tensor]] | None = None

    @property
    def has_any(self) -> bool:
        """Whether there are statistics to measure."""
        return bool(self._norms)

    def saw(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Keep the inputs of a training pass."""
        if self._norms and torch.is_grad_enabled():
            devices = {p.device for p in module.parameters()}
            self._batches.append((module, args, kwargs, Surroundings.capture(devices)))

    def age(self) -> None:
        """The weights have moved: what was measured no longer holds."""
        self._kept = None

    @torch.no_grad()
    def show(self) -> None:
        """Put the statistics of the present weights into the model; measure them if need be."""
        if not self._norms or not self._batches:
            return
        if self._kept is None:
            self._kept = self._measure()
        for norm, (mean, var) in zip(self._norms, self._kept, strict=True):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(var)

    def _measure(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        modes = [(m, m.training) for m in self._batches[-1][0].modules()]
        momenta = [norm.momentum for norm in self._norms]
        first = self._batches[-1]
        with no_trace(first[3].devices, first[0], None), replaying():
            try:
                for norm in self._norms:
                    norm.reset_running_stats()
                    norm.momentum = None  # the plain mean over the batches
                for module, args, kwargs, surroundings in self._batches:
                    module.train()
                    with surroundings.again():
                        module(*args, **kwargs)
                return [
                    (norm.running_mean.clone(), norm.running_var.clone())  # type: ignore[union-attr]
                    for norm in self._norms
                ]
            finally:
                for norm, momentum in zip(self._norms, momenta, strict=True):
                    norm.momentum = momentum
                for module, mode in modes:
                    module.training = mode
