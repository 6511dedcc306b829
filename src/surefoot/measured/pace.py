"""When to measure: as often as the rate changes, and never beyond the budget. No torch here."""

from __future__ import annotations

from surefoot.measured.estimate import RateInterval

__all__ = ["CREDIT", "budget", "next_measurement"]

CREDIT = 24.0
"""Forward-equivalents that may be spent before they were earned: the rate changes most at first. At
most a quarter of the whole budget where the run's length is known."""

_STEP = 3.0
"""Forward-equivalents of a plain training step: one forward and one backward pass."""


def budget(overhead: float, total_steps: int | None, step: int) -> float:
    """Forward-equivalents that may have been spent by the end of step number ``step``.

    Args:
        overhead: share of the price of plain training.
        total_steps: length of the run; None where unknown.
        step: its number.
    """
    earned = overhead * _STEP * (step + 1)
    if total_steps is None:
        return earned + (CREDIT if overhead > 0.0 else 0.0)
    whole = overhead * _STEP * max(total_steps, step + 1)
    return min(whole, earned + min(CREDIT, 0.25 * whole))


def next_measurement(
    step: int, rate: RateInterval, precision: float, total_steps: int | None
) -> int:
    """The step at which to measure again, if the budget allows.

    While the rate is less sure than wanted: at once, though never after less than a fifth of the
    run so far in its first steps, in which the rate moves with the number of steps. Then after an
    eighth of the time over which it has stood still, at most a fiftieth of the run.
    """
    if rate.n < 4 or rate.relative_error > precision:
        return step + max(1, min(step // 5, 8))
    longest = max(1, (total_steps or 50_000) // 50)
    return step + max(1, min(rate.span // 8, longest))
