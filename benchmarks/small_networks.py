"""Small networks without BatchNorm: what bounded steps and α are worth.

An autoencoder, an MLP of eight layers and a conv net with GroupNorm on scikit-learn's digits, a
residual MLP with LayerNorm, a function of one number, one of eight inputs of unequal scale, and a
character LSTM on the help texts that come with every Python; seconds each. Every method with
nothing chosen, bounded as by default and not, beside fixed rates with linear decay.

    python benchmarks/small_networks.py [--seeds 3] [--tasks autoencoder deep lstm ...]
    python benchmarks/small_networks.py --alphas 1 1.667 3 5   # MeasuredLR's step_adaptation
"""

from __future__ import annotations

import argparse
import itertools
import math
import pydoc_data.topics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits, make_classification
from torch import Tensor, nn

from surefoot import LABPAL, PAL, MeasuredLR

TRAINED = 1400  # of 1,797 digits
CHARACTERS = 60_000

Maker = Callable[[nn.Module, int], Any]
"""Model and number of steps to optimizer."""


@dataclass
class Task:
    """A network, what it minimizes on some training examples, and how it is judged."""

    model: nn.Module
    loss: Callable[[Tensor], Tensor]
    judge: Callable[[], float]
    examples: int
    batch_size: int
    steps: int


def autoencoder() -> Task:
    """64 pixels through 8 numbers; squared error of a digit (its 64 pixels summed)."""
    x = torch.tensor(load_digits().data / 16.0, dtype=torch.float32)
    train, test = x[:TRAINED], x[TRAINED:]
    widths = (64, 64, 8, 64, 64)
    model = _mlp(widths)

    def error(pixels: Tensor) -> Tensor:
        return 64.0 * F.mse_loss(model(pixels), pixels)

    return Task(model, lambda i: error(train[i]), lambda: float(error(test)), TRAINED, 64, 660)


def deep() -> Task:
    """Eight layers of 48 on pixels from 0 to 16; share of wrong answers in percent."""
    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32)
    y = torch.tensor(digits.target)
    return _classifier(_mlp((64, *(7 * [48]), 10)), x, y, TRAINED, 64, 660)


def lstm() -> Task:
    """One layer of 64; nats per character."""
    text = "\n".join(words for _, words in sorted(pydoc_data.topics.topics.items()))
    text = text.encode("ascii", "ignore").decode()[:CHARACTERS]
    known = sorted(set(text))
    codes = torch.tensor([known.index(c) for c in text]).view(-1, 50)
    train, test = codes[:1000], codes[1000:]
    parts = nn.ModuleList(
        [nn.Embedding(len(known), 32), nn.LSTM(32, 64, batch_first=True), nn.Linear(64, len(known))]
    )

    def loss(rows: Tensor) -> Tensor:
        hidden, _ = parts[1](parts[0](rows[:, :-1]))
        return F.cross_entropy(parts[2](hidden).flatten(0, 1), rows[:, 1:].flatten())

    return Task(parts, lambda i: loss(train[i]), lambda: float(loss(test)), 1000, 32, 310)


def group_norm() -> Task:
    """Four convolutions with GroupNorm on 8×8 pixels; share of wrong answers in percent."""
    digits = load_digits()
    x = torch.tensor(digits.images / 16.0, dtype=torch.float32)[:, None]
    y = torch.tensor(digits.target)
    layers: list[nn.Module] = []
    for before, after, stride in ((1, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2)):
        filters = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        layers += [filters, nn.GroupNorm(4, after), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return _classifier(model, x, y, TRAINED, 64, 440)


def residual() -> Task:
    """Three residual blocks with LayerNorm on made-up classes; wrong answers in percent."""
    made = make_classification(
        4000,
        30,
        n_informative=15,
        n_redundant=5,
        n_classes=5,
        n_clusters_per_class=3,
        flip_y=0.05,
        random_state=3,
    )
    x, y = torch.tensor(made[0], dtype=torch.float32), torch.tensor(made[1])
    model = nn.Sequential(
        nn.Linear(30, 64), *(_Block(64) for _ in range(3)), nn.LayerNorm(64), nn.Linear(64, 5)
    )
    return _classifier(model, x, y, 3000, 64, 700)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def function() -> Task:
    """A wave with a jump, by three layers of tanh; hundred times the squared error."""
    x = torch.linspace(-1.0, 1.0, 800)[:, None]
    y = torch.sin(12.0 * x) * torch.exp(-x) + 0.3 * torch.sign(x - 0.2)
    model = _mlp((1, 64, 64, 64, 1), nn.Tanh)

    def error(x: Tensor, y: Tensor) -> Tensor:
        return 100.0 * F.mse_loss(model(x), y)

    return Task(
        model, lambda i: 0.01 * error(x[i], y[i]), lambda: float(error(x, y)), 800, 100, 1500
    )


def unequal() -> Task:
    """A noisy function of eight inputs, the largest a hundred times the smallest; squared error."""
    source = torch.Generator().manual_seed(7)
    x = torch.randn(4000, 8, generator=source)
    waves = torch.sin(2.0 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.5 * x[:, 3] ** 2 + x[:, 4]
    y = waves[:, None] + 0.3 * torch.randn(4000, 1, generator=source)
    x = x * 10.0 ** torch.linspace(-1.0, 1.0, 8)
    model = _mlp((8, 64, 64, 1), nn.Tanh)

    def error(x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(model(x), y)

    train, test = slice(3000), slice(3000, None)
    return Task(
        model,
        lambda i: error(x[train][i], y[train][i]),
        lambda: float(error(x[test], y[test])),
        3000,
        32,
        930,
    )


def _classifier(
    model: nn.Module, x: Tensor, y: Tensor, trained: int, batch_size: int, steps: int
) -> Task:
    def loss(places: Tensor) -> Tensor:
        return F.cross_entropy(model(x[places]), y[places])

    def wrong() -> float:
        right = (model(x[trained:]).argmax(1) == y[trained:]).float().mean()
        return 100.0 * (1.0 - float(right))

    return Task(model, loss, wrong, trained, batch_size, steps)


def _mlp(widths: tuple[int, ...], activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1])


TASKS = {
    "autoencoder": autoencoder,
    "deep": deep,
    "lstm": lstm,
    "group-norm": group_norm,
    "residual": residual,
    "function": function,
    "unequal": unequal,
}


def _sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9)


def _adamw(model: nn.Module, lr: float = 1e-3) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr)


