"""Batches: shuffled, augmented and normalized by a few tensor operations, or read from the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from surefoot_lab.config import DataConfig
from surefoot_lab.data.examples import Examples, Splits
from surefoot_lab.data.files import ATTEMPTS, ImageFiles
from surefoot_lab.errors import UserError

Batch = tuple[Tensor, Tensor]
Statistics = tuple[tuple[float, ...], tuple[float, ...]]

# Mean and standard deviation of each channel over the whole official training set, pixels on the
# scale 0 to 1. ImageNet's deviations are the ones in common use, of the set's center crops.
PUBLISHED: dict[str, Statistics] = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion-mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
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
            mean, deviation = _channel_statistics(images)
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


def _channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel, on the scale 0 to 255.

    Args:
        images: uint8, shape (count, channels, height, width).

    Returns:
        Two float32 tensors of shape (channels,), exact up to the final rounding: they are
        computed from how often each of the 256 values occurs.
    """
    values = torch.arange(256, dtype=torch.float64)
    means, deviations = [], []
    for channel in range(images.shape[1]):
        pixels = images[:, channel].reshape(-1).cpu()
        share = torch.bincount(pixels, minlength=256).double() / max(pixels.numel(), 1)
        mean = (share * values).sum()
        means.append(mean)
        deviations.append((share * (values - mean) ** 2).sum().sqrt())
    return torch.stack(means).float(), torch.stack(deviations).float()


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


class FileLoader(TrainLoader):
    """Training batches from image files: the next batch is decoded while this one is trained on.

    All random numbers of a batch are drawn before it is decoded, so the position that is saved is
    that of the last batch handed out, and threads change nothing.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        if self._crop:
            raise UserError(
                "data.crop: images read from the disk are cropped at random scale and place "
                "already; leave it 0"
            )
        self._ahead: tuple[Callable[[], Batch], dict[str, Any]] | None = None
        self._position: dict[str, Any] | None = None

    def next_batch(self) -> Batch:
        """The next batch: normalized images and labels."""
        decode, self._position = self._ahead or self._begin()
        self._ahead = self._begin()
        return decode()

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch handed out."""
        return super().state_dict() if self._position is None else self._position

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position."""
        self._ahead = self._position = None
        super().load_state_dict(state)

    def _begin(self) -> tuple[Callable[[], Batch], dict[str, Any]]:
        """Draw a batch and begin to decode it; return what waits for it, and the position then."""
        decode = self._start(self._next_places(), self._generator)
        return decode, super().state_dict()

    def _start(self, places: Tensor, generator: torch.Generator) -> Callable[[], Batch]:
        files: ImageFiles = self._examples.inputs[places]
        numbers = torch.rand(len(files), ATTEMPTS, 4, generator=generator)
        mirrored = torch.rand(len(files), generator=generator) < (0.5 if self._flip else 0.0)
        futures = files.start_random_crops(numbers, mirrored)
        labels = self._examples.labels[places.to(self._device)]
        return lambda: (self._normalizer(torch.stack([f.result() for f in futures])), labels)

    def _batch(self, places: Tensor, generator: torch.Generator) -> Batch:
        return self._start(places, generator)()


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


def loader_of(
    data: Splits, config: DataConfig, normalizer: Normalizer, **settings: Any
) -> TrainLoader:
    """The stream of training batches of an experiment; `settings` are others of `TrainLoader`."""
    kind = FileLoader if isinstance(data.train.inputs, ImageFiles) else TrainLoader
    return kind(data.train, normalizer, crop=config.crop, flip=config.flip, **settings)
