"""Minima of a function of one variable: bracketing and Brent's method.

Both ask a :class:`Probe`, which remembers the best place: whoever stops early has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

GOLDEN = 0.5 * (3.0 - math.sqrt(5.0))
"""The smaller part of a unit divided in the golden section, 0.38."""
_STRETCH = (1.0 - GOLDEN) / GOLDEN  # the larger part over the smaller one, 1.6


class BudgetError(Exception):
    """No evaluations are left."""


@dataclass
class Probe:
    """Evaluates a function, counts, and remembers the lowest place.

    What is not finite becomes plus infinity: higher than everything.

    Args:
        function: what to evaluate.
        left: evaluations allowed.
        best: a place that is known already; then the lowest seen.
        lowest: the value there.
        seen_finite: whether any value was finite.
    """

    function: Callable[[float], float]
    left: int
    best: float
    lowest: float
    seen_finite: bool = False

    def __call__(self, t: float) -> float:
        if self.left == 0:
            raise BudgetError
        self.left -= 1
        value = self.function(t)
        if not math.isfinite(value):
            return math.inf
        self.seen_finite = True
        if value < self.lowest:
            self.best, self.lowest = t, value
        return value


@dataclass(frozen=True)
class Bracket:
    """Three places in order; the loss in the middle is below those at both ends."""

    low: float
    middle: float
    high: float
    value: float
    """Loss in the middle."""


def bracket(probe: Probe, first: float, top: float, is_level: Callable[[float], bool]) -> Bracket:
    """Three places around a minimum, from the start on.

    Args:
        probe: knows the loss at 0.
        first: first place tried; nearer ones follow until the loss is below that at 0, then
            farther ones until it rises.
        top: farthest place.
        is_level: whether a loss cannot be told from that at 0.

    Returns:
        The bracket; its middle is 0 where no place below the start was found, and ``top`` where
        the loss still falls there.
    """
    value0 = probe.lowest
    t, high = min(first, top), None
    value = probe(t)
    while value >= value0:
        t, high = 0.1 * t, t
        former, value = value, probe(t)
        # twice: one place behind the minimum may be as high as the start by chance
        if is_level(former) and is_level(value):
            return Bracket(0.0, 0.0, high, value0)
    low = 0.0
    while high is None:
        if t >= top:
            return Bracket(low, top, top, value)
        farther = min(t + _STRETCH * (t - low), top)
        next_value = probe(farther)
        if next_value >= value:
            high = farther
        else:
            low, t, value = t, farther, next_value
    return Bracket(low, t, high, value)


def brent(probe: Probe, inside: Bracket, tolerance: float) -> None:
    """Brent's method: parabolas through the best three places, golden section where they fail.

    Source: R. P. Brent, "Algorithms for minimization without derivatives", 1973, section 5.8.
    """
    low, x, high, value = inside.low, inside.middle, inside.high, inside.value
    second = third = x  # the next best places, and their values
    value2 = value3 = value
    step = former = 0.0
    while True:
        middle = 0.5 * (low + high)
        # below this, differences of the loss say nothing, even in exact parabolas
        least = 0.25 * tolerance * abs(x) + 1e-300
        if abs(x - middle) <= 2.0 * least - 0.5 * (high - low):
            return
        move = None
        if abs(former) > least:
            move = _parabolic(x, second, third, value, value2, value3)
        if move is not None and abs(move) < 0.5 * abs(former) and low < x + move < high:
            former, step = step, move
            if min(x + move - low, high - x - move) < 2.0 * least:
                step = math.copysign(least, middle - x)
        else:
            former = (high - x) if x < middle else (low - x)
            step = GOLDEN * former
        u = x + (step if abs(step) >= least else math.copysign(least, step))
        value_u = probe(u)
        if value_u <= value:
            low, high = (low, x) if u < x else (x, high)
            third, value3, second, value2, x, value = second, value2, x, value, u, value_u
            continue
        low, high = (u, high) if u < x else (low, u)
        if value_u <= value2 or second == x:
            third, value3, second, value2 = second, value2, u, value_u
        elif value_u <= value3 or third in (x, second):
            third, value3 = u, value_u


def _parabolic(x: float, w: float, v: float, fx: float, fw: float, fv: float) -> float | None:
    """From ``x`` to the vertex of the parabola through three places; None if there is none."""
    if not (math.isfinite(fw) and math.isfinite(fv)):
        return None
    r = (x - w) * (fx - fv)
    q = (x - v) * (fx - fw)
    bottom = 2.0 * (q - r)
    return None if bottom == 0.0 else -((x - v) * q - (x - w) * r) / bottom
