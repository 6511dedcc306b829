"""Ten more tasks of `suite.py`'s kind, none like one that is there: the second confirmation set.

Written down with their ceilings' cells and the protocol (docs/zero-tuning.md) when the rule was fixed, before anything
but those cells ran on them. The contract is `suite.Task`'s: a loss is a pure function of weights and batch.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from suite import (
    Batch,
    Conv,
    ConvNet,
    Norm,
    Task,
    _accuracy,
    _classifier,
    _classify,
    _decoded,
    _digits,
    _endless,
    _epochs,
    _fashion,
    _generator,
    _mean_loss,
    _mlp,
    _seeded,
    _shuffled,
    _squared,
    cross_entropy,
)
from torch import Tensor, nn


def _words(folder: Path, device: str) -> Task:
    """The next of 1,001 words from the four before, by their embeddings (Bengio et al. 2003)."""
    stored = torch.load(folder / "shakespeare.pt")
    text = "".join(stored["alphabet"][code] for code in stored["codes"][:400_000].tolist())
    words = re.findall(r"[a-z]+|[.,:;!?]", text.lower())
    known = {word: at for at, (word, _) in enumerate(Counter(words).most_common(1000), 1)}
    codes = torch.tensor([known.get(word, 0) for word in words])
    rows = codes.unfold(0, 5, 1).to(device)
    x, y = rows[:, :4], rows[:, 4]
    split = int(0.9 * len(rows))
    keep = torch.linspace(split, len(rows) - 1, 2048).long().to(device)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.hidden = nn.Embedding(1001, 32), nn.Linear(128, 64)
            self.head = nn.Linear(64, 1001)

        def forward(self, codes: Tensor) -> Tensor:
            return self.head(self.hidden(self.embed(codes).flatten(-2)).tanh())

    return Task(
        "words",
        _seeded(Net),
        _shuffled(x[:split], y[:split], 128),
        _classify,
        _mean_loss(_classify, [(x[keep], y[keep])]),
        500,
    )


def _image(folder: Path, device: str) -> Task:
    """One photograph as a function of its coordinates: SIREN (2006.09661); minus the PSNR in dB."""
    photograph = _decoded(folder)["train"][0][8000].float() / 127.5 - 1.0
    side = torch.linspace(-1, 1, 32)
    x = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1).view(-1, 2).to(device)
    y = photograph.view(-1, 3).to(device)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(2, 64), nn.Linear(64, 64), nn.Linear(64, 64)
            self.head = nn.Linear(64, 3)
            nn.init.uniform_(self.a.weight, -1 / 2, 1 / 2)
            for layer in (self.b, self.c, self.head):
                nn.init.uniform_(layer.weight, -((6 / 64) ** 0.5) / 30, (6 / 64) ** 0.5 / 30)

        def forward(self, x: Tensor) -> Tensor:
            for layer in (self.a, self.b, self.c):
                x = (30 * layer(x)).sin()
            return self.head(x)

    def evaluate(model: Callable[..., Any]) -> Tensor:
        return 10 * (_squared(model, (x, y)) / 4).log10()

    return Task("image", _seeded(Net), _shuffled(x, y, 256), _squared, evaluate, 700)


def _noisy_table(folder: Path, device: str) -> Task:
    """A residual net on a table, three classes, a fifth of the training labels wrong; test labels right."""
    draw = _generator(21)
    x = torch.randn(7000, 20, generator=draw)
    scores = torch.zeros(7000, 3)
    for _ in range(24):  # small trees: a leaf each where two columns lie on given sides
        columns = torch.randint(20, (2,), generator=draw)
        cuts = 0.7 * torch.randn(2, generator=draw)
        inside = (x[:, columns] > cuts).all(1).float().unsqueeze(1)
        scores += inside * torch.randn(1, 3, generator=draw)
    y = (scores - scores.mean(0)).argmax(1)
    wrong = (torch.rand(3000, generator=draw) < 0.2).long()
    seen = (y[:3000] + wrong * torch.randint(1, 3, (3000,), generator=draw)) % 3

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.head = nn.Linear(20, 64), nn.Linear(64, 3)
            self.norms = nn.ModuleList([nn.LayerNorm(64) for _ in range(3)])
            self.parts = nn.ModuleList([_mlp(64, 128, 64) for _ in range(3)])

        def forward(self, x: Tensor) -> Tensor:
            x = self.into(x)
            for norm, part in zip(self.norms, self.parts, strict=True):
                x = x + part(norm(x))
            return self.head(x)

    train = x[:3000].to(device), seen.to(device)
    return _classifier(
        "noisy-table", Net, train, (x[3000:].to(device), y[3000:].to(device)), 64, 700
    )


def _contrastive(folder: Path, device: str) -> Task:
    """Two distorted views of a digit are alike (NT-Xent, 2002.05709); accuracy of the nearest class mean."""
    data = _digits(folder, device)
    (x, y), (test_x, test_y) = data["train"], data["test"]
    x, test_x = x.view(-1, 8, 8), test_x.view(-1, 8, 8)
    padded = F.pad(x, (1, 1, 1, 1))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = _mlp(64, 128, 128, 24)

        def forward(self, x: Tensor) -> Tensor:
            return F.normalize(self.body(x.flatten(-2)), dim=-1)

    def view(places: Tensor, draw: torch.Generator) -> Tensor:
        n = len(places)
        rows = torch.randint(3, (n, 1), generator=draw) + torch.arange(8)
        cols = torch.randint(3, (n, 1), generator=draw) + torch.arange(8)
        kept = (torch.rand(n, 8, 8, generator=draw) < 0.75).float()
        noise = 0.1 * torch.randn(n, 8, 8, generator=draw)
        places, rows, cols = (t.to(device) for t in (places, rows, cols))
        seen = padded[places[:, None, None], rows[:, :, None], cols[:, None, :]]
        return seen * kept.to(device) + noise.to(device)

    def batches(seed: int) -> Iterator[Batch]:
        for places, draw in _epochs(len(x), 64, seed):
            yield view(places, draw), view(places, draw)

    def loss(model: Callable[..., Any], batch: Batch) -> Tensor:
        z = torch.cat([model(batch[0]), model(batch[1])])
        alike = z @ z.T / 0.2 - 1e4 * torch.eye(128, device=z.device)
        return cross_entropy(alike, torch.arange(128, device=z.device).roll(64))

    shares = F.one_hot(y, 10).float() / F.one_hot(y, 10).sum(0)

    def evaluate(model: Callable[..., Any]) -> Tensor:
        means = F.normalize(shares.T @ model(x), dim=-1)
        return ((model(test_x) @ means.T).argmax(-1) == test_y).float().mean()

    return Task("contrastive", _seeded(Net), batches, loss, evaluate, 500)


def _control(folder: Path, device: str) -> Task:
    """A policy swings a pendulum up, with derivatives through 40 steps of its motion; the mean cost."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = _mlp(3, 32, 32, 1, activation=nn.Tanh)

        def forward(self, angle: Tensor, speed: Tensor) -> Tensor:
            seen = torch.cat([angle.cos(), angle.sin(), speed], -1)
            return 1.5 * self.body(seen).tanh()

    def loss(model: Callable[..., Any], batch: Batch) -> Tensor:
        angle, speed = batch
        costs = []
        for _ in range(40):
            push = model(angle, speed)
            speed = speed + 0.15 * (angle.sin() + push - 0.05 * speed)
            angle = angle + 0.15 * speed
            costs.append((1 - angle.cos() + 0.05 * speed.square() + 0.01 * push.square()).mean())
        return torch.stack(costs).mean()

    def starts(count: int, draw: torch.Generator) -> Batch:
        angle = math.pi + 0.8 * torch.randn(count, 1, generator=draw)
        return angle.to(device), (0.3 * torch.randn(count, 1, generator=draw)).to(device)

    batches = _endless(lambda draw: starts(32, draw))
    evaluate = _mean_loss(loss, [starts(512, _generator(23))])
    return Task("control", _seeded(Net), batches, loss, evaluate, 300)


