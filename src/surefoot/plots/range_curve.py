"""Draws what a range test measured: one curve, and one dot where the suggested rate lies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from surefoot.plots._style import COLOURS, INK, axes_or_new, dress, legend_below

_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")


def range_curve(
    curve: Any,
    ax: Any = None,
    *,
    suggestions: Mapping[str, Any] | None = None,
    log: bool | None = None,
    label: str | None = None,
) -> Any:
    """Draw loss against learning rate, with the suggested rate marked on the curve.

    The curve is the one that the rules read: validation losses if there are enough of them, else
    those of training.

    Args:
        curve: a :class:`~surefoot.RangeCurve`.
        ax: matplotlib Axes to draw into; new ones if None.
        suggestions: rule name to :class:`~surefoot.lr_range.Suggestion`, each marked and named in a
            legend; None for the default one alone, ``curve.suggestions()`` for those of all rules.
            Rules without an answer are left out.
        log: logarithmic rates; by default for exponential ramps.
        label: name of the curve.

    Returns:
        The Axes. Nothing is shown or saved.
    """
    ax = axes_or_new(ax)
    is_log = curve.ramp.step_mode == "exp" if log is None else log
    if is_log:
        ax.set_xscale("log")
    rates, losses = curve.read
    kind = "training loss" if rates is curve.lr else "validation loss"
    ax.plot(rates, losses, lw=1.6, color=COLOURS[0], label=label or kind)
    _fit_height(ax, losses)
    default = curve.suggest()
    _mark(ax, curve, {default.rule: default} if suggestions is None else suggestions, default.rule)
    dress(ax, "learning rate", kind)
    if suggestions or label:
        legend_below(ax)
    return ax


def _fit_height(ax: Any, losses: Sequence[float]) -> None:
    """Show the fall; a loss in flight leaves the picture instead of flattening everything else."""
    limits = usual_heights(losses)
    if limits and max(value for value in losses if math.isfinite(value)) > limits[1]:
        ax.set_ylim(*limits)


def usual_heights(losses: Sequence[float]) -> tuple[float, float] | None:
    """The lowest and the highest place a picture of these losses has to show; None if all fly."""
    finite = sorted(value for value in losses if math.isfinite(value))
    if not finite:
        return None
    usual = finite[int(0.75 * (len(finite) - 1))]
    height = max(usual - finite[0], 1e-12 * max(abs(usual), 1.0))
    return finite[0] - 0.2 * height, usual + 2.0 * height


def _mark(ax: Any, curve: Any, suggestions: Mapping[str, Any], default: str) -> None:
    low, high = ax.get_ylim()
    for k, (name, suggestion) in enumerate(suggestions.items()):
        rate = suggestion.rate
        if rate is None:
            continue
        is_default = suggestion.rule == default
        label = f"{name}: {rate:.2g}"
        line = ax.axvline(rate, color="0.6", lw=1.2 if is_default else 0.7, ls=":", zorder=0)
        height = curve.loss_at(rate)
        if not low <= height <= high:  # the loss has left the picture; the line alone remains
            line.set_label(label)
            continue
        ax.plot(
            [rate],
            [height],
            marker=_MARKS[k % len(_MARKS)],
            ms=10 if is_default else 6,
            ls="",
            color=COLOURS[1] if is_default else COLOURS[(k + 2) % len(COLOURS)],
            mec="white",
            alpha=1.0 if is_default else 0.6,
            zorder=4 if is_default else 3,
            label=label,
        )
        if is_default:
            ax.annotate(
                f"suggested: {rate:.2g}",
                (rate, height),
                xytext=(-10, -8),  # where a falling curve leaves room
                textcoords="offset points",
                ha="right",
                va="top",
                fontweight="bold",
                color=INK,
            )
    ax.set_ylim(low, high)