MEASURED: dict[str, Maker] = {
    "Measured SGD": lambda m, n: MeasuredLR(_sgd(m), m, total_steps=n),
    "Measured SGD, not bounded": lambda m, n: MeasuredLR(
        _sgd(m), m, total_steps=n, max_change=math.inf
    ),
    "Measured AdamW": lambda m, n: MeasuredLR(_adamw(m), m, total_steps=n),
    "Measured AdamW, not bounded": lambda m, n: MeasuredLR(
        _adamw(m), m, total_steps=n, max_change=math.inf
    ),
    "PAL": lambda m, n: PAL(m, total_steps=n),
    "PAL, 3.16": lambda m, n: PAL(m, total_steps=n, max_length=3.16),
    "PAL every 10th step": lambda m, n: PAL(m, total_steps=n, measure_every=10),
    "PAL every 10th step, 3.16": lambda m, n: PAL(
        m, total_steps=n, measure_every=10, max_length=3.16
    ),
    "LABPAL": lambda m, n: LABPAL(m, total_steps=n),
    "LABPAL, 3.16": lambda m, n: LABPAL(m, total_steps=n, max_length=3.16),
}
RATES = {
    "SGD": (_sgd, (0.01, 0.03, 0.1, 0.3, 1.0)),
    "AdamW": (_adamw, (0.001, 0.003, 0.01, 0.03, 0.1)),
}


def fixed_rates() -> dict[str, Maker]:
    """Rates that somebody would have to choose."""
    return {
        f"{label} {lr:g}": lambda m, _, make=make, lr=lr: make(m, lr)  # type: ignore[misc]
        for label, (make, rates) in RATES.items()
        for lr in rates
    }


def step_adaptations(alphas: list[float]) -> dict[str, Maker]:
    """Measured rates that go so many times as far as the minimum."""
    return {
        f"Measured {label}, α {alpha:g}": lambda m, n, make=make, alpha=alpha: MeasuredLR(  # type: ignore[misc]
            make(m), m, total_steps=n, step_adaptation=alpha
        )
        for label, make in (("SGD", _sgd), ("AdamW", _adamw))
        for alpha in alphas
    }


def train(task: Task, optimizer: Any, seed: int, *, measures: bool) -> float:
    """The judge's number after the last step."""
    source = torch.Generator().manual_seed(seed)
    fixed = not measures
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, task.steps) if fixed else None
    done = 0
    while done < task.steps:
        order = torch.randperm(task.examples, generator=source)
        for places in order.split(task.batch_size)[: task.examples // task.batch_size]:
            if done == task.steps:
                break
            if decay is None:
                optimizer.step(lambda p=places: task.loss(p))
            else:
                optimizer.zero_grad()
                task.loss(places).backward()
                optimizer.step()
                decay.step()
            done += 1
    with torch.no_grad():
        return task.judge()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--alphas", nargs="*", type=float, help="these instead of all methods")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the unbounded ones warn of what is shown here
    measured = step_adaptations(options.alphas) if options.alphas else MEASURED
    print("| task | method | of each seed, less is better |\n|---|---|---|")
    for name in options.tasks:
        for label, make in {**measured, **fixed_rates()}.items():
            found = []
            for seed in range(options.seeds):
                torch.manual_seed(seed)
                task = TASKS[name]()
                optimizer = make(task.model, task.steps)
                found.append(train(task, optimizer, seed, measures=label in measured))
            print(f"| {name} | {label} | {', '.join(f'{v:.3g}' for v in found)} |", flush=True)


if __name__ == "__main__":
    main()
