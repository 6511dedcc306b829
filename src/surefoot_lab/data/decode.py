"""One image file as RGB of 8 bits: turned as its camera says, laid on a ground, scaled."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from surefoot_lab.errors import UserError, one_line

REMEDY = "repair or remove it"


@dataclass(frozen=True)
class Levels:
    """Which values of gray images of more than 8 bits become black (0) and white (255)."""

    black: float
    white: float

    def to_bytes(self, values: np.ndarray) -> np.ndarray:
        """The values as bytes; what lies beyond black and white becomes black and white."""
        share = (values.astype(np.float64) - self.black) / (self.white - self.black)
        found: np.ndarray = np.rint(255 * share.clip(0, 1)).astype(np.uint8)
        return found


def levels_of(paths: Sequence[str]) -> Levels | None:
    """The smallest and the largest value of images of more than 8 bits; None if the first has 8.

    Args:
        paths: the training images; if the first has more than 8 bits, all are read.

    Raises:
        UserError: an image cannot be read, or holds values that are not finite.
    """
    with _opened(paths[0]) as image:
        if not _wide(image):
            return None
    low, high = np.inf, -np.inf
    for path in paths:
        with _opened(path) as image:
            values = np.asarray(image)
        if not _wide(image):
            raise UserError(f"{path}: has 8 bits, but images before it have more; convert it")
        if not np.isfinite(values).all():
            raise UserError(f"{path}: holds values that are not finite; {REMEDY}")
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    return Levels(low, high if high > low else low + 1)


def decode(path: str, levels: Levels | None = None) -> Image.Image:
    """One image file as RGB.

    Where it is transparent, it lies on white; on black, if white would swallow all of it.

    Args:
        path: the file.
        levels: of gray images of more than 8 bits; None if there are none.

    Raises:
        UserError: it is no image, damaged, or has another number of bits than the others.
    """
    with _opened(path) as image:
        if _wide(image) != (levels is not None):
            has = "more than 8 bits" if _wide(image) else "8 bits"
            raise UserError(f"{path}: has {has}, unlike the images before it; convert it")
        turned = _turned(image)
        if levels is not None:
            turned = Image.fromarray(levels.to_bytes(np.asarray(turned)))
        if turned.has_transparency_data:
            return _on_a_ground(turned.convert("RGBA"))
        return turned.convert("RGB")


def as_tensor(image: Image.Image) -> Tensor:
    """The pixels, uint8, shape (channels, height, width)."""
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not a readable image ({one_line(error)}); {REMEDY}") from None


def _wide(image: Image.Image) -> bool:
    """Whether it is gray with more than 8 bits, which Pillow would clip at 255."""
    return image.mode.startswith(("I", "F"))


def _turned(image: Image.Image) -> Image.Image:
    """As the camera was held; as it is where that is written down in no form to be read."""
    try:
        return ImageOps.exif_transpose(image)
    except (ArithmeticError, KeyError, SyntaxError, ValueError, TypeError, struct.error):
        return image


def _on_a_ground(image: Image.Image) -> Image.Image:
    """Without transparency, on white, or where that leaves nothing to see, on black."""
    flat = _laid_on("white", image)
    opaque = image.getchannel("A").getextrema() == (255, 255)
    return flat if opaque or not _is_plain(flat) else _laid_on("black", image)


def _laid_on(color: str, image: Image.Image) -> Image.Image:
    ground = Image.new("RGBA", image.size, color)
    return Image.alpha_composite(ground, image).convert("RGB")


def _is_plain(image: Image.Image) -> bool:
    pixels = np.array(image).reshape(-1, 3)
    return bool((pixels == pixels[0]).all())
