"""Two dozen small tasks, unlike each other, in pure torch, on any device.

Twelve to develop a rule on, `DEVELOPMENT`, and twelve to confirm it on, `CONFIRMATION`: written down before any
candidate ran, and not run with any candidate until the rule was final. Ten more are in `kept_back.py`;
`every_task.py` has all by name.

A task's loss is a pure function of weights and batch: dropout masks, augmentation and noise are part of the batch. So
the loss of a batch can be asked for again, and many runs of one task can be trained at once (`many.py`). BatchNorm has
no running statistics: an evaluation measures them on training data at the weights that are evaluated.

    figures = run(every_task.load("digits-mlp", folder), seed=0, method=lambda model, steps: Plain(AdamW(model.parameters())))
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MARKS = (0.25, 0.5, 0.75, 1.0)
Batch = tuple[Tensor, ...]


@dataclass
class Task:
    """What is trained, on what, for how long.

    Args:
        name: of the task.
        model: makes a network from a seed.
        batches: endless batches from a seed.
        loss: of a model on a batch.
        evaluate: the figure of a model; `suite_score.py` says which kind it is.
        steps: length of the run.
        betas: of AdamW.
        decay: AdamW's weight decay.
        decays: which parameters decay.
        clip: norm that gradients are clipped at.
        heavy: to be trained on an accelerator, where there is one.
    """

    name: str
    model: Callable[[int], nn.Module]
    batches: Callable[[int], Iterator[Batch]]
    loss: Callable[[Callable[..., Any], Batch], Tensor]
    evaluate: Callable[[Callable[..., Any]], Tensor]
    steps: int
    betas: tuple[float, float] = (0.9, 0.999)
    decay: float = 0.01
    decays: Callable[[str, Tensor], bool] = field(default=lambda name, p: True)
    clip: float | None = None
    heavy: bool = False


# Pieces of networks. Images are (count, height, width, channels): a convolution is a Linear over shifted copies.


def _shifted(x: Tensor, stride: int) -> Tensor:
    """The nine neighbours of every place, side by side in the last dimension."""
    h, w = x.shape[-3], x.shape[-2]
    x = F.pad(x, (0, 0, 1, 1, 1, 1))
    return torch.cat(
        [x[..., i : i + h : stride, j : j + w : stride, :] for i in range(3) for j in range(3)], -1
    )


class Conv(nn.Linear):
    """3×3, padded."""

    def __init__(self, ins: int, outs: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__(9 * ins, outs, bias)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_shifted(x, self.stride))


class Norm(nn.Module):
    """BatchNorm over all but the last dimension; where `known` > 0, statistics of the first `known` rows alone."""

    known = 0

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        seen = x[: Norm.known] if Norm.known else x
        places = tuple(range(x.dim() - 1))
        mean = seen.mean(places)
        var = (seen - mean).square().mean(places)
        return (x - mean) * (var + 1e-5).rsqrt() * self.weight + self.bias


class Residual(nn.Module):
    """Two convolutions and a short cut."""

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = Conv(ins, outs, stride, False), Conv(outs, outs, 1, False)
        self.norm1, self.norm2 = Norm(outs), Norm(outs)
        self.stride = stride
        self.short = nn.Linear(ins, outs, False) if stride > 1 or ins != outs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.second(F.relu(self.norm1(self.first(x)))))
        return F.relu(y + self.short(x[..., :: self.stride, :: self.stride, :]))


class ResNet8(nn.Module):
    """Three stages of one block."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        a, b, c = widths
        self.stem, self.norm = Conv(3, a, 1, False), Norm(a)
        self.blocks = nn.Sequential(Residual(a, a, 1), Residual(a, b, 2), Residual(b, c, 2))
        self.head = nn.Linear(c, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu(self.norm(self.stem(x)))).mean((-3, -2)))


def _pool(x: Tensor) -> Tensor:
    """Largest of 2×2."""
    h, w = x.shape[-3] // 2 * 2, x.shape[-2] // 2 * 2
    x = x[..., :h, :w, :]
    x = torch.maximum(x[..., ::2, :, :], x[..., 1::2, :, :])
    return torch.maximum(x[..., ::2, :], x[..., 1::2, :])


