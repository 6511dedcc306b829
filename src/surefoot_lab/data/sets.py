"""The data sets known by name: where their files are, and what to do if they are not there."""

from __future__ import annotations

from pathlib import Path

import torch

from surefoot_lab.config import DataConfig, UserError
from surefoot_lab.data.idx import read_idx
from surefoot_lab.data.images import ImageSet, Splits, hold_out

DIGIT_LEVELS = 16  # scikit-learn's digits count ink from 0 to 16

FASHION_CLASSES = (
    *("t-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
FASHION_PLACES = ("data/fashion-mnist", "data", "/usr/share/datasets/fashion-mnist")
FASHION_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
CIFAR10_FOLDER = "cifar-10-batches-py"


def digits(config: DataConfig) -> Splits:
    """The 1,797 handwritten digits of 8 by 8 pixels that come with scikit-learn."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    levels = torch.from_numpy(bunch.images).unsqueeze(1)
    images = (levels * (255 / DIGIT_LEVELS)).round().to(torch.uint8)
    everything = ImageSet(images, torch.from_numpy(bunch.target).long())
    rest, test = hold_out(everything, config.test, config.split_seed, "data.test")
    return _with_validation(config, rest, test, tuple(str(name) for name in bunch.target_names))


def fashion_mnist(config: DataConfig) -> Splits:
    """Fashion-MNIST from its four IDX files, gzipped or not."""
    if config.download:
        _download_fashion_mnist(config.root or FASHION_PLACES[0])
    folder = _fashion_folder(config)
    parts = {}
    for part, (image_file, label_file) in FASHION_FILES.items():
        images = read_idx(_plain_or_gz(folder, image_file))
        labels = read_idx(_plain_or_gz(folder, label_file)).long()
        if images.dim() != 3 or labels.shape != images.shape[:1]:
            raise UserError(f"{folder}: {image_file} and {label_file} do not belong together")
        parts[part] = ImageSet(images.unsqueeze(1), labels)
    return _with_validation(config, parts["train"], parts["test"], FASHION_CLASSES)


def cifar10(config: DataConfig) -> Splits:
    """CIFAR-10 from torchvision's copy of the original binary files."""
    from torchvision.datasets import CIFAR10

    root = config.root or "data"
    if not config.download and not (Path(root) / CIFAR10_FOLDER).is_dir():
        raise UserError(
            f"data.root: {root} has no folder {CIFAR10_FOLDER}; set data.root to the folder that "
            "holds it, or data.download: true to fetch it"
        )
    try:
        train = CIFAR10(root, train=True, download=config.download)
        test = CIFAR10(root, train=False)
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"data.root: {root}: CIFAR-10 cannot be read ({reason})") from None
    parts = [
        ImageSet(
            torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(),
            torch.tensor(part.targets, dtype=torch.int64),
        )
        for part in (train, test)
    ]
    return _with_validation(config, parts[0], parts[1], tuple(train.classes))


def _with_validation(
    config: DataConfig, train: ImageSet, test: ImageSet, classes: tuple[str, ...]
) -> Splits:
    rest, validation = hold_out(train, config.validation, config.split_seed, "data.validation")
    return Splits(rest, validation, test, classes)


def _download_fashion_mnist(root: str) -> None:
    from torchvision.datasets import FashionMNIST

    try:
        FashionMNIST(root, train=True, download=True)
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"data.download: Fashion-MNIST could not be fetched into {root} ({reason}); "
            "check the network, or set data.root to files that are there"
        ) from None


def _fashion_folder(config: DataConfig) -> Path:
    """The first usual place that holds the training images."""
    name = FASHION_FILES["train"][0]
    roots = [config.root] if config.root else FASHION_PLACES
    for root in roots:
        for folder in (Path(root), Path(root) / "FashionMNIST" / "raw"):
            if (folder / name).is_file() or (folder / f"{name}.gz").is_file():
                return folder
    raise UserError(
        f"data.root: no {name}(.gz) in {', '.join(roots)}; set data.root to the folder that holds "
        "the four files, or data.download: true to fetch them (Debian and Ubuntu: "
        "apt install dataset-fashion-mnist)"
    )


def _plain_or_gz(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise UserError(f"{folder}: {name}(.gz) is missing; fetch the data set again")
