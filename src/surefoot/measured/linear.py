"""What a learning rate does to an optimizer's step, asked of a toy copy before training.

A measured rate multiplies ``lr`` and trusts two things: that the step is as many times as long,
and that what the optimizer remembers of it does not depend on ``lr``. Most keep to both, but not
those that set their own rate. So :func:`respond` runs a few dozen steps of a copy of the optimizer
on a handful of tiny weights. It judges no optimizer by its name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor
from torch.optim import Optimizer, SparseAdam

from surefoot import _params
from surefoot.measured._toy import SETTLING, Toy, Way, first_answer

__all__ = ["Response", "averages_itself", "respond"]

_AHEAD = 32
_TOLERANCE = 0.02
# A step that is another every fifth or sixth time (Lookahead) meets a 2 wherever its count stands
_FACTORS = (*SETTLING * (1.0,), 2.0, 2.0, 1.0, 2.0, 2.0, 2.0, 1.0, 2.0, 2.0)
# A path of twelve steps bends with decay and with the weights' norm; a rate that feeds on the
# distance travelled bends it far more
_PATH_RATIO = (1.5, 2.5)


@dataclass(frozen=True)
class Response:
    """How an optimizer answers to its learning rate.

    Attributes:
        averaged: it has two sets of weights, and ``train()`` and ``eval()`` to change between them
            (schedule-free and kin). Its step need not be linear in ``lr``.
        growth: length of the k-th update under a constant gradient, over the first one's, for
            k = 0 … 31: how a heavy-ball buffer fills. Of the weights whose updates grow most.
    """

    averaged: bool
    growth: tuple[float, ...]

    def growth_to_come(self, step: int) -> float:
        """How many times longer than at ``step`` (from 0) the update can become; at least 1."""
        at = min(max(step, 0), len(self.growth) - 1)
        now, later = self.growth[at], max(self.growth[at:])
        return max(1.0, later / now if now > 0.0 else later)

    def idle(self, step: int) -> int:
        """How many updates from ``step`` on are none: some warm up without moving."""
        return sum(1 for _ in takewhile(lambda length: length == 0.0, self.growth[step:]))


def respond(base: Optimizer) -> Response:
    """How ``base`` answers to its learning rate, found out on a toy copy.

    Three runs on fixed random gradients. One at ``lr``; one at ``lr`` and ``2 lr`` in an irregular
    order, from the same weights at every step, whose moves must be the same multiples of the first
    run's within 2 %; one at ``2 lr`` throughout, which must come about twice as far. A fourth, on
    a constant gradient with the weights put back after every step, gives the growth.

    ``base``, its parameters and its state, hooks and the random generators of torch and Python are
    as before afterwards, to the bit.

    A toy that cannot take a step at all is taken for linear, with a growth of 1: its kernel may
    want another device or larger tensors, and if the fault is the user's then the first real step
    says so in the optimizer's own words.

    Args:
        base: any optimizer, new or in use. Settings are those of its groups now.

    Raises:
        TypeError: its steps cannot be measured; the message says why.
        ValueError: every ``lr`` is zero.

    It fails to notice what shows only later, as a cap on ``lr`` that falls with the step, or what
    needs a larger ``lr`` than the present one to show.
    """
    if not isinstance(base, Optimizer):
        raise TypeError(f"{type(base).__name__} is not a torch.optim.Optimizer")
    if not hasattr(base, "param_groups"):
        raise TypeError(f"{type(base).__name__} shows no param_groups")
    _look(base)
    averaged = averages_itself(base)

    def answer(how: Way) -> str | tuple[float, ...]:
        reason = None if averaged else _objection(base, how)
        return reason or _growth(base, how, put_back=not averaged)

    found = first_answer(answer)
    if isinstance(found, str):
        raise TypeError(f"{type(base).__name__} cannot be measured: {found}")
    if found is None and first_answer(lambda how: _wants_closure(base, how)):
        raise TypeError(f"{type(base).__name__} evaluates the loss itself")
    return Response(averaged, found or (1.0,) * _AHEAD)


def averages_itself(base: Optimizer) -> bool:
    """Whether it has two sets of weights, and ``train()`` and ``eval()`` to change between them."""
    return all(callable(getattr(base, name, None)) for name in ("train", "eval"))


def _look(base: Optimizer) -> None:
    """Refuses what needs no trial."""
    name, groups = type(base).__name__, base.param_groups
    if isinstance(base, SparseAdam):
        raise TypeError(f"{name} takes sparse gradients only")
    if any(group.get("maximize") for group in groups):
        raise TypeError(f"{name} maximizes: a measured rate is for a loss that is to fall")
    if any(p.is_complex() for group in groups for p in group["params"]):
        raise TypeError(f"{name} has complex parameters")
    if any(group.get("lr") is None for group in groups):
        raise TypeError(f"{name} has no lr")
    # a warm-up that was built first begins at 0
    if all(float(group.get("initial_lr", group["lr"])) == 0.0 for group in groups):
        raise ValueError(f"every lr of {name} is 0")


def _objection(base: Optimizer, how: Way) -> str | None:
    """Why the steps of ``base`` are not for measuring; None if they are."""

    first = _departure(base, how, _FACTORS)
    if first is not None:
        k = first[0]
        reasons = []
        apart = _departure(base, how, (1.0,) * k + (2.0,), since=k)
        if apart is None or _departure(base, how, (2.0,) * k + (1.0,), since=k) is not None:
            reasons.append("its memory depends on lr")
        if apart is not None:
            turned = abs(apart[1] - 2.0) <= 2.0 * _TOLERANCE
            went = "goes another way" if turned else f"is {apart[1]:.2f} times as long"
            reasons.append(f"its step does not follow lr: at twice the lr it {went}")
        return ", and ".join(reasons)
    ways = [Toy(base, how).travel(factor) for factor in (1.0, 2.0)]
    ratios = [two / one for one, two in zip(*ways, strict=True) if one > 0.0]
    worst = max(ratios, key=lambda ratio: abs(ratio - 2.0))
    if not _PATH_RATIO[0] < worst < _PATH_RATIO[1]:
        return f"it sets its own rate: at twice the lr it comes {worst:.2f} times as far"
    return None


def _departure(
    base: Optimizer, how: Way, factors: Sequence[float], since: int = 0
) -> tuple[int, float] | None:
    """The first step that is not ``factor`` times as long as one at ``lr`` from there.

    With it, how many times as long it is.
    """
    one, other = Toy(base, how), Toy(base, how)
    for k, factor in enumerate(factors):
        before = [p.detach().clone() for p in one.params]
        moves, others = one.step(1.0, k), other.step(factor, k)
        for p, x, move, answer in zip(other.params, before, moves, others, strict=True):
            length = move.norm().item()
            rounding = 8.0 * torch.finfo(x.dtype).eps * x.norm().item()
            error = (answer - factor * move).norm().item()
            if k >= since and not error <= _TOLERANCE * factor * length + rounding:
                return k, answer.norm().item() / length if length > 0.0 else math.inf
            _params.assign([p.detach()], [x + move])
    return None


def _growth(base: Optimizer, how: Way, *, put_back: bool) -> tuple[float, ...]:
    curves = []
    for moves in zip(*Toy(base, how).hold(_AHEAD, put_back=put_back), strict=True):
        curve = [move.norm().item() for move in moves]
        first = next((length for length in curve if length > 0.0), math.nan)
        if math.isfinite(sum(curve) / first):
            # no more digits than all processes of a distributed optimizer agree on
            curves.append(tuple(round(length / first, 6) for length in curve))
    return max(curves, key=max)


def _wants_closure(base: Optimizer, how: Way) -> bool:
    """Whether it is the lack of a closure that keeps the toy from its first step."""
    called = []

    def closure() -> Tensor:
        called.append(True)
        return torch.ones(())

    Toy(base, how).step(1.0, 0, closure)
    return bool(called)