class ConvNet(nn.Module):
    """Two convolutions with pooling, one hidden layer; 14×14 in."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.a, self.b = Conv(1, 16), Conv(16, 32)
        self.hidden, self.head = nn.Linear(3 * 3 * 32, 64), nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = _pool(F.relu(self.b(_pool(F.relu(self.a(x))))))
        return self.head(F.relu(self.hidden(x.flatten(-3))))


class Attention(nn.Module):
    """Self-attention; `causal` sees only what came before."""

    def __init__(self, width: int, heads: int, causal: bool, bias: bool = True) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.into, self.out = nn.Linear(width, 3 * width, bias), nn.Linear(width, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = (
            t.reshape(n, length, self.heads, -1).transpose(1, 2) for t in self.into(x).chunk(3, -1)
        )
        scores = q @ k.transpose(-2, -1) / math.sqrt(width // self.heads)
        if self.causal:
            ahead = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(ahead, -math.inf)
        mixed = scores.softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(n, length, width))


class Block(nn.Module):
    """Attention and a hidden layer, normalization first."""

    def __init__(
        self, width: int, heads: int, causal: bool, bias: bool = True, spread: int = 4
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=bias), nn.LayerNorm(width, bias=bias)
        self.attention = Attention(width, heads, causal, bias)
        self.up = nn.Linear(width, spread * width, bias)
        self.down = nn.Linear(spread * width, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Tokens(nn.Module):
    """A transformer over a sequence of vectors, averaged, to classes."""

    def __init__(
        self, ins: int, length: int, width: int, layers: int, heads: int, spread: int = 4
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(ins, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(
            *(Block(width, heads, False, True, spread) for _ in range(layers))
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.embed(x) + self.places)
        return self.head(self.norm(x).mean(-2))


class GPT(nn.Module):
    """nanoGPT's network: tied embedding, no biases, its initialization."""

    def __init__(
        self, classes: int, length: int, width: int, layers: int, heads: int, tied: bool
    ) -> None:
        super().__init__()
        bias = not tied
        self.embed, self.places = nn.Embedding(classes, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads, True, bias) for _ in range(layers)))
        self.norm = nn.LayerNorm(width, bias=bias)
        self.head = None if tied else nn.Linear(width, classes)
        for name, p in self.named_parameters():
            if p.dim() > 1 and tied:
                deep = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * layers) if deep else 0.02)

    def forward(self, codes: Tensor) -> Tensor:
        x = self.embed(codes) + self.places.weight[: codes.shape[-1]]
        x = self.norm(self.blocks(x))
        return F.linear(x, self.embed.weight) if self.head is None else self.head(x)


def _mlp(*widths: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for ins, outs in itertools.pairwise(widths):
        layers += [nn.Linear(ins, outs), activation()]
    return nn.Sequential(*layers[:-1])


def _seeded(make: Callable[[], nn.Module]) -> Callable[[int], nn.Module]:
    def model(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 + seed)
            return make()

    return model


# Losses, figures, batches


def cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    return -scores.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).mean()


def _classify(model: Callable[..., Any], batch: Batch) -> Tensor:
    return cross_entropy(model(batch[0]), batch[1])


def _squared(model: Callable[..., Any], batch: Batch) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def _accuracy(
    x: Tensor, y: Tensor, known: Tensor | None = None, chunk: int = 1000
) -> Callable[..., Tensor]:
    """Share of right answers; `known`: training inputs to measure BatchNorm's statistics on."""

    def evaluate(model: Callable[..., Any]) -> Tensor:
        right = []
        for xs, ys in zip(x.split(chunk), y.split(chunk), strict=True):
            if known is not None:
                Norm.known, xs = len(known), torch.cat([known, xs])
            try:
                scores = model(xs)[-len(ys) :]
            finally:
                Norm.known = 0
            right.append((scores.argmax(-1) == ys).float().sum())
        return torch.stack(right).sum() / len(y)

    return evaluate


def _mean_loss(loss: Callable[..., Tensor], batches: list[Batch]) -> Callable[..., Tensor]:
    def evaluate(model: Callable[..., Any]) -> Tensor:
        return torch.stack([loss(model, batch) for batch in batches]).mean()

    return evaluate


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _endless(made: Callable[[torch.Generator], Batch]) -> Callable[[int], Iterator[Batch]]:
    """Batches that are drawn one by one."""

    def batches(seed: int) -> Iterator[Batch]:
        draw = _generator(10_000 + seed)
        while True:
            yield made(draw)

    return batches


def _epochs(n: int, size: int, seed: int) -> Iterator[tuple[Tensor, torch.Generator]]:
    """Places, epoch by epoch, the last incomplete batch dropped."""
    draw = _generator(10_000 + seed)
    while True:
        order = torch.randperm(n, generator=draw)
        for at in range(0, n - size + 1, size):
            yield order[at : at + size], draw


def _shuffled(x: Tensor, y: Tensor, size: int) -> Callable[[int], Iterator[Batch]]:
    def batches(seed: int) -> Iterator[Batch]:
        for places, _ in _epochs(len(x), size, seed):
            places = places.to(x.device)
            yield x[places], y[places]

    return batches


def _classifier(
    name: str,
    make: Callable[[], nn.Module],
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    size: int,
    steps: int,
    **more: Any,
) -> Task:
    return Task(
        name, _seeded(make), _shuffled(*train, size), _classify, _accuracy(*test), steps, **more
    )


# Data