def _adding(folder: Path, device: str) -> Task:
    """An LSTM adds the two marked of 20 numbers: a plateau first; share of the variance left."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.own = nn.Linear(2, 128), nn.Linear(32, 128, bias=False)
            self.head = nn.Linear(32, 1)
            nn.init.constant_(self.into.bias[32:64], 1.0)

        def forward(self, x: Tensor) -> Tensor:
            into = self.into(x)
            h = c = torch.zeros_like(into[:, 0, :32])
            for at in range(x.shape[1]):
                i, f, o, g = (into[:, at] + self.own(h)).chunk(4, -1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
            return self.head(h)

    def made(count: int, draw: torch.Generator) -> Batch:
        values = torch.rand(count, 20, generator=draw)
        early = torch.randint(10, (count, 1), generator=draw)
        late = torch.randint(10, 20, (count, 1), generator=draw)
        places = torch.arange(20)
        marks = ((places == early) | (places == late)).float()
        y = (values * marks).sum(1, keepdim=True)
        return torch.stack([values, marks], -1).to(device), y.to(device)

    batches = _endless(lambda draw: made(64, draw))
    test = made(512, _generator(25))
    spread = float(test[1].var())
    return Task(
        "adding",
        _seeded(Net),
        batches,
        _squared,
        lambda model: _squared(model, test) / spread,
        600,
    )


def _flow(folder: Path, device: str) -> Task:
    """Six affine couplings (RealNVP, 1605.08803) on a checkerboard; test negative log-likelihood, nats."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList([_mlp(1, 32, 32, 2) for _ in range(6)])

        def forward(self, x: Tensor) -> Tensor:
            """Negative log-likelihood of each point."""
            kept, moved = x[..., :1] / 2, x[..., 1:] / 2
            logs = -math.log(4) * torch.ones_like(kept)
            for part in self.parts:
                scale, shift = part(kept).chunk(2, -1)
                scale = 2 * (scale / 2).tanh()
                kept, moved = moved * scale.exp() + shift, kept
                logs = logs + scale
            return 0.5 * (kept.square() + moved.square()) + math.log(2 * math.pi) - logs

    def points(count: int, draw: torch.Generator) -> Tensor:
        column = 8 * torch.rand(count, generator=draw) - 4
        row = torch.rand(count, generator=draw) - 2 * torch.randint(2, (count,), generator=draw)
        return torch.stack([column, 2 * (row + column.floor().remainder(2))], 1).to(device)

    def loss(model: Callable[..., Any], batch: Batch) -> Tensor:
        return model(batch[0]).mean()

    batches = _endless(lambda draw: (points(128, draw),))
    evaluate = _mean_loss(loss, [(points(4096, _generator(27)),)])
    return Task("flow", _seeded(Net), batches, loss, evaluate, 900)


