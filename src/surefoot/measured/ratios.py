"""How the groups' rates relate: slopes and curvatures by group, and the ratios that they ask for.

Along a step that moves each group k by its own multiple :math:`m_k`, the loss of the batch is

.. math:: L(m) \\approx L_0 + \\sum_k a_k m_k + \\tfrac12 \\sum_{kl} H_{kl} m_k m_l

The slopes are free: the gradient times each group's own part of the move. The loss at the step's
end gives the sum over all of *H*, the loss where a random half of the groups stayed behind that
over the others, so the price of a measurement does not grow with the number of groups.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from surefoot.measured.estimate import student_quantile

__all__ = ["GroupLine", "GroupRatio", "Ratios", "drawn", "estimate"]

_KEPT = 32
_PRIOR = 0.5
"""How many lines the assumption that nothing differs counts for."""
_BLOCKS = 8
"""Blocks of lines, each left out once, that tell how sure the ratios are."""
_WIDER = 1.4
"""What leaving out blocks does not see. Measured: without it 80 of 100 intervals hold the truth."""
_FEWEST = 4
"""Lines from which on ratios are told at all."""
_STEP, _MOST = 2.0, 1000.0
"""By how much one measurement may change a ratio, and all of them."""
_FAR = 4.0
"""How far from where the groups were probed a minimum may be."""


class GroupLine(NamedTuple):
    """One measurement with two probes."""

    step: int
    slopes: tuple[float, ...]
    """By group, per unit of its multiple."""
    multiples: tuple[float, ...]
    """Where the step ended, by group."""
    moved: tuple[bool, ...]
    """Which groups moved in the second probe."""
    bend: float
    """Twice what the loss was above its tangent where all moved; that is Σ H m m."""
    bend_some: float
    """The same where some moved."""


@dataclass(frozen=True)
class GroupRatio:
    """How one group's rate relates to the others', as far as it was measured.

    Args:
        applied: what the group's ``lr`` is multiplied by, beside what all are.
        value: the same, measured; 1 where nothing is known.
        low: lower end of the 95 % interval; 0 where nothing is known.
        high: upper end; infinite where nothing is known.
        interaction: share of the curvature along this group's move that the others' moves add
            (positive: minima taken one by one would be too far together).
    """

    applied: float
    value: float = 1.0
    low: float = 0.0
    high: float = math.inf
    interaction: float = 0.0

    @property
    def differs(self) -> bool:
        """Whether there is evidence that the group wants another rate than its ``lr`` says."""
        return self.low > 1.0 or self.high < 1.0

    def __str__(self) -> str:
        words = f"× {self.value:.3g} ({self.low:.3g} to {self.high:.3g})"
        return words if self.differs else f"{words}, no evidence that it differs"


@dataclass(frozen=True)
class Ratios:
    """What is remembered of the groups: plain values, which every checkpoint keeps.

    Args:
        applied: what each group's ``lr`` is multiplied by, beside what all are.
        lines: the newest measurements.
    """

    applied: tuple[float, ...] = ()
    lines: tuple[GroupLine, ...] = field(default=(), metadata={"entry": GroupLine})

    def learned(self, line: GroupLine) -> Ratios:
        """With one more line."""
        n = len(line.slopes)
        same = [old for old in self.lines if len(old.slopes) == n]
        lines = (*same, line)[-_KEPT:]
        applied = (*self.applied, *[1.0] * (n - len(self.applied)))  # a new group's is 1
        found = dataclasses.replace(self, applied=applied, lines=lines)
        if len(lines) < _FEWEST:
            return found
        # as far as there is evidence: nothing of a ratio that is no larger than its own error
        target = [_shrunk(r.value, r.low, r.high) for r in found.told()]
        middle = math.exp(statistics.fmean(map(math.log, applied)))
        moved = [
            a / middle * min(max(t * middle / a, 1.0 / _STEP), _STEP)
            for a, t in zip(applied, target, strict=True)
        ]
        level = found._level(moved)
        wanted = tuple(min(max(m * level, 1.0 / _MOST), _MOST) for m in moved)
        return dataclasses.replace(found, applied=wanted)

    def _level(self, ratios: Sequence[float]) -> float:
        """What they are to be multiplied by, for the common rate's minimum to stay where it is."""
        slopes, bends = _pooled(self.lines, _row(_probed(self.lines)))
        relative = _row([r / a for r, a in zip(ratios, self.applied, strict=True)])
        ones = torch.ones_like(relative)
        before, after = _minimum_along(slopes, bends, ones), _minimum_along(slopes, bends, relative)
        if before is None or after is None:
            return 1.0
        return min(max(after / before, 1.0 / _STEP), _STEP)

    def told(self) -> list[GroupRatio]:
        """The ratios with their intervals."""
        if len(self.lines) < _FEWEST:
            return [GroupRatio(a) for a in self.applied]
        value, error, together = estimate(self.lines)
        quantile = _WIDER * student_quantile(0.975, min(_BLOCKS, len(self.lines)) - 1)
        probed = [math.log(m) for m in _probed(self.lines)]
        middle = statistics.fmean(probed)
        told = []
        for a, m, v, e, share in zip(self.applied, probed, value, error, together, strict=True):
            log, reach = m - middle + v, quantile * e
            low, high = math.exp(log - reach), math.exp(min(log + reach, 700.0))
            told.append(GroupRatio(a, math.exp(log), low, high, share))
        return told


