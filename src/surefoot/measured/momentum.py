"""Whether steps remember where earlier ones went, and how an optimizer is left without that.

Averaged weights take momentum's place. Which settings hold it is not read from names of classes:
of a toy copy whose gradients turned round, and of one whose did not, the next steps are compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations
from typing import Any, NamedTuple

from torch.optim import Optimizer

from surefoot.measured._toy import Toy, Way, first_answer

__all__ = ["LeftOut", "carried", "leave_out_momentum"]

_BEFORE = 12
"""Steps under one gradient, before one that tells how much of them is left."""
_LITTLE = 0.01
"""That one's gradient, as a share of theirs: a sign of it is one, and nothing divides by zero."""
_NONE = 0.05
"""What a step may keep of earlier ones without being told to have momentum."""
_OTHER = 100.0
"""How many times as long or as short a step without momentum may be: beyond, it broke something."""


class Carried(NamedTuple):
    """What steps remember.

    Attributes:
        share: the difference between a step after gradients g and the same step after gradients
            −g, over the difference between the last of those: 0 without momentum, about β with
            it, 1 for a sign of it.
        length: of the latter, twice a step's.
    """

    share: float
    length: float


def carried(base: Optimizer) -> Carried | None:
    """How much of its way a step takes from earlier ones; None where no toy can step."""

    def answer(how: Way) -> Carried:
        lasts, nexts = [], []
        for sign in (1.0, -1.0):
            toy = Toy(base, how)
            lasts.append(toy.hold(_BEFORE, sign)[-1])
            nexts.append(toy.hold(1, sign * _LITTLE)[0])
        left, whole = (
            math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(*pair, strict=True)))
            for pair in (nexts, lasts)
        )
        if whole == 0.0:
            raise ArithmeticError("the toy does not move")
        return Carried(left / whole, whole)

    return first_answer(answer)


class LeftOut:
    """Which settings hold momentum, and what they are without: it stays away.

    A scheduler that cycles it, a checkpoint and a group that joins bring it back.

    Args:
        parts: of ``betas`` that are 0; None where all settings are as they came.
    """

    def __init__(self, parts: tuple[int, ...] | None) -> None:
        self._parts = parts
        self._settings: list[list[tuple[str, Any]]] = []

    def keep(self, groups: list[dict[str, Any]]) -> None:
        """Write them where they are not, before a step."""
        while len(self._settings) < len(groups):
            group = groups[len(self._settings)]
            off = _without(group, self._parts or ())
            as_it_came = {name: group[name] for name in off}
            self._settings.append([*(as_it_came if self._parts is None else off).items()])
        for group, settings in zip(groups, self._settings, strict=False):
            for name, value in settings:
                if group[name] != value:
                    group[name] = value


def leave_out_momentum(base: Optimizer) -> LeftOut | None:
    """Set those settings of the groups to 0 that make steps remember where earlier ones went.

    As few as do it, among ``momentum``, ``beta``, ``beta1`` and the parts of ``betas``.

    Returns:
        What keeps them; None if momentum would be left, and then they are as they were.
    """
    before, groups = carried(base), base.param_groups
    if before is not None and before.share <= _NONE:
        return LeftOut(None)
    given = [dict(group) for group in groups]
    lengths = [len(b) for group in given for b in _betas(group).values()]
    for parts in _choices(max(lengths, default=1)):
        left_out = LeftOut(parts)
        left_out.keep(groups)
        if before is None:  # a toy that takes no step: the usual names
            return left_out
        after = carried(base)
        if after is not None and after.share <= _NONE and _is_like(after, before):
            return left_out
        for group, own in zip(groups, given, strict=True):
            group.update({name: own[name] for name in _without(group, parts)})
    return None


def _is_like(after: Carried, before: Carried) -> bool:
    """Whether steps are about as long as they were."""
    return 1.0 / _OTHER < after.length / before.length < _OTHER


def _choices(betas: int) -> Iterator[tuple[int, ...]]:
    """Which parts of ``betas`` are set to 0, the fewest first; of two, never both."""
    for count in range(1, max(2, betas)):
        yield from combinations(range(betas), count)


def _betas(group: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    """Tuples that hold a decay for every memory: ``betas``, and kin for other shapes."""
    tuples = {name: v for name, v in group.items() if name.startswith("betas")}
    return {name: tuple(v) for name, v in tuples.items() if isinstance(v, tuple | list)}


def _without(group: dict[str, Any], parts: tuple[int, ...]) -> dict[str, Any]:
    """The settings of a group that hold its momentum, as they would be without."""
    names = {"momentum": 0.0, "nesterov": False, "dampening": 0.0, "beta": 0.0, "beta1": 0.0}
    found: dict[str, Any] = {name: off for name, off in names.items() if name in group}
    for name, betas in _betas(group).items():
        found[name] = tuple(0.0 if i in parts else b for i, b in enumerate(betas))
    return found
