"""Functions of one variable with known minima, to walk along with a search."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

Real = Callable[[float], float]


@dataclass(frozen=True)
class LineFunction:
    """A function of ``t`` whose shape is known.

    Args:
        name: for messages.
        value: the function.
        slope: its derivative.
        minimum: place of the lowest value for ``t >= 0`` among finite values; None where there is
            none (the function falls for ever, or is constant).
        traits: what a search may have to cope with: ``"convex"``, ``"ascent"`` (does not fall
            at 0), ``"non_finite"`` (NaN or infinite somewhere ahead), ``"bad_start"`` (NaN at 0),
            ``"flat"`` (constant as far as floating-point numbers tell), ``"jump"``.
    """

    name: str
    value: Real
    slope: Real
    minimum: float | None
    traits: frozenset[str] = frozenset()

    def times(self, factor: float) -> LineFunction:
        """The function times a positive number."""
        return self._scaled(f"{factor:g} × {self.name}", factor, 1.0)

    def plus(self, shift: float) -> LineFunction:
        """The function plus a number."""
        return replace(self, name=f"{self.name} + {shift:g}", value=lambda t: self.value(t) + shift)

    def stretched(self, factor: float) -> LineFunction:
        """The function of ``t / factor``: its minimum lies ``factor`` times as far."""
        return self._scaled(f"{self.name} stretched by {factor:g}", 1.0, factor)

    def _scaled(self, name: str, height: float, width: float) -> LineFunction:
        return replace(
            self,
            name=name,
            value=lambda t: height * self.value(t / width),
            slope=lambda t: height * self.slope(t / width) / width,
            minimum=None if self.minimum is None else self.minimum * width,
        )


@dataclass
class FunctionLine:
    """A function as a line that a search can walk: see :class:`surefoot.line.Walkable`.

    Values are rounded to ``dtype``, as a loss of that precision would be.

    Args:
        function: what to walk on.
        direction_norm: Euclidean length of one unit of ``t``.
        dtype: precision of the values.
        places: every ``t`` that was asked for, in order.

    Example:
        >>> line = FunctionLine(function("quadratic"))
        >>> line.value(1.5) == line.value_and_slope(1.5)[0], line.places
        (True, [1.5, 1.5])
    """

    function: LineFunction
    direction_norm: float = 1.0
    dtype: torch.dtype = torch.float64
    places: list[float] = field(default_factory=list)

    @property
    def value0(self) -> float:
        """Value at 0."""
        return self._rounded(self.function.value(0.0))

    @property
    def slope0(self) -> float:
        """Derivative at 0."""
        return self._rounded(self.function.slope(0.0))

    def value(self, t: float) -> float:
        """Value at ``t``."""
        self.places.append(t)
        return self._rounded(self.function.value(t))

    def value_and_slope(self, t: float) -> tuple[float, float]:
        """Value and derivative at ``t``."""
        return self.value(t), self._rounded(self.function.slope(t))

    def _rounded(self, value: float) -> float:
        return float(torch.tensor(value, dtype=torch.float64).to(self.dtype))


def _cut(whole: LineFunction, name: str, edge: float, beyond: float) -> LineFunction:
    """The function up to ``edge``, one number beyond it."""
    return LineFunction(
        name,
        lambda t: whole.value(t) if t <= edge else beyond,
        lambda t: whole.slope(t) if t <= edge else (0.0 if math.isfinite(beyond) else math.nan),
        min(edge, whole.minimum) if whole.minimum is not None else edge,
        frozenset({"jump"} if math.isfinite(beyond) else {"non_finite"}),
    )


def _safe_exp(t: float) -> float:
    return math.exp(t) if t < 700.0 else math.inf


_CONVEX, _ASCENT = frozenset({"convex"}), frozenset({"ascent"})
_FLAT, _BAD_START = frozenset({"flat"}), frozenset({"bad_start", "non_finite"})

_VALLEY = LineFunction(
    "quadratic", lambda t: (t - 1.5) ** 2, lambda t: 2.0 * (t - 1.5), 1.5, _CONVEX
)
_TINY = LineFunction(
    "slope 1e-30 at height 0",
    lambda t: 1e-30 * (0.5 * t * t - t),
    lambda t: 1e-30 * (t - 1.0),
    1.0,
    _CONVEX,
)
# shapes with a derivative everywhere
_SMOOTH = (
    _VALLEY,
    LineFunction("quartic", lambda t: (t - 1.2) ** 4, lambda t: 4 * (t - 1.2) ** 3, 1.2, _CONVEX),
    LineFunction(
        "exponential",
        lambda t: _safe_exp(t - 0.8) - t,
        lambda t: _safe_exp(t - 0.8) - 1.0,
        0.8,
        _CONVEX,
    ),
    LineFunction(
        "softplus sum",
        lambda t: math.log1p(math.exp(min(t, 700.0))) - 0.6 * t,
        lambda t: 1.0 / (1.0 + math.exp(-min(t, 700.0))) - 0.6,
        math.log(1.5),
        _CONVEX,
    ),
    # falls, bends the wrong way at first, and has its valley behind that
    LineFunction(
        "bell",
        lambda t: -math.exp(-((t - 2.0) ** 2)),
        lambda t: 2.0 * (t - 2.0) * math.exp(-((t - 2.0) ** 2)),
        2.0,
    ),
    LineFunction("straight", lambda t: -0.3 * t, lambda t: -0.3, None),
    LineFunction("saturating", lambda t: 1.0 / (1.0 + t), lambda t: -1.0 / (1.0 + t) ** 2, None),
)
# shifted and scaled copies, away from 0 and from 1
_VARIANTS = (
    *map(_VALLEY.plus, (100.0, -7.0)),
    *map(_VALLEY.times, (1e6, 1e-6, 1e-20)),
    *map(_VALLEY.stretched, (1e-3, 20.0)),
)
# what real losses do when nobody is looking
_NASTY = (
    _cut(_VALLEY, "NaN beyond 0.4", 0.4, math.nan),
    _cut(_VALLEY, "infinite beyond 2", 2.0, math.inf),
    _cut(_VALLEY, "NaN beyond 1e-6", 1e-6, math.nan),
    _cut(_VALLEY, "cliff up at 1", 1.0, 1e10),
    _cut(_VALLEY, "plateau beyond 0.2", 0.2, _VALLEY.value(0.2)),
    LineFunction(
        "uphill", lambda t: (t + 1.0) ** 2, lambda t: 2 * (t + 1.0), 0.0, _ASCENT | _CONVEX
    ),
    LineFunction("downhill from a maximum", lambda t: -t * t, lambda t: -2.0 * t, None, _ASCENT),
    LineFunction("constant", lambda t: 2.0, lambda t: 0.0, None, _ASCENT | _FLAT),
    replace(_TINY.plus(1.0), name="slope 1e-30 at height 1", minimum=None, traits=_FLAT),
    _TINY,
    LineFunction("NaN at 0", lambda t: math.nan, lambda t: math.nan, None, _BAD_START),
    LineFunction("infinite at 0", lambda t: math.inf, lambda t: math.nan, None, _BAD_START),
)

FUNCTIONS: tuple[LineFunction, ...] = (*_SMOOTH, *_VARIANTS, *_NASTY)
"""All functions, each with a name of its own."""


def function(name: str) -> LineFunction:
    """The function of that name.

    Raises:
        KeyError: if there is none.
    """
    return {f.name: f for f in FUNCTIONS}[name]
