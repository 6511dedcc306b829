"""One image file as RGB of 8 bits: turned as its camera says, laid on a ground, scaled."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from surefoot_lab.errors import UserError, one_line

REMEDY = "repair or remove it"


def decode(path: str) -> Image.Image:
    """One image file as RGB.

    Where it is transparent, it lies on white; on black, if white would swallow all of it.

    Raises:
        UserError: it is no image, damaged, or gray with more than 8 bits: which of its values are
            black and white, only its maker knows, and Pillow would clip it at 255.
    """
    with _opened(path) as image:
        if image.mode.startswith(("I", "F")):
            raise UserError(
                f"{path}: is gray with more than 8 bits ({image.mode}); convert it to 8 bits, or "
                "read it with a data set of your own (data.class_path)"
            )
        turned = _turned(image)
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
