"""A measured rate over time: what was applied, how sure it is, what bounds it."""

from __future__ import annotations

import math
from typing import Any

from surefoot.plots._style import COLOURS, INK, Axes, axes_or_new, dress


def rate(optimizer: Any, ax: Axes | None = None) -> Axes:
    """Draw what :class:`~surefoot.MeasuredLR` measured over a run.

    The learning rate that was applied, the measured minimum with its 95 % interval, the bound on a
    step where there is one, and what horizon and schedulers left of the rate, on an axis of its
    own, where they left less than all.

    Args:
        optimizer: a :class:`~surefoot.MeasuredLR`, or what its ``history()`` returned.
        ax: where to draw; new axes where None.

    Returns:
        The axes. Nothing is shown or saved.

    Raises:
        ValueError: if nothing was measured.

    Example:
        >>> import matplotlib; matplotlib.use("Agg")
        >>> import torch, surefoot
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = surefoot.MeasuredLR(torch.optim.SGD(model.parameters()), model)
        >>> for _ in range(8):
        ...     model(torch.ones(4, 3)).square().mean().backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> surefoot.plots.rate(optimizer).get_xlabel()
        'step'
    """
    points = optimizer.history() if hasattr(optimizer, "history") else list(optimizer)
    if not points:
        raise ValueError("nothing was measured yet: history() is empty")
    ax = axes_or_new(ax)
    steps = [p.step for p in points]
    applied = [p.effective_lr if p.effective_lr > 0.0 else math.nan for p in points]
    measured = [math.nan if p.measured is None else p.measured for p in points]
    # a decade around the rates: an interval without an upper end leaves the picture
    seen = [v for v in (*applied, *measured) if math.isfinite(v) and v > 0.0] or [1.0]
    low, high = min(seen) / 4.0, max(seen) * 4.0
    lows = [min(max(p.low, low), high) for p in points]
    highs = [min(max(p.high, low), high) for p in points]
    ax.fill_between(steps, lows, highs, color=COLOURS[0], alpha=0.15, lw=0, label="95 % interval")
    ax.plot(steps, measured, ".", color=COLOURS[0], ms=4, label="measured minimum")
    ax.plot(steps, applied, color=INK, lw=1.8, label="applied")
    bounds = [p.bound if low <= p.bound <= high else math.nan for p in points]
    if any(map(math.isfinite, bounds)):
        ax.plot(steps, bounds, color=COLOURS[1], lw=1.2, ls="--", label="bound on a step")
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    decay = [p.decay for p in points]
    below = _draw_decay(ax, steps, decay) if any(d < 1.0 for d in decay) else []
    return dress(ax, "step", "learning rate", legend=True, more=below)


def _draw_decay(ax: Any, steps: list[int], decay: list[float]) -> list[Any]:
    twin = ax.twinx()
    drawn: list[Any] = twin.plot(steps, decay, color="0.6", lw=1.0, ls=":", label="decay")
    twin.set_ylim(0.0, 1.02 * max(decay))
    twin.set_ylabel("decay", color="0.45")
    twin.tick_params(colors="0.45")
    twin.spines[["top"]].set_visible(False)
    return drawn
