"""BatchNorm's statistics at other weights than those that were trained with."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from surefoot import _params
from surefoot._quiet import undisturbed
from surefoot.replay._state import Surroundings, replaying

__all__ = ["FreshStatistics"]

_BATCHES = 16
"""Of the last batches, that the statistics are measured on."""
AT_ONCE, SOON = 1 / 64, 1 / 16
"""Share of the steps so far for which they hold: the average moves the less the longer it is. Files
are content with more, because there are loops that make one at every step."""


class FreshStatistics:
    """Measures running means and variances on the last batches, at the weights of the moment.

    Args:
        model: the model; nothing happens where it has no BatchNorm with running statistics.
    """

    def __init__(self, model: nn.Module | None) -> None:
        modules = () if model is None else model.modules()
        self._norms = [m for m in modules if isinstance(m, _BatchNorm) and m.track_running_stats]
        self._batches: deque[Any] = deque(maxlen=_BATCHES)
        self._kept: list[dict[str, Tensor]] | None = None
        self._own: list[dict[str, Tensor]] | None = None
        self._steps = self._age = 0
        self.has_any = bool(self._norms)
        """Whether there are statistics to measure."""

    def saw(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Keep the inputs of a training pass."""
        if self._norms and torch.is_grad_enabled():
            devices = {p.device for p in module.parameters()}
            self._batches.append((module, args, kwargs, Surroundings.capture(devices)))

    def age(self) -> None:
        """The weights have moved: what was measured will not hold for long."""
        self._steps, self._age = self._steps + 1, self._age + 1

    def show(self, holds: float = AT_ONCE) -> None:
        """Give the model the statistics of the present weights, measured if need be.

        Buffers change places, so a graph that was built before lives on.

        Args:
            holds: share of the steps so far for which measured ones hold.
        """
        if self._norms and self._batches and self._own is None:
            if self._kept is None or self._age > holds * self._steps:
                self._kept, self._age = self._measure(), 0
            self._own = self._exchange(self._kept)

    def hide(self) -> None:
        """Give it back its own."""
        if self._own is not None:
            self._exchange(self._own)
            self._own = None

    def loaded(self) -> None:
        """Others were loaded into the model, which are its own from here on."""
        if self._own is not None:
            for own, others in zip(self._own, self._exchange(self._own), strict=True):
                _params.assign([*own.values()], [others[name] for name in own])
            self._own = None
        self._batches.clear()
        self._kept = None

    def _present(self) -> list[dict[str, Tensor]]:
        """By layer, the buffers that it has now."""
        return [{k: b for k, b in m._buffers.items() if b is not None} for m in self._norms]

    def _exchange(self, statistics: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        own = self._present()
        for norm, others in zip(self._norms, statistics, strict=True):
            norm._buffers.update(others)
        return own

    @torch.no_grad()
    def _measure(self) -> list[dict[str, Tensor]]:
        module, _, _, surroundings = self._batches[-1]
        settings: list[tuple[nn.Module, str, Any]] = [
            *((m, "training", m.training) for m in module.modules()),
            *((norm, "momentum", norm.momentum) for norm in self._norms),
        ]
        blank = [{k: torch.zeros_like(b) for k, b in own.items()} for own in self._present()]
        before = [(b, b._version, b.clone()) for b in module.buffers()]
        with undisturbed(None, surroundings.devices), replaying():
            own = self._exchange(blank)
            try:
                for norm in self._norms:
                    norm.momentum = None  # the plain mean over the batches
                module.train()
                for called, args, kwargs, then in self._batches:
                    with then.again():
                        called(*args, **kwargs)
            finally:
                self._exchange(own)
                for owner, name, value in settings:
                    setattr(owner, name, value)
        for b, version, content in before:
            if b._version != version:
                _params.assign([b], [content])
        return blank
