"""Images from a folder with one subfolder per class: decoded into memory, or left on the disk."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from PIL import Image
from torch import Tensor

from surefoot_lab.config import DataConfig
from surefoot_lab.data.examples import Examples, Splits, hold_out
from surefoot_lab.data.files import ImageFiles, as_tensor, decode
from surefoot_lab.data.loader import PUBLISHED
from surefoot_lab.errors import UserError

LAYOUT = "expected ROOT/train/CLASS/IMAGE and ROOT/test/CLASS/IMAGE, or ROOT/CLASS/IMAGE"
PARTS = {
    "train": ("train", "training"),
    "validation": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing"),
}
ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".ppm", ".pgm", ".pbm", ".bmp", ".tif", ".tiff"),
    *(".webp", ".gif", ".jp2", ".tga", ".avif"),
)
# Images of kinds that are not read.
UNREAD = (".heic", ".heif", ".svg", ".dcm", ".dng", ".cr2", ".nef", ".arw", ".exr", ".psd", ".npy")
# Folders that systems and editors leave behind, besides those whose names begin with a dot.
LEFT_BEHIND = ("__macosx", "@eadir", "lost+found", "$recycle.bin", "__pycache__")
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
    parts = {part: _part_of(root, words) for part, words in names.items()}
    train_folder = parts["train"] or root
    classes = [folder for folder in _folders(train_folder) if folder not in parts.values()]
    _refuse_what_may_be_both(root, parts, classes, names)
    train = _read(train_folder, classes, config)
    found = tuple(folder.name for folder in classes)
    if len(found) == 1:
        raise UserError(f"{train_folder}: holds one class only, {found[0]}; {LAYOUT}")
    test, train = _part_or_held_out(parts["test"], train, found, config, "test")
    validation, train = _part_or_held_out(parts["validation"], train, found, config, "validation")
    return Splits(train, validation, test, found)


def _part_of(root: Path, words: tuple[str, ...]) -> Path | None:
    """The folder of a part: it has such a name, in any case, and holds folders itself.

    One that holds images is a class of that name: of the trains among the vehicles, say.
    """
    found = [folder for folder in _folders(root) if folder.name.lower() in words]
    found = [folder for folder in found if _folders(folder)]
    if len(found) > 1 or any(_images(folder, inside=False) for folder in found):
        which = " and ".join(folder.name for folder in found)
        raise UserError(f"data.root: {root}: {which}: which is a part, which a class? {LAYOUT}")
    return found[0] if found else None


def _refuse_what_may_be_both(
    root: Path,
    parts: dict[str, Path | None],
    classes: list[Path],
    names: dict[str, tuple[str, ...]],
) -> None:
    """Refuse parts without classes, and images beside a single part."""
    if parts["train"] is None:
        every = [word for words in names.values() for word in words]
        doubtful = [folder for folder in classes if folder.name.lower() in every]
        refused = len(doubtful) > 1 or (bool(doubtful) and len(classes) == 1)
    else:
        beside = [f for f in _folders(root) if f not in parts.values() and _images(f)]
        doubtful = [parts["train"], *beside]
        refused = bool(beside) and sum(map(bool, parts.values())) == 1
    if refused:
        which = ", ".join(folder.name for folder in doubtful)[:100]
        raise UserError(f"data.root: {root}: {which} hold images; are they parts? {LAYOUT}")


def _part_or_held_out(
    folder: Path | None, train: Examples, classes: tuple[str, ...], config: DataConfig, part: str
) -> tuple[Examples, Examples]:
    """A part from its folder if there is one, else from the training images; and what remains."""
    if folder is None:
        rest, held_out = hold_out(train, getattr(config, part), config.split_seed, f"data.{part}")
        return held_out, rest
    inside = _folders(folder)
    found = {f.name for f in inside}
    if found != set(classes):
        which = ", ".join(sorted(found ^ set(classes)))
        raise UserError(
            f"{folder}: its classes differ from those of the training images: {which[:100]}"
        )
    images = _read(folder, inside, config)
    if images.inputs.shape[1:] != train.inputs.shape[1:]:
        raise UserError(
            f"{folder}: its images differ in size from the training images; set data.image_size"
        )
    return images, train


def _read(folder: Path, classes: list[Path], config: DataConfig) -> Examples:
    """All images of a folder, whose own folders are the classes."""
    if not classes:
        raise UserError(f"data.root: {folder}: no images in it (no folder of a class); {LAYOUT}")
    paths: list[str] = []
    labels: list[int] = []
    unread: list[str] = []
    for number, place in enumerate(classes):
        images = _images(place, unread=unread)
        if not images:
            raise UserError(f"data.root: {place}: no images in it; {LAYOUT}, or remove the folder")
        paths += images
        labels += [number] * len(images)
    if unread:
        said = f"{len(unread)} images of a kind that is not read, such as {unread[0]}, are left out"
        warnings.warn(f"{said}; convert them", stacklevel=2)
    if config.image_size is not None:
        _check_memory(len(paths) if config.in_memory else 1, config.image_size, config.image_size)
    targets = torch.tensor(labels, dtype=torch.int64)
    if config.in_memory:
        return Examples(_decode_all(paths, config.image_size), targets)
    assert config.image_size is not None  # checked before anything is read
    return Examples(ImageFiles(paths, config.image_size), targets)


def _folders(folder: Path) -> list[Path]:
    """The folders in it, by name, without hidden ones."""
    with os.scandir(folder) as entries:
        names = sorted(
            entry.name for entry in entries if entry.is_dir() and not _hidden(entry.name)
        )
    return [folder / name for name in names]


def _images(folder: Path, inside: bool = True, unread: list[str] | None = None) -> list[str]:
    """The image files in it and below, by path, without hidden ones; `unread` gets the others."""
    found: list[tuple[str, str]] = []
    unread = [] if unread is None else unread
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [n for n in folders if inside and not _hidden(n) and not _leads_back(place, n)]
        images = (name for name in files if name.lower().endswith(ENDINGS))
        found += [(place, name) for name in images if not _hidden(name)]
        others = (name for name in files if name.lower().endswith(UNREAD) and not _hidden(name))
        unread += [os.path.join(place, name) for name in others]
    return [os.path.join(place, name) for place, name in sorted(found)]


def _leads_back(place: str, name: str) -> bool:
    """Whether a folder is a link to one that it lies in."""
    path = os.path.join(place, name)
    if not os.path.islink(path):
        return False
    here, there = os.path.realpath(place), os.path.realpath(path)
    return os.path.commonpath([here, there]) == there


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in LEFT_BEHIND


def _check_memory(count: int, width: int, height: int) -> None:
    """Refuse what the machine has no memory for: the system would kill the process."""
    needed, there = 3 * count * width * height, psutil.virtual_memory().total
    if needed > there:
        raise UserError(
            f"data.image_size: {count} images of {width} x {height} pixels take "
            f"{needed / 2**30:.0f} GiB, and this machine has {there / 2**30:.0f}; choose a smaller "
            "one, or leave them on the disk (data.in_memory false)"
        )


def _decode_all(paths: list[str], image_size: int | None) -> Tensor:
    """The images of one common size, or resized to one."""
    images: Tensor | None = None
    # One thread: measured on images of this size, two threads only wait for each other.
    for place, path in enumerate(paths):
        decoded = decode(path)
        if image_size is not None:
            decoded = decoded.resize((image_size, image_size), Image.Resampling.BILINEAR)
        image = as_tensor(decoded)
        if images is None:
            _check_memory(len(paths), image.shape[2], image.shape[1])
            images = torch.empty((len(paths), *image.shape), dtype=torch.uint8)
        if image.shape != images.shape[1:]:
            raise UserError(
                f"{path}: {image.shape[2]} x {image.shape[1]} pixels, but images before it have "
                f"{images.shape[3]} x {images.shape[2]}; set data.image_size to resize them all"
            )
        images[place] = image
    assert images is not None  # empty folders were refused
    return images
