"""Images that stay on the disk, because all of them do not fit into memory."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from surefoot_lab.data.decode import as_tensor, decode

Box = tuple[float, float, float, float]  # left, top, right, bottom
Part = Callable[[int, int], Box]  # of an image of that width and height

# Random crops as in Inception's training: share of the area, sides to each other, attempts.
AREAS, RATIOS, ATTEMPTS = (0.08, 1.0), (3 / 4, 4 / 3), 10
CENTER_SHARE = 224 / 256  # evaluation: of the shorter side


class ImageFiles:
    """Paths of images, decoded when they are asked for; indexed, it is a smaller set of paths.

    Args:
        paths: the files.
        size: width and height of what is handed out.
    """

    def __init__(self, paths: Sequence[str] | np.ndarray, size: int) -> None:
        self._paths = np.asarray(paths, dtype=object)
        self._size = size

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, places: slice | Tensor) -> ImageFiles:
        at = places if isinstance(places, slice) else places.cpu().numpy()
        return ImageFiles(self._paths[at], self._size)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As of the tensor that all images would be."""
        return len(self), 3, self._size, self._size

    def to(self, device: torch.device) -> ImageFiles:
        """Itself: the disk is where it is."""
        return self

    def read(self) -> Tensor:
        """The centers of all images, uint8, shape (count, 3, size, size)."""
        return torch.stack([future.result() for future in self._start([center] * len(self))])

    def start_random_crops(self, numbers: Tensor, mirrored: Tensor) -> list[Future[Tensor]]:
        """Begin to decode a random part of every image.

        Args:
            numbers: uniform in [0, 1), shape (count, 10, 4): area, ratio and place of ten attempts.
            mirrored: bool, shape (count,): which images are mirrored left to right.
        """
        parts = [functools.partial(random_box, numbers=each) for each in numbers]
        return self._start(parts, mirrored.tolist())

    def _start(
        self, parts: Sequence[Part], mirrored: Sequence[bool] | None = None
    ) -> list[Future[Tensor]]:
        flips = [False] * len(parts) if mirrored is None else mirrored
        every = zip(self._paths, parts, flips, strict=True)
        return [_pool().submit(_read, path, part, self._size, flip) for path, part, flip in every]


def center(width: int, height: int) -> Box:
    """The middle of an image, as evaluations see it."""
    side = CENTER_SHARE * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def random_box(width: int, height: int, numbers: Tensor) -> Box:
    """A random part of an image: an area, a ratio of the sides and a place, all uniform.

    Args:
        width: of the image.
        height: of the image.
        numbers: uniform in [0, 1), shape (attempts, 4).

    Returns:
        The first attempt that fits into the image; if none does, the largest part in the center
        whose sides' ratio is allowed.
    """
    for area, ratio, across, down in numbers.tolist():
        share = AREAS[0] + (AREAS[1] - AREAS[0]) * area
        low, high = (math.log(value) for value in RATIOS)
        sides = math.exp(low + (high - low) * ratio)
        wide = round(math.sqrt(share * width * height * sides))
        tall = round(math.sqrt(share * width * height / sides))
        if 0 < wide <= width and 0 < tall <= height:
            left, top = int(across * (width - wide + 1)), int(down * (height - tall + 1))
            return left, top, left + wide, top + tall
    broadest, tallest = min(width, height * RATIOS[1]), min(height, width / RATIOS[0])
    aside, above = (width - broadest) / 2, (height - tallest) / 2
    return aside, above, aside + broadest, above + tallest


def _read(path: str, part: Part, size: int, mirrored: bool) -> Tensor:
    image = decode(path)
    box = part(image.width, image.height)
    image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return as_tensor(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image)


_POOLS: dict[int, ThreadPoolExecutor] = {}


def _pool() -> ThreadPoolExecutor:
    """The threads that decode, one pool a process (a fork inherits none that works)."""
    pool = _POOLS.get(os.getpid())
    if pool is None:
        pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1), thread_name_prefix="decode")
        _POOLS[os.getpid()] = pool
    return pool
