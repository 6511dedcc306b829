"""Draws several range tests beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surefoot.plots._style import (
    COLOURS,
    axes_or_new,
    dress,
    legend_below,
    outer_labels,
    small_multiples,
)
from surefoot.plots.range_curve import usual_heights


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
        suggestion = curve.suggest()
        rate = "none" if suggestion.rate is None else f"{suggestion.rate:.2g}"
        width = 1.1 + 1.2 * (len(curves) - 1 - k)  # one below another of the same course is seen
        ax.plot(rates, losses, color=COLOURS[k % len(COLOURS)], lw=width, label=f"{label}: {rate}")
        if suggestion.rate is not None:
            ax.axvline(suggestion.rate, color=COLOURS[k % len(COLOURS)], lw=width, ls=":", zorder=0)
        heights += [limits] if (limits := usual_heights(losses)) else []
    if heights:  # every curve's fall is seen, none of their flights
        ax.set_ylim(min(low for low, _ in heights), max(high for _, high in heights))
    dress(ax, "learning rate", "validation loss" if validated else "training loss")
    legend_below(ax, columns=2)
    return ax


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
