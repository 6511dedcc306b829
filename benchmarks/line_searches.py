"""What each line search reaches from its defaults on scikit-learn's digits.

The small ResNet of `surefoot demo`, batches of 64, 15 epochs, no weight decay, nothing tuned. Test
accuracy, and forward-equivalents (a backward pass counts as two) per step:

    python benchmarks/line_searches.py [--seeds 3]
"""

from __future__ import annotations

import argparse
import platform
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import surefoot
from surefoot_lab.config import DataConfig
from surefoot_lab.data import load_data
from surefoot_lab.data.examples import Splits
from surefoot_lab.data.loader import InOrder, TrainLoader, normalizer_of
from surefoot_lab.models.cifar import cifar_resnet

BATCH_SIZE, EPOCHS = 64, 15


class FullLoss:
    """The mean loss over the training images, at the weights as they are."""

    def __init__(self, model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
        self._model = model
        self._data = batches
        self.batches = len(batches)

    def __call__(self) -> Tensor:
        """One pass over the data."""
        count = sum(len(y) for _, y in self._data)
        parts = [cross_entropy(self._model(x), y, reduction="sum") for x, y in self._data]
        return torch.stack(parts).sum() / count


Make = Callable[[nn.Module, int, FullLoss], torch.optim.Optimizer]


METHODS: dict[str, Make] = {
    "SGD 0.1": lambda model, steps, full: torch.optim.SGD(model.parameters(), lr=0.1),
    "PAL": lambda model, steps, full: surefoot.PAL(model, total_steps=steps),
    "LABPAL": lambda model, steps, full: surefoot.LABPAL(model, total_steps=steps),
    "SLS": lambda model, steps, full: surefoot.SLS(model),
    "GOLS": lambda model, steps, full: surefoot.GOLS(model),
    "PLS": lambda model, steps, full: surefoot.PLS(model),
    "ExactLineSearch": lambda model, steps, full: surefoot.ExactLineSearch(model),
    "FullBatchPAL": lambda model, steps, full: surefoot.FullBatchPAL(model, full_loss=full),
    "SLS, horizon": lambda model, steps, full: surefoot.SLS(model, total_steps=steps),
    "GOLS, horizon": lambda model, steps, full: surefoot.GOLS(model, total_steps=steps),
    "PLS, horizon": lambda model, steps, full: surefoot.PLS(model, total_steps=steps),
    "ExactLineSearch, horizon": lambda model, steps, full: surefoot.ExactLineSearch(
        model, total_steps=steps
    ),
    "FullBatchPAL, horizon": lambda model, steps, full: surefoot.FullBatchPAL(
        model, full_loss=full, total_steps=steps
    ),
}


def train(name: str, data: Splits, seed: int) -> tuple[float, float, list[float]]:
    """Train once: test accuracy, forward-equivalents per step, training loss after each epoch."""
    device = torch.device("cpu")
    normalizer = normalizer_of(data, device)
    loader = TrainLoader(data.train, normalizer, batch_size=BATCH_SIZE, seed=seed)
    torch.manual_seed(seed)
    model = cifar_resnet(8, in_channels=1, image_size=(8, 8), widths=(8, 16, 32))
    steps = EPOCHS * loader.batches_per_epoch
    full = FullLoss(model, list(InOrder(data.train, normalizer, 256)))
    optimizer: Any = METHODS[name](model, steps, full)
    losses = []
    for step in range(steps):
        x, y = loader.next_batch()
        if isinstance(optimizer, surefoot.LineSearchOptimizer):
            loss = optimizer.step(lambda x=x, y=y: cross_entropy(model(x), y))
        else:
            optimizer.zero_grad()
            loss = cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        if step % loader.batches_per_epoch == 0:
            losses.append(loss.item())
    cost = optimizer.cost.forward_equivalents if hasattr(optimizer, "cost") else 3 * steps
    model.eval()
    with torch.no_grad():
        right = sum(
            int((model(x).argmax(1) == y).sum()) for x, y in InOrder(data.test, normalizer, 500)
        )
    return 100 * right / len(data.test), cost / steps, losses


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data(DataConfig())
    print(f"torch {torch.__version__}, {platform.machine()}, seeds 0 to {options.seeds - 1}\n")
    print("| method | test accuracy | cost per step | batch loss at the start of epochs 2, 6, 11 |")
    print("|---|---|---|---|")
    for name in options.methods:
        runs = [train(name, data, seed) for seed in range(options.seeds)]
        accuracies = [accuracy for accuracy, _, _ in runs]
        cost = statistics.mean(cost for _, cost, _ in runs)
        course = ", ".join(f"{statistics.mean(r[2][k] for r in runs):.3f}" for k in (1, 5, 10))
        print(
            f"| {name} | {statistics.mean(accuracies):.1f} ({min(accuracies):.1f} to "
            f"{max(accuracies):.1f}) | {cost:.1f} | {course} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
