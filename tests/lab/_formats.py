"""Small random data sets, written in the formats of the real ones."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import types
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from scipy.io import savemat

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


class _Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2 did: as one and the same kind of string."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, text: str | bytes) -> None:
        data = text.encode("latin1") if isinstance(text, str) else text
        if len(data) < 256:
            self.write(b"U" + bytes([len(data)]) + data)  # SHORT_BINSTRING
        else:
            self.write(b"T" + struct.pack("<i", len(data)) + data)  # BINSTRING
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_string

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):  # as NumPy 1 under Python 2 did
            state = (1, value.shape, value.dtype, False, value.tobytes())
            return _OLD_RECONSTRUCT, (np.ndarray, (0,), "b"), state
        return NotImplemented

    def save_global(self, value: Any, name: str | None = None) -> None:
        if value is _OLD_RECONSTRUCT:
            self.write(b"cnumpy.core.multiarray\n_reconstruct\n")
        else:
            super().save_global(value, name)

    dispatch[types.FunctionType] = save_global


def _old_reconstruct() -> None: ...


_OLD_RECONSTRUCT = _old_reconstruct


def python2_pickle(content: dict[str, Any]) -> bytes:
    """A pickle as Python 2 and NumPy 1 wrote it."""
    buffer = io.BytesIO()
    _Python2Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue()


def pixels(count: int, seed: int) -> np.ndarray:
    """CIFAR's rows: 1024 bytes of red, 1024 of green, 1024 of blue."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def write_cifar10(root: Path) -> Path:
    """CIFAR-10's files, 10 images each."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for seed, name in enumerate(names):
        content = {
            "batch_label": f"batch {seed}",
            "labels": list(range(10)),
            "data": pixels(10, seed),
            "filenames": [f"{place}.png" for place in range(10)],
        }
        (folder / name).write_bytes(python2_pickle(content))
    meta = {"label_names": [f"class{n}" for n in range(10)], "num_vis": 3072}
    (folder / "batches.meta").write_bytes(python2_pickle(meta))
    return root


def write_cifar100(root: Path, train: int = 30, test: int = 20) -> Path:
    """CIFAR-100's files; the first image has the last class."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for seed, (name, count) in enumerate((("train", train), ("test", test))):
        content = {
            "filenames": [f"{place}.png" for place in range(count)],
            "fine_labels": [99 - place % 100 for place in range(count)],
            "coarse_labels": [place % 20 for place in range(count)],
            "data": pixels(count, seed),
        }
        (folder / name).write_bytes(python2_pickle(content))
    meta = {f"{kind}_label_names": [f"{kind}{n}" for n in range(100)] for kind in ("fine",)}
    (folder / "meta").write_bytes(python2_pickle(meta))
    return root


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
