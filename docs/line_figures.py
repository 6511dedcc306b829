"""The figures of line-analysis.md: lines of a small ResNet on scikit-learn's digits, in minutes.

python docs/line_figures.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from surefoot import plots
from surefoot.shape import (
    LineSample,
    fit_errors,
    gradient_direction,
    proportionality,
    sample_line,
    steps_on_line,
    tuned_rate,
)
from surefoot_lab.config import DataConfig
from surefoot_lab.data import load_data
from surefoot_lab.models import cifar_resnet

IMAGES = Path(__file__).parent / "images"
EVERY, LINES, RATE = 10, 12, 0.1
LENGTHS = [0.05 * i for i in range(-4, 31)]


def digits() -> tuple[Tensor, Tensor]:
    """The training images, from 0 to 1, and their labels."""
    images = load_data(DataConfig()).train
    return images.images.float() / 255.0, images.labels


def sample_training() -> list[LineSample]:
    """Train with SGD, and sample the line along the gradient of every tenth step."""
    torch.manual_seed(0)
    x, y = digits()
    model = cifar_resnet(8, in_channels=1, image_size=(8, 8), widths=(8, 16, 32))
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    everything = list(zip(x.split(64), y.split(64), strict=True))
    samples = []
    for step in range(EVERY * LINES):
        chosen = torch.randperm(len(x))[:64]
        batch = (x[chosen], y[chosen])
        if step % EVERY == 0:
            samples.append(
                sample_line(
                    model,
                    cross_entropy,
                    everything,
                    direction=gradient_direction(model, cross_entropy, batch),
                    own_batch=batch,
                    lengths=LENGTHS,
                    kind="gradient",
                    step=step,
                )
            )
        train_step(model, optimizer, batch)
    return samples


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]
) -> None:
    """One step of plain training."""
    optimizer.zero_grad()
    cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()


def main() -> int:
    """Sample, draw, save."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    samples = sample_training()
    best = tuned_rate(samples)
    rates = {f"SGD {RATE}": RATE, f"tuned SGD, {best:.2g}": best}
    steps = [steps_on_line(sample, rates=rates) for sample in samples]
    one = samples[3].plot(steps=steps[3])
    one.figure.savefig(IMAGES / "line.png", dpi=110)
    plots.line_grid(samples[::3], steps[::3]).savefig(IMAGES / "line-grid.png", dpi=90)

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    errors = [fit_errors(sample, window=0.5) for sample in samples]
    series = {f"degree {k}": [error[k] for error in errors] for k in (0, 1, 2)}
    at = [sample.step or 0 for sample in samples]
    plots.over_training(at, series, left, ylabel="mean absolute error of the fit", log=True)
    found = proportionality(samples)
    plots.steps_against_norms(
        [sample.direction_norm for sample in samples],
        [sample.exact_minimum().length for sample in samples],
        right,
        rate=found.rate,
    )
    figure.savefig(IMAGES / "line-measures.png", dpi=90)
    print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
