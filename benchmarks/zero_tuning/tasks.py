"""The tasks of the scoreboard: small, unlike each other, in the words of an experiment file."""

from __future__ import annotations

import gzip
import pydoc_data.topics
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, cross_entropy

from surefoot_lab.config import DataConfig, ModelConfig
from surefoot_lab.data import load_data
from surefoot_lab.models.small import ConvNet

TRAINED, TESTED = 10_000, 2_000
"""Images of the small copies."""


@dataclass(frozen=True)
class Task:
    """One problem with one budget.

    Attributes:
        data: what is learnt.
        model: by which network.
        epochs: the budget.
        batch_size: examples a step.
        figure: `accuracy` or `loss` of the test examples is compared.
    """

    data: DataConfig
    model: ModelConfig
    epochs: float
    batch_size: int
    figure: str = "accuracy"
    needs: tuple[str, ...] = field(default=())


def tasks(folder: Path) -> dict[str, Task]:
    """All tasks, their files in `folder`."""
    small_fashion = DataConfig(name="fashion-mnist", root=str(folder / "fashion"), validation=1000)
    later_classes = DataConfig(
        name="fashion-mnist", root=str(folder / "fashion-later"), validation=200
    )
    return {
        "cifar10-resnet8": Task(
            DataConfig(
                name="imagefolder", root=str(folder / "cifar10"), validation=1000, crop=2, flip=True
            ),
            ModelConfig("resnet8", {"widths": [8, 16, 32]}),
            epochs=6,
            batch_size=128,
            needs=("cifar10",),
        ),
        "fashion-convnet": Task(
            small_fashion, ModelConfig("convnet"), epochs=6, batch_size=128, needs=("fashion",)
        ),
        "digits-mlp": Task(
            DataConfig(name="digits"), ModelConfig("mlp", {"widths": [100, 100]}), 20, 64
        ),
        "friedman-mlp": Task(
            DataConfig(name="friedman"), ModelConfig("mlp", {"widths": [64, 64]}), 8, 32, "loss"
        ),
        "text-transformer": Task(
            DataConfig(name="text", root=str(folder / "topics.txt"), validation=0.05, test=0.1),
            ModelConfig("char-transformer", {"width": 64, "layers": 2}),
            epochs=1,
            batch_size=32,
            figure="loss",
        ),
        "fashion-fine-tuning": Task(
            later_classes,
            ModelConfig("tasks.Pretrained", {"weights": str(folder / "pretrained.pt")}),
            epochs=10,
            batch_size=32,
            needs=("fashion",),
        ),
    }


class Pretrained(ConvNet):
    """The small conv net, trained on five classes of Fashion-MNIST, with a new last layer.

    Args:
        num_classes: of the new task.
        in_channels: of the images.
        image_size: of the images.
        weights: file of the trained weights.
    """

    def __init__(
        self, num_classes: int, in_channels: int, image_size: tuple[int, int], weights: str
    ) -> None:
        super().__init__(num_classes, in_channels, image_size)
        trained = torch.load(weights, weights_only=True)
        own = self.state_dict()
        fitting = {key: value for key, value in trained.items() if value.shape == own[key].shape}
        last = [key for key, value in own.items() if len(value) == num_classes]
        self.load_state_dict({k: v for k, v in fitting.items() if k not in last}, strict=False)


def prepare(folder: Path, cifar10: Path | None, fashion: Path | None) -> None:
    """Write the small data sets, in the formats of the large ones; what is there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    topics = folder / "topics.txt"
    if not topics.exists():  # English prose that comes with every Python
        words = "\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))
        topics.write_text(words.encode("ascii", "ignore").decode()[:300_000])
    if cifar10 is not None and not (folder / "cifar10").exists():
        _halve_folder(cifar10, folder / "cifar10")
    if fashion is not None and not (folder / "pretrained.pt").exists():
        _split_fashion(fashion, folder)


def _halve_folder(source: Path, target: Path) -> None:
    for part, count in (("train", TRAINED), ("test", TESTED)):
        classes = sorted(path for path in (source / part).iterdir() if path.is_dir())
        for kind in classes:
            (target / part / kind.name).mkdir(parents=True)
            for path in sorted(kind.iterdir())[: count // len(classes)]:
                small = Image.open(path).resize((16, 16), Image.Resampling.BOX)
                small.save(target / part / kind.name / f"{path.stem}.png")


def _split_fashion(source: Path, folder: Path) -> None:
    """Halved images of all classes; of the last five; and a net trained on the first five."""
    full = load_data(DataConfig(name="fashion-mnist", root=str(source), validation=1000))
    train = _halved(full.train.inputs), full.train.labels
    test = _halved(full.test.inputs), full.test.labels
    _write_idx(folder / "fashion", train, test, TRAINED, TESTED)

    def of(classes: range, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        chosen = (labels >= classes.start) & (labels < classes.stop)
        return images[chosen], labels[chosen] - classes.start

    later = range(5, 10)
    _write_idx(folder / "fashion-later", of(later, *train), of(later, *test), 1200, TESTED)
    torch.save(_trained(*of(range(5), *train)), folder / "pretrained.pt")


def _trained(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = ConvNet(5, 1, (14, 14))
    optimizer = torch.optim.AdamW(model.parameters())
    inputs = (images.float() - 73.0) / 90.0  # as the data set's mean and deviation, about
    for places in torch.randperm(len(inputs)).split(100)[:300]:
        optimizer.zero_grad()
        cross_entropy(model(inputs[places]), labels[places]).backward()
        optimizer.step()
    return {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}


def _halved(images: Tensor) -> Tensor:
    return avg_pool2d(images.float(), 2).round().to(torch.uint8)


def _write_idx(
    folder: Path,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    trained: int,
    tested: int,
) -> None:
    """The four files of Fashion-MNIST."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, (images, labels), count in (("train", train, trained), ("t10k", test, tested)):
        for kind, values in (("images-idx3", images[:count, 0]), ("labels-idx1", labels[:count])):
            sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
            content = bytes([0, 0, 8, values.ndim]) + sizes + bytes(values.to(torch.uint8).numpy())
            with gzip.open(folder / f"{part}-{kind}-ubyte.gz", "wb") as file:
                file.write(content)


__all__ = ["Pretrained", "Task", "prepare", "tasks"]
