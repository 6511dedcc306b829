"""What loading a batch costs, as a share of a training step, measured in turns.

A batch of 128 images of 3x32x32 (random bytes: their values do not matter) is taken from 40,000 in
memory, padded, cropped, mirrored and normalized; a step is forward, backward and SGD with momentum
on resnet8. Both are timed in turns, so that whatever else the machine does hits both alike.

    python benchmarks/data_loading.py --threads 2
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy

from surefoot_lab.data.examples import Examples
from surefoot_lab.data.loader import Normalizer, TrainLoader
from surefoot_lab.models.cifar import cifar_resnet
from surefoot_lab.records import describe_environment

WARM_UP_TURNS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=30, help="timed turns")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    load, step = make_parts()
    loads, steps = [], []
    for turn in range(WARM_UP_TURNS + arguments.turns):
        load_s, batch = timed(load)
        step_s, _ = timed(lambda batch=batch: step(*batch))
        if turn >= WARM_UP_TURNS:
            loads.append(load_s)
            steps.append(step_s)
    report(loads, steps)


def make_parts() -> tuple[Callable, Callable]:
    generator = torch.Generator().manual_seed(0)
    shape = (40_000, 3, 32, 32)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, shape[:1], generator=generator)
    loader = TrainLoader(
        Examples(images, labels),
        Normalizer(images, torch.device("cpu")),
        batch_size=128,
        seed=0,
        crop=4,
        flip=True,
    )
    model = cifar_resnet(8).to(memory_format=torch.channels_last)  # as surefoot train does
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=True)

    def step(inputs: torch.Tensor, targets: torch.Tensor) -> None:
        optimizer.zero_grad()
        cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    return loader.next_batch, step


def timed(function: Callable) -> tuple[float, object]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def report(loads: list[float], steps: list[float]) -> None:
    ratios = [load / step for load, step in zip(loads, steps, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    where = describe_environment()
    print(f"{where['cpu']}, {where['threads']} threads, torch {where['torch']}, n = {len(loads)}")
    print(f"load {statistics.median(loads) * 1e3:.2f} ms (median)")
    print(f"step {statistics.median(steps) * 1e3:.2f} ms (median)")
    print(f"load / step {middle:.1%} (median of turns; quartiles {low:.1%} to {high:.1%})")


if __name__ == "__main__":
    main()
