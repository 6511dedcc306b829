"""The settings of a measured rate, checked once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from surefoot.optim.base import check_count, check_number

__all__ = ["Settings"]

_CHOICES = {
    "horizon": ("linear", "none"),
    "line": ("share", "update"),
    "batch": ("own", "fresh"),
    "curvature": ("probe", "hessian"),
}


@dataclass(frozen=True)
class Settings:
    """See :class:`surefoot.MeasuredLR`, whose arguments these are."""

    total_steps: int | None
    overhead: float
    precision: float
    confidence: float
    horizon: str
    step_adaptation: float | None
    line: str
    batch: str
    curvature: str
    measuring_length: float | None
    places: tuple[float, ...]
    check_every: int
    growth: float
    max_change: float | None
    frozen: bool
    loss_precision: float | None

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            _check_choice(name, getattr(self, name), allowed)
        if self.batch == "fresh" and (self.line != "update" or self.curvature != "probe"):
            raise ValueError('batch="fresh" needs line="update" and curvature="probe"')
        if self.total_steps is not None:
            check_count("total_steps", self.total_steps)
        check_count("check_every", self.check_every, at_least=0)
        check_number("overhead", self.overhead, at_least=0.0)
        check_number("growth", self.growth, at_least=1.0, above=True)
        check_number("confidence", self.confidence, at_least=0.5)
        if self.confidence >= 1.0:
            raise ValueError(f"confidence must be below 1, got {self.confidence!r}")
        optional = ("max_change", "step_adaptation", "measuring_length", "loss_precision")
        for name in ("precision", *optional):
            value = getattr(self, name)
            if value is not None and not (name == "max_change" and value == math.inf):
                check_number(name, value, at_least=0.0, above=name != "loss_precision")
        if not self.places:
            raise ValueError("places must hold one number at least")
        for place in self.places:
            check_number("a place", place, at_least=0.0, above=True)


def _check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        names = " or ".join(f'"{choice}"' for choice in allowed)
        raise ValueError(f"{name} must be {names}, got {value!r}")
