"""Draws what a range test measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["range_curve"]

_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")


def range_curve(
    curve: Any,
    ax: Any = None,
    *,
    suggestions: Mapping[str, Any] | None = None,
    accuracy: bool = True,
    log: bool | None = None,
    label: str | None = None,
) -> Any:
    """Draw loss against learning rate, with the suggested rates marked on the curve.

    The default suggestion is named in the picture, the others are faint and named in the legend.

    Args:
        curve: a :class:`~surefoot.RangeCurve`.
        ax: matplotlib Axes to draw into; new ones if None.
        suggestions: rule name to :class:`~surefoot.lr_range.Suggestion`; those of all rules by
            default, none for ``{}``. Rules without an answer are left out.
        accuracy: also draw accuracies, where they were measured, on a second axis.
        log: logarithmic rates; by default for exponential ramps.
        label: name of the curve in the legend.

    Returns:
        The Axes. Nothing is shown or saved.
    """
    if ax is None:
        from matplotlib import pyplot

        _, ax = pyplot.subplots()
    is_log = curve.ramp.step_mode == "exp" if log is None else log
    if is_log:
        ax.set_xscale("log")
    (line,) = ax.plot(curve.lr, curve.loss, lw=1.0, alpha=0.8, label=label or "training loss")
    if curve.validation:
        rates = [point.lr for point in curve.validation]
        losses = [point.loss for point in curve.validation]
        ax.plot(rates, losses, marker=".", label="validation loss")
    _fit_height(ax, curve)
    _mark(ax, curve, curve.suggestions() if suggestions is None else suggestions, line.get_color())
    ax.set_xlabel("learning rate")
    ax.set_ylabel("loss")
    if accuracy:
        _draw_accuracy(ax, curve)
    ax.legend(fontsize="small")
    return ax


def _fit_height(ax: Any, curve: Any) -> None:
    """Show the fall; a loss in flight leaves the picture instead of flattening everything else."""
    seen = [*curve.loss, *(point.loss for point in curve.validation)]
    limits = usual_heights(seen)
    if limits and max(value for value in seen if math.isfinite(value)) > limits[1]:
        ax.set_ylim(*limits)


def usual_heights(losses: Sequence[float]) -> tuple[float, float] | None:
    """The lowest and the highest place a picture of these losses has to show; None if all fly."""
    finite = sorted(value for value in losses if math.isfinite(value))
    if not finite:
        return None
    usual = finite[int(0.75 * (len(finite) - 1))]
    height = max(usual - finite[0], 1e-12 * max(abs(usual), 1.0))
    return finite[0] - 0.2 * height, usual + 2.0 * height


def _mark(ax: Any, curve: Any, suggestions: Mapping[str, Any], color: str) -> None:
    default = curve.suggest().rule
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
            ms=9 if is_default else 5,
            ls="",
            color=f"C{k + 1}",
            mec=color,
            alpha=1.0 if is_default else 0.4,
            zorder=4 if is_default else 3,
            label=label,
        )
        if is_default:
            ax.annotate(
                label,
                (rate, height),
                xytext=(-9, -9),  # where a falling curve leaves room
                textcoords="offset points",
                ha="right",
                va="top",
                fontweight="bold",
            )
    ax.set_ylim(low, high)


def _draw_accuracy(ax: Any, curve: Any) -> None:
    points = [point for point in curve.validation if point.accuracy is not None]
    rates, values = [p.lr for p in points], [p.accuracy for p in points]
    if not points:
        rates, values = curve.lr, curve.accuracy
    if not values:
        return
    twin = ax.twinx()
    twin.plot(rates, values, color="0.5", lw=0.8, alpha=0.7)
    twin.set_ylabel("validation accuracy" if points else "training accuracy")
    twin.set_ylim(0.0, 1.0)