def _probed(lines: Sequence[GroupLine]) -> list[float]:
    """Where each group's newest move ended; the others' mean for one that stood still."""
    by_group = zip(*(line.multiples for line in reversed(lines)), strict=True)
    newest = [next((m for m in multiples if m > 0.0), 0.0) for multiples in by_group]
    mean = statistics.geometric_mean([m for m in newest if m > 0.0])
    return [m or mean for m in newest]


def _row(values: Sequence[float] | Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def drawn(step: int, n: int) -> tuple[bool, ...]:
    """A random half of ``n`` groups, neither all nor none; the same on every process."""
    draw = random.Random(step)
    while True:
        moved = tuple(draw.random() < 0.5 for _ in range(n))
        if 0 < sum(moved) < n:
            return moved


def estimate(lines: Sequence[GroupLine]) -> tuple[list[float], list[float], list[float]]:
    """Logarithms of the ratios that the lines ask for, over where the last one was probed.

    Args:
        lines: the oldest first.

    Returns:
        For each group the logarithm, its standard error by leaving out blocks of lines, and the
        share of the curvature along it that is other groups'. The logarithms' mean is 0.
    """
    rates = _row(_probed(lines))
    slopes, bends = _pooled(lines, rates)
    logs = _logs(slopes, bends)
    blocks = min(_BLOCKS, len(lines))
    edges = [round(i * len(lines) / blocks) for i in range(blocks + 1)]
    without = ([*lines[:start], *lines[end:]] for start, end in pairwise(edges))
    spread = torch.stack([_logs(*_pooled(rest, rates)) for rest in without])
    error = ((blocks - 1) / blocks * (spread - spread.mean(0)).square().sum(0)).sqrt()
    others = bends.sum(1) - bends.diagonal()
    share = others / bends.sum(1).abs().clamp(min=1e-300)
    return logs.tolist(), error.tolist(), share.tolist()


def _pooled(lines: Sequence[GroupLine], rates: Tensor) -> tuple[Tensor, Tensor]:
    """Mean slopes and curvatures over the lines, both in units of ``rates``.

    Least squares over all probes, and over an assumption that counts as much as half a line: that
    every group has its minimum where the common one is.
    """
    # each line counts the same, however loud its batch: lines with other groups are compared
    pairs = [
        (math.fsum(abs(a * m) for a, m in zip(x.slopes, x.multiples, strict=True)) or 1.0, x)
        for x in lines
    ]
    a = sum(_row(x.slopes) / size for size, x in pairs)
    slopes = a * rates / len(lines)
    strength = slopes.abs().clamp(min=1e-12 * float(slopes.abs().sum()) + 1e-300)
    bends = _fitted(pairs, rates, strength)
    # once more: a group may bend more than its slope says
    return slopes, _fitted(pairs, rates, torch.maximum(strength, 0.5 * bends.diagonal().abs()))


def _fitted(pairs: Sequence[tuple[float, GroupLine]], rates: Tensor, strength: Tensor) -> Tensor:
    """Curvatures by least squares.

    Args:
        pairs: how loud each line is, and the line.
        rates: the unit, by group.
        strength: by group, how much it does to the loss: so a loud one does not drown a quiet one.
    """
    n = len(rates)
    rows, columns = torch.triu_indices(n, n)
    both = (strength[rows] * strength[columns]).sqrt()
    unit = torch.where(rows == columns, 1.0, 2.0) * both
    loud, bend, some_bend = _row([[size, x.bend, x.bend_some] for size, x in pairs]).T
    places, moved = _row([x.multiples for _, x in pairs]) / rates, _row([x.moved for _, x in pairs])
    whole = places[:, rows] * places[:, columns]
    part = whole * moved[:, rows] * moved[:, columns]
    # what the others add is a difference on one batch: its noise is not that of the whole
    features = torch.cat([part, whole - part]) * unit
    values = torch.cat([some_bend, bend - some_bend]) / loud.repeat(2)
    sizes = torch.cat([places * moved, places * (1.0 - moved)]) @ strength
    sizes = torch.maximum(sizes, 0.5 * values.abs())
    matrix, target = (x[sizes > 0.0] for x in (features / sizes[:, None], values / sizes))
    common = float((bend / loud / (places.square() @ strength)).mean())
    # that nothing differs: every group's minimum is where the common one is
    prior = torch.where(rows == columns, common, 0.0).double()
    left = matrix.T @ matrix + _PRIOR * torch.eye(len(rows), dtype=torch.float64)
    found = torch.linalg.solve(left, matrix.T @ target + _PRIOR * prior) * both
    bends = torch.zeros(n, n, dtype=torch.float64)
    bends[rows, columns] = found
    bends[columns, rows] = found
    return bends


def _logs(slopes: Tensor, bends: Tensor) -> Tensor:
    """Logarithms of each group's minimum, all taken together, over their mean.

    By coordinates, each within a factor of 4 of where it was probed; a group whose curvature is
    not positive stays where it was.
    """
    start = _minimum_along(slopes, bends, torch.ones_like(slopes)) or 1.0
    rows: list[list[float]] = bends.tolist()  # a few numbers: tensors would take longer
    x = [start] * len(rows)
    for _ in range(100):
        before = x.copy()
        for k, (slope, row) in enumerate(zip(slopes.tolist(), rows, strict=True)):
            if (own := row[k]) > 0.0:
                rest = slope + math.fsum(map(operator.mul, row, x)) - own * x[k]
                x[k] = min(max(-rest / own, start / _FAR), start * _FAR)
        if all(math.isclose(old, new, rel_tol=1e-12) for old, new in zip(before, x, strict=True)):
            break
    logs = _row(x).log()
    return logs - logs.mean()


def _minimum_along(slopes: Tensor, bends: Tensor, ratios: Tensor) -> float | None:
    slope, bend = float(slopes @ ratios), float(ratios @ bends @ ratios)
    return -slope / bend if slope < 0.0 < bend else None


def _shrunk(value: float, low: float, high: float) -> float:
    """As much of a ratio as its own error leaves: log ρ · (1 − (e / log ρ)²), and 1 below that."""
    log = math.log(value)
    if log == 0.0 or not (low > 0.0 and math.isfinite(high)):
        return 1.0
    error = 0.5 * (math.log(high) - math.log(low)) / 2.0
    return math.exp(log * max(0.0, 1.0 - (error / log) ** 2))