def _sets(folder: Path, device: str) -> Task:
    """Deep sets (1703.06114): median norm and widest distance of 24 points; squared error."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each, self.all = _mlp(2, 48, 48), _mlp(96, 48, 2)

        def forward(self, x: Tensor) -> Tensor:
            each = F.relu(self.each(x))
            return self.all(torch.cat([each.mean(-2), each.amax(-2)], -1))

    def made(count: int, draw: torch.Generator) -> Batch:
        turn = torch.randn(count, 2, 2, generator=draw)
        x = torch.randn(count, 24, 2, generator=draw) @ turn
        x = x + torch.randn(count, 1, 2, generator=draw)
        apart = (x.unsqueeze(1) - x.unsqueeze(2)).norm(dim=-1).flatten(1).amax(1)
        y = torch.stack([x.norm(dim=-1).median(1).values - 1.8, (apart - 5.5) / 2], 1)
        return x.to(device), y.to(device)

    batches = _endless(lambda draw: made(64, draw))
    evaluate = _mean_loss(_squared, [made(1024, _generator(29))])
    return Task("sets", _seeded(Net), batches, _squared, evaluate, 900)


def _distillation(folder: Path, device: str) -> Task:
    """A small perceptron learns a conv net's softened answers (1503.02531) and the labels."""
    data = _fashion(folder, device, range(10), 12_000)
    known = _fashion(folder, "cpu", range(10), 12_000)["train"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher = ConvNet()
        optimizer = torch.optim.AdamW(teacher.parameters(), lr=3e-3)
        batches = _shuffled(*known, 100)(0)
        for _ in range(360):
            optimizer.zero_grad()
            _classify(teacher, next(batches)).backward()
            optimizer.step()
    x, y = (part[:4000] for part in data["train"])
    with torch.no_grad():
        soft = (teacher(known[0][:4000]) / 4).softmax(-1).to(device)

    def drawn(seed: int) -> Iterator[Batch]:
        for places, _ in _epochs(4000, 100, seed):
            at = places.to(device)
            yield x[at], y[at], soft[at]

    def loss(model: Callable[..., Any], batch: Batch) -> Tensor:
        scores = model(batch[0])
        softened = (scores / 4).log_softmax(-1)
        apart = (batch[2] * (batch[2].clamp(min=1e-9).log() - softened)).sum(-1).mean()
        return 0.9 * 16 * apart + 0.1 * cross_entropy(scores, batch[1])

    def make() -> nn.Module:
        return nn.Sequential(nn.Flatten(-3), *_mlp(196, 32, 10))

    return Task("distillation", _seeded(make), drawn, loss, _accuracy(*data["test"]), 600)


def _dense_net(folder: Path, device: str) -> Task:
    """Every layer sees all before it (1608.06993), BatchNorm; Fashion-MNIST at 14×14."""
    data = _fashion(folder, device, range(10), 9_000)
    x, y = data["test"]

    class Layer(nn.Module):
        def __init__(self, ins: int) -> None:
            super().__init__()
            self.norm, self.conv = Norm(ins), Conv(ins, 8, 1, False)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, self.conv(F.relu(self.norm(x)))], -1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = Conv(1, 16, 2, False)
            self.first = nn.Sequential(*(Layer(16 + 8 * i) for i in range(2)))
            self.norm, self.between = Norm(32), nn.Linear(32, 16, False)
            self.second = nn.Sequential(*(Layer(16 + 8 * i) for i in range(2)))
            self.last, self.head = Norm(32), nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = self.between(F.relu(self.norm(self.first(self.stem(x)))))
            x = (x[..., :6, :6, :].unflatten(-2, (3, 2)).unflatten(-4, (3, 2))).mean((-2, -4))
            return self.head(F.relu(self.last(self.second(x))).mean((-3, -2)))

    return Task(
        "dense-net",
        _seeded(Net),
        _shuffled(*data["train"], 32),
        _classify,
        _accuracy(x[:2000], y[:2000], data["train"][0][::36], chunk=500),
        250,
    )


SECOND_CONFIRMATION: dict[str, Callable[[Path, str], Task]] = {
    "words": _words,
    "image": _image,
    "noisy-table": _noisy_table,
    "contrastive": _contrastive,
    "control": _control,
    "adding": _adding,
    "flow": _flow,
    "sets": _sets,
    "distillation": _distillation,
    "dense-net": _dense_net,
}
