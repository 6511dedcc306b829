"""MNIST and Fashion-MNIST, and the IDX files in which they come."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from surefoot_lab.config import DataConfig, UserError
from surefoot_lab.data.examples import Examples, Splits
from surefoot_lab.data.official import fetch, first_folder, missing, with_validation

UNSIGNED_BYTE = 0x08
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
FASHION_CLASSES = (
    *("t-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)


def read_idx(path: Path) -> Tensor:
    """Read one IDX file of bytes, gzipped or not.

    The format: two zero bytes, the type, the number of dimensions, the dimensions as big-endian
    32-bit numbers, the values.

    Args:
        path: the file.

    Returns:
        A uint8 tensor of the file's shape.

    Raises:
        UserError: the file is not a whole IDX file of bytes.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); fetch the file again") from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UNSIGNED_BYTE:
        raise UserError(f"{path}: not an IDX file of bytes; fetch the file again")
    dimensions = content[3]
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise UserError(f"{path}: the file is cut off; fetch it again")
    shape = [int(size) for size in np.frombuffer(content[4:header], dtype=">u4")]
    if len(content) - header != math.prod(shape):
        raise UserError(f"{path}: the file is cut off or damaged; fetch it again")
    values = np.frombuffer(content, dtype=np.uint8, offset=header).copy()
    return torch.from_numpy(values).view(shape)


def mnist(config: DataConfig) -> Splits:
    """MNIST from its four IDX files, gzipped or not."""
    from torchvision.datasets import MNIST

    fetch(config, config.root or "data", lambda root: MNIST(root, download=True))
    places = ("data/mnist", "data", "/usr/share/datasets/mnist")
    classes = tuple(str(digit) for digit in range(10))
    return _from_idx(config, places, "MNIST/raw", classes, "")


def fashion_mnist(config: DataConfig) -> Splits:
    """Fashion-MNIST from its four IDX files, gzipped or not."""
    from torchvision.datasets import FashionMNIST

    places = ("data/fashion-mnist", "data", "/usr/share/datasets/fashion-mnist")
    fetch(config, config.root or places[0], lambda root: FashionMNIST(root, download=True))
    hint = " (Debian and Ubuntu: apt install dataset-fashion-mnist)"
    return _from_idx(config, places, "FashionMNIST/raw", FASHION_CLASSES, hint)


def _from_idx(
    config: DataConfig, places: tuple[str, ...], inside: str, classes: tuple[str, ...], hint: str
) -> Splits:
    """Read the four files from the first of the places that has them; `inside` is torchvision's."""
    roots = (config.root,) if config.root else places
    name = FILES["train"][0]
    found = (
        first_folder(root, inside, holding=file) for root in roots for file in (name, f"{name}.gz")
    )
    folder = next((place for place in found if place), None)
    if folder is None:
        raise missing(config, f"{name}(.gz)", ", ".join(roots), hint)
    parts = {}
    for part, (image_file, label_file) in FILES.items():
        images = read_idx(_plain_or_gz(folder, image_file))
        labels = read_idx(_plain_or_gz(folder, label_file)).long()
        if images.dim() != 3 or labels.shape != images.shape[:1]:
            raise UserError(f"{folder}: {image_file} and {label_file} do not belong together")
        parts[part] = Examples(images.unsqueeze(1), labels)
    return with_validation(config, parts["train"], parts["test"], classes)


def _plain_or_gz(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise UserError(f"{folder}: {name}(.gz) is missing; fetch the data set again")
