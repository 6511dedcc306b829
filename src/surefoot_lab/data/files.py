"""Image files: decoded as RGB of 8 bits, and sets of them that stay on the disk."""

from __future__ import annotations

import functools
import math
import os
import stat
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from surefoot_lab.errors import UserError, one_line

Box = tuple[float, float, float, float]  # left, top, right, bottom
Part = Callable[[int, int], Box]  # of an image of that width and height

# Random crops as in Inception's training: share of the area, sides to each other, attempts.
AREAS, RATIOS, ATTEMPTS = (0.08, 1.0), (3 / 4, 4 / 3), 10
# What Pillow raises for files that are no images, or damaged.
UNREADABLE = (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError)
ODD_EXIF = (ArithmeticError, KeyError, SyntaxError, ValueError, TypeError, struct.error)
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


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """The threads that decode."""
    return ThreadPoolExecutor(min(16, os.cpu_count() or 1), thread_name_prefix="decode")


if hasattr(os, "register_at_fork"):  # a fork inherits no threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def decode(path: str) -> Image.Image:
    """One image file as RGB.

    Where it is transparent, it lies on white; on black, if white would swallow all of it.

    Raises:
        UserError: it is no image, damaged, or gray with more than 8 bits: which of its values are
            black and white, only its maker knows, and Pillow would clip it at 255.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            raise OSError("no regular file")
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise UserError(
                    f"{path}: is gray with more than 8 bits ({image.mode}); convert it to 8 bits, "
                    "or read it with a data set of your own (data.class_path)"
                )
            turned: Image.Image = image
            with suppress(*ODD_EXIF):
                turned = ImageOps.exif_transpose(image)
            if not turned.has_transparency_data:
                return turned.convert("RGB")
            turned = turned.convert("RGBA")
    except UNREADABLE as error:
        said = one_line(error)
        raise UserError(f"{path}: not a readable image ({said}); repair or remove it") from None
    white, black = (
        Image.alpha_composite(Image.new("RGBA", turned.size, color), turned).convert("RGB")
        for color in ("white", "black")
    )
    pixels, opaque = np.array(white), turned.getchannel("A").getextrema() == (255, 255)
    return black if not opaque and (pixels == pixels[0, 0]).all() else white


def as_tensor(image: Image.Image) -> Tensor:
    """The pixels, uint8, shape (channels, height, width)."""
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)
