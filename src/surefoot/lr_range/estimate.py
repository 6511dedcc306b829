"""The simplified Hessian-free estimate of the learning rate, a monitor for any run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from surefoot._numbers import check_count, check_share
from surefoot.lr_range.ramp import check_rates


class HessianFreeRate:
    r"""Estimates a good learning rate from three successive sets of weights.

    .. math::
        \eta^* = \eta\, \frac{\sum |\theta_{i+1} - \theta_i|}
                             {\sum |2\theta_{i+1} - \theta_i - \theta_{i+2}|}

    The numerator is a gradient, the denominator the change of the gradient along it: their ratio
    is an inverse curvature, by finite differences and without any further pass (1708.07120, the
    simplified Hessian-free estimate; the sums over absolute values and the smoothing are those of
    the authors' released code).

    Call :meth:`update` after each ``optimizer.step()``.

    Args:
        optimizer: η is the ``lr`` of its groups (``effective_lr`` where an optimizer keeps one).
            With several groups each has its own estimate, and :meth:`update` returns that of the
            first group that moves.
        every: optimizer steps between two sets of weights; the paper's code used 1 and 10. The
            formula then takes η · every for η, since that is how far the weights went along a
            gradient; the released code takes η alone and gets a rate ``every`` times smaller.
        smoothing: share of the previous value in the running mean, 0.9 in the released code. The
            mean is corrected for its start here, where the released code starts from 0.1.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
        >>> sgd = torch.optim.SGD([w], lr=0.01)
        >>> monitor = HessianFreeRate(sgd)
        >>> for _ in range(4):
        ...     sgd.zero_grad()
        ...     (2.5 * w.square()).sum().backward()   # curvature 5
        ...     sgd.step()
        ...     rate = monitor.update()
        >>> round(rate, 4)
        0.2

    *When it fails*: with single batches far apart the denominator is mostly gradient noise; pure
    noise gives η/√2 whatever the curvature, so the estimate then follows the rate in use. Momentum
    makes successive differences alike and the estimate too large. It is a monitor, not a rule.
    """

    def __init__(self, optimizer: Optimizer, *, every: int = 1, smoothing: float = 0.9) -> None:
        count = check_count("every", every)
        check_share("smoothing", smoothing)
        check_rates(optimizer)
        self._optimizer = optimizer
        self._every = count
        self._smoothing = float(smoothing)
        self._calls = 0
        # ends of the last two intervals, a list of tensors per group; the start counts as one
        self._weights = self._copy()
        self._move: list[Sequence[Tensor]] | None = None
        self._means = [0.0] * len(optimizer.param_groups)
        self._shares = [0.0] * len(optimizer.param_groups)

    @property
    def rates(self) -> list[float]:
        """The smoothed estimate of each group; NaN before there is one."""
        return [
            mean / share if share else math.nan
            for mean, share in zip(self._means, self._shares, strict=True)
        ]

    @torch.no_grad()
    def update(self) -> float:
        """Take the weights after a step; the estimate of the first group that has one, or NaN."""
        self._calls += 1
        if self._calls % self._every == 0:
            self._compare()
        return next((rate for rate in self.rates if not math.isnan(rate)), math.nan)

    def _compare(self) -> None:
        weights = self._copy()
        if list(map(_shapes, weights)) != list(map(_shapes, self._weights)):
            # a group was added, or parameters were frozen or unfrozen: two sets of weights anew
            self._weights, self._move = weights, None
            missing = [0.0] * (len(weights) - len(self._means))
            self._means, self._shares = self._means + missing, self._shares + missing
            return
        move: list[Sequence[Tensor]] = [
            torch._foreach_sub(new, old) if new else []
            for new, old in zip(weights, self._weights, strict=True)
        ]
        if self._move is not None:
            for g, (before, now) in enumerate(zip(self._move, move, strict=True)):
                self._add(g, before, now)
        self._weights, self._move = weights, move

    def _add(self, g: int, before: Sequence[Tensor], now: Sequence[Tensor]) -> None:
        if not before:
            return
        first = _sum_of_sizes(before)
        # 2θ_{i+1} - θ_i - θ_{i+2} is the earlier move minus the later one
        second = _sum_of_sizes(torch._foreach_sub(list(before), list(now)))
        rate = _rate_of(self._optimizer.param_groups[g]) * self._every
        estimate = rate * first / second if second else math.nan
        if math.isfinite(estimate) and estimate > 0.0:
            keep = self._smoothing
            self._means[g] = keep * self._means[g] + (1.0 - keep) * estimate
            self._shares[g] = keep * self._shares[g] + (1.0 - keep)

    def _copy(self) -> list[list[Tensor]]:
        return [
            [p.detach().clone() for p in group["params"] if p.requires_grad]
            for group in self._optimizer.param_groups
        ]


def _shapes(tensors: Sequence[Tensor]) -> list[torch.Size]:
    return [t.shape for t in tensors]


def _rate_of(group: dict[str, Any]) -> float:
    effective = group.get("effective_lr")
    return float(group["lr"] if effective is None else effective)


def _sum_of_sizes(tensors: Sequence[Tensor]) -> float:
    sizes = torch._foreach_norm(list(tensors), 1)
    return float(sum(size.to(sizes[0].device, torch.float32) for size in sizes))
