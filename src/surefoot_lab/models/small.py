"""Networks that train in seconds on a CPU: no BatchNorm, no dropout, no surprises."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn


class ConvNet(nn.Module):
    """Two or three 3x3 convolutions, each with ReLU and pooling by two, then two linear layers.

    Args:
        num_classes: number of outputs.
        in_channels: channels of the images.
        image_size: height and width of the images, at least 4 each.
        widths: channels of the convolutions; images must survive one halving for each.
        hidden: width of the linear layer in between.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: Sequence[int] = (28, 28),
        widths: Sequence[int] = (16, 32),
        hidden: int = 64,
    ) -> None:
        super().__init__()
        height, width = (size >> len(widths) for size in image_size)
        if min(height, width) < 1:
            raise ValueError(
                f"images of {tuple(image_size)} are too small for {len(widths)} stages"
            )
        layers: list[nn.Module] = []
        for out_channels in widths:
            layers += [nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
            in_channels = out_channels
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(in_channels * height * width, hidden),
            nn.ReLU(),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of a batch of images."""
        scores: Tensor = self.head(self.features(images))
        return scores


class MLP(nn.Module):
    """Linear layers with ReLU in between, on the flattened image.

    Args:
        num_classes: number of outputs.
        in_channels: channels of the images.
        image_size: height and width of the images.
        widths: widths of the hidden layers.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: Sequence[int] = (28, 28),
        widths: Sequence[int] = (128, 128),
    ) -> None:
        super().__init__()
        sizes = [in_channels * math.prod(image_size), *widths]
        layers: list[nn.Module] = [nn.Flatten()]
        for size_in, size_out in itertools.pairwise(sizes):
            layers += [nn.Linear(size_in, size_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of a batch of images."""
        scores: Tensor = self.layers(images)
        return scores
