"""Street View House Numbers (cropped digits) from its MATLAB files, with its real test split."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from surefoot_lab.config import DataConfig, UserError
from surefoot_lab.data.examples import Examples, Splits
from surefoot_lab.data.official import fetch, first_folder, missing, with_validation

SIZES = {"train": 73257, "test": 26032}


def svhn(config: DataConfig) -> Splits:
    """SVHN: 73,257 training and 26,032 test images, 32 by 32 pixels; the extra set is not used."""
    from torchvision.datasets import SVHN

    root = config.root or "data"
    fetch(config, root, lambda folder: [SVHN(folder, split, download=True) for split in SIZES])
    folder = first_folder(root, "svhn", holding="train_32x32.mat")
    if folder is None:
        raise missing(config, "train_32x32.mat", root)
    train, test = (
        _read(folder / f"{split}_32x32.mat", count, SVHN.split_list[split][2])
        for split, count in SIZES.items()
    )
    return with_validation(config, train, test, tuple(str(digit) for digit in range(10)))


def _read(path: Path, published_size: int, md5: str) -> Examples:
    """One file: `X` of shape (height, width, 3, count), `y` of shape (count, 1), zero as 10."""
    from scipy.io import loadmat

    try:
        content = loadmat(path)
        images, labels = content["X"], content["y"].ravel().astype(np.int64)
    except Exception as error:  # a damaged file raises what it likes
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: cannot be read ({reason}); fetch the data set again") from None
    if images.dtype != np.uint8 or images.shape != (32, 32, 3, len(labels)):
        raise UserError(f"{path}: does not hold images with labels; fetch the data set again")
    if not np.isin(labels, np.arange(1, 11)).all():
        raise UserError(f"{path}: has labels other than 1 to 10; fetch the data set again")
    if len(labels) == published_size and hashlib.md5(path.read_bytes()).hexdigest() != md5:
        raise UserError(f"{path}: is not the published file, or damaged; fetch the data set again")
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(3, 2, 0, 1)))
    return Examples(pixels, torch.from_numpy(labels % 10))
