"""Tiny data sets in the formats of the real ones."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small run fastest on one thread, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def image_root(tmp_path: Path) -> Path:
    """CIFAR-10 as an image folder: 10 classes of 32x32 JPEG, 4 to train on and 2 to test each."""
    random = np.random.default_rng(0)
    for part, count in (("train", 4), ("test", 2)):
        for name in CLASSES:
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:04}.jpg")
    return tmp_path / "images"


def idx_bytes(values: np.ndarray) -> bytes:
    """An array of bytes in the IDX format."""
    return (
        struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()
    )


@pytest.fixture
def write_idx() -> Callable[..., None]:
    """Write arrays as IDX files, gzipped where the name ends so."""

    def write(path: Path, values: np.ndarray) -> None:
        content = idx_bytes(values)
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)

    return write


@pytest.fixture
def fashion_root(tmp_path: Path, write_idx: Callable[..., None]) -> Path:
    """Fashion-MNIST's four files, gzipped, with 40 training and 20 test images."""
    random = np.random.default_rng(0)
    root = tmp_path / "fashion"
    root.mkdir()
    for stem, count in (("train", 40), ("t10k", 20)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        write_idx(root / f"{stem}-images-idx3-ubyte.gz", images)
        write_idx(root / f"{stem}-labels-idx1-ubyte.gz", labels)
    return root
