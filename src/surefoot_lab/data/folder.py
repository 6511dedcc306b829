"""Images from a folder with one subfolder per class, decoded once into memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from surefoot_lab.config import DataConfig, UserError
from surefoot_lab.data.images import ImageSet, Splits, hold_out

LAYOUT = "expected ROOT/train/CLASS/IMAGE and ROOT/test/CLASS/IMAGE, or ROOT/CLASS/IMAGE"
PARTS = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("test",)}


def image_folder(config: DataConfig) -> Splits:
    """Read `root/{train,val,test}/CLASS/IMAGE`, or `root/CLASS/IMAGE`.

    Parts that have no folder of their own are held out of the training images. Images must have
    one common size, or `image_size` must be given.
    """
    if not config.root:
        raise UserError(f"data.root: imagefolder needs the folder of the images; {LAYOUT}")
    root = Path(config.root)
    if not root.is_dir():
        raise UserError(f"data.root: {root}: no such folder; {LAYOUT}")
    folders = {
        part: next((root / name for name in names if (root / name).is_dir()), None)
        for part, names in PARTS.items()
    }
    train, classes = _read(folders["train"] or root, config)
    test, train = _part_or_held_out(folders["test"], train, classes, config, "test")
    validation, train = _part_or_held_out(
        folders["validation"], train, classes, config, "validation"
    )
    return Splits(train, validation, test, classes)


def _part_or_held_out(
    folder: Path | None,
    train: ImageSet,
    classes: tuple[str, ...],
    config: DataConfig,
    part: str,
) -> tuple[ImageSet, ImageSet]:
    """A part from its folder if there is one, else from the training images; and what remains."""
    if folder is None:
        amount = {"test": config.test, "validation": config.validation}[part]
        rest, held_out = hold_out(train, amount, config.split_seed, f"data.{part}")
        return held_out, rest
    images, found = _read(folder, config)
    if found != classes:
        raise UserError(f"{folder}: its classes differ from those of the training images")
    if images.images.shape[1:] != train.images.shape[1:]:
        raise UserError(
            f"{folder}: its images differ in size from the training images; set data.image_size"
        )
    return images, train


def _read(folder: Path, config: DataConfig) -> tuple[ImageSet, tuple[str, ...]]:
    """Decode all images of a folder."""
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(folder))
    except (FileNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"data.root: {folder}: no images in it ({reason}); {LAYOUT}") from None
    images: Tensor | None = None
    # One thread: measured on images of this size, two threads only wait for each other.
    for place, (path, _) in enumerate(found.samples):
        image = _decode(path, config.image_size)
        if images is None:
            images = torch.empty((len(found.samples), *image.shape), dtype=torch.uint8)
        if image.shape != images.shape[1:]:
            raise UserError(
                f"{path}: {image.shape[2]} x {image.shape[1]} pixels, but images before it have "
                f"{images.shape[3]} x {images.shape[2]}; set data.image_size to resize them all"
            )
        images[place] = image
    assert images is not None  # ImageFolder refuses empty folders
    labels = torch.tensor(found.targets, dtype=torch.int64)
    return ImageSet(images, labels), tuple(found.classes)


def _decode(path: str, image_size: int | None) -> Tensor:
    """One image as uint8 RGB, resized if a size is given."""
    try:
        with Image.open(path) as file:
            image = _sixteen_to_eight_bits(file) if file.mode.startswith("I") else file
            image = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not a readable image ({reason}); repair or remove it") from None
    if image_size is not None:
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _sixteen_to_eight_bits(image: Image.Image) -> Image.Image:
    """Pillow clips 16-bit gray values at 255 where it converts them; scale them instead."""
    return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
