"""Walk along a line and measure batches on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from surefoot._batches import length_of, samples_in
from surefoot._evaluation import Graphless, agree
from surefoot._params import Copies
from surefoot._quiet import Buffers, RngState, devices_of
from surefoot.directions import Direction
from surefoot.line import NotRepeatableError
from surefoot.shape._evaluate import BatchLoss


class SampleProgress(NamedTuple):
    """What ``on_progress`` is called with.

    Args:
        done: forward passes made.
        total: forward passes in all; None where the number of batches is not known.
    """

    done: int
    total: int | None


class Row(NamedTuple):
    """One batch at all places."""

    size: int
    losses: list[float]


@dataclass
class Walk:
    """Moves the weights along a direction and evaluates batches; puts the weights back.

    Args:
        evaluate: the loss of a batch.
        direction: of length 1.
        places: distances.
        on_progress: called after each forward pass.
    """

    evaluate: BatchLoss
    direction: Direction
    places: Sequence[float]
    on_progress: Callable[[SampleProgress], None] | None

    def __post_init__(self) -> None:
        self._done = 0
        self._total: int | None = None
        self._copies = Copies()
        self._devices = devices_of(self.evaluate.params)
        self._buffers = Buffers(self.evaluate.model).snapshot()
        self._graphless = Graphless()

    def __enter__(self) -> Walk:
        self._copies.take(self.evaluate.params)
        return self

    def __exit__(self, *raised: object) -> None:
        self._copies.put_back()

    def rows(self, batches: Iterable[Any]) -> list[Row]:
        """Read the data once; visit every place with each batch."""
        if (count := length_of(batches)) is not None:
            self._total = count * len(self.places)
        rows = [self.row(batch, check=i == 0) for i, batch in enumerate(batches)]
        if not rows:
            raise ValueError("there are no batches to measure on")
        return rows

    def row(self, batch: Any, *, check: bool = False) -> Row:
        """One batch at all places, with the same random numbers at each; the next draws others.

        Raises:
            NotRepeatableError: if the loss at the start is to be checked, and differs.
        """
        inputs, targets = prepared = self.evaluate.prepare(batch)
        random = RngState.capture(self._devices)
        means = [self._visit(place, prepared, random) for place in self.places]
        # one transfer a batch instead of one a place
        losses: list[float] = torch.stack(means).tolist()
        if check:
            once = losses[list(self.places).index(0.0)]
            again = float(self._loss_at(0.0, prepared, random))
            if math.isfinite(once) and not agree(again, once):
                raise NotRepeatableError(
                    f"the first batch has the loss {once!r} and then {again!r} for the same "
                    "weights and the same random numbers, so a line cannot be sampled. Does the "
                    "model or the loss draw from a random generator of its own, or count its calls?"
                )
        return Row(samples_in(targets) or samples_in(inputs) or 1, losses)

    def _visit(self, place: float, prepared: Any, random: RngState) -> Tensor:
        loss = self._loss_at(place, prepared, random)
        self._done += 1
        if self.on_progress is not None:
            self.on_progress(SampleProgress(self._done, self._total))
        return loss

    def _loss_at(self, place: float, prepared: Any, random: RngState) -> Tensor:
        if place == 0.0:
            self._copies.put_back()
        else:
            self._copies.put_moved(self.direction.tensors, self.direction.weights, place)

        def rewind() -> None:
            self._buffers.restore()
            random.restore()

        rewind()
        return self._graphless(lambda: self.evaluate(prepared).detach(), rewind)
