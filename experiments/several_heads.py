"""A network with several heads, whose losses are added up as detectors do it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surefoot_lab.models.small import ConvNet

PICTURE_SIZE = 8

Outputs: TypeAlias = Tensor | tuple[Tensor, Tensor | None, Tensor | None]


class SeveralHeads(ConvNet):
    """The small conv net with three heads: the class, a box, a small copy of the image.

    The box (left, top, right, bottom, in pixels) is that around the pixels that are brighter than
    the image's mean; its loss is the smooth absolute difference, summed over the four edges. The
    copy is gray, of 8x8 pixels; its loss is the squared difference, summed over the pixels. Both
    are added to the cross-entropy of the class: losses of different kind and size, of which one
    has a kink. In evaluation mode the network gives class scores only.

    Args:
        num_classes: number of classes.
        in_channels: channels of the images.
        image_size: height and width of the images.
        box_weight: factor of the box's loss; 0 leaves the head out.
        picture_weight: factor of the copy's loss; 0 leaves the head out.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: Sequence[int] = (28, 28),
        box_weight: float = 1.0,
        picture_weight: float = 1.0,
    ) -> None:
        super().__init__(num_classes, in_channels, image_size)
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        self.box = nn.Linear(last.in_features, 4) if box_weight else None
        self.picture = nn.Linear(last.in_features, PICTURE_SIZE**2) if picture_weight else None
        self._weights = box_weight, picture_weight

    def forward(self, images: Tensor) -> Outputs:  # type: ignore[override]
        """Class scores; in training, also how far box and copy are from the images' own."""
        if not self.training:
            return super().forward(images)
        hidden = self.head[:-1](self.features(images))
        box = None if self.box is None else self.box(hidden) - _box_of(images)
        copy = None if self.picture is None else self.picture(hidden) - _picture_of(images)
        return self.head[-1](hidden), box, copy

    def training_loss(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """The sum of the heads' mean losses; of class scores alone, the cross-entropy."""
        scores, box, copy = (outputs, None, None) if isinstance(outputs, Tensor) else outputs
        loss = F.cross_entropy(scores, labels)
        of_box, of_copy = self._weights
        if box is not None:
            far = F.smooth_l1_loss(box, torch.zeros_like(box), reduction="none")
            loss = loss + of_box * far.sum(dim=1).mean()
        if copy is not None:
            loss = loss + of_copy * copy.square().sum(dim=1).mean()
        return loss


@torch.no_grad()
def _box_of(images: Tensor) -> Tensor:
    """The edges of what is bright, shape (count, 4)."""
    gray = images.mean(dim=1)
    bright = gray > gray.mean(dim=(1, 2), keepdim=True)
    edges = []
    for axis in (1, 2):  # columns that are bright anywhere, then rows
        there = bright.any(dim=axis)
        first = there.int().argmax(dim=1)
        last = there.shape[1] - there.flip(1).int().argmax(dim=1)
        edges.append((first, last))
    (left, right), (top, bottom) = edges
    return torch.stack([left, top, right, bottom], dim=1).to(images.dtype)


@torch.no_grad()
def _picture_of(images: Tensor) -> Tensor:
    """A gray copy, shape (count, pixels)."""
    return F.adaptive_avg_pool2d(images.mean(dim=1), PICTURE_SIZE).flatten(1)
