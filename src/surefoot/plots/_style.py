"""What all pictures share: size, colours, a quiet frame, a legend that lies on no curve."""

from __future__ import annotations

from typing import Any

COLOURS = ("#2f5fd0", "#d9480f", "#23873b", "#a43bc4", "#0a7f8f", "#c2255c", "#8f6b00", "#5f6b76")
"""Those of the lab's report."""
INK = "#1b2226"


def new_axes() -> Any:
    """Axes of a figure of their own, with room for what lies outside them."""
    from matplotlib import pyplot

    _, ax = pyplot.subplots(figsize=(7.0, 4.4), layout="constrained")
    return ax


def dress(ax: Any) -> None:
    """No box, a faint grid."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25, lw=0.6)
    ax.set_axisbelow(True)


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
