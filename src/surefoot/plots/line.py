"""One line: the batches' losses, the full-batch loss, its parabola, everybody's step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from surefoot.plots._style import COLOURS, INK, Axes, axes_or_new, dress

# Distinct without colour as well: every method has a marker of its own.
_MARKS = {
    "minimum": ("*", INK),
    "FBPAL": ("D", COLOURS[2]),
    "LABPAL": ("s", COLOURS[0]),
    "PAL": ("o", COLOURS[6]),
    "own batch": ("v", COLOURS[1]),
}
_OTHERS = ("^", "P", "X", "<", ">", "p", "h")
_MOST = 40  # batches drawn
_FULL, _BATCH, _PARABOLA = INK, "0.55", COLOURS[3]


def line_sample(
    sample: Any,
    ax: Axes | None = None,
    *,
    steps: Mapping[str, Any] | None = None,
    legend: bool = True,
) -> Axes:
    """Draw a sampled line.

    Thick the full-batch loss, shaded by twice its standard error; thin up to 40 batches' losses;
    dashed the least-squares parabola, dash-dotted the loss of the batch that defined the direction.

    Args:
        sample: a :class:`~surefoot.LineSample`.
        ax: where to draw; new axes where None.
        steps: method name to :class:`~surefoot.shape.StepOnLine`, as
            :func:`~surefoot.shape.steps_on_line` gives them; marked on the full-batch loss. Steps
            beyond the picture are named at its edge.
        legend: name everything.

    Returns:
        The axes. Nothing is shown or saved.

    Example:
        >>> import matplotlib; matplotlib.use("Agg")
        >>> from surefoot import LineSample
        >>> sample = LineSample((0.0, 0.1, 0.2), ((1.0, 0.6, 0.8),), (64,), kind="gradient")
        >>> line_sample(sample).get_xlabel()
        'distance along the negated gradient'
    """
    ax = axes_or_new(ax)
    lengths = list(sample.lengths)
    shown = sample.batch_losses[:_MOST] if len(sample.batch_losses) > 1 else ()
    for b, row in enumerate(shown):
        label = f"{len(shown)} batches" if b == 0 else None
        ax.plot(lengths, row, color=_BATCH, lw=0.6, alpha=0.5, label=label)
    if sample.standard_errors is not None:
        band = [2.0 * e for e in sample.standard_errors]
        low = [f - e for f, e in zip(sample.losses, band, strict=True)]
        high = [f + e for f, e in zip(sample.losses, band, strict=True)]
        ax.fill_between(lengths, low, high, color=_FULL, alpha=0.15, lw=0, label="± 2 std. errors")
    if (own := sample.own_losses) is not None:
        ax.plot(lengths, own, color=COLOURS[1], lw=1.4, ls="-.", label="direction's batch")
    ax.plot(lengths, sample.losses, color=_FULL, lw=2.4, label="full batch")
    if sum(map(math.isfinite, sample.losses)) >= 3:
        fitted = list(map(sample.parabola().value, lengths))
        ax.plot(lengths, fitted, color=_PARABOLA, lw=1.4, ls="--", label="parabola")
    ax.axvline(0.0, color="0.8", lw=0.8, zorder=0)
    _fit_height(ax, sample)
    for k, (name, step) in enumerate((steps or {}).items()):
        _mark(ax, name, step, lengths, k)
    names = {"gradient": "negated gradient", "update": "update", "random": "random direction"}
    return dress(ax, f"distance along the {names.get(sample.kind, 'line')}", "loss", legend)


def _fit_height(ax: Axes, sample: Any) -> None:
    """The full-batch loss fills the picture; batches far away from it do not flatten it."""
    shown = list(filter(math.isfinite, (*sample.losses, *(sample.own_losses or ()))))
    if shown:
        low, high = min(shown), max(shown)
        height = high - low or abs(low) or 1.0
        ax.set_ylim(low - 0.35 * height, high + 0.25 * height)


def _mark(ax: Axes, name: str, step: Any, lengths: list[float], k: int) -> None:
    marker, color = _MARKS.get(name, (_OTHERS[k % len(_OTHERS)], COLOURS[k % len(COLOURS)]))
    style: dict[str, Any] = {"ls": "", "marker": marker, "color": color, "ms": 8, "mec": "white"}
    if name == "minimum":
        style |= {"ms": 17}  # its points stick out behind a method that hits it
    inside = lengths[0] <= step.length <= lengths[-1] and math.isfinite(step.loss)
    place = ([step.length], [step.loss]) if inside else ([], [])
    label = f"{name} ({step.length:.3g}{'' if inside else ', outside'})"
    ax.plot(*place, label=label, zorder=5 + k, **style)
