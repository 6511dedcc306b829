"""Measured optimizers built from parameters alone, for trainers that name a class by its path."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from surefoot._numbers import kind_of
from surefoot.measured.optimizer import MeasuredLR

__all__ = ["MeasuredAdamW", "MeasuredMuon", "MeasuredSGD"]

_OWN = frozenset(inspect.signature(MeasuredLR.__init__).parameters) - {"self", "optimizer"}


class _Named(MeasuredLR):
    """Splits keywords between :class:`surefoot.MeasuredLR` and the optimizer that it wraps."""

    _build: Callable[..., Optimizer]

    def __init__(self, params: Iterable[Any], lr: float | None = None, **settings: Any) -> None:
        if isinstance(params, nn.Module | Optimizer | type) or not isinstance(params, Iterable):
            name = type(self).__name__
            raise TypeError(f"use {name}(model.parameters()): it takes no {kind_of(params)}")
        own = {name: value for name, value in settings.items() if _is_own(name, value)}
        rest = {name: value for name, value in settings.items() if name not in own}
        if lr is not None:
            rest["lr"] = lr
        super().__init__(type(self)._build(params, **rest), **own)


def _is_own(name: str, value: Any) -> bool:
    # a number is the wrapped optimizer's own decay
    return name in _OWN and (name != "weight_decay" or isinstance(value, str))


class MeasuredAdamW(_Named):
    """``MeasuredLR(torch.optim.AdamW(params, ...), ...)`` in one call.

    For trainers that build ``Class(params, lr=..., **kwargs)`` from a dotted name. The module that
    owns the parameters is found at its first forward pass.

    Args:
        params: as for :class:`torch.optim.AdamW`.
        lr: only a unit.
        settings: arguments of :class:`surefoot.MeasuredLR`, ``model`` included, and of AdamW.

    Example:
        >>> import torch, surefoot
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = surefoot.MeasuredAdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
        >>> optimizer.optimizer.param_groups[0]["weight_decay"]
        0.1

    *When it fails*: as :class:`surefoot.MeasuredLR`.
    """

    _build = staticmethod(AdamW)


class MeasuredSGD(_Named):
    """``MeasuredLR(torch.optim.SGD(params, ...), ...)`` in one call; see :class:`MeasuredAdamW`.

    Args:
        params: as for :class:`torch.optim.SGD`.
        lr: only a unit.
        settings: arguments of :class:`surefoot.MeasuredLR`, ``model`` included, and of SGD.
    """

    _build = staticmethod(SGD)


class _MuonAndAdamW(Optimizer):
    """torch's Muon for matrices and its AdamW for everything else, as one optimizer."""

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, **settings: Any) -> None:
        muon = getattr(torch.optim, "Muon", None)
        if muon is None:
            raise TypeError(f"torch {torch.__version__} has no torch.optim.Muon (2.9 and newer do)")
        super().__init__(params, {"lr": lr})  # torch's own reading of parameters and groups
        matrices: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        for group in self.param_groups:
            rest = {k: v for k, v in group.items() if k not in ("params", "param_names")}
            for kind, chosen in ((True, matrices), (False, others)):
                if of_kind := [p for p in group["params"] if (p.dim() == 2) == kind]:
                    chosen.append({**rest, "params": of_kind})
        self._parts = []
        if matrices:
            # the lr of both then means the same length of an update
            self._parts.append(muon(matrices, lr=lr, adjust_lr_fn="match_rms_adamw", **settings))
        if others:
            decay = {k: v for k, v in settings.items() if k == "weight_decay"}
            self._parts.append(AdamW(others, lr=lr, **decay))
        self.param_groups = [g for part in self._parts for g in part.param_groups]
        self._share()

    def _share(self) -> None:
        """One state, and the same groups, for all parts."""
        start = 0
        for part in self._parts:
            end = start + len(part.param_groups)
            part.state, part.param_groups = self.state, self.param_groups[start:end]
            start = end

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_parts": self._parts}

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of both."""
        for part in self._parts:
            part.step()


class MeasuredMuon(_Named):
    """Muon for matrices, AdamW for everything else, with one measured rate.

    See :class:`MeasuredAdamW`. Embeddings and heads are matrices, too: who wants AdamW for them
    builds the two optimizers by hand.

    Args:
        params: parameters, or groups of them.
        lr: only a unit.
        settings: arguments of :class:`surefoot.MeasuredLR`, ``model`` included, and of
            ``torch.optim.Muon``.

    Raises:
        TypeError: with a torch that has no Muon.
    """

    _build = cast("Callable[..., Optimizer]", staticmethod(_MuonAndAdamW))
