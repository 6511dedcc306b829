"""What was sampled along a line: plain numbers that can be kept, drawn and asked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from surefoot._params import fsum
from surefoot.parabola import Parabola
from surefoot.plots.line import line_sample


@dataclass(frozen=True)
class LineMinimum:
    """The lowest place of a sampled line.

    Args:
        length: distance from the start.
        loss: the loss there.
        standard_error: of ``length``, from the spread over batches; None where there are fewer
            than two batches or the minimum lies at the border.
        at_border: whether the lowest place is the first or the last one sampled.
    """

    length: float
    loss: float
    standard_error: float | None = None
    at_border: bool = False


@dataclass(frozen=True, eq=False)
class LineSample:
    r"""Losses along a line, batch by batch, as :func:`surefoot.sample_line` measured them.

    The full-batch loss at a place is the mean over the batches, weighted with their sizes.

    Args:
        lengths: places, as distances from the start, rising; 0 is among them.
        batch_losses: ``batch_losses[b][i]`` is the mean loss of batch ``b`` at ``lengths[i]``.
        batch_sizes: samples in each batch.
        direction_norm: norm of the direction before it was normalized. Along a negated gradient
            it is the gradient's, and a learning rate η goes ``η · direction_norm`` far.
        kind: what the direction is: ``"gradient"``, ``"update"``, ``"random"``, ...
        slope0: derivative, per unit of length, of the loss that defined the direction, at 0.
        own_losses: loss along the line of the batch that defined the direction.
        step: of a training run.
        info: what else is known, in plain JSON types.

    Example:
        >>> sample = LineSample(
        ...     lengths=(0.0, 1.0, 2.0, 3.0),
        ...     batch_losses=((4.0, 1.5, 1.0, 2.5), (4.0, 2.5, 3.0, 5.5)),
        ...     batch_sizes=(10, 10),
        ... )
        >>> sample.losses
        (4.0, 2.0, 2.0, 4.0)
        >>> sample.exact_minimum().length, round(sample.parabola().vertex, 6)
        (1.5, 1.5)

    *When it fails*: between the places sampled nothing is known; where they are far apart compared
    with the valley, its minimum is a guess.
    """

    lengths: tuple[float, ...]
    batch_losses: tuple[tuple[float, ...], ...]
    batch_sizes: tuple[int, ...]
    direction_norm: float = 1.0
    kind: str = "given"
    slope0: float | None = None
    own_losses: tuple[float, ...] | None = None
    step: int | None = None
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        places, batches = len(self.lengths), len(self.batch_losses)
        if not places or 0.0 not in self.lengths:
            raise ValueError("a line sample needs places, and 0 among them")
        if list(self.lengths) != sorted(set(self.lengths)):
            raise ValueError("the lengths of a line sample must rise")
        if not batches or len(self.batch_sizes) != batches:
            raise ValueError(f"{batches} batches, but {len(self.batch_sizes)} sizes of batches")
        rows = [*self.batch_losses, *([] if self.own_losses is None else [self.own_losses])]
        if any(len(row) != places for row in rows):
            raise ValueError(f"{places} places, but a batch has another number of losses")

    # -- the full batch -----------------------------------------------------------------------

    @cached_property
    def losses(self) -> tuple[float, ...]:
        """The full-batch loss at every place."""
        total = sum(self.batch_sizes)
        return tuple(
            fsum(n * loss for n, loss in zip(self.batch_sizes, place, strict=True)) / total
            for place in zip(*self.batch_losses, strict=True)
        )

    @cached_property
    def standard_errors(self) -> tuple[float, ...] | None:
        """Of the full-batch loss at every place, from the spread over batches; None for one."""
        if len(self.batch_losses) < 2:
            return None
        return tuple(map(self._standard_error, zip(*self.batch_losses, strict=True)))

    @property
    def origin(self) -> int:
        """Index of the place 0."""
        return self.lengths.index(0.0)

    @property
    def value0(self) -> float:
        """The full-batch loss at the start."""
        return self.losses[self.origin]

    def _standard_error(self, values: Sequence[float]) -> float:
        """Of the weighted mean of one number a batch."""
        total, count = sum(self.batch_sizes), len(values)
        shares = [n / total for n in self.batch_sizes]
        mean = fsum(w * v for w, v in zip(shares, values, strict=True))
        spread = fsum((w * (v - mean)) ** 2 for w, v in zip(shares, values, strict=True))
        return math.sqrt(spread * count / (count - 1))

    def finite(self, window: float | None = None) -> list[tuple[float, float]]:
        """Places and full-batch losses that are finite, up to a distance of ``window``."""
        return [
            (s, loss)
            for s, loss in zip(self.lengths, self.losses, strict=True)
            if math.isfinite(loss) and (window is None or abs(s) <= window)
        ]

    # -- between the places -------------------------------------------------------------------

    def loss_at(self, length: float) -> float:
        """The full-batch loss between the places, by the parabola through the nearest three.

        NaN outside of what was sampled.
        """
        return self.interpolate(self.losses, length)

    def interpolate(self, row: Sequence[float], length: float) -> float:
        """As :meth:`loss_at`, for the losses of one batch or any other row."""
        if not self.lengths[0] <= length <= self.lengths[-1]:
            return math.nan
        if length in self.lengths:
            return row[self.lengths.index(length)]
        if len(self.lengths) < 3:
            low, high = self.lengths
            return row[0] + (row[1] - row[0]) * (length - low) / (high - low)
        return self._near(row, self._middle(length)).value(length)

    def _middle(self, length: float) -> int:
        """Index of the inner place nearest to ``length``."""
        inner = range(1, len(self.lengths) - 1)
        return min(inner, key=lambda i: abs(self.lengths[i] - length))

    def _near(self, row: Sequence[float], i: int) -> Parabola:
        """The parabola through places i − 1, i and i + 1."""
        return Parabola.from_values(self.lengths[i - 1 : i + 2], row[i - 1 : i + 2])

    def slope_at(self, length: float, row: Sequence[float] | None = None) -> float:
        """Derivative of the full-batch loss, or of a row, by the same parabolas."""
        if len(self.lengths) < 3:
            return math.nan
        chosen = self.losses if row is None else row
        return self._near(chosen, self._middle(length)).slope(length)

    # -- what it says -------------------------------------------------------------------------

    def parabola(self, window: float | None = None) -> Parabola:
        """The least-squares parabola through the full-batch loss.

        Args:
            window: use places up to this distance from the start; None for all.

        Raises:
            ValueError: if fewer than three places have a finite loss.
        """
        pairs = self.finite(window)
        return Parabola.from_values([s for s, _ in pairs], [loss for _, loss in pairs])

    def exact_minimum(self) -> LineMinimum:
        r"""The lowest place, refined by the parabola through it and its neighbours.

        The standard error treats the batches as drawn at random: the spread of their slopes at
        the minimum over the curvature there,
        :math:`\mathrm{se} = \sqrt{\textstyle\sum_b w_b^2 (s_b - \bar s)^2 \tfrac{B}{B-1}} \,/\, c`
        with shares :math:`w_b` and slopes :math:`s_b` of B batches.

        Raises:
            ValueError: if no loss is finite.
        """
        finite = [i for i, loss in enumerate(self.losses) if math.isfinite(loss)]
        if not finite:
            raise ValueError("no loss on this line is finite")
        lowest = min(finite, key=lambda i: self.losses[i])
        neighbours = {lowest - 1, lowest + 1} <= set(finite)
        fit = self._near(self.losses, lowest) if neighbours else None
        if fit is None or fit.vertex is None:
            return LineMinimum(self.lengths[lowest], self.losses[lowest], at_border=not neighbours)
        error = None
        if len(self.batch_losses) > 1:
            slopes = [self._near(row, lowest).slope(fit.vertex) for row in self.batch_losses]
            error = self._standard_error(slopes) / fit.curvature
        return LineMinimum(fit.vertex, fit.value(fit.vertex), error)

    def subset(self, batches: Sequence[int]) -> LineSample:
        """The same line seen by some of the batches only."""
        return dataclasses.replace(
            self,
            batch_losses=tuple(self.batch_losses[b] for b in batches),
            batch_sizes=tuple(self.batch_sizes[b] for b in batches),
        )

    def plot(self, ax: Any = None, **options: Any) -> Any:
        """Draw the line; returns the matplotlib Axes, shows nothing.

        See :func:`surefoot.plots.line_sample` for the options.
        """
        return line_sample(self, ax=ax, **options)
