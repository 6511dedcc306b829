"""Walk along a line and measure batches on the way."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from surefoot._evaluation import Graphless, agree
from surefoot._params import Copies, dot_and_norm_sq
from surefoot._quiet import Buffers, RngState, devices_of
from surefoot.directions import Direction
from surefoot.line import NotRepeatableError
from surefoot.shape._evaluate import BatchLoss, fingerprint, samples_of


class SampleProgress(NamedTuple):
    """What ``on_progress`` is called with."""

    done: int
    """Forward passes made."""
    total: int | None
    """Forward passes in all; None where the number of batches is not known."""


@dataclass
class Row:
    """One batch at all places."""

    size: int
    losses: list[float] = field(default_factory=list)
    slopes: list[float] = field(default_factory=list)


class Walk:
    """Moves the weights along a direction and evaluates batches; puts the weights back.

    Args:
        evaluate: the loss of a batch.
        direction: of length 1.
        places: distances.
        slopes: measure derivatives, too.
        on_progress: called after each forward pass.
    """

    def __init__(
        self,
        evaluate: BatchLoss,
        direction: Direction,
        places: Sequence[float],
        slopes: bool,
        on_progress: Callable[[SampleProgress], None] | None,
    ) -> None:
        self._evaluate = evaluate
        self._direction = direction
        self._places = places
        self._slopes = slopes
        self._on_progress = on_progress
        self._done = 0
        self._total: int | None = None
        self._copies = Copies()
        self._devices = devices_of(evaluate.params)
        self._random = RngState.capture(self._devices)
        self._buffers = Buffers(evaluate.model).snapshot()
        self._graphless = Graphless(needs_graph=slopes)

    def __enter__(self) -> Walk:
        self._copies.take(self._evaluate.params)
        return self

    def __exit__(self, *raised: object) -> None:
        self._copies.put_back()

    def by_batches(self, batches: Iterable[Any]) -> list[Row]:
        """Read the data once; visit every place with each batch."""
        self._expect(batches)
        rows: list[Row] = []
        for batch in batches:
            rows.append(self.row(batch, check=not rows))
        if not rows:
            raise ValueError("there are no batches to measure on")
        return rows

    def by_places(self, batches: Iterable[Any]) -> list[Row]:
        """Visit every place once; read all the data there."""
        self._expect(batches)
        held = isinstance(batches, (list, tuple))  # the same tensors at each reading
        seen: list[Any] = []
        columns: list[list[_Measured]] = []
        for place in self._places:
            self._random.restore()  # a shuffling loader shuffles alike
            column: list[_Measured] = []
            for batch in batches:
                if not held:
                    _check_same(seen, columns, len(column), batch)
                prepared = self._evaluate.prepare(batch)
                column.append(self._visit(place, prepared, first=not column))
            if columns and len(column) != len(columns[0]):
                raise ValueError(_CHANGED.format(f"{len(columns[0])} batches, then {len(column)}"))
            if not column:
                raise ValueError("there are no batches to measure on")
            columns.append(column)
        rows = [self._row(list(of_batch)) for of_batch in zip(*columns, strict=True)]
        self._random.restore()
        first = next(iter(batches))
        self._check_repeats(rows[0], self._evaluate.prepare(first))
        return rows

    def row(self, batch: Any, *, check: bool = False) -> Row:
        """One batch at all places, with the same random numbers at each."""
        prepared = self._evaluate.prepare(batch)
        before = RngState.capture(self._devices)
        after = None
        measured = []
        for place in self._places:
            before.restore()
            measured.append(self._visit(place, prepared))
            after = RngState.capture(self._devices) if after is None else after
        row = self._row(measured)
        if check:
            before.restore()
            self._check_repeats(row, prepared)
        assert after is not None
        after.restore()  # the next batch draws other numbers
        return row

    def _expect(self, batches: Iterable[Any]) -> None:
        with contextlib.suppress(Exception):  # some loaders have a __len__ that raises
            self._total = len(batches) * len(self._places)  # type: ignore[arg-type]

    def _visit(self, place: float, prepared: Any, first: bool = True) -> _Measured:
        if first:
            self._go_to(place)
        measured = self._measure(prepared)
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(SampleProgress(self._done, self._total))
        return measured

    def _go_to(self, place: float) -> None:
        if place == 0.0:
            self._copies.put_back()
        else:
            self._copies.put_moved(self._direction.tensors, self._direction.weights, place)

    def _measure(self, prepared: Any) -> _Measured:
        self._buffers.restore()
        random = RngState.capture(self._devices)

        def rewind() -> None:
            self._buffers.restore()
            random.restore()

        def evaluate() -> tuple[Tensor, float | None]:
            losses = self._evaluate(prepared)
            mean = (losses if losses.dtype is torch.float64 else losses.float()).mean()
            return mean.detach(), self._slope(mean) if self._slopes else None

        return _Measured(samples_of(prepared), *self._graphless(evaluate, rewind))

    def _slope(self, mean: Tensor) -> float:
        grads = torch.autograd.grad(mean, self._evaluate.params, allow_unused=True)
        used = [i for i, g in enumerate(grads) if g is not None]
        dot, _ = dot_and_norm_sq(
            [g for g in grads if g is not None],
            [self._direction.tensors[i] for i in used],
            [self._direction.weights[i] for i in used],
        )
        return dot

    def _row(self, measured: list[_Measured]) -> Row:
        # one transfer a batch instead of one a place
        losses: list[float] = torch.stack([m.mean for m in measured]).tolist()
        return Row(measured[0].size, losses, [m.slope for m in measured if m.slope is not None])

    def _check_repeats(self, row: Row, prepared: Any) -> None:
        """The first batch at the start once more: the same loss as before?"""
        once = row.losses[list(self._places).index(0.0)]
        self._go_to(0.0)
        again = float(self._measure(prepared).mean)
        if math.isfinite(once) and not agree(again, once):
            raise NotRepeatableError(
                f"the first batch has the loss {once!r} and then {again!r} for the same weights "
                "and the same random numbers, so a line cannot be sampled. Does the model or the "
                "loss draw from a random generator of its own, or count its calls?"
            )


class _Measured(NamedTuple):
    size: int
    mean: Tensor
    slope: float | None


_CHANGED = (
    "the data set changed between two readings ({}): read it once, with order='batches', or pass "
    "a list of batches"
)


def _check_same(seen: list[Any], columns: list[Any], i: int, batch: Any) -> None:
    if not columns:
        seen.append(fingerprint(batch))
    elif i >= len(seen) or fingerprint(batch) != seen[i]:
        raise ValueError(_CHANGED.format(f"batch {i} is another one"))
