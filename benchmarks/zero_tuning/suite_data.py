"""Small files for `suite.py`, made once from the public data sets.

    python benchmarks/zero_tuning/suite_data.py FOLDER --cifar10 DIR --fashion-mnist DIR --shakespeare FILE

CIFAR-10 as an image folder of JPEG files (copied as they are), Fashion-MNIST as its four files (halved), tiny
Shakespeare as text; digits and Python's help texts come with scikit-learn and Python.
"""

from __future__ import annotations

import argparse
import gzip
import pydoc_data.topics
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import avg_pool2d


def _jpegs(folder: Path, count: int) -> dict[str, torch.Tensor]:
    """The first of every class, byte for byte: content, ends, labels."""
    content, ends, labels = bytearray(), [], []
    for label, kind in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        for path in sorted(kind.iterdir())[: count // 10]:
            content += path.read_bytes()
            ends.append(len(content))
            labels.append(label)
    return {
        "content": torch.frombuffer(content, dtype=torch.uint8),
        "ends": torch.tensor(ends),
        "labels": torch.tensor(labels, dtype=torch.uint8),
    }


def _idx(folder: Path, part: str, count: int) -> dict[str, torch.Tensor]:
    read = {}
    for kind, skip in (("images-idx3", 16), ("labels-idx1", 8)):
        with gzip.open(next(folder.glob(f"{part}-{kind}-ubyte*"))) as file:
            read[kind] = np.frombuffer(file.read()[skip:], dtype=np.uint8)
    images = torch.tensor(read["images-idx3"]).view(-1, 1, 28, 28)[:count]
    halved = avg_pool2d(images.float(), 2).round().to(torch.uint8)[:, 0]
    return {"images": halved, "labels": torch.tensor(read["labels-idx1"][:count])}


def _characters(text: str) -> dict[str, object]:
    alphabet = sorted(set(text))
    places = {c: i for i, c in enumerate(alphabet)}
    codes = torch.tensor([places[c] for c in text], dtype=torch.uint8)
    return {"codes": codes, "alphabet": "".join(alphabet)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cifar10", type=Path, required=True)
    parser.add_argument("--fashion-mnist", type=Path, required=True)
    parser.add_argument("--shakespeare", type=Path, required=True)
    options = parser.parse_args()
    out = options.folder
    out.mkdir(parents=True, exist_ok=True)
    torch.save(
        {
            "train": _jpegs(options.cifar10 / "train", 16_000),
            "test": _jpegs(options.cifar10 / "test", 5_000),
        },
        out / "cifar10-jpeg.pt",
    )
    torch.save(
        {
            "train": _idx(options.fashion_mnist, "train", 15_000),
            "test": _idx(options.fashion_mnist, "t10k", 5_000),
        },
        out / "fashion14.pt",
    )
    torch.save(_characters(options.shakespeare.read_text()), out / "shakespeare.pt")
    words = "\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))
    torch.save(_characters(words.encode("ascii", "ignore").decode()[:300_000]), out / "topics.pt")
    digits = load_digits()
    torch.save(
        {
            "images": torch.tensor(digits.images).to(torch.uint8),
            "labels": torch.tensor(digits.target).to(torch.uint8),
        },
        out / "digits.pt",
    )


if __name__ == "__main__":
    main()
