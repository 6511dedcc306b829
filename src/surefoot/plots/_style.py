"""What all pictures share: size, colours, a quiet frame, a legend that lies on no curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

COLOURS = ("#2f5fd0", "#d9480f", "#23873b", "#a43bc4", "#0a7f8f", "#c2255c", "#8f6b00", "#5f6b76")
"""Those of the lab's report."""
INK = "#1b2226"


def axes_or_new(ax: Any) -> Any:
    """The axes, or those of a figure of their own, with room for what lies outside them."""
    if ax is not None:
        return ax
    from matplotlib import pyplot

    _, ax = pyplot.subplots(figsize=(7.0, 4.4), layout="constrained")
    return ax


def dress(ax: Any, x: str, y: str) -> None:
    """Named axes, no box, a faint grid."""
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25, lw=0.6)
    ax.set_axisbelow(True)


def small_multiples(figure: Any, count: int, columns: int, **shared: bool) -> list[Any]:
    """Axes side by side, those of the last row filled as far as needed."""
    rows = -(-count // columns)
    axes = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for unused in axes[count:]:
        unused.remove()
    return axes[:count]


def outer_labels(axes: Sequence[Any], columns: int) -> None:
    """Names of axes at the left and, in every column, at the lowest picture only."""
    for place, ax in enumerate(axes):
        if place % columns:
            ax.set_ylabel("")
        if place + columns < len(axes):
            ax.set_xlabel("")
        else:  # the lowest of its column, even if a row below is not full
            ax.tick_params(labelbottom=True)


def window(values: Sequence[float]) -> tuple[float, float] | None:
    """Lowest and highest finite value; None if there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return (min(finite), max(finite)) if finite else None


def legend_below(ax: Any, handles: Any = None, columns: int = 3) -> None:
    """A legend under the axes, where no curve is."""
    found = ax.get_legend_handles_labels()[0] if handles is None else handles
    if found:
        ax.legend(
            handles=found,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.16),
            ncols=min(len(found), columns),
            fontsize="small",
            frameon=False,
        )
