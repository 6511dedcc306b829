"""Small tasks whose groups differ: seconds a run on one core."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CONTEXT, WIDTH = 16, 32


class Both(torch.optim.Optimizer):
    """Several optimizers as one: their groups side by side."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self._parts = parts
        super().__init__([g for part in parts for g in part.param_groups], {})
        start = 0
        for part in parts:
            end = start + len(part.param_groups)
            part.state, part.param_groups = self.state, self.param_groups[start:end]
            start = end

    def step(self, closure: Any = None) -> None:
        for part in self._parts:
            part.step()


class Block(nn.Module):
    """Attention and a feed-forward layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (
            z.view(n, t, 2, WIDTH // 2).transpose(1, 2) for z in self.qkv(self.norm1(x)).chunk(3, 2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(n, t, WIDTH))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class CharNet(nn.Module):
    """A transformer of one block over characters."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(characters, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(Block())
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, characters)

    def forward(self, x: Tensor) -> Tensor:
        h = self.token(x) + self.place(torch.arange(x.shape[1]))
        return self.head(self.norm(self.blocks(h)))


@dataclass
class Task:
    """A model to train, its optimizer, and the figure that is reported: lower is better.

    Args:
        model: fresh, of a seed.
        groups: the two groups whose rates may differ.
        build: the optimizer from two rates.
        batch: the next batch of a generator.
        score: of the trained model: loss, or error in percent.
        rates: of the first group that a grid tries.
        ratios: of the second group's rate to the first's, likewise.
        steps: length of the run.
    """

    name: str
    model: Callable[[int], nn.Module]
    build: Callable[[nn.Module, float, float], torch.optim.Optimizer]
    batch: Callable[[torch.Generator], tuple[Tensor, Tensor]]
    score: Callable[[nn.Module], float]
    rates: tuple[float, ...]
    ratios: tuple[float, ...]
    steps: int
    is_loss: bool = True


def cross_entropy(output: Any, y: Tensor) -> Tensor:
    return F.cross_entropy(getattr(output, "logits", output).flatten(0, -2), y.flatten())


@functools.cache
def text(path: str, characters: str | None = None) -> tuple[Tensor, Tensor, int]:
    raw = Path(path).read_text()
    table = {c: i for i, c in enumerate(sorted(set(raw)))}
    codes = torch.tensor([table[c] for c in raw])
    cut = int(0.9 * len(codes))
    return codes[:cut], codes[cut:], len(table)


def windows(codes: Tensor, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    starts = torch.randint(0, len(codes) - CONTEXT - 1, (n, 1), generator=generator)
    rows = codes[starts + torch.arange(CONTEXT + 1)]
    return rows[:, :-1], rows[:, 1:]


@torch.no_grad()
def held_out_loss(model: nn.Module, codes: Tensor) -> float:
    generator = torch.Generator().manual_seed(99)
    was = model.training
    model.eval()
    losses = [
        float(cross_entropy(model(x), y))
        for x, y in (windows(codes, 256, generator) for _ in range(4))
    ]
    model.train(was)
    return sum(losses) / len(losses)


def muon_and_adamw(model: nn.Module, first: float, second: float) -> torch.optim.Optimizer:
    matrices = [p for p in model.blocks.parameters() if p.dim() == 2]
    own = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in own]
    return Both(
        torch.optim.Muon(matrices, lr=first, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=second, weight_decay=0.0),
    )


