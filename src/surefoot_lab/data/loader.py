"""Batches from memory: shuffled, augmented and normalized by a few tensor operations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from surefoot_lab.data.examples import Examples, Splits
from surefoot_lab.data.files import ImageFiles
from surefoot_lab.data.images import Statistics, channel_statistics

Batch = tuple[Tensor, Tensor]
FILES_MEASURED = 1000  # of images on the disk, so many give mean and deviation


class Normalizer:
    """Turn bytes into floats with mean 0 and deviation 1 per channel.

    Args:
        images: uint8 images whose mean and deviation are used: the training images. None leaves
            what it is given as it is: characters, standardized tables.
        device: where the batches are.
        statistics: published mean and deviation, on the scale 0 to 1, to use instead.
    """

    def __init__(
        self, images: Tensor | None, device: torch.device, statistics: Statistics | None = None
    ) -> None:
        self.device = device
        self._scale: tuple[Tensor, Tensor] | None = None
        if images is None:
            return
        if statistics is None:
            mean, deviation = channel_statistics(images)
        else:
            mean, deviation = (255 * torch.tensor(values) for values in statistics)
        deviation = deviation.clamp_min(1.0)  # blank channels
        self._scale = mean.view(1, -1, 1, 1).to(device), deviation.view(1, -1, 1, 1).to(device)

    def __call__(self, inputs: Tensor | ImageFiles) -> Tensor:
        """Normalize a batch of bytes; images that are on the disk are read first."""
        if isinstance(inputs, ImageFiles):
            inputs = inputs.read()
        if self._scale is None:
            return inputs
        mean, deviation = self._scale
        return inputs.to(self.device).float().sub_(mean).div_(deviation)


def normalizer_of(data: Splits, device: torch.device) -> Normalizer:
    """What the batches of a data set are normalized by, in training and in evaluation."""
    images = data.train.inputs if data.kind == "images" else None
    if isinstance(images, ImageFiles) and data.statistics is None:
        images = images[:: max(1, len(images) // FILES_MEASURED)].read()
    return Normalizer(images, device, data.statistics)


class TrainLoader:
    """An endless stream of training batches, whose position can be saved to the bit.

    Every epoch is a new random order of all examples; a last smaller batch is left out. The
    random numbers come from a generator of its own on the CPU, so that they depend on the seed
    alone: neither on the device nor on what else draws random numbers.

    Args:
        examples: the training examples; moved to `device` as a whole.
        normalizer: applied to every batch.
        batch_size: examples per batch.
        seed: of order and augmentation.
        crop: pixels of black padding before a random crop to the original size.
        flip: mirror each image left to right with probability one half.
        device: where the batches are wanted.
    """

    def __init__(
        self,
        examples: Examples,
        normalizer: Normalizer,
        *,
        batch_size: int,
        seed: int,
        crop: int = 0,
        flip: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self._device = device or torch.device("cpu")
        self._examples = examples.to(self._device)
        self._normalizer = normalizer
        self._crop = crop
        self._flip = flip
        self.batch_size = batch_size
        self.batches_per_epoch = len(examples) // batch_size
        self._generator = torch.Generator().manual_seed(int(seed))
        self._order = torch.empty(0, dtype=torch.int64)
        self._next = self.batches_per_epoch  # the first batch begins an epoch

    def next_batch(self) -> Batch:
        """The next batch: normalized inputs and labels."""
        return self._batch(self._next_places(), self._generator)

    def __iter__(self) -> Iterator[Batch]:
        """The batches from here on, without end."""
        while True:
            yield self.next_batch()

    def _next_places(self) -> Tensor:
        """Which examples come next."""
        if self._next == self.batches_per_epoch:
            self._order = torch.randperm(len(self._examples), generator=self._generator)
            self._next = 0
        start = self._next * self.batch_size
        self._next += 1
        return self._order[start : start + self.batch_size]

    def sample(self, batches: int, seed: int) -> Iterator[Batch]:
        """Batches as in training, from a generator of their own: the stream stays where it is."""
        generator = torch.Generator().manual_seed(int(seed))
        for _ in range(batches):
            places = torch.randint(len(self._examples), (self.batch_size,), generator=generator)
            yield self._batch(places, generator)

    def state_dict(self) -> dict[str, Any]:
        """The position in the stream."""
        return {
            "next": self._next,
            "order": self._order.clone(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position."""
        self._next = state["next"]
        self._order = state["order"].clone()
        self._generator.set_state(state["generator"])

    def _batch(self, places: Tensor, generator: torch.Generator) -> Batch:
        batch = self._examples[places.to(self._device)]
        inputs = augment(batch.inputs, self._crop, self._flip, generator)
        return self._normalizer(inputs), batch.labels


def augment(images: Tensor, crop: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Shift every image at random, black at the borders, and mirror half of them.

    Args:
        images: uint8, shape (count, channels, height, width).
        crop: largest shift in pixels, in each direction.
        flip: mirror each image left to right with probability one half.
        generator: of the random choices, on the CPU.

    Returns:
        New images of the same shape and type.
    """
    if not crop and not flip:
        return images
    count, channels, height, width = images.shape
    shift = torch.randint(0, 2 * crop + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < (0.5 if flip else 0.0)
    columns = torch.arange(width)
    rows = shift[0] + torch.arange(height)
    columns = shift[1] + torch.where(mirrored, columns.flip(0), columns)
    padded_width = width + 2 * crop
    places = (rows[:, :, None] * padded_width + columns[:, None, :]).view(count, 1, -1)
    places = places.to(images.device).expand(count, channels, height * width)
    padded = F.pad(images, (crop,) * 4).view(count, channels, -1)
    return padded.gather(2, places).view_as(images)


@dataclass
class InOrder:
    """All examples in their order, normalized; the last batch may be smaller."""

    examples: Examples
    normalizer: Normalizer
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.examples) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.examples), self.batch_size):
            batch = self.examples[start : start + self.batch_size]
            yield self.normalizer(batch.inputs), batch.labels
