"""Many lines: small multiples, figures of shape over training, steps against gradient norms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from surefoot.plots._style import (
    COLOURS,
    INK,
    Axes,
    Figure,
    axes_or_new,
    dress,
    outer_labels,
    small_multiples,
)
from surefoot.plots.line import line_sample


def line_grid(
    samples: Sequence[Any], steps: Sequence[Mapping[str, Any]] | None = None, *, columns: int = 4
) -> Figure:
    """Small multiples: one small picture a line, with one legend for all.

    Args:
        samples: :class:`~surefoot.LineSample`; each picture is titled with its ``step``.
        steps: for each line what :func:`~surefoot.plots.line_sample` takes.
        columns: pictures side by side.

    Returns:
        The figure. Nothing is shown or saved.

    Raises:
        ValueError: without lines, or with steps for another number of lines.
    """
    from matplotlib import pyplot

    if not samples or (steps is not None and len(steps) != len(samples)):
        raise ValueError(f"{len(samples)} lines, but steps for {len(steps or [])}")
    columns = min(columns, len(samples))
    size = (3.1 * columns, 2.5 * math.ceil(len(samples) / columns) + 0.6)
    figure: Figure = pyplot.figure(figsize=size, layout="constrained")
    axes = small_multiples(figure, len(samples), columns)
    for i, (ax, sample) in enumerate(zip(axes, samples, strict=True)):
        line_sample(sample, ax, steps=None if steps is None else steps[i], legend=False)
        ax.set_title(f"line {i}" if sample.step is None else f"step {sample.step}", fontsize=10)
    outer_labels(axes, columns)
    handles, labels = axes[0].get_legend_handles_labels()
    plain = [label.split(" (")[0] for label in labels]  # the numbers are those of one line
    figure.legend(handles, plain, loc="outside lower center", ncols=min(len(plain), 6), fontsize=9)
    return figure


def over_training(
    steps: Sequence[float],
    series: Mapping[str, Sequence[float]],
    ax: Axes | None = None,
    *,
    ylabel: str = "",
    log: bool = False,
) -> Axes:
    """Figures of shape against the training step.

    Args:
        steps: of the lines.
        series: name to one number a line; NaN leaves a gap.
        ax: where to draw; new axes where None.
        ylabel: what the numbers are.
        log: logarithmic numbers.

    Returns:
        The axes. Nothing is shown or saved.
    """
    ax = axes_or_new(ax)
    for k, (name, values) in enumerate(series.items()):
        ax.plot(steps, values, color=COLOURS[k % len(COLOURS)], lw=1.3, label=name)
    if log:
        ax.set_yscale("log")
    return dress(ax, "training step", ylabel, legend=len(series) > 1)


def steps_against_norms(
    norms: Sequence[float],
    lengths: Sequence[float],
    ax: Axes | None = None,
    *,
    rate: float | None = None,
    label: str = "lines",
) -> Axes:
    """Optimal step against gradient norm, with the line of one learning rate.

    Args:
        norms: of the directions.
        lengths: distances of the minima.
        ax: where to draw; new axes where None.
        rate: draw ``length = rate · norm``.
        label: name of the points.

    Returns:
        The axes. Nothing is shown or saved.
    """
    ax = axes_or_new(ax)
    ax.plot(norms, lengths, ".", ms=5, alpha=0.6, color=COLOURS[0], label=label)
    if rate is not None and len(norms):
        far = 1.05 * max(norms)
        ax.plot([0.0, far], [0.0, rate * far], color=INK, lw=1.2, label=f"rate {rate:.3g}")
    far_right = max([ax.get_xlim()[1], *(1.05 * n for n in norms)])
    ax.set_xlim(0.0, far_right)  # as a second call adds points, not what the first one fixed
    ax.set_ylim(min([0.0, *lengths]), max([ax.get_ylim()[1], *(1.05 * s for s in lengths)]))
    return dress(ax, "gradient norm", "distance of the full-batch minimum", legend=True)


def batch_sizes(rows: Sequence[Any], ax: Axes | None = None) -> Axes:
    """What the size of the direction's batch does, relative to the smallest size.

    Args:
        rows: what :func:`~surefoot.shape.batch_size_effect` gave.
        ax: where to draw; new axes where None.

    Returns:
        The axes. Nothing is shown or saved.
    """
    ax = axes_or_new(ax)
    sizes = [row.batch_size for row in rows]
    ax.plot(sizes, [row.rate_ratio for row in rows], "o-", color=COLOURS[0], label="optimal rate")
    ax.plot(sizes, [row.norm_ratio for row in rows], "s-", color=COLOURS[1], label="gradient norm")
    ax.plot(sizes, [n / sizes[0] for n in sizes], color="0.6", ls=":", label="batch size")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_xticks(sizes, [str(n) for n in sizes])
    relative = f"relative to {sizes[0]} samples"
    return dress(ax, "samples in the direction's batch", relative, legend=True)
