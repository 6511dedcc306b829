"""The settings of a measured rate, checked once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from surefoot._numbers import check_choice, check_count, check_flag, check_number
from surefoot.measured.rate import CREDIT

__all__ = ["Settings"]

_STEP = 3.0
"""Forward-equivalents of a plain training step: one forward and one backward pass."""


@dataclass(frozen=True)
class Settings:
    """See :class:`surefoot.MeasuredLR`, whose arguments these are.

    Args:
        decay_from: step from which on the rate falls to its end, and what was left of it there.
    """

    total_steps: int | None = None
    horizon: str = "linear"
    step_adaptation: float | None = None
    max_change: float | None = None
    averaging: bool | None = None
    overhead: float = 0.03
    frozen: bool = False
    groups: str = "ratio"
    weight_decay: str = "given"
    advice: bool = False
    decay_from: tuple[int, float] | None = None

    def __post_init__(self) -> None:
        check_choice("horizon", self.horizon, ("linear", "none"))
        check_choice("groups", self.groups, ("ratio", "measured"))
        check_choice("weight_decay", self.weight_decay, ("given", "measured"))
        for name in ("frozen", "advice", *("averaging",) * (self.averaging is not None)):
            check_flag(name, getattr(self, name))
        if self.total_steps is not None:
            object.__setattr__(self, "total_steps", check_count("total_steps", self.total_steps))
        check_number("overhead", self.overhead, at_least=0.0)
        if self.step_adaptation is not None:
            check_number("step_adaptation", self.step_adaptation, at_least=0.0, above=True)
        if self.max_change is not None and self.max_change != math.inf:
            check_number("max_change", self.max_change, at_least=0.0, above=True)

    @cached_property
    def averages(self) -> bool:
        """Whether weights are averaged: on demand, and where nothing else makes a run settle."""
        if self.frozen:
            return False
        if self.averaging is not None:
            return self.averaging
        return self.horizon == "linear" and self.total_steps is None

    @cached_property
    def falls(self) -> bool:
        """Whether the rate falls to zero over the run."""
        if self.total_steps is None or self.frozen:
            return False
        return self.decay_from is not None or (self.horizon == "linear" and not self.averages)

    def allows(self, step: int, spent: float, price: float) -> bool:
        """Whether a measurement of that price may be made now. The first one always may.

        Args:
            step: its number.
            spent: forward-equivalents spent on measuring so far.
            price: likewise.
        """
        earned, total = self.overhead * _STEP * (step + 1), self.total_steps
        whole = math.inf if total is None else self.overhead * _STEP * max(total, step + 1)
        credit = min(CREDIT, 0.25 * whole) if self.overhead > 0.0 else 0.0
        return spent == 0.0 or spent + price <= min(whole, earned + credit)

    def left(self, step: int) -> float:
        """The factor that falls from 1 to 0 over ``total_steps``, or from where a decay began."""
        if not self.falls:
            return 1.0
        assert self.total_steps is not None
        start, level = self.decay_from or (0, 1.0)
        return max(0.0, level * (1.0 - (step - start) / (self.total_steps - start)))
