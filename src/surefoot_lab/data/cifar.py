"""CIFAR-10 and CIFAR-100 from the batches in which they are published: pickles of Python 2."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from surefoot_lab.config import DataConfig, UserError
from surefoot_lab.data.examples import Examples, Splits
from surefoot_lab.data.official import fetch, missing, with_validation

IMAGE_SHAPE = (3, 32, 32)
# An array in a pickle needs these names and no others; NumPy 2 has moved the modules.
ARRAY_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),  # how Python 3 writes bytes for Python 2
}


def cifar10(config: DataConfig) -> Splits:
    """CIFAR-10: 50,000 training and 10,000 test images of 32 by 32 pixels in 10 classes."""
    from torchvision.datasets import CIFAR10

    return _load(config, CIFAR10, labels="labels", names="label_names")


def cifar100(config: DataConfig) -> Splits:
    """CIFAR-100: as CIFAR-10, in 100 classes (the fine ones)."""
    from torchvision.datasets import CIFAR100

    return _load(config, CIFAR100, labels="fine_labels", names="fine_label_names")


def _load(config: DataConfig, official: Any, labels: str, names: str) -> Splits:
    """Read the batches that torchvision's class lists, without its class: that one runs pickles."""
    root = config.root or "data"
    fetch(config, root, lambda folder: official(folder, download=True))
    folder = next(
        (place for place in (Path(root) / official.base_folder, Path(root)) if _is_there(place)),
        None,
    )
    if folder is None:
        raise missing(config, f"folder {official.base_folder}", root)
    train = [_read_batch(folder / name, labels, md5) for name, md5 in official.train_list]
    test = [_read_batch(folder / name, labels, md5) for name, md5 in official.test_list]
    classes = read_pickle(folder / official.meta["filename"]).get(names)
    if not isinstance(classes, list):
        raise UserError(f"{folder / official.meta['filename']}: has no {names}; fetch it again")
    return with_validation(config, _join(train), _join(test), tuple(str(name) for name in classes))


def _is_there(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("data_batch_1", "train"))


def _join(parts: list[Examples]) -> Examples:
    return Examples(
        torch.cat([part.inputs for part in parts]), torch.cat([part.labels for part in parts])
    )


def _read_batch(path: Path, key: str, md5: str) -> Examples:
    """One batch: rows of 1,024 red, 1,024 green, 1,024 blue pixels, and a list of class numbers."""
    content = read_pickle(path)
    data, labels = content.get("data"), content.get(key)
    if (
        not isinstance(data, np.ndarray)
        or data.dtype != np.uint8
        or not isinstance(labels, list)
        or data.shape != (len(labels), 3072)
    ):
        raise UserError(f"{path}: has no images with {key}; fetch the data set again")
    # A batch as large as a published one is a published one, or damaged; small ones are anybody's.
    if len(labels) >= 10_000 and hashlib.md5(path.read_bytes()).hexdigest() != md5:
        raise UserError(f"{path}: is not the published file, or damaged; fetch the data set again")
    images = torch.from_numpy(data.copy()).view(-1, *IMAGE_SHAPE)
    return Examples(images, torch.tensor(labels, dtype=torch.int64))


def read_pickle(path: Path) -> dict[str, Any]:
    """Read a pickle that holds a dictionary of lists, texts, numbers and arrays; run nothing.

    Args:
        path: the file, written by Python 2 or 3.

    Returns:
        Its dictionary, with text as keys.

    Raises:
        UserError: the file is missing or damaged, or wants to make any other object.
    """
    try:
        content = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises what it likes
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: cannot be read ({reason}); fetch the data set again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: does not hold a dictionary; fetch the data set again")
    return {key.decode() if isinstance(key, bytes) else key: content[key] for key in content}


class _ArrayUnpickler(pickle.Unpickler):
    """Makes arrays and plain values only: a pickle may otherwise call any function there is."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAY_NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no data set needs")
        return super().find_class(module, name)
