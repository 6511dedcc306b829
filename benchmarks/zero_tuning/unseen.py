"""Six more tasks of `suite.py`'s kind, none like one that is there: the third confirmation set.

Written down, with the cells of their ceilings and the protocol (docs/zero-tuning.md), after the rule had been changed
once more and before anything ran on them. The contract is `suite.Task`'s: a loss is a pure function of weights and batch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from suite import (
    Batch,
    Block,
    Conv,
    Task,
    _accuracy,
    _classify,
    _digits,
    _endless,
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


def _sorting(folder: Path, device: str) -> Task:
    """Ten digits in, the same in order out: a transformer of two layers; accuracy of a place."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(16, 32), nn.Linear(32, 16)
            self.places = nn.Parameter(0.02 * torch.randn(10, 32))
            self.blocks = nn.Sequential(*(Block(32, 4, False) for _ in range(2)))
            self.norm = nn.LayerNorm(32)

        def forward(self, codes: Tensor) -> Tensor:
            return self.head(self.norm(self.blocks(self.embed(codes) + self.places)))

    def made(n: int, draw: torch.Generator) -> Batch:
        codes = torch.randint(16, (n, 10), generator=draw).to(device)
        return codes, codes.sort(-1).values

    def loss(model: Callable[..., Any], batch: Batch) -> Tensor:
        return cross_entropy(model(batch[0]), batch[1])

    x, y = made(1000, _generator(31))

    def evaluate(model: Callable[..., Any]) -> Tensor:
        return (model(x).argmax(-1) == y).float().mean()

    return Task("sorting", _seeded(Net), _endless(lambda draw: made(64, draw)), loss, evaluate, 400)


def _uncertainty(folder: Path, device: str) -> Task:
    """Mean and spread of a noisy function (1994, Nix and Weigend); the inverse likelihood of a test point."""
    draw = _generator(32)
    x = torch.rand(5000, 6, generator=draw)
    mean = (6.0 * x[:, 0]).sin() + 2.0 * x[:, 1] * x[:, 2]
    spread = (2.0 * x[:, 3] - 2.0).exp()
    y = mean + spread * torch.randn(5000, generator=draw)
    x, y = (2.0 * x - 1.0).to(device), y.to(device)

    def loss(model: Callable[..., Any], batch: Batch) -> Tensor:
        mean, spread = model(batch[0]).unbind(-1)
        return (0.5 * ((batch[1] - mean) * (-spread).exp()).square() + spread).mean()

    test = _mean_loss(loss, [(x[3000:], y[3000:])])
    return Task(
        "uncertainty",
        _seeded(lambda: _mlp(6, 64, 64, 2, activation=nn.Tanh)),
        _shuffled(x[:3000], y[:3000], 32),
        loss,
        lambda model: test(model).exp(),
        700,
    )


def _recommender(folder: Path, device: str) -> Task:
    """What a user likes more than a random thing (BPR, 1205.2618): embeddings; accuracy on pairs of the test part."""
    draw = _generator(33)
    users, things = torch.randn(300, 5, generator=draw), torch.randn(400, 5, generator=draw)
    scores = users @ things.T + torch.randn(400, generator=draw)
    scores = scores - torch.rand(300, 400, generator=draw).log().neg().log()  # chosen at random
    liked = scores.topk(40).indices
    liked = liked[:, torch.randperm(40, generator=draw)]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.things = nn.Embedding(300, 16), nn.Embedding(400, 16)
            self.bias = nn.Parameter(torch.zeros(400))
            nn.init.normal_(self.users.weight, std=0.1)
            nn.init.normal_(self.things.weight, std=0.1)

        def forward(self, pairs: Tensor) -> Tensor:
            user = self.users(pairs[:, 0])
            return (user * self.things(pairs[:, 1])).sum(-1) + self.bias[pairs[:, 1]]

    def made(n: int, of: Tensor, draw: torch.Generator) -> Batch:
        user = torch.randint(300, (n,), generator=draw)
        good = of[user, torch.randint(of.shape[1], (n,), generator=draw)]
        other = torch.randint(400, (n,), generator=draw)
        pairs = torch.stack([user, good], -1), torch.stack([user, other], -1)
        return pairs[0].to(device), pairs[1].to(device)

    def loss(model: Callable[..., Any], batch: Batch) -> Tensor:
        return -F.logsigmoid(model(batch[0]) - model(batch[1])).mean()

    test = made(5000, liked[:, 30:], draw)

    def evaluate(model: Callable[..., Any]) -> Tensor:
        return (model(test[0]) > model(test[1])).float().mean()

    batches = _endless(lambda draw: made(256, liked[:, :30], draw))
    return Task("recommender", _seeded(Net), batches, loss, evaluate, 800)


