"""What sampling a line costs, against the forward passes that it cannot do without.

41 places, 4,000 images, resnet20, in turns on one thread:

    python benchmarks/line_sampling.py
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import surefoot
from surefoot.shape import default_lengths, gradient_direction
from surefoot_lab.models.cifar import cifar_resnet

Batches = list[tuple[Tensor, Tensor]]


def timed(action: Callable[[], object]) -> float:
    """Seconds of processor time that an action takes: other programs do not count."""
    began = time.process_time()
    action()
    return time.process_time() - began


def plain_passes(model: nn.Module, batches: Batches, passes: int) -> None:
    """As many forward passes over all images, and nothing else."""
    with torch.no_grad():
        for _ in range(passes):
            for x, y in batches:
                float(cross_entropy(model(x), y))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--places", type=int, default=41)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--depth", type=int, default=20)
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = cifar_resnet(options.depth).train()
    images = torch.randn(options.images, 3, 32, 32)
    labels = torch.randint(0, 10, (options.images,))
    batches = list(
        zip(images.split(options.batch_size), labels.split(options.batch_size), strict=True)
    )
    direction = gradient_direction(model, cross_entropy, batches[0])
    lengths = default_lengths(options.places)
    actions: dict[str, Callable[[], object]] = {
        "forward passes alone": lambda: plain_passes(model, batches, options.places),
        "sample_line": lambda: surefoot.sample_line(
            model, cross_entropy, batches, direction=direction, lengths=lengths
        ),
    }
    plain_passes(model, batches[:4], 1)  # warm up
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(options.rounds):
        for name, action in actions.items():  # in turns, so that drift hits all of them
            seconds[name].append(timed(action))
    print(
        f"resnet{options.depth}, {options.images} images in batches of {options.batch_size}, "
        f"{len(lengths)} places, {options.rounds} rounds in turns, processor time, "
        f"torch {torch.__version__}, {platform.processor() or platform.machine()}, 1 thread"
    )
    base = seconds["forward passes alone"]
    for name, times in seconds.items():
        ratios = [t / b for t, b in zip(times, base, strict=True)]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(
            f"{name:24s} {statistics.median(times):7.1f} s   "
            f"{statistics.median(ratios):.3f} times ({spread})"
        )


if __name__ == "__main__":
    main()