def characters(path: str) -> Task:
    """Muon for the matrices of a transformer's blocks, AdamW for everything else."""
    train, held_out, n = text(path)

    def model(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return CharNet(n)

    return Task(
        "muon-and-adamw",
        model,
        muon_and_adamw,
        lambda g: windows(train, 16, g),
        lambda m: held_out_loss(m, held_out),
        (1e-3, 4e-3, 1.6e-2, 6.4e-2, 2.56e-1),
        (0.01, 0.05, 0.25, 1.0, 4.0),
        300,
    )


def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8.0 - 1.0
    return x, torch.tensor(data.target)


@functools.cache
def _pretrained_backbone() -> nn.Module:
    torch.manual_seed(0)
    x, y = _digits()
    old = y < 5
    body = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
    )
    net = nn.Sequential(body, nn.Linear(64, 5))
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    xs, ys = x[old], y[old]
    for _ in range(300):
        rows = torch.randint(0, len(xs), (32,))
        F.cross_entropy(net(xs[rows]), ys[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return body


def fine_tuning() -> Task:
    """A new head on a backbone that knows digits 0 to 4, for 5 to 9 with few and noisy labels."""
    x, y = _digits()
    rows = torch.nonzero(y >= 5).flatten()
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))]
    train, held_out = rows[:150], rows[150:]
    labels = y.clone() - 5
    wrong = train[:20]
    labels[wrong] = (labels[wrong] + 1) % 5

    def model(seed: int) -> nn.Module:
        body = copy.deepcopy(_pretrained_backbone())
        torch.manual_seed(seed)
        return nn.Sequential(body, nn.Linear(64, 5))

    def build(model: nn.Module, first: float, second: float) -> torch.optim.Optimizer:
        groups = [
            {"params": list(model[1].parameters()), "lr": first},
            {"params": list(model[0].parameters()), "lr": second},
        ]
        return torch.optim.SGD(groups, momentum=0.9)

    def batch(g: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = train[torch.randint(0, len(train), (16,), generator=g)]
        return x[chosen], labels[chosen]

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return 100.0 * float((model(x[held_out]).argmax(1) != y[held_out] - 5).float().mean())

    return Task(
        "head-and-backbone",
        model,
        build,
        batch,
        score,
        (1e-3, 4e-3, 1.6e-2, 6.4e-2, 2.56e-1),
        (1e-3, 1e-2, 0.1, 1.0, 10.0),
        300,
        False,
    )


def digits() -> Task:
    """Digits from 300 examples by an MLP: short of data, so that decay may matter."""
    x, y = _digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    train, held_out = order[:300], order[300:]

    def model(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 64),
            nn.ReLU(),
            nn.Linear(64, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )

    def batch(g: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = train[torch.randint(0, len(train), (16,), generator=g)]
        return x[chosen], y[chosen]

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return 100.0 * float((model(x[held_out]).argmax(1) != y[held_out]).float().mean())

    def build(model: nn.Module, first: float, second: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), first)

    return Task("digits", model, build, batch, score, (), (), 600, False)


@functools.cache
def _pretrained_chars(path: str) -> nn.Module:
    train, _, n = text(path)
    torch.manual_seed(0)
    model = CharNet(n)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(0)
    for i in range(1200):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - i / 1200)
        x, y = windows(train, 16, generator)
        cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def lora(path: str) -> Task:
    """LoRA through PEFT: a character net that knows Shakespeare learns it in another cipher."""
    import peft

    train, held_out, n = text(path)
    order = torch.arange(n)
    order[n // 2 :] = order[n // 2 :].roll(1)  # letters of the second half move by one

    def model(seed: int) -> nn.Module:
        net = copy.deepcopy(_pretrained_chars(path))
        torch.manual_seed(seed)
        config = peft.LoraConfig(
            r=4, lora_alpha=8, target_modules=["qkv", "out", "up", "down", "head"]
        )
        return peft.get_peft_model(net, config)

    def build(model: nn.Module, first: float, second: float) -> torch.optim.Optimizer:
        named = [(k, p) for k, p in model.named_parameters() if p.requires_grad]
        groups = [
            {"params": [p for k, p in named if "lora_A" in k or "embedding_A" in k], "lr": first},
            {"params": [p for k, p in named if "lora_B" in k or "embedding_B" in k], "lr": second},
        ]
        return torch.optim.AdamW(groups, weight_decay=0.0)

    return Task(
        "lora",
        model,
        build,
        lambda g: windows(order[train], 16, g),
        lambda m: held_out_loss(m, order[held_out]),
        (1e-4, 1e-3, 4e-3, 1.6e-2, 6.4e-2),
        (0.1, 1.0, 4.0, 16.0, 64.0),
        200,
    )


def batches(task: Task, seed: int, n: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1000 + seed)
    for _ in range(n):
        yield task.batch(generator)


def train(
    task: Task,
    seed: int,
    wrap: Callable[[torch.optim.Optimizer, nn.Module], Any],
    first: float,
    second: float,
    decays: bool,
    steps: int | None = None,
) -> tuple[float, Any]:
    """The score after a run, and the optimizer."""
    model = task.model(seed)
    base = task.build(model, first, second)
    optimizer = wrap(base, model)
    steps = steps or task.steps
    rates = [g["lr"] for g in base.param_groups]
    for i, (x, y) in enumerate(batches(task, seed, steps)):
        if decays:
            warm = min(1.0, (i + 1) / (0.05 * steps))
            for group, lr in zip(base.param_groups, rates, strict=True):
                group["lr"] = lr * warm * (1 - i / steps)
        loss = cross_entropy(model(x), y)
        if not math.isfinite(float(loss)):
            return math.inf, optimizer
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    score = task.score(model)
    return (score if math.isfinite(score) else math.inf), optimizer
