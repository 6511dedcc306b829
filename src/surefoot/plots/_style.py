"""What all pictures share: size, colours, a quiet frame, a legend that lies on no curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure
else:  # matplotlib is imported when something is drawn
    Axes = Figure = Any

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


def dress(
    ax: Axes, x: str, y: str, legend: bool = False, *, more: Sequence[Any] = (), columns: int = 3
) -> Axes:
    """Named axes, no box, a faint grid, perhaps a legend under them, where no curve is.

    Args:
        ax: what comes back.
        x: name of the horizontal axis.
        y: name of the other.
        legend: of all that has a label.
        more: what else the legend names.
        columns: of the legend, at most.
    """
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25, lw=0.6)
    ax.set_axisbelow(True)
    handles = [*ax.get_legend_handles_labels()[0], *more]
    if legend and handles:
        ax.legend(
            handles=handles,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.16),
            ncols=min(len(handles), columns),
            fontsize="small",
            frameon=False,
        )
    return ax


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
