"""Walk along a line and measure batches on the way."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from surefoot._evaluation import Graphless, agree
from surefoot._params import Copies
from surefoot._quiet import Buffers, RngState, devices_of
from surefoot.directions import Direction
from surefoot.line import NotRepeatableError
from surefoot.shape._evaluate import BatchLoss, samples_of


class SampleProgress(NamedTuple):
    """What ``on_progress`` is called with."""

    done: int
    """Forward passes made."""
    total: int | None
    """Forward passes in all; None where the number of batches is not known."""


class Row(NamedTuple):
    """One batch at all places."""

    size: int
    losses: list[float]
    slopes: list[float]


@dataclass
class Walk:
    """Moves the weights along a direction and evaluates batches; puts the weights back.

    Args:
        evaluate: the loss of a batch.
        direction: of length 1.
        places: distances.
        slopes: measure derivatives, too.
        on_progress: called after each forward pass.
    """

    evaluate: BatchLoss
    direction: Direction
    places: Sequence[float]
    slopes: bool
    on_progress: Callable[[SampleProgress], None] | None

    def __post_init__(self) -> None:
        self._done = 0
        self._total: int | None = None
        self._copies = Copies()
        self._devices = devices_of(self.evaluate.params)
        self._buffers = Buffers(self.evaluate.model).snapshot()
        self._graphless = Graphless(needs_graph=self.slopes)

    def __enter__(self) -> Walk:
        self._copies.take(self.evaluate.params)
        return self

    def __exit__(self, *raised: object) -> None:
        self._copies.put_back()

    def rows(self, batches: Iterable[Any]) -> list[Row]:
        """Read the data once; visit every place with each batch."""
        with contextlib.suppress(Exception):  # some loaders have a __len__ that raises
            self._total = len(batches) * len(self.places)  # type: ignore[arg-type]
        rows: list[Row] = []
        for batch in batches:
            rows.append(self.row(batch, check=not rows))
        if not rows:
            raise ValueError("there are no batches to measure on")
        return rows

    def row(self, batch: Any, *, check: bool = False) -> Row:
        """One batch at all places, with the same random numbers at each."""
        prepared = self.evaluate.prepare(batch)
        before = RngState.capture(self._devices)
        measured = [self._visit(self.places[0], prepared, before)]
        after = RngState.capture(self._devices)
        measured += [self._visit(place, prepared, before) for place in self.places[1:]]
        # one transfer a batch instead of one a place
        losses: list[float] = torch.stack([mean for mean, _ in measured]).tolist()
        row = Row(samples_of(prepared), losses, [s for _, s in measured if s is not None])
        if check:
            self._check_repeats(losses[list(self.places).index(0.0)], prepared, before)
        after.restore()  # the next batch draws other numbers
        return row

    def _visit(self, place: float, prepared: Any, random: RngState) -> tuple[Tensor, float | None]:
        """Mean loss and slope at a place."""
        self._go_to(place)
        measured = self._measure(prepared, random)
        self._done += 1
        if self.on_progress is not None:
            self.on_progress(SampleProgress(self._done, self._total))
        return measured

    def _go_to(self, place: float) -> None:
        if place == 0.0:
            self._copies.put_back()
        else:
            self._copies.put_moved(self.direction.tensors, self.direction.weights, place)

    def _measure(self, prepared: Any, random: RngState) -> tuple[Tensor, float | None]:
        def rewind() -> None:
            self._buffers.restore()
            random.restore()

        rewind()

        def evaluate() -> tuple[Tensor, float | None]:
            losses = self.evaluate(prepared)
            mean = (losses if losses.dtype is torch.float64 else losses.float()).mean()
            if not self.slopes:
                return mean.detach(), None
            grads = torch.autograd.grad(mean, self.evaluate.params, allow_unused=True)
            return mean.detach(), self.direction.slope_for(grads)

        return self._graphless(evaluate, rewind)

    def _check_repeats(self, once: float, prepared: Any, random: RngState) -> None:
        """The first batch at the start once more: the same loss as before?"""
        self._go_to(0.0)
        again = float(self._measure(prepared, random)[0])
        if math.isfinite(once) and not agree(again, once):
            raise NotRepeatableError(
                f"the first batch has the loss {once!r} and then {again!r} for the same weights "
                "and the same random numbers, so a line cannot be sampled. Does the model or the "
                "loss draw from a random generator of its own, or count its calls?"
            )
