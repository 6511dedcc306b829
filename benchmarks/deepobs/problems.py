"""Test problems of DeepOBS (Schneider, Balles, Hennig 2019, arXiv 1903.05499), written anew in torch.

Definitions follow its TensorFlow sources, "same" padding and dropped last batches included. What differs is said in
docs/evidence.md.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yardsticks import put


class Problem:
    """What the problems have in common: epochs of shuffled batches, the last incomplete one dropped.

    Args:
        folder: where the data are; None for problems that make their own.
        epochs: length of the run; the published length without it.
        steps: length of the run, instead.
    """

    name = ""
    batch_size = 128
    published_epochs = 100
    higher_is_better = True
    clip: float | None = None
    look_every: int | None = None
    examples: int
    reshuffled = True

    def __init__(
        self, folder: Path | None = None, epochs: float | None = None, steps: int | None = None
    ) -> None:
        self.folder = folder
        per_epoch = self.examples // self.batch_size
        self.steps = steps or round((epochs or self.published_epochs) * per_epoch)

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        return [{"params": list(model.parameters())}]

    def batches(self, seed: int) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(self.examples, generator=generator)
        while True:
            if self.reshuffled:
                order = torch.randperm(self.examples, generator=generator)
            for i in range(self.examples // self.batch_size):
                yield self.batch(order[i * self.batch_size :][: self.batch_size], generator)

    def batch(self, index: Tensor, generator: torch.Generator) -> Any:
        raise NotImplementedError

    def mean(self, model: nn.Module, batches: list[Any], of: Any) -> float:
        """Mean over test batches, all of the same size."""
        return float(sum(float(of(model, put(batch))) for batch in batches) / len(batches))


def _in_batches(data: tuple[Tensor, ...], size: int) -> list[tuple[Tensor, ...]]:
    count = len(data[0]) // size
    return [tuple(x[i * size : (i + 1) * size] for x in data) for i in range(count)]


def _accuracy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return 100.0 * (model(x).argmax(1) == y).float().mean()


# quadratic_deep


def rotation(dimensions: int, random: np.random.RandomState) -> np.ndarray:
    """A rotation, uniform over all (Diaconis and Shahshahani 1987): one mirror a dimension."""
    angle = 2.0 * np.pi * random.uniform()
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.array([[cos, sin], [-sin, cos]])
    for size in range(3, dimensions + 1):
        place = random.normal(size=size)
        mirror = -place / np.linalg.norm(place)
        mirror[0] += 1.0
        mirror /= np.linalg.norm(mirror)
        grown = np.eye(size)
        grown[1:, 1:] = matrix
        matrix = grown - 2.0 * np.outer(mirror, mirror @ grown)
    return -matrix


class Quadratic(nn.Module):
    """½ (θ − x)ᵀ Q (θ − x) of every x."""

    def __init__(self, hessian: Tensor) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.ones(len(hessian)))
        self.register_buffer("hessian", hessian)

    def forward(self, x: Tensor) -> Tensor:
        away = self.place - x
        return 0.5 * ((away @ self.hessian) * away).sum(1)


class QuadraticDeep(Problem):
    """100 dimensions, 10 of them steep; every epoch in the same order, as in the published runs."""

    name = "quadratic_deep"
    reshuffled = False
    higher_is_better = False
    examples = 1000

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        random = np.random.RandomState(42)
        values = np.concatenate((random.uniform(0.0, 1.0, 90), random.uniform(30.0, 60.0, 10)))
        turned = rotation(100, random)
        self.hessian = torch.tensor(turned.T @ np.diag(values) @ turned, dtype=torch.float32)
        self.train, self.test = (
            torch.tensor(
                np.random.RandomState(s).normal(0.0, 0.6, (1000, 100)), dtype=torch.float32
            )
            for s in (42, 43)
        )

    def model(self, seed: int) -> nn.Module:
        return Quadratic(self.hessian)

    def batch(self, index: Tensor, generator: torch.Generator) -> Tensor:
        return self.train[index]

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).mean()

    def evaluate(self, model: nn.Module) -> float:
        kept = len(self.test) // self.batch_size * self.batch_size
        return float(model(put(self.test[:kept])).mean())


class QuadraticReshuffled(QuadraticDeep):
    """The same with a new order every epoch, as everywhere else."""

    name = "quadratic_reshuffled"
    reshuffled = True


# Fashion-MNIST


@cache
def fashion(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images in [0, 1], (n, 1, 28, 28), and labels, on the device."""
    found = []
    for kind, skip in (("images-idx3", 16), ("labels-idx1", 8)):
        with gzip.open(folder / f"{part}-{kind}-ubyte.gz") as file:
            found.append(np.frombuffer(file.read()[skip:], dtype=np.uint8).copy())
    images = torch.from_numpy(found[0]).view(-1, 1, 28, 28).float() / 255.0
    return put((images, torch.from_numpy(found[1]).long()))


