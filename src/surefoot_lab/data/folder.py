"""Images from a folder with one subfolder per class: decoded into memory, or left on the disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from surefoot_lab.config import DataConfig, UserError
from surefoot_lab.data.examples import Examples, Splits, hold_out
from surefoot_lab.data.files import ImageFiles, as_tensor, decode
from surefoot_lab.data.images import PUBLISHED

LAYOUT = "expected ROOT/train/CLASS/IMAGE and ROOT/test/CLASS/IMAGE, or ROOT/CLASS/IMAGE"
PARTS = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("test",)}
IMAGENET_PARTS = {"train": ("train",), "validation": (), "test": ("val",)}
IMAGENET_SIZE = 224
IMAGENET_REMEDY = (
    "register at image-net.org, and unpack ILSVRC2012 (torchvision.datasets.ImageNet unpacks the "
    "archives) to ROOT/train/WNID/IMAGE and ROOT/val/WNID/IMAGE"
)


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
    if not config.in_memory and config.image_size is None:
        raise UserError("data.image_size: images left on the disk are cropped to one size; give it")
    return _read_parts(config, root, PARTS)


def imagenet(config: DataConfig) -> Splits:
    """ImageNet (ILSVRC 2012), left on the disk; its validation set, whose labels are known, tests.

    The images to choose by are held out of the training images.
    """
    root = Path(config.root or "data/imagenet")
    for part in ("train", "val"):
        if not (root / part).is_dir():
            raise UserError(f"data.root: {root} has no folder {part}; {IMAGENET_REMEDY}")
    size = config.image_size or IMAGENET_SIZE
    data = _read_parts(replace(config, in_memory=False, image_size=size), root, IMAGENET_PARTS)
    return replace(data, statistics=PUBLISHED["imagenet"])


def _read_parts(config: DataConfig, root: Path, names: dict[str, tuple[str, ...]]) -> Splits:
    folders = {
        part: next((root / name for name in names[part] if (root / name).is_dir()), None)
        for part in names
    }
    train, classes = _read(folders["train"] or root, config)
    test, train = _part_or_held_out(folders["test"], train, classes, config, "test")
    validation, train = _part_or_held_out(
        folders["validation"], train, classes, config, "validation"
    )
    return Splits(train, validation, test, classes)


def _part_or_held_out(
    folder: Path | None,
    train: Examples,
    classes: tuple[str, ...],
    config: DataConfig,
    part: str,
) -> tuple[Examples, Examples]:
    """A part from its folder if there is one, else from the training images; and what remains."""
    if folder is None:
        amount = {"test": config.test, "validation": config.validation}[part]
        rest, held_out = hold_out(train, amount, config.split_seed, f"data.{part}")
        return held_out, rest
    images, found = _read(folder, config)
    if found != classes:
        raise UserError(f"{folder}: its classes differ from those of the training images")
    if images.inputs.shape[1:] != train.inputs.shape[1:]:
        raise UserError(
            f"{folder}: its images differ in size from the training images; set data.image_size"
        )
    return images, train


def _read(folder: Path, config: DataConfig) -> tuple[Examples, tuple[str, ...]]:
    """All images of a folder."""
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(folder))
    except (FileNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"data.root: {folder}: no images in it ({reason}); {LAYOUT}") from None
    labels = torch.tensor(found.targets, dtype=torch.int64)
    paths = [path for path, _ in found.samples]
    if config.in_memory:
        return Examples(_decode_all(paths, config.image_size), labels), tuple(found.classes)
    assert config.image_size is not None  # checked before anything is read
    return Examples(ImageFiles(paths, config.image_size), labels), tuple(found.classes)


def _decode_all(paths: list[str], image_size: int | None) -> Tensor:
    """The images of one common size, or resized to one."""
    images: Tensor | None = None
    # One thread: measured on images of this size, two threads only wait for each other.
    for place, path in enumerate(paths):
        image = _decode(path, image_size)
        if images is None:
            images = torch.empty((len(paths), *image.shape), dtype=torch.uint8)
        if image.shape != images.shape[1:]:
            raise UserError(
                f"{path}: {image.shape[2]} x {image.shape[1]} pixels, but images before it have "
                f"{images.shape[3]} x {images.shape[2]}; set data.image_size to resize them all"
            )
        images[place] = image
    assert images is not None  # ImageFolder refuses empty folders
    return images


def _decode(path: str, image_size: int | None) -> Tensor:
    """One image as uint8 RGB, resized if a size is given."""
    image = decode(path)
    if image_size is not None:
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return as_tensor(image)