def _decoded(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """CIFAR-10 as uint8 (count, 32, 32, 3); decoded once, kept beside the JPEGs."""
    kept = folder / "cifar10-decoded.pt"
    if not kept.exists():
        from torchvision.io import decode_jpeg

        made = {}
        for part, stored in torch.load(folder / "cifar10-jpeg.pt").items():
            ends = stored["ends"].tolist()
            images = [
                decode_jpeg(stored["content"][a:b].clone()).permute(1, 2, 0)
                for a, b in zip([0, *ends], ends, strict=False)
            ]
            made[part] = (torch.stack(images), stored["labels"].long())
        torch.save(made, kept)
    return torch.load(kept)


def _cifar(folder: Path, device: str, halved: bool, count: int) -> dict[str, tuple[Tensor, Tensor]]:
    made = {}
    for part, (images, labels) in _decoded(folder).items():
        keep = torch.arange(len(images)).view(10, -1)[:, : count // 10 if part == "train" else None]
        x, y = images[keep.flatten()].float().to(device), labels[keep.flatten()].to(device)
        if halved:
            x = x.view(len(x), 16, 2, 16, 2, 3).mean((2, 4))
        made[part] = ((x - 120.0) / 64.0, y)
    return made


def _fashion(
    folder: Path, device: str, classes: range, count: int
) -> dict[str, tuple[Tensor, Tensor]]:
    made = {}
    for part, stored in torch.load(folder / "fashion14.pt").items():
        labels = stored["labels"].long()
        keep = ((labels >= classes.start) & (labels < classes.stop)).nonzero()[:, 0]
        keep = keep[: count if part == "train" else None]
        x = ((stored["images"][keep].float() - 73.0) / 90.0).unsqueeze(-1)
        made[part] = (x.to(device), (labels[keep] - classes.start).to(device))
    return made


def _digits(folder: Path, device: str) -> dict[str, tuple[Tensor, Tensor]]:
    stored = torch.load(folder / "digits.pt")
    order = torch.randperm(1797, generator=_generator(0))
    x = (stored["images"][order].float() / 16.0).to(device)
    y = stored["labels"][order].long().to(device)
    return {"train": (x[:1097], y[:1097]), "test": (x[1097:], y[1097:])}


def _augmented(x: Tensor, y: Tensor, size: int, crop: int) -> Callable[[int], Iterator[Batch]]:
    """Flipped, and moved by up to `crop`."""
    side = x.shape[1]
    padded = F.pad(x, (0, 0, crop, crop, crop, crop))

    def batches(seed: int) -> Iterator[Batch]:
        for places, draw in _epochs(len(x), size, seed):
            flip = torch.rand(size, 1, generator=draw) < 0.5
            rows = torch.randint(2 * crop + 1, (size, 1), generator=draw) + torch.arange(side)
            cols = torch.randint(2 * crop + 1, (size, 1), generator=draw) + torch.arange(side)
            cols = torch.where(flip, cols.flip(1), cols)
            at, rows, cols = (t.to(x.device) for t in (places, rows, cols))
            yield padded[at[:, None, None], rows[:, :, None], cols[:, None, :]], y[at]

    return batches


# Tasks to develop on


def _vit(folder: Path, device: str) -> Task:
    data = _cifar(folder, device, False, 16_000)

    def patches(x: Tensor) -> Tensor:
        return (
            x.unflatten(-2, (8, 4))
            .unflatten(-4, (8, 4))
            .transpose(-4, -3)
            .flatten(-3)
            .flatten(-3, -2)
        )

    def batches(seed: int) -> Iterator[Batch]:
        for x, y in _augmented(*data["train"], 64, 0)(seed):
            yield patches(x), y

    x, y = data["test"]
    make = _seeded(lambda: Tokens(48, 64, 64, 3, 4))
    evaluate = _accuracy(patches(x), y, chunk=500)
    return Task("vit", make, batches, _classify, evaluate, 750, heavy=True)


def _resnet(folder: Path, device: str) -> Task:
    data = _cifar(folder, device, True, 9_000)
    known = data["train"][0][::9]
    return Task(
        "resnet",
        _seeded(lambda: ResNet8((8, 16, 32))),
        _augmented(*data["train"], 128, 2),
        _classify,
        _accuracy(*data["test"], known),
        420,
        heavy=True,
    )


def _fashion_convnet(folder: Path, device: str) -> Task:
    data = _fashion(folder, device, range(10), 9_000)
    return _classifier(
        "fashion-convnet", ConvNet, data["train"], data["test"], 128, 420, heavy=True
    )


def _digits_mlp(folder: Path, device: str) -> Task:
    data = {part: (x.flatten(1), y) for part, (x, y) in _digits(folder, device).items()}
    return _classifier(
        "digits-mlp", lambda: _mlp(64, 100, 100, 10), data["train"], data["test"], 64, 340
    )


def _digits_former(folder: Path, device: str) -> Task:
    """Four transformer layers of width 16 over the digits' eight rows."""
    data = _digits(folder, device)
    return _classifier(
        "digits-former", lambda: Tokens(8, 8, 32, 2, 4, 2), data["train"], data["test"], 32, 500
    )


def _friedman(folder: Path, device: str) -> Task:
    draw = _generator(0)
    x = torch.rand(16_000, 8, generator=draw)
    y = 10 * (math.pi * x[:, 0] * x[:, 1]).sin() + 20 * (x[:, 2] - 0.5).square()
    y = y + 10 * x[:, 3] + 5 * x[:, 4] + torch.randn(16_000, generator=draw)
    x, y = (x - x.mean(0)) / x.std(0), ((y - y.mean()) / y.std()).unsqueeze(1)
    x, y = x.to(device), y.to(device)
    train, test = (x[:12_000], y[:12_000]), (x[12_000:], y[12_000:])
    return Task(
        "friedman",
        _seeded(lambda: _mlp(8, 64, 64, 1)),
        _shuffled(*train, 32),
        _squared,
        _mean_loss(_squared, [test]),
        2400,
    )


def _windows(codes: Tensor, length: int, size: int) -> Callable[[int], Iterator[Batch]]:
    reach = torch.arange(length + 1)

    def made(draw: torch.Generator) -> Batch:
        at = torch.randint(len(codes) - length - 1, (size, 1), generator=draw) + reach
        rows = codes[at.to(codes.device)]
        return rows[:, :-1], rows[:, 1:]

    return _endless(made)


def _text_task(
    folder: Path,
    file: str,
    device: str,
    make: Callable[[int], nn.Module],
    name: str,
    length: int,
    size: int,
    steps: int,
    tested: int,
    **more: Any,
) -> Task:
    stored = torch.load(folder / file)
    codes = stored["codes"].long().to(device)
    split = int(0.9 * len(codes))
    test = codes[split:]
    rows = test[: (len(test) - 1) // length * length + 1]
    x, y = rows[:-1].view(-1, length), rows[1:].view(-1, length)
    keep = torch.linspace(0, len(x) - 1, min(tested, len(x)), device=x.device).long()
    pairs = list(zip(x[keep].split(128), y[keep].split(128), strict=True))
    pairs = [pair for pair in pairs if len(pair[0]) == 128]
    classes = len(stored["alphabet"])
    return Task(
        name,
        _seeded(lambda: make(classes)),
        _windows(codes[:split], length, size),
        _classify,
        _mean_loss(_classify, pairs),
        steps,
        **more,
    )


def _text_transformer(folder: Path, device: str) -> Task:
    return _text_task(
        folder, "topics.pt", device, lambda n: GPT(n, 50, 64, 2, 4, False), "text-transformer",
        50, 32, 160, 512, heavy=True,
    )  # fmt: skip


def _nanogpt(steps: int) -> Callable[[Path, str], Task]:
    def make(folder: Path, device: str) -> Task:
        return _text_task(
            folder, "shakespeare.pt", device, lambda n: GPT(n, 64, 128, 4, 4, True),
            f"nanogpt-{steps}", 64, 12, steps, 1024,
            betas=(0.9, 0.99), decay=0.1, decays=lambda name, p: p.dim() > 1, clip=1.0, heavy=True,
        )  # fmt: skip

    return make


def _gcn(folder: Path, device: str) -> Task:
    """Row-normalized bags of words, full batch, dropout: weights must grow."""
    draw = _generator(0)
    classes, words, count = 7, 300, 2700
    y = torch.randint(classes, (count,), generator=draw)
    topic = torch.rand(classes, words, generator=draw) < 0.06
    shares = torch.where(topic[y], 0.10, 0.02)
    x = sum((torch.rand(count, words, generator=draw) < shares).float() for _ in range(5))
    x = x / x.sum(1, keepdim=True).clamp(min=1)
    x, y = x.to(device), y.to(device)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(words, 16), nn.Linear(16, classes)

        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            h = F.relu(self.a(x))
            return self.b(h if mask is None else 2.0 * mask * h)

    def masked(draw: torch.Generator) -> Batch:
        return x[:700], y[:700], (torch.rand(700, 16, generator=draw) < 0.5).float().to(device)

    def loss(model: Callable[..., Any], batch: Batch) -> Tensor:
        return cross_entropy(model(batch[0], batch[2]), batch[1])

    return Task("gcn", _seeded(Net), _endless(masked), loss, _accuracy(x[700:], y[700:]), 200)


def _linear_far(folder: Path, device: str) -> Task:
    """No noise, weights must grow twenty-fold."""
    draw = _generator(0)
    x = torch.randn(512, 10, generator=draw) * 0.05
    y = (x @ torch.randn(10, 1, generator=draw)) * 40
    x, y = x.to(device), y.to(device)
    spread = float(y.var())

    def drawn(draw: torch.Generator) -> Batch:
        at = torch.randint(512, (64,), generator=draw).to(device)
        return x[at], y[at]

    return Task(
        "linear-far",
        _seeded(lambda: _mlp(10, 32, 1, activation=nn.Tanh)),
        _endless(drawn),
        _squared,
        lambda model: _squared(model, (x, y)) / spread,
        300,
    )


def _forward_forward(folder: Path, device: str) -> Task:
    """One layer, full batch, a plateau at log 2."""
    draw = _generator(0)
    n = 500
    shape = torch.rand(10, 200, generator=draw) * (torch.rand(10, 200, generator=draw) < 0.4)
    y = torch.randint(10, (n,), generator=draw)
    x = (shape[y] + 0.2 * torch.randn(n, 200, generator=draw)).clamp(0, 1)
    z = (y + torch.randint(1, 10, (n,), generator=draw)) % 10

    def over(x: Tensor, y: Tensor) -> Tensor:
        x = x.clone()
        x[:, :10] = 0
        x[range(n), y] = x.max()
        return (x / (x.norm(2, 1, keepdim=True) + 1e-4)).to(device)

    pair = (over(x, y), over(x, z))

    def loss(model: Callable[..., Any], batch: Batch) -> Tensor:
        good, bad = (F.relu(model(part)).square().mean(1) for part in batch)
        return F.softplus(torch.cat([2.0 - good, bad - 2.0])).mean()

    def batches(seed: int) -> Iterator[Batch]:
        while True:
            yield pair

    return Task(
        "forward-forward",
        _seeded(lambda: nn.Linear(200, 200)),
        batches,
        loss,
        _mean_loss(loss, [pair]),
        600,
    )


def _polynomial(folder: Path, device: str) -> Task:
    """Regression on four powers, no noise, badly conditioned."""
    draw = _generator(0)
    w, c = torch.randn(4, 1, generator=draw) * 5, torch.randn(1, generator=draw) * 5

    def made(draw: torch.Generator, count: int) -> Batch:
        x = torch.randn(count, generator=draw)
        x = torch.stack([x**i for i in range(1, 5)], 1)
        return x.to(device), (x @ w + c).to(device)

    def loss(model: Callable[..., Any], batch: Batch) -> Tensor:
        return F.smooth_l1_loss(model(batch[0]), batch[1])

    test = made(_generator(1), 4096)
    whole = float(loss(lambda x: torch.zeros(len(x), 1, device=device), test))
    return Task(
        "polynomial",
        _seeded(lambda: nn.Linear(4, 1)),
        _endless(lambda draw: made(draw, 32)),
        loss,
        lambda model: loss(model, test) / whole,
        1000,
    )


# Tasks to confirm on


def _mixer(folder: Path, device: str) -> Task:
    data = _cifar(folder, device, True, 16_000)

    class Mix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(64), nn.LayerNorm(64)
            self.tokens, self.channels = _mlp(16, 32, 16), _mlp(64, 128, 64)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.tokens(self.norm1(x).transpose(-2, -1)).transpose(-2, -1)
            return x + self.channels(self.norm2(x))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(48, 64)
            self.mix = nn.Sequential(Mix(), Mix(), Mix())
            self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = x.unflatten(-2, (4, 4)).unflatten(-4, (4, 4)).transpose(-4, -3)
            x = x.flatten(-3).flatten(-3, -2)
            return self.head(self.norm(self.mix(self.embed(x))).mean(-2))

    evaluate = _accuracy(*data["test"])
    batches = _augmented(*data["train"], 64, 1)
    return Task("mixer", _seeded(Net), batches, _classify, evaluate, 600, heavy=True)


def _gru(folder: Path, device: str) -> Task:
    class Net(nn.Module):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.embed = nn.Embedding(classes, 48)
            self.into, self.own = nn.Linear(48, 192), nn.Linear(64, 192)
            self.head = nn.Linear(64, classes)

        def forward(self, codes: Tensor) -> Tensor:
            into = self.into(self.embed(codes))
            h = torch.zeros_like(into[..., 0, :64])
            seen = []
            for at in range(codes.shape[-1]):
                (r, z, n), (r0, z0, n0) = into[..., at, :].chunk(3, -1), self.own(h).chunk(3, -1)
                z = (z + z0).sigmoid()
                h = (1 - z) * (n + (r + r0).sigmoid() * n0).tanh() + z * h
                seen.append(h)
            return self.head(torch.stack(seen, -2))

    return _text_task(
        folder, "topics.pt", device, Net, "gru", 24, 32, 400, 512, clip=1.0, heavy=True
    )


def _unet(folder: Path, device: str) -> Task:
    """Which pixels belong to discs, which to squares; noise over all. Loss of the held out images."""

    def drawn(count: int, seed: int) -> Batch:
        draw = _generator(seed)
        rows, cols = torch.arange(16.0).view(1, 16, 1), torch.arange(16.0).view(1, 1, 16)
        image, label = torch.zeros(count, 16, 16), torch.zeros(count, 16, 16, dtype=torch.long)
        for kind in (1, 2, 1, 2):
            at = 2 + 12 * torch.rand(2, count, 1, 1, generator=draw)
            size = 1.5 + 2.5 * torch.rand(count, 1, 1, generator=draw)
            down, right = rows - at[0], cols - at[1]
            inside = (
                down.square() + right.square() < size.square()
                if kind == 1
                else torch.maximum(down.abs(), right.abs()) < 0.85 * size
            )
            shade = 0.5 + torch.rand(count, 1, 1, generator=draw)
            image, label = torch.where(inside, shade, image), label.masked_fill(inside, kind)
        image = image + 0.3 * torch.randn(image.shape, generator=draw)
        return image.unsqueeze(-1).to(device), label.to(device)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = Conv(1, 8), Conv(8, 16), Conv(16, 32)
            self.d, self.e = Conv(48, 16), Conv(24, 8)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            a = F.relu(self.a(x))
            b = F.relu(self.b(_pool(a)))
            c = F.relu(self.c(_pool(b)))
            d = F.relu(self.d(torch.cat([b, _twice(c)], -1)))
            return self.head(F.relu(self.e(torch.cat([a, _twice(d)], -1))))

    train, test = drawn(3000, 0), drawn(500, 1)
    return Task(
        "unet",
        _seeded(Net),
        _shuffled(*train, 32),
        _classify,
        _mean_loss(_classify, [test]),
        400,
        heavy=True,
    )


def _twice(x: Tensor) -> Tensor:
    """Every pixel four times."""
    n, h, w, c = x.shape
    return x.reshape(n, h, 1, w, 1, c).expand(n, h, 2, w, 2, c).reshape(n, 2 * h, 2 * w, c)


def _vae(folder: Path, device: str) -> Task:
    data = _fashion(folder, device, range(10), 9_000)
    train, test = ((data[p][0].flatten(1) * 90 + 73) / 255 for p in ("train", "test"))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = _mlp(196, 128, 16), _mlp(8, 128, 196)

        def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            mean, log_var = self.encoder(x).chunk(2, -1)
            return self.decoder(mean + noise * (0.5 * log_var).exp()).sigmoid(), mean, log_var

    def loss(model: Callable[..., Any], batch: Batch) -> Tensor:
        shown, mean, log_var = model(*batch)
        divergence = 0.5 * (mean.square() + log_var.exp() - 1.0 - log_var).sum(-1)
        return ((shown - batch[0]).square().sum(-1) + 0.1 * divergence).mean()

    def batches(seed: int) -> Iterator[Batch]:
        for places, draw in _epochs(len(train), 64, seed):
            noise = torch.randn(64, 8, generator=draw)
            yield train[places.to(device)], noise.to(device)

    noise = torch.randn(len(test), 8, generator=_generator(2)).to(device)
    evaluate = _mean_loss(loss, [(test, noise)])
    return Task("vae", _seeded(Net), batches, loss, evaluate, 700)


def _shapes_1d(folder: Path, device: str) -> Task:
    """Ten made-up curves, stretched, moved, noisy: as MNIST-1D. Three convolutions."""
    draw = _generator(7)
    knots = torch.randn(10, 1, 12, generator=draw)

    def drawn(count: int) -> Batch:
        y = torch.randint(10, (count,), generator=draw)
        scale = 0.6 + 0.8 * torch.rand(count, 1, generator=draw)
        move = 0.8 * torch.rand(count, 1, generator=draw) - 0.4
        at = (torch.linspace(-1, 1, 40) * 1.3 + move) * scale
        grid = torch.stack([at, torch.zeros_like(at)], -1).unsqueeze(1)
        x = F.grid_sample(knots[y].unsqueeze(2), grid, align_corners=True)[:, 0, 0]
        x = x * (0.7 + 0.6 * torch.rand(count, 1, generator=draw))
        x = x + 0.5 * torch.randn(x.shape, generator=draw)
        return x.unsqueeze(-1).to(device), y.to(device)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(5, 24), nn.Linear(72, 24), nn.Linear(72, 24)
            self.head = nn.Linear(5 * 24, 10)

        def forward(self, x: Tensor) -> Tensor:
            for layer, reach in ((self.a, 2), (self.b, 1), (self.c, 1)):
                length = x.shape[-2]
                padded = F.pad(x, (0, 0, reach, reach))
                x = torch.cat(
                    [padded[..., i : i + length : 2, :] for i in range(2 * reach + 1)], -1
                )
                x = F.relu(layer(x))
            return self.head(x.flatten(-2))

    train, test = drawn(4000), drawn(2000)
    return _classifier("shapes-1d", Net, train, test, 100, 800)


def _factors(folder: Path, device: str) -> Task:
    """Ratings of 300 users for 200 films: rank 6 plus noise, a fifth of them seen."""
    draw = _generator(3)
    whole = torch.randn(300, 6, generator=draw) @ torch.randn(6, 200, generator=draw) / 6**0.5
    whole = whole + 0.3 * torch.randn(300, 200, generator=draw)
    order = torch.randperm(60_000, generator=draw)[:18_000]
    pairs = torch.stack([order // 200, order % 200], 1).to(device)
    values = whole.flatten()[order].to(device)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.films = nn.Embedding(300, 8), nn.Embedding(200, 8)
            self.a, self.b = nn.Embedding(300, 1), nn.Embedding(200, 1)
            for p in self.parameters():
                nn.init.normal_(p, std=0.1)

        def forward(self, pairs: Tensor) -> Tensor:
            u, f = pairs[..., 0], pairs[..., 1]
            mixed = (self.users(u) * self.films(f)).sum(-1)
            return mixed + self.a(u)[..., 0] + self.b(f)[..., 0]

    train, test = (pairs[:12_000], values[:12_000]), (pairs[12_000:], values[12_000:])
    return Task(
        "factors",
        _seeded(Net),
        _shuffled(*train, 128),
        _squared,
        _mean_loss(_squared, [test]),
        1500,
    )


def _pinn(folder: Path, device: str) -> Task:
    """u'' = f on [-1, 1] with two ends, by a tanh network; the relative squared error of u."""

    def truth(x: Tensor) -> Tensor:
        return (3 * math.pi * x).sin() + 0.5 * x

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(1, 32), nn.Linear(32, 32), nn.Linear(32, 32)])
            self.head = nn.Linear(32, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            """The function and its second derivative."""
            u, d, dd = x, torch.ones_like(x), torch.zeros_like(x)
            for layer in self.layers:
                h = layer(u).tanh()
                d, dd = F.linear(d, layer.weight), F.linear(dd, layer.weight)
                slope = 1 - h.square()
                u, d, dd = h, slope * d, slope * (dd - 2 * h * d.square())
            return self.head(u), F.linear(dd, self.head.weight)

    ends = torch.tensor([[-1.0], [1.0]], device=device)

    def loss(model: Callable[..., Any], batch: Batch) -> Tensor:
        force = -((3 * math.pi) ** 2) * (3 * math.pi * batch[0]).sin()
        _, bend = model(batch[0])
        at_ends, _ = model(ends)
        inside = ((bend - force) / (3 * math.pi) ** 2).square().mean()
        return inside + (at_ends - truth(ends)).square().mean()

    def drawn(draw: torch.Generator) -> Batch:
        return ((2 * torch.rand(64, 1, generator=draw) - 1).to(device),)

    grid = torch.linspace(-1, 1, 401, device=device).unsqueeze(1)

    def evaluate(model: Callable[..., Any]) -> Tensor:
        return (model(grid)[0] - truth(grid)).square().mean() / truth(grid).square().mean()

    return Task("pinn", _seeded(Net), _endless(drawn), loss, evaluate, 2000)


def _adapters(folder: Path, device: str) -> Task:
    """A conv net that knows five classes learns the five others through factors of rank 4 and a new head."""
    old = _fashion(folder, "cpu", range(5), 6_000)["train"]
    new = _fashion(folder, device, range(5, 10), 1_000)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trained = ConvNet(5)
        optimizer = torch.optim.AdamW(trained.parameters(), lr=2e-3)
        batches = _shuffled(*old, 100)(0)
        for _ in range(240):
            optimizer.zero_grad()
            _classify(trained, next(batches)).backward()
            optimizer.step()
    weights = {k: v.detach().to(device) for k, v in trained.state_dict().items()}

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("a", "b", "hidden"):
                outs, ins = weights[f"{name}.weight"].shape
                self.register_parameter(f"{name}_in", nn.Parameter(torch.randn(4, ins) / ins**0.5))
                self.register_parameter(f"{name}_out", nn.Parameter(torch.zeros(outs, 4)))
            self.head = nn.Linear(64, 5)

        def layer(self, x: Tensor, name: str) -> Tensor:
            added = F.linear(F.linear(x, getattr(self, f"{name}_in")), getattr(self, f"{name}_out"))
            known = F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])
            return F.relu(known + added)

        def forward(self, x: Tensor) -> Tensor:
            x = _pool(self.layer(_shifted(x, 1), "a"))
            x = _pool(self.layer(_shifted(x, 1), "b"))
            return self.head(self.layer(x.flatten(-3), "hidden"))

    return _classifier("adapters", Net, new["train"], new["test"], 32, 310, heavy=True)


def _quadratic(folder: Path, device: str) -> Task:
    """DeepOBS's quadratic_deep: ½(θ-x)ᵀQ(θ-x), 90 flat and 10 steep directions."""
    draw = _generator(42)
    values = torch.cat([torch.rand(90, generator=draw), 30 + 30 * torch.rand(10, generator=draw)])
    turn, _ = torch.linalg.qr(torch.randn(100, 100, generator=draw))
    matrix = (turn * values) @ turn.T
    train = 0.6 * torch.randn(1000, 100, generator=draw)
    test = 0.6 * torch.randn(1000, 100, generator=_generator(43))
    matrix, train, test = matrix.to(device), train.to(device), test.to(device)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.theta = nn.Parameter(torch.ones(100))

        def forward(self, x: Tensor) -> Tensor:
            away = self.theta - x
            return 0.5 * ((away @ matrix) * away).sum(-1)

    def loss(model: Callable[..., Any], batch: Batch) -> Tensor:
        return model(batch[0]).mean()

    def batches(seed: int) -> Iterator[Batch]:
        for places, _ in _epochs(1000, 128, seed):
            yield (train[places.to(device)],)

    evaluate = _mean_loss(loss, [(test,)])
    return Task("quadratic-deep", _seeded(Net), batches, loss, evaluate, 700)


def _long(folder: Path, device: str) -> Task:
    """10,000 steps: a small network learns another one's noisy answers."""
    draw = _generator(11)
    x = torch.randn(12_000, 12, generator=draw)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(11)
        teacher = _mlp(12, 24, 24, 1, activation=nn.Tanh)
        for p in teacher.parameters():
            p *= 2.5
        y = teacher(x)
    y = (y - y.mean()) / y.std()
    noisy = y + 0.5 * torch.randn(y.shape, generator=draw)
    x, y, noisy = x.to(device), y.to(device), noisy.to(device)
    return Task(
        "long",
        _seeded(lambda: _mlp(12, 48, 48, 1)),
        _shuffled(x[:8000], noisy[:8000], 32),
        _squared,
        _mean_loss(_squared, [(x[8000:], y[8000:])]),
        10_000,
    )


def _graph_attention(folder: Path, device: str) -> Task:
    """Attention over the neighbours in a random graph of seven groups; full batch, 20 known nodes a group."""
    draw = _generator(5)
    count, classes, words = 700, 7, 100
    y = torch.arange(count) % classes
    same = y[:, None] == y[None, :]
    edges = torch.rand(count, count, generator=draw) < torch.where(same, 0.03, 0.004)
    edges = (edges | edges.T | torch.eye(count, dtype=torch.bool)).to(device)
    topic = torch.rand(classes, words, generator=draw) < 0.1
    x = (torch.rand(count, words, generator=draw) < torch.where(topic[y], 0.12, 0.05)).float()
    x, y = (x / x.sum(1, keepdim=True).clamp(min=1)).to(device), y.to(device)

    class Layer(nn.Module):
        def __init__(self, ins: int, outs: int, heads: int) -> None:
            super().__init__()
            self.heads = heads
            self.into = nn.Linear(ins, heads * outs, bias=False)
            self.near, self.far = (nn.Parameter(0.3 * torch.randn(heads, outs)) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            h = self.into(x).unflatten(-1, (self.heads, -1))
            scores = (h * self.near).sum(-1)[:, None] + (h * self.far).sum(-1)[None, :]
            scores = F.leaky_relu(scores, 0.2).masked_fill(~edges.unsqueeze(-1), -1e9)
            return torch.einsum("ijh,jho->iho", scores.softmax(1), h)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = Layer(words, 8, 4), Layer(32, classes, 1)

        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            h = F.elu(self.a(x).flatten(-2))
            return self.b(h if mask is None else 2.0 * mask * h)[:, 0]

    def masked(draw: torch.Generator) -> Batch:
        return x, y, (torch.rand(count, 32, generator=draw) < 0.5).float().to(device)

    def loss(model: Callable[..., Any], batch: Batch) -> Tensor:
        return cross_entropy(model(batch[0], batch[2])[:140], batch[1][:140])

    def evaluate(model: Callable[..., Any]) -> Tensor:
        return (model(x)[140:].argmax(-1) == y[140:]).float().mean()

    return Task("graph-attention", _seeded(Net), _endless(masked), loss, evaluate, 300, heavy=True)


def _diffusion(folder: Path, device: str) -> Task:
    """Predict the noise added to points on two moons; the loss on held out points."""
    draw = _generator(9)

    def points(count: int, draw: torch.Generator) -> Tensor:
        turn = math.pi * torch.rand(count, generator=draw)
        lower = (torch.rand(count, generator=draw) < 0.5).float()
        side = 1 - 2 * lower
        x = torch.stack([turn.cos() * side + lower, turn.sin() * side + 0.5 * lower], 1)
        return (x - torch.tensor([0.5, 0.25])) / 0.7

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = _mlp(2 + 16, 96, 96, 96, 2, activation=nn.SiLU)

        def forward(self, x: Tensor, at: Tensor) -> Tensor:
            turns = at * (2.0 ** torch.arange(8, device=at.device)) * math.pi / 2
            return self.body(torch.cat([x, turns.sin(), turns.cos()], -1))

    def made(count: int, draw: torch.Generator) -> Batch:
        x, at = points(count, draw), torch.rand(count, 1, generator=draw)
        noise = torch.randn(count, 2, generator=draw)
        seen = (at * math.pi / 2).cos() * x + (at * math.pi / 2).sin() * noise
        return seen.to(device), at.to(device), noise.to(device)

    def loss(model: Callable[..., Any], batch: Batch) -> Tensor:
        return (model(batch[0], batch[1]) - batch[2]).square().mean()

    batches = _endless(lambda draw: made(128, draw))
    evaluate = _mean_loss(loss, [made(8192, draw)])
    return Task("diffusion", _seeded(Net), batches, loss, evaluate, 1500)


DEVELOPMENT: dict[str, Callable[[Path, str], Task]] = {
    "vit": _vit,
    "resnet": _resnet,
    "fashion-convnet": _fashion_convnet,
    "digits-mlp": _digits_mlp,
    "digits-former": _digits_former,
    "friedman": _friedman,
    "text-transformer": _text_transformer,
    "nanogpt-500": _nanogpt(500),
    "nanogpt-2000": _nanogpt(2000),
    "gcn": _gcn,
    "linear-far": _linear_far,
    "forward-forward": _forward_forward,
    "polynomial": _polynomial,
}
CONFIRMATION: dict[str, Callable[[Path, str], Task]] = {
    "mixer": _mixer,
    "gru": _gru,
    "unet": _unet,
    "vae": _vae,
    "shapes-1d": _shapes_1d,
    "factors": _factors,
    "pinn": _pinn,
    "adapters": _adapters,
    "quadratic-deep": _quadratic,
    "long": _long,
    "graph-attention": _graph_attention,
    "diffusion": _diffusion,
}


class Plain:
    """An ordinary optimizer as a method of `run`."""

    def __init__(self, optimizer: torch.optim.Optimizer, scheduler: Any = None) -> None:
        self.optimizer, self.scheduler = optimizer, scheduler

    def step(self, loss: Callable[[], Tensor], clip: Callable[[], None]) -> None:
        """One step of training; `loss` may be asked for again."""
        self.optimizer.zero_grad()
        loss().backward()
        clip()
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()

    def evaluating(self) -> Any:
        """A context in which the model has the weights to be judged."""
        return nullcontext()


def run(
    task: Task, seed: int, method: Callable[[nn.Module, int], Any], device: str = "cpu"
) -> list[float]:
    """Train; the figure at each of `MARKS`.

    Args:
        task: what.
        seed: of weights and batches.
        method: from the model and the number of steps, something with `step` and `evaluating` like `Plain`.
        device: where.
    """
    model = task.model(seed).to(device)
    trainer, batches = method(model, task.steps), task.batches(seed)
    marks = {round(mark * task.steps) for mark in MARKS}
    figures = []

    def clip() -> None:
        if task.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), task.clip)

    for step in range(1, task.steps + 1):
        batch = next(batches)
        trainer.step(lambda batch=batch: task.loss(model, batch), clip)
        if step in marks:
            with trainer.evaluating(), torch.no_grad():
                figures.append(float(task.evaluate(model)))
    return figures