class _Fashion(Problem):
    def __init__(self, folder: Path, epochs: float | None = None, steps: int | None = None) -> None:
        self.examples = len(fashion(folder, "train")[1])
        super().__init__(folder, epochs, steps)

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, y = fashion(self.folder, "train")
        index = put(index)
        return x[index], y[index]

    def test(self) -> list[tuple[Tensor, ...]]:
        return _in_batches(fashion(self.folder, "t10k"), self.batch_size)


class Fmnist2c2d(_Fashion):
    """Two convolutions, two dense layers."""

    name = "fmnist_2c2d"

    def model(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(1, 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(7 * 7 * 64, 1024),
            nn.ReLU(),
            nn.Linear(1024, 10),
        )
        for name, p in net.named_parameters():
            if name.endswith("bias"):
                nn.init.constant_(p, 0.05)
            else:
                nn.init.trunc_normal_(p, std=0.05, a=-0.1, b=0.1)
        return net

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def evaluate(self, model: nn.Module) -> float:
        return self.mean(model, self.test(), _accuracy)


class _Same(nn.Module):
    """TensorFlow's "same" padding of a 4×4 kernel at stride 1; `turned` for its transposed form."""

    def __init__(self, turned: bool = False) -> None:
        super().__init__()
        self.padding = (2, 1, 2, 1) if turned else (1, 2, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.padding)


class Vae(nn.Module):
    """Image to image, mean and half the log-variance of 8 latents."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Conv2d(1, 64, 4, 2, 1), nn.LeakyReLU(0.3), nn.Dropout(0.2)),
            *(nn.Conv2d(64, 64, 4, 2, 1), nn.LeakyReLU(0.3), nn.Dropout(0.2)),
            *(_Same(), nn.Conv2d(64, 64, 4), nn.LeakyReLU(0.3), nn.Dropout(0.2)),
            nn.Flatten(),
        )
        self.to_mean, self.to_deviation = nn.Linear(7 * 7 * 64, 8), nn.Linear(7 * 7 * 64, 8)
        self.decoder = nn.Sequential(
            *(nn.Linear(8, 24), nn.LeakyReLU(0.3), nn.Linear(24, 49), nn.LeakyReLU(0.3)),
            nn.Unflatten(1, (1, 7, 7)),
            *(nn.ConvTranspose2d(1, 64, 4, 2, 1), nn.ReLU(), nn.Dropout(0.2)),
            *(_Same(True), nn.Conv2d(64, 64, 4), nn.ReLU(), nn.Dropout(0.2)),
            *(_Same(True), nn.Conv2d(64, 64, 4), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(14 * 14 * 64, 784), nn.Sigmoid()),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen = self.encoder(x)
        mean, deviation = self.to_mean(seen), 0.5 * self.to_deviation(seen)
        latent = mean + torch.randn_like(mean) * deviation.exp()
        return self.decoder(latent), mean, deviation


class FmnistVae(_Fashion):
    """A variational autoencoder; squared error and divergence of an image, summed."""

    name = "fmnist_vae"
    batch_size = 64
    higher_is_better = False

    def model(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        net = Vae()
        for name, p in net.named_parameters():
            nn.init.zeros_(p) if name.endswith("bias") else nn.init.xavier_uniform_(p)
        return net

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        image, mean, deviation = model(batch[0])
        error = (image - batch[0].flatten(1)).square().sum(1)
        divergence = -0.5 * (1 + 2 * deviation - mean.square() - (2 * deviation).exp()).sum(1)
        return (error + divergence).mean()

    def evaluate(self, model: nn.Module) -> float:
        return self.mean(model, self.test(), self.loss)


# CIFAR-10


@cache
def cifar(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Bytes (n, 3, 32, 32) and labels of an image folder, a directory a class, on the device."""
    from PIL import Image

    images, labels = [], []
    for label, kind in enumerate(
        sorted(path for path in (folder / part).iterdir() if path.is_dir())
    ):
        for path in sorted(kind.iterdir()):
            with Image.open(path) as image:
                images.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
            labels.append(label)
    return put((torch.stack(images), torch.tensor(labels)))


def standardized(x: Tensor) -> Tensor:
    """Each image to mean 0, deviation 1, as TensorFlow's `per_image_standardization`."""
    flat = x.flatten(1)
    least = 1.0 / math.sqrt(flat.shape[1])
    deviation = flat.std(1, correction=0).clamp(min=least)
    return (x - flat.mean(1).view(-1, 1, 1, 1)) / deviation.view(-1, 1, 1, 1)


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Crop from 36×36, flip, brightness, saturation, contrast, on values from 0 to 255."""
    n = len(x)

    def drawn(low: float, high: float) -> Tensor:
        return put(low + (high - low) * torch.rand(n, 1, 1, 1, generator=generator))

    corner = torch.randint(0, 5, (n, 2), generator=generator)
    rows = put(corner[:, :1] + torch.arange(32))[:, None, :, None]
    columns = put(corner[:, 1:] + torch.arange(32))[:, None, None, :]
    padded = F.pad(x.float(), (2, 2, 2, 2))
    image, channel = (put(torch.arange(size)) for size in (n, 3))
    x = padded[image[:, None, None, None], channel[None, :, None, None], rows, columns]
    x = torch.where(drawn(0.0, 1.0) < 0.5, x.flip(3), x)
    x = x + drawn(-63.0 / 255.0, 63.0 / 255.0)  # of 255, as in the source
    top = x.amax(1, keepdim=True)
    share = ((top - x.amin(1, keepdim=True)) / top.clamp(min=1e-6)).clamp(min=1e-6)
    x = top - (top - x) * torch.minimum(drawn(0.5, 1.5), 1.0 / share)
    center = x.mean((2, 3), keepdim=True)
    return center + (x - center) * drawn(0.2, 1.8)


class _Pool(nn.Module):
    """3×3 at stride 2, "same" padding."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-math.inf), 3, 2)


class Cifar3c3d(Problem):
    """Three convolutions, three dense layers, an L2 penalty of the weights in the loss."""

    name = "cifar10_3c3d"

    def __init__(self, folder: Path, epochs: float | None = None, steps: int | None = None) -> None:
        self.examples = len(cifar(folder, "train")[1])
        super().__init__(folder, epochs, steps)

    def model(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        net = nn.Sequential(
            *(nn.Conv2d(3, 64, 5), nn.ReLU(), _Pool()),
            *(nn.Conv2d(64, 96, 3), nn.ReLU(), _Pool()),
            *(nn.Conv2d(96, 128, 3, padding=1), nn.ReLU(), _Pool()),
            nn.Flatten(),
            *(nn.Linear(3 * 3 * 128, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU()),
            nn.Linear(256, 10),
        )
        for p in net.parameters():
            if p.dim() == 4:
                nn.init.xavier_normal_(p)
            elif p.dim() == 2:
                nn.init.xavier_uniform_(p)
            else:
                nn.init.zeros_(p)
        return net

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, y = cifar(self.folder, "train")
        index = put(index)
        return standardized(augmented(x[index], generator)), y[index]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        loss = F.cross_entropy(model(batch[0]), batch[1])
        weights = [p for p in model.parameters() if p.dim() > 1]
        return loss + 0.001 * torch.stack([p.square().sum() for p in weights]).sum()

    def evaluate(self, model: nn.Module) -> float:
        x, y = cifar(self.folder, "test")
        order = put(torch.randperm(len(y), generator=torch.Generator().manual_seed(0)))
        batches = _in_batches((x[order], y[order]), self.batch_size)
        return self.mean(model, [(standardized(a.float()), b) for a, b in batches], _accuracy)


# a character RNN


class CharRnn(nn.Module):
    """Two LSTM layers of 128, dropout at every input and output; the state goes from batch to batch."""

    def __init__(self, alphabet: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(alphabet, 128)
        self.first = nn.LSTM(128, 128, batch_first=True)
        self.second = nn.LSTM(128, 128, batch_first=True)
        self.head = nn.Linear(128, alphabet)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        h = self.drop(self.embedding(x))
        h, one = self.first(h, state and state[0])
        h, two = self.second(self.drop(self.drop(h)), state and state[1])
        return self.head(self.drop(h)), (one, two)


class CharRnnProblem(Problem):
    """Characters of tiny Shakespeare in place of War and Peace; accuracy of the next one."""

    name = "char_rnn"
    batch_size = 50
    length = 50
    published_epochs = 200

    def __init__(self, folder: Path, epochs: float | None = None, steps: int | None = None) -> None:
        text = (folder / "input.txt").read_text()
        alphabet = sorted(set(text))
        places = {c: i for i, c in enumerate(alphabet)}
        codes = torch.tensor([places[c] for c in text])
        cut = int(0.9 * len(codes))
        self.alphabet = len(alphabet)
        self.train, self.test = (self._streams(part) for part in (codes[:cut], codes[cut:]))
        self.examples = len(self.train) * self.batch_size
        super().__init__(folder, epochs, steps)

    def _streams(self, codes: Tensor) -> list[tuple[Tensor, Tensor]]:
        """As many streams as a batch has rows, cut into pieces of `length`."""
        each = (len(codes) - 1) // self.batch_size // self.length * self.length
        kept = each * self.batch_size
        x, y = (codes[i : i + kept].view(self.batch_size, each) for i in (0, 1))
        return list(zip(x.split(self.length, 1), y.split(self.length, 1), strict=True))

    def model(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        net = CharRnn(self.alphabet)
        for name, p in net.named_parameters():
            if "bias" in name:
                nn.init.zeros_(p)
                if "bias_ih" in name:
                    nn.init.ones_(p.data[128:256])  # the forget gate's
            elif name.startswith(("first", "second")):
                nn.init.uniform_(p, -math.sqrt(6 / 768), math.sqrt(6 / 768))
            else:
                nn.init.xavier_uniform_(p)
        return net

    def batches(self, seed: int) -> Iterator[Any]:
        while True:
            self._state: Any = None
            yield from self.train

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        logits, state = model(batch[0], self._state)
        self._state = [tuple(s.detach() for s in layer) for layer in state]
        return F.cross_entropy(logits.flatten(0, 1), batch[1].flatten())

    def evaluate(self, model: nn.Module) -> float:
        state, right = None, []
        for x, y in map(put, self.test):
            logits, state = model(x, state)
            right.append((logits.argmax(2) == y).float().mean())
        return 100.0 * float(torch.stack(right).mean())


PROBLEMS: dict[str, type[Problem]] = {
    kind.name: kind
    for kind in (
        QuadraticDeep,
        QuadraticReshuffled,
        Fmnist2c2d,
        FmnistVae,
        Cifar3c3d,
        CharRnnProblem,
    )
}
