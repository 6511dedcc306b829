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

from surefoot import PLS, plots
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
from surefoot_lab.models.cifar import cifar_resnet

IMAGES = Path(__file__).parent / "images"
EVERY, LINES, RATE = 10, 12, 0.1
LENGTHS = [0.05 * i for i in range(-4, 31)]


def digits() -> tuple[Tensor, Tensor]:
    """The training images, from 0 to 1, and their labels."""
    images = load_data(DataConfig()).train
    return images.inputs.float() / 255.0, images.labels


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


def pls_rates(seed: int, horizon: bool) -> list[float]:
    """The rates that PLS accepts over 15 epochs of the digits, with batches of 64."""
    torch.manual_seed(seed)
    x, y = digits()
    model = cifar_resnet(8, in_channels=1, image_size=(8, 8), widths=(8, 16, 32))
    per_epoch = len(x) // 64
    steps = 15 * per_epoch
    optimizer = PLS(model, total_steps=steps if horizon else None)
    rates = []
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(len(x))
        chosen = order[64 * (step % per_epoch) :][:64]
        batch = (x[chosen], y[chosen])
        optimizer.step(lambda batch=batch: cross_entropy(model(batch[0]), batch[1]))
        rates.append(optimizer.last.effective_lr)
    return rates


def draw_pls() -> None:
    """Why PLS needs a horizon: the rates it accepts grow without end."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.0, 3.4), layout="constrained")
    for horizon, color, name in ((False, "tab:red", "no horizon"), (True, "tab:blue", "horizon")):
        for seed in range(3):
            rates = [rate if rate > 0 else float("nan") for rate in pls_rates(seed, horizon)]
            label = name if seed == 0 else None
            axes.plot(rates, ".", ms=3, alpha=0.6, color=color, label=label)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("rate applied")
    axes.legend(frameon=False)
    figure.savefig(IMAGES / "pls-rates.png", dpi=100)


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
    draw_pls()
    return 0


if __name__ == "__main__":
    sys.exit(main())
