"""A measured step: the parabola, the loss along the line, the place that was taken."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from surefoot.outcome import StepOutcome
from surefoot.plots._style import COLOURS, INK, Axes, axes_or_new, dress


def parabola(
    outcome: StepOutcome, sample: Iterable[tuple[float, float]] = (), ax: Axes | None = None
) -> Axes:
    """Draw a measured parabola with the loss along the line.

    Args:
        outcome: what ``optimizer.last`` or ``on_measure`` gave; needs a parabola.
        sample: pairs (t, loss) of the real loss along the same line, if it was sampled.
        ax: where to draw; new axes where None.

    Returns:
        The axes. Nothing is shown or saved.

    Raises:
        ValueError: if nothing was measured in that step.

    Example:
        >>> import matplotlib; matplotlib.use("Agg")
        >>> from surefoot import Parabola, Status, StepOutcome
        >>> measured = Parabola(value0=2.0, slope0=-1.0, curvature=0.5)
        >>> ax = parabola(StepOutcome(3.0, 3.0, Status.MINIMUM, 2.0, -1.0, 1.0, parabola=measured))
        >>> ax.get_xlabel()
        'distance along the direction'
    """
    if outcome.parabola is None:
        raise ValueError(f"nothing was measured in this step (status {outcome.status})")
    ax = axes_or_new(ax)
    measured, per_t = outcome.parabola, outcome.direction_norm
    points = sorted(sample)
    ends = [0.0, 1.25 * outcome.t, *(t for t, _ in points)]
    if measured.vertex is not None and measured.vertex > 0.0:
        ends.append(1.5 * measured.vertex)
    low, high = min(ends), max(ends) or 1.0
    ts = [low + (high - low) * i / 200 for i in range(201)]
    lengths, fitted = [t * per_t for t in ts], list(map(measured.value, ts))
    if points:
        style: dict[str, Any] = {"color": "0.35", "linewidth": 2.0, "label": "loss along the line"}
        ax.plot([t * per_t for t, _ in points], [value for _, value in points], **style)
    ax.plot(lengths, fitted, color=COLOURS[0], linestyle="--", label="measured parabola")
    ax.plot([0.0], [measured.value0], "o", color=INK, markersize=5)
    ax.axvline(outcome.length, color=COLOURS[1], linewidth=1.2, label=f"step ({outcome.status})")
    if measured.vertex is not None and 0.0 < measured.vertex <= high:
        at = measured.vertex
        ax.plot([at * per_t], [measured.value(at)], "v", color=COLOURS[0], label="its minimum")
    return dress(ax, "distance along the direction", "loss", legend=True)
