"""Small random data sets, written in the formats of the real ones."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


# An image folder


def write_image_folder(root: Path, train: int = 4, test: int = 2) -> Path:
    """CIFAR-10 as an image folder: 10 classes of 32x32 JPEG, so many images each."""
    random = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        for name in CLASSES:
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:04}.jpg")
    return root


# IDX


def write_idx(path: Path, values: np.ndarray) -> None:
    """An array of bytes as an IDX file, gzipped where the name ends so."""
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    content = head + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_fashion_mnist(root: Path, train: int = 40, test: int = 20) -> Path:
    """Fashion-MNIST's four files, gzipped."""
    random = np.random.default_rng(0)
    root.mkdir()
    for stem, count in (("train", train), ("t10k", test)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        write_idx(root / f"{stem}-images-idx3-ubyte.gz", images)
        write_idx(root / f"{stem}-labels-idx1-ubyte.gz", labels)
    return root


# The pickles of CIFAR


def pixels(count: int, seed: int) -> np.ndarray:
    """CIFAR's rows: 1024 bytes of red, 1024 of green, 1024 of blue."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def write_cifar10(root: Path) -> Path:
    """CIFAR-10's files, 10 images each."""
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    files = {
        name: {"labels": list(range(10)), "data": pixels(10, seed)}
        for seed, name in enumerate(names)
    }
    meta = {"label_names": [f"class{n}" for n in range(10)]}
    return _write_pickles(root / "cifar-10-batches-py", {**files, "batches.meta": meta})


def write_cifar100(root: Path, train: int = 30, test: int = 20) -> Path:
    """CIFAR-100's files; the first image has the last class."""
    files = {
        name: {"fine_labels": [99 - n % 100 for n in range(count)], "data": pixels(count, seed)}
        for seed, (name, count) in enumerate((("train", train), ("test", test)))
    }
    meta = {"fine_label_names": [f"fine{n}" for n in range(100)]}
    return _write_pickles(root / "cifar-100-python", {**files, "meta": meta})


def _write_pickles(folder: Path, files: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return folder.parent


def publish(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Tell torchvision that the files there are those that are published."""
    for kind in (datasets.CIFAR10, datasets.CIFAR100):
        for words in ("train_list", "test_list"):
            names = [name for name, _ in getattr(kind, words)]
            monkeypatch.setattr(
                kind, words, [[n, _md5(root / kind.base_folder / n)] for n in names]
            )
        name = kind.meta["filename"]
        meta = {**kind.meta, "md5": _md5(root / kind.base_folder / name)}
        monkeypatch.setattr(kind, "meta", meta)
    files = {
        split: [url, name, _md5(root / name)]
        for split, (url, name, _) in datasets.SVHN.split_list.items()
    }
    monkeypatch.setattr(datasets.SVHN, "split_list", files)


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest() if path.is_file() else ""


def write_svhn(root: Path, train: int = 30, test: int = 12) -> Path:
    """SVHN's two files as MATLAB writes them; images last, zeros labelled 10."""
    root.mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate((("train", train), ("test", test))):
        images = np.random.default_rng(seed).integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = (np.arange(count) % 10 + 1).astype(np.uint8).reshape(-1, 1)
        savemat(root / f"{split}_32x32.mat", {"X": images, "y": labels}, do_compression=True)
    return root


def write_imagenet(root: Path, train: int = 8, val: int = 3) -> Path:
    """ImageNet's layout, with images of many sizes whose red says which image it is."""
    for part, count in (("train", train), ("val", val)):
        for wnid in ("n01440764", "n01443537"):
            folder = root / part / wnid
            folder.mkdir(parents=True)
            for number in range(count):
                size = (40 + 7 * number, 60 - 3 * number)
                values = np.zeros((size[1], size[0], 3), np.uint8)
                values[..., 0] = 20 * number + 5 * (wnid == "n01443537")
                values[..., 1] = np.linspace(0, 255, size[0]).astype(np.uint8)
                Image.fromarray(values).save(folder / f"{wnid}_{number}.png")
    return root


def write_text(path: Path) -> Path:
    """A text of 8,000 characters."""
    said = "the loss along a line is nearly a parabola and where it is not we say so."
    words = said.split(" ")
    order = np.random.default_rng(0).integers(0, len(words), 3000)
    path.write_text(" ".join(words[place] for place in order)[:8000], encoding="utf-8")
    return path
