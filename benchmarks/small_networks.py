"""Small networks without BatchNorm: what steps bounded by 3 % of the weights are worth.

An autoencoder and an MLP of eight layers on scikit-learn's digits, and a character LSTM on the help
texts that come with every Python; seconds each. Every method with nothing chosen, bounded as by
default and not, beside fixed rates with linear decay.

    python benchmarks/small_networks.py [--seeds 2] [--tasks autoencoder deep lstm]
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
from sklearn.datasets import load_digits
from torch import Tensor, nn

from surefoot import LABPAL, PAL, MeasuredLR

TRAINED = 1400  # of 1,797 digits
CHARACTERS = 60_000


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
    model = _mlp((64, *(7 * [48]), 10))

    def wrong() -> float:
        right = (model(x[TRAINED:]).argmax(1) == y[TRAINED:]).float().mean()
        return 100.0 * (1.0 - float(right))

    def loss(places: Tensor) -> Tensor:
        return F.cross_entropy(model(x[places]), y[places])

    return Task(model, loss, wrong, TRAINED, 64, 660)


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


def _mlp(widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


TASKS = {"autoencoder": autoencoder, "deep": deep, "lstm": lstm}


def _sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9)


def _adamw(model: nn.Module, lr: float = 1e-3) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr)


MEASURED: dict[str, Callable[[nn.Module, int], Any]] = {
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
RATES = {"SGD": (_sgd, (0.01, 0.03, 0.1, 0.3)), "AdamW": (_adamw, (0.001, 0.003, 0.01, 0.03))}


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
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the unbounded ones warn of what is shown here
    print("| task | method | of each seed, less is better |\n|---|---|---|")
    for name in options.tasks:
        makers = {label: (make, True) for label, make in MEASURED.items()}
        for label, (make, rates) in RATES.items():
            for lr in rates:
                fixed = lambda m, n, make=make, lr=lr: make(m, lr)  # noqa: E731
                makers[f"{label} {lr:g}"] = (fixed, False)
        for label, (make, measures) in makers.items():
            found = []
            for seed in range(options.seeds):
                torch.manual_seed(seed)
                task = TASKS[name]()
                optimizer = make(task.model, task.steps)
                found.append(train(task, optimizer, seed, measures=measures))
            print(f"| {name} | {label} | {', '.join(f'{v:.3g}' for v in found)} |", flush=True)


if __name__ == "__main__":
    main()
