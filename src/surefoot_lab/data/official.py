"""Images as they are published: MNIST, Fashion-MNIST, CIFAR, SVHN, and scikit-learn's digits."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot_lab.config import DataConfig
from surefoot_lab.data.examples import Examples, Splits, hold_out
from surefoot_lab.data.loader import PUBLISHED
from surefoot_lab.errors import UserError, one_line

# Where the files are looked for if nothing is said, besides `data`.
PLACES = {
    "mnist": ("data/mnist", "/usr/share/datasets/mnist"),
    "fashion-mnist": ("data/fashion-mnist", "/usr/share/datasets/fashion-mnist"),
}
HINTS = {"fashion-mnist": " (Debian and Ubuntu: apt install dataset-fashion-mnist)"}
DIGIT_LEVELS = 16  # scikit-learn's digits count ink from 0 to 16
BATCHES = ("cifar-10-batches-py", "cifar-100-python")


def official(config: DataConfig) -> Splits:
    """A data set with an official test set; the validation images are held out of the others.

    torchvision compares CIFAR and SVHN with the published digests before it opens them.

    Raises:
        UserError: files are missing, damaged, or cannot be fetched.
    """
    roots = [config.root] if config.root else [*PLACES.get(config.name, ()), "data"]
    if config.download:
        try:
            _read(config.name, Path(roots[0]), download=True)
        except ModuleNotFoundError:
            raise
        except Exception as error:  # of the network, the disk, the files
            raise UserError(
                f"data.download: {config.name} could not be fetched into {roots[0]} "
                f"({one_line(error)}); check the network, or set data.root to files that are there"
            ) from None
    reasons = []
    for root in roots:
        inside = Path(root).name in BATCHES  # the folder of the batches itself
        for place in (Path(root).parent if inside else Path(root), Path(root) / config.name):
            try:
                train, test, classes = _read(config.name, place)
                return _with_validation(config, train, test, tuple(classes))
            except (UserError, ModuleNotFoundError):
                raise
            except Exception as error:  # a damaged file raises what it likes
                reasons.append(f"{place}: {one_line(error)}")
    said = next((reason for reason in reasons if "not found" not in reason), reasons[0])
    raise UserError(
        f"data.root: no {config.name} in {', '.join(roots)} ({said}); set data.root to the folder "
        f"that holds it, or data.download: true to fetch it{HINTS.get(config.name, '')}"
    )


def digits(config: DataConfig) -> Splits:
    """The 1,797 handwritten digits of 8 by 8 pixels that come with scikit-learn."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    levels = torch.from_numpy(bunch.images).unsqueeze(1)
    images = (levels * (255 / DIGIT_LEVELS)).round().to(torch.uint8)
    everything = Examples(images, torch.from_numpy(bunch.target).long())
    rest, test = hold_out(everything, config.test, config.split_seed, "data.test")
    return _with_validation(config, rest, test, tuple(str(name) for name in bunch.target_names))


def _with_validation(
    config: DataConfig, train: Examples, test: Examples, classes: tuple[str, ...]
) -> Splits:
    """Hold the validation images out of the training images."""
    rest, validation = hold_out(train, config.validation, config.split_seed, "data.validation")
    statistics = PUBLISHED[config.name] if config.normalize == "published" else None
    return Splits(rest, validation, test, classes, statistics=statistics)


def _read(name: str, root: Path, download: bool = False) -> tuple[Examples, Examples, list[str]]:
    """Training and test images, and the names of the classes."""
    from torchvision import datasets

    if name == "svhn":
        parts = [datasets.SVHN(root, split, download=download) for split in ("train", "test")]
        train, test = (_examples(part.data, part.labels) for part in parts)
        return train, test, [str(digit) for digit in range(10)]
    if name.startswith("cifar"):
        kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
        parts = [kind(root, train=train, download=download) for train in (True, False)]
        train, test = (_examples(part.data.transpose(0, 3, 1, 2), part.targets) for part in parts)
        return train, test, parts[0].classes
    of_idx = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST}[name]
    if download:
        of_idx(root, download=True)
    raw = root / of_idx.__name__ / "raw"
    folder = raw if any(raw.glob("*-ubyte*")) else root
    train, test = (
        _examples(
            _idx(folder, f"{part}-images-idx3").unsqueeze(1), _idx(folder, f"{part}-labels-idx1")
        )
        for part in ("train", "t10k")
    )
    return train, test, of_idx.classes


def _examples(images: Any, labels: Any) -> Examples:
    inputs = torch.as_tensor(images).contiguous()
    targets: Tensor = torch.as_tensor(labels, dtype=torch.int64)
    if inputs.dtype != torch.uint8 or len(inputs) != len(targets):
        raise ValueError("images and labels do not belong together")
    return Examples(inputs, targets)


def _idx(folder: Path, stem: str) -> Tensor:
    """The bytes of an IDX file, gzipped or not, in the shape that its header tells."""
    plain, packed = folder / f"{stem}-ubyte", folder / f"{stem}-ubyte.gz"
    if not (plain.is_file() or packed.is_file()):
        raise FileNotFoundError(f"{plain.name}(.gz) not found")
    content = plain.read_bytes() if plain.is_file() else gzip.decompress(packed.read_bytes())
    axes = content[3]
    shape = np.frombuffer(content, ">u4", axes, offset=4).tolist()
    return torch.frombuffer(bytearray(content[4 + 4 * axes :]), dtype=torch.uint8).view(shape)
