"""Validation inside a range test: the same share of the set each time, and no trace of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from surefoot._batches import samples_in
from surefoot._evaluation import Graphless
from surefoot._quiet import RngState, undisturbed
from surefoot._reduce import mean
from surefoot.lr_range._loss import Evaluation, LossOf
from surefoot.lr_range._position import LoaderPosition
from surefoot.lr_range._share import share_of

_MOST = 10_000
"""Batches of a pass, of a loader that may have no end."""


@dataclass
class Validator:
    """Measures loss and accuracy on a ``share`` of a validation set, again and again.

    Every pass starts from the same random state, so a shuffling loader gives the same samples
    each time, and it leaves the random state where it found it: the training batches are those
    of a test without validation. Batches are kept in memory if they fit in ``room`` bytes, so
    that images are decoded once and not at every pass.
    """

    loader: Iterable[Any]
    loss_of: LossOf
    share: float
    devices: tuple[torch.device, ...]
    group: Any
    room: int = 256 * 2**20
    forwards: int = 0

    def __post_init__(self) -> None:
        self._rng = RngState.capture(self.devices)
        self._position = LoaderPosition(self.loader)
        self.loader = share_of(self.loader, self.share)
        self._kept: list[Any] | None = None
        self._graphless = Graphless()

    @torch.no_grad()
    def measure(self) -> tuple[float, float | None, int]:
        """Mean loss over the samples, accuracy (or None), and this process's sample count."""
        model = self.loss_of.model
        modes = [] if model is None else [(m, m.training) for m in model.modules()]
        with undisturbed(model, self.devices):
            self._rng.restore()
            self._position.rewind()
            try:
                for module, _ in modes:
                    module.training = False
                return self._pass()
            finally:
                for module, training in modes:
                    module.training = training

    def _pass(self) -> tuple[float, float | None, int]:
        found = [self._evaluate(batch) for batch in self._batches()]
        self.forwards += len(found)
        samples = sum(each.samples for each in found)
        if not samples:
            raise ValueError("the validation loader is empty: it gave no batch with samples")
        # one device synchronisation for the whole pass
        summed = torch.stack([each.loss.float() * each.samples for each in found])
        counts = torch.tensor([each.samples for each in found]).to(summed)
        # a batch without a valid target has no loss; where most have none, it is no accident
        valid = ~summed.isnan()
        total, share, every = map(self._mean, (summed[valid], counts[valid], counts))
        loss = total / share if 2.0 * share >= every else math.nan
        corrects = [each.correct.float() for each in found if each.correct is not None]
        if len(corrects) < len(found):
            return loss, None, samples
        return loss, self._mean(torch.stack(corrects)) / every, samples

    def _mean(self, parts: torch.Tensor) -> float:
        """Of the sum, over the processes."""
        return mean(float(parts.sum().item()), self.group, self.loss_of.device)

    def _evaluate(self, batch: Any) -> Evaluation:
        random = RngState.capture(self.devices)
        found = self._graphless(lambda: self.loss_of(batch), random.restore)
        return found._replace(loss=found.loss.detach())

    def _batches(self) -> Iterator[Any]:
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Any] = []
        for number, batch in enumerate(self.loader):
            if number == _MOST:
                raise ValueError(
                    f"val_loader has given {_MOST} batches and no end: pass one that ends"
                )
            self.room -= _bytes_in(batch)
            kept.append(batch)
            if self.room < 0:
                kept.clear()
            yield batch
        if self.room >= 0:
            self._kept = kept


def _bytes_in(batch: Any) -> int:
    if isinstance(batch, torch.Tensor):
        return batch.numel() * batch.element_size()
    if isinstance(batch, (dict, list, tuple)):
        return sum(map(_bytes_in, batch.values() if isinstance(batch, dict) else batch))
    # of unknown size: as good as too large
    return 2**62 if samples_in(batch) else 0