def _pendulum(y: Tensor) -> Tensor:
    angle, speed = y.unbind(-1)
    return torch.stack([speed, -3.0 * angle.sin() - 0.2 * speed], -1)


def _onward(field: Callable[[Tensor], Tensor], y: Tensor, steps: int) -> Tensor:
    """A trajectory by the midpoint rule."""
    path = []
    for _ in range(steps):
        y = y + 0.1 * field(y + 0.05 * field(y))
        path.append(y)
    return torch.stack(path, -2)


def _dynamics(folder: Path, device: str) -> Task:
    """A pendulum's law from its trajectories (neural ODE, 1806.07366); the residual, noise not counted."""

    def made(n: int, noise: float, draw: torch.Generator) -> Batch:
        start = torch.randn(n, 2, generator=draw) * torch.tensor([1.5, 1.5])
        path = _onward(_pendulum, start, 10)
        path = path + noise * torch.randn(path.shape, generator=draw)
        return start.to(device), path.to(device)

    def loss(model: Callable[..., Any], batch: Batch) -> Tensor:
        return (_onward(model, batch[0], 10) - batch[1]).square().mean()

    start, path = made(1000, 0.0, _generator(34))

    def evaluate(model: Callable[..., Any]) -> Tensor:
        still = (start.unsqueeze(-2) - path).square().mean()
        return (loss(model, (start, path)) / still).sqrt()

    net = _seeded(lambda: _mlp(2, 64, 64, 2, activation=nn.Tanh))
    return Task("dynamics", net, _endless(lambda draw: made(32, 0.1, draw)), loss, evaluate, 500)


def _binarized(folder: Path, device: str) -> Task:
    """Digits by weights of one bit, whose gradient goes straight through (1602.02830)."""
    data = _digits(folder, device)

    class Signs(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            size = self.weight.abs().mean()
            signs = self.weight + (size * self.weight.sign() - self.weight).detach()
            return F.linear(x, signs, self.bias)

    def make() -> nn.Module:
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 128),
            nn.LayerNorm(128),
            nn.ReLU(),
            Signs(128, 128),
            nn.LayerNorm(128),
            nn.ReLU(),
            nn.Linear(128, 10),
        )

    return Task(
        "binarized",
        _seeded(make),
        _shuffled(*data["train"], 32),
        _classify,
        _accuracy(*data["test"]),
        400,
    )


def _upscaling(folder: Path, device: str) -> Task:
    """Clothes at 14×14 from 7×7: convolutions and sub-pixels (1609.05158); squared error."""
    data = _fashion(folder, device, range(10), 4000)

    def small(x: Tensor) -> Tensor:
        return x.unflatten(-2, (7, 2)).unflatten(-4, (7, 2)).mean((-2, -4))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = Conv(1, 24), Conv(24, 24), nn.Linear(24, 4)

        def forward(self, x: Tensor) -> Tensor:
            parts = self.head(F.relu(self.b(F.relu(self.a(x))))) + x  # n, 7, 7, 4
            parts = parts.unflatten(-1, (2, 2)).transpose(-2, -3)  # n, 7, 2, 7, 2
            return parts.flatten(-2).flatten(-3, -2).unsqueeze(-1)

    x, test = data["train"][0], data["test"][0][:1000]
    return Task(
        "upscaling",
        _seeded(Net),
        _shuffled(small(x), x, 32),
        _squared,
        _mean_loss(_squared, [(small(test), test)]),
        300,
    )


THIRD_CONFIRMATION: dict[str, Callable[[Path, str], Task]] = {
    "sorting": _sorting,
    "uncertainty": _uncertainty,
    "recommender": _recommender,
    "dynamics": _dynamics,
    "binarized": _binarized,
    "upscaling": _upscaling,
}
