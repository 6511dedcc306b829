"""The statistics by which images are normalized: measured, or as they are published."""

from __future__ import annotations

import torch
from torch import Tensor

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
