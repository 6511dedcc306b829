"""Sample the loss along a line: one batch, many, or all the data, and leave no trace."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from surefoot._quiet import devices_of, undisturbed
from surefoot.directions import Direction
from surefoot.shape._evaluate import BatchLoss, LossFn
from surefoot.shape._gather import agree_on_direction, gather_rows
from surefoot.shape._walk import SampleProgress, Walk
from surefoot.shape.directions import gradient_direction
from surefoot.shape.line_sample import LineSample


def default_lengths(count: int = 41, farthest: float = 0.5) -> tuple[float, ...]:
    """Equally spaced distances from ``-farthest`` to ``farthest``; 0.5 as in 2103.17132."""
    half = count // 2
    return tuple(farthest * i / half for i in range(-half, half + 1))


def sample_line(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Iterable[Any],
    *,
    direction: Direction | None = None,
    lengths: Iterable[float] | None = None,
    own_batch: Any = None,
    on_progress: Callable[[SampleProgress], None] | None = None,
    process_group: Any = None,
    kind: str | None = None,
    step: int | None = None,
    info: dict[str, Any] | None = None,
) -> LineSample:
    r"""Measure :math:`s \mapsto L(\theta + s\, d / \lVert d \rVert)` on a grid, batch by batch.

    Every batch sees the same random numbers and the same buffers at every place, so that dropout
    and BatchNorm do not turn a line into noise. Weights, buffers, gradients and the random state
    are as before afterwards, to the bit, on an exception as well.

    Args:
        model: in the mode that its loss is wanted in; nothing is switched.
        loss_fn: ``loss_fn(model(inputs), targets)``: the mean over the batch, or one loss per
            sample (``reduction="none"``).
        batches: pairs of inputs and targets; a list, a DataLoader, any iterable. All of them are
            the full batch. No more than one is held at a time, beyond what ``batches`` holds.
        direction: over the model's trainable parameters, in their order; see
            :func:`~surefoot.shape.gradient_direction`, :func:`~surefoot.shape.next_update`,
            :func:`~surefoot.shape.random_direction`, :func:`~surefoot.shape.between`. None for the
            negated gradient of the first batch.
        lengths: distances from the start at which to measure, in any order; 0 is added. None for
            41 places from −0.5 to 0.5.
        own_batch: the batch that defined ``direction``, to be measured along its own line as well.
            Where ``direction`` is None it is the first one.
        on_progress: called with a :class:`SampleProgress` after each batch at each place.
        process_group: processes that share the data, each with batches of its own; all get the
            whole sample. None for torch's default group, if there is one.
        kind, step, info: kept in the sample.

    Returns:
        The sample: ask it with ``.parabola()``, ``.exact_minimum()``, ``.plot()``.

    Raises:
        ValueError: for a grid without places, a direction of length zero or of other shapes, or no
            batches.
        NotRepeatableError: if the loss of a batch is not the same when it is evaluated again.

    Example:
        >>> import torch, surefoot
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(60, 3)
        >>> y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
        >>> model = torch.nn.Linear(3, 1)
        >>> batches = list(zip(x.split(20), y.split(20)))
        >>> sample = surefoot.sample_line(model, torch.nn.functional.mse_loss, batches)
        >>> len(sample.lengths), len(sample.batch_losses), sample.kind
        (41, 3, 'gradient')
        >>> sample.parabola().curvature > 0
        True

    References: Mutschler and Zell, "Empirically explaining SGD from a line search perspective",
    2103.17132.

    *When it fails*: between the places nothing is known; see :class:`surefoot.LineSample`.
    """
    if direction is not None and not isinstance(direction, Direction):
        raise TypeError(f"direction must be a surefoot.directions.Direction, got {direction!r}")
    places = _check_lengths(default_lengths() if lengths is None else lengths)
    evaluate = BatchLoss(model, loss_fn)
    with undisturbed(model, devices_of(evaluate.params)), torch.no_grad():
        if first_is_own := direction is None:
            first, batches = _peek(batches)
            direction, kind = gradient_direction(model, loss_fn, first), kind or "gradient"
        direction = agree_on_direction(direction, process_group)
        _check_direction(direction, evaluate.params)
        unit = direction.unit()
        with Walk(evaluate, unit, places, on_progress) as walk:
            rows = walk.rows(batches)
            own = None if own_batch is None else walk.row(own_batch)
    rows, own = gather_rows(rows, own, process_group)
    own = rows[0] if first_is_own else own
    return LineSample(
        lengths=places,
        batch_losses=tuple(tuple(row.losses) for row in rows),
        batch_sizes=tuple(row.size for row in rows),
        direction_norm=direction.norm,
        kind=kind or "given",
        slope0=unit.slope0,
        own_losses=None if own is None else tuple(own.losses),
        step=step,
        info=dict(info or {}),
    )


def _peek(batches: Iterable[Any]) -> tuple[Any, Iterable[Any]]:
    """The first batch, and batches that still begin with it."""
    if batches and isinstance(batches, (list, tuple)):
        return batches[0], batches
    reader = iter(batches)
    for first in reader:
        return first, itertools.chain([first], reader)
    raise ValueError("there are no batches to measure on")


def _check_lengths(lengths: Iterable[float]) -> tuple[float, ...]:
    """The grid in order, with 0 in it."""
    if isinstance(lengths, str) or not isinstance(lengths, Iterable):
        raise TypeError(f"lengths must be a list of numbers, got {lengths!r}")
    given = [float(s) for s in lengths]
    if not given:
        raise ValueError("the grid has no places: pass at least one length")
    if wrong := [s for s in given if not math.isfinite(s)]:
        raise ValueError(f"lengths must be finite, got {wrong}")
    return tuple(sorted({*given, 0.0}))


def _check_direction(direction: Direction, params: Sequence[Tensor]) -> None:
    shapes = [tuple(t.shape) for t in direction.tensors]
    if shapes != [tuple(p.shape) for p in params]:
        raise ValueError(
            "the direction does not fit the model: one tensor for each trainable parameter, of its "
            f"shape and in their order; got {len(shapes)} for {len(params)} parameters"
        )
    if not direction.is_usable:
        raise ValueError(f"the direction has length {direction.norm}: there is no line along it")
