"""Images in memory: bytes, labels, and how they are split."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surefoot_lab.config import UserError


@dataclass(frozen=True)
class ImageSet:
    """Decoded images with their labels.

    Attributes:
        images: uint8, shape (count, channels, height, width), 0 to 255.
        labels: int64, shape (count,), class numbers from 0.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, places: Tensor) -> ImageSet:
        return ImageSet(self.images[places], self.labels[places])

    def to(self, device: torch.device) -> ImageSet:
        """The same images on `device`."""
        return ImageSet(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set.

    Attributes:
        train: images to train on.
        validation: images to choose by; may be empty.
        test: images to report on; may be empty.
        classes: names of the classes, by number.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    classes: tuple[str, ...]

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.train.images.shape[1]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of an image."""
        return self.train.images.shape[2], self.train.images.shape[3]


def hold_out(images: ImageSet, amount: float, seed: int, what: str) -> tuple[ImageSet, ImageSet]:
    """Split off a random part.

    Args:
        images: what to split.
        amount: how many images to hold out; below 1, their share.
        seed: of the random choice.
        what: name of the setting, for the error message.

    Returns:
        The remaining images and those held out.

    Raises:
        UserError: nothing would remain.
    """
    if len(images) == 0:
        raise UserError("data.root: the data set there is empty; choose another folder")
    count = round(amount * len(images)) if amount < 1 else int(amount)
    if count >= len(images):
        raise UserError(
            f"{what}: cannot hold out {count} of {len(images)} images; choose a smaller number"
        )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images[order[count:]], images[order[:count]]


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
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
