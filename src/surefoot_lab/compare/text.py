"""Figures as words, the same in the terminal and on the page."""

from __future__ import annotations

from surefoot_lab.compare.intervals import Interval
from surefoot_lab.compare.summary import MethodSummary, Spread

NOTHING = "–"
LEVEL = "≈"
LEVEL_MEANS = "the 95 % interval of the difference, seed by seed, holds zero"


def failures(method: MethodSummary) -> str:
    """`1 non-finite, 2 interrupted`; empty when every run finished."""
    return ", ".join(f"{n} {state.value}" for state, n in method.failures.items())


def percent(spread: Spread | float | None) -> str:
    """A share as `97.3 ± 0.4 %`; a single one has no deviation."""
    if spread is None:
        return NOTHING
    if isinstance(spread, float):
        return f"{100 * spread:.1f} %"
    sd = "" if spread.sd is None else f" ± {100 * spread.sd:.1f}"
    return f"{100 * spread.mean:.1f}{sd} %"


def number(spread: Spread | None) -> str:
    """A plain figure as `0.213 ± 0.011`."""
    if spread is None:
        return NOTHING
    sd = "" if spread.sd is None else f" ± {spread.sd:.2g}"
    return f"{spread.mean:.3g}{sd}"


def times(spread: Spread | None) -> str:
    """A ratio as `1.02 ×`."""
    return NOTHING if spread is None else f"{spread.mean:.2f} ×"


def seconds(spread: Spread | None) -> str:
    """Seconds, with a decimal while it matters."""
    if spread is None:
        return NOTHING
    return f"{spread.mean:.1f}" if spread.mean < 100 else f"{spread.mean:.0f}"


def difference(found: Interval | None) -> str:
    """`−1.2 (−2.0 to −0.4)`, in points."""
    if found is None:
        return NOTHING
    text = f"{100 * found.mean:+.1f}"
    if found.low is not None and found.high is not None:
        low, high = f"{100 * found.low:+.1f}", f"{100 * found.high:+.1f}"
        text += f" ({low} to {high})" if low != high else ""  # an interval of no width says nothing
        text = text if found.excludes_zero else f"{LEVEL} {text}"
    return text.replace("-", "−")


def short(key: str) -> str:
    """`optimizer.init_args.lr` says no more than `optimizer.lr`."""
    return key.replace(".init_args", "").removesuffix(".class_path")
