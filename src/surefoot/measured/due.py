"""Whether the next step measures, and what that will cost. No torch here."""

from __future__ import annotations

from surefoot.measured.rate import RateState
from surefoot.measured.settings import Settings

__all__ = ["checks", "is_due", "parts", "repeats"]

_CHECK_EVERY = 8
"""Measurements from one with two probes to the next, which tells whether the losses lie on a
parabola and whether the gradient's slope is theirs."""
_REPEAT_EVERY = 16
"""Measurements from one that replays the unmoved weights to the next."""
_NEARLY_NOTHING = 0.05
"""What is left of a horizon below which measuring is no longer worth it."""


def is_due(settings: Settings, rate: RateState, step: int) -> bool:
    """Whether step number ``step`` measures: the time has come and the budget allows it."""
    if step < rate.next or (rate.in_use is not None and settings.left(step) <= _NEARLY_NOTHING):
        return False
    probes = 1 if rate.slopes == "gradient" else 2
    price = rate.price * (probes + checks(rate) + parts(settings, rate) + repeats(rate))
    return settings.allows(step, rate.spent, price)


def checks(rate: RateState) -> bool:
    """Whether the next measurement looks at a second place."""
    return rate.attempts in (1, 2) or rate.attempts % _CHECK_EVERY == _CHECK_EVERY - 1


def repeats(rate: RateState) -> bool:
    """Whether it evaluates the unmoved weights again."""
    return rate.attempts < 2 or rate.attempts % _REPEAT_EVERY == 0


def parts(settings: Settings, rate: RateState) -> bool:
    """Whether it looks where a part of the groups stayed behind."""
    return settings.groups == "measured" and rate.slopes == "gradient" and rate.attempts > 0
