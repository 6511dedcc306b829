"""Pictures of range tests: one with its suggestions, several on one picture, or in a grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from surefoot.plots._style import COLOURS, INK, axes_or_new, dress, outer_labels, small_multiples

_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")


def range_curve(curve: Any, ax: Any = None, *, suggestions: Mapping[str, Any] | None = None) -> Any:
    """Draw loss against learning rate, with the suggested rate marked on the curve.

    The curve is the one that the rules read: validation losses if there are enough of them, else
    those of training. A loss in flight leaves the picture instead of flattening everything else.

    Args:
        curve: a :class:`~surefoot.RangeCurve`.
        ax: matplotlib Axes to draw into; new ones if None.
        suggestions: rule name to :class:`~surefoot.lr_range.Suggestion`, each marked and named in a
            legend; None for the default one alone, ``curve.suggestions()`` for those of all rules.
            Rules without an answer are left out.

    Returns:
        The Axes. Nothing is shown or saved.
    """
    ax = axes_or_new(ax)
    if curve.ramp.step_mode == "exp":
        ax.set_xscale("log")
    rates, losses = curve.read
    kind = "training loss" if rates is curve.lr else "validation loss"
    ax.plot(rates, losses, lw=1.6, color=COLOURS[0], label=kind)
    limits = _usual_heights(losses)
    if limits and max(filter(math.isfinite, losses)) > limits[1]:
        ax.set_ylim(*limits)
    default = curve.suggest()
    marked = {default.rule: default} if suggestions is None else suggestions
    limits = ax.get_ylim()
    for k, (name, found) in enumerate(marked.items()):
        if found.rate is not None:
            _mark(ax, name, found.rate, curve.loss_at(found.rate), k, found.rule == default.rule)
    ax.set_ylim(limits)
    return dress(ax, "learning rate", kind, legend=bool(suggestions))


def _mark(ax: Any, name: str, rate: float, height: float, k: int, is_default: bool) -> None:
    label = f"{name}: {rate:.2g}"
    line = ax.axvline(rate, color="0.6", lw=1.2 if is_default else 0.7, ls=":", zorder=0)
    low, high = ax.get_ylim()
    if not low <= height <= high:  # the loss has left the picture; the line alone remains
        line.set_label(label)
        return
    style = {"color": COLOURS[(k + 2) % len(COLOURS)], "ms": 6, "alpha": 0.6, "zorder": 3}
    if is_default:
        style = {"color": COLOURS[1], "ms": 10, "alpha": 1.0, "zorder": 4}
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
    marker = _MARKS[k % len(_MARKS)]
    ax.plot([rate], [height], marker=marker, ls="", mec="white", label=label, **style)


def _usual_heights(losses: Sequence[float]) -> tuple[float, float] | None:
    """The lowest and the highest place a picture of these losses has to show; None if all fly."""
    finite = sorted(filter(math.isfinite, losses))
    if not finite:
        return None
    usual = finite[int(0.75 * (len(finite) - 1))]
    height = max(usual - finite[0], 1e-12 * max(abs(usual), 1.0))
    return finite[0] - 0.2 * height, usual + 2.0 * height


def range_curves(curves_by_label: Mapping[str, Any], ax: Any = None) -> Any:
    """Draw range tests on the same axes, each with its default suggestion marked.

    The validation loss is drawn if all curves have it, as 1803.09820 does, else the
    training loss: losses of two kinds cannot be compared.

    Args:
        curves_by_label: name in the legend to :class:`~surefoot.RangeCurve`.
        ax: matplotlib Axes to draw into; new ones if None.

    Returns:
        The Axes. Nothing is shown or saved.

    Raises:
        ValueError: if there is no curve.
    """
    if not curves_by_label:
        raise ValueError("there is no range curve to draw")
    ax = axes_or_new(ax)
    curves = curves_by_label.values()
    if any(curve.ramp.step_mode == "exp" for curve in curves):
        ax.set_xscale("log")
    validated = all(curve.validation for curve in curves)
    heights = []
    for k, (label, curve) in enumerate(curves_by_label.items()):
        rates, losses = curve.lr, curve.loss
        if validated:
            rates, losses = [p.lr for p in curve.validation], [p.loss for p in curve.validation]
        found = curve.suggest().rate
        name = f"{label}: none" if found is None else f"{label}: {found:.2g}"
        # one below another of the same course is seen
        style: dict[str, Any] = {"lw": 1.1 + 1.2 * (len(curves) - 1 - k)}
        style["color"] = COLOURS[k % len(COLOURS)]
        ax.plot(rates, losses, label=name, **style)
        if found is not None:
            ax.axvline(found, ls=":", zorder=0, **style)
        heights += [limits] if (limits := _usual_heights(losses)) else []
    if heights:  # every curve's fall is seen, none of their flights
        ax.set_ylim(min(low for low, _ in heights), max(high for _, high in heights))
    kind = "validation loss" if validated else "training loss"
    return dress(ax, "learning rate", kind, legend=True, columns=2)


def range_grid(panels: Mapping[str, Mapping[str, Any]], figure: Any = None) -> Any:
    """Draw one small picture a panel, all with the same axes.

    Args:
        panels: title of each picture to its curves, as :func:`range_curves` takes them.
        figure: matplotlib Figure to draw into; a new one of fitting size if None.

    Returns:
        The Figure. Nothing is shown or saved.

    Raises:
        ValueError: if there is no panel, or a panel without a curve.
    """
    if not panels:
        raise ValueError("there is no range curve to draw")
    columns = min(len(panels), 3)
    if figure is None:
        from matplotlib import pyplot

        size = (0.8 + 4.2 * columns, 3.8 * -(-len(panels) // columns))
        figure = pyplot.figure(figsize=size, layout="constrained")
    axes = small_multiples(figure, len(panels), columns, sharex=True, sharey=True)
    limits = []
    for ax, (title, curves) in zip(axes, panels.items(), strict=True):
        limits.append(range_curves(curves, ax).get_ylim())
        ax.set_title(title, fontsize="medium")
    outer_labels(axes, columns)
    axes[0].set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    return figure
