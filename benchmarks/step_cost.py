"""What a step costs beside torch's SGD with momentum (foreach), measured in turns.

Three parts: a whole training step of resnet20 at batch 128 (`step`); the optimizer's own work,
without forward and backward passes, on the 11 million parameters of ResNet-18 (`own`); and runs of
100 steps with a measured rate beside the same runs of the wrapped optimizer alone (`measured`:
resnet8, and a conv net without BatchNorm, where each step is bounded, too). Every round times each
method once, in an order that changes; the ratio is taken within the round, and the median over the
rounds is printed with its quartiles.

    python benchmarks/step_cost.py [--rounds 15] [--threads 1] [--parts step own measured]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from surefoot import LABPAL, PAL, MeasuredLR

LIMITS = {
    "step": {"LABPAL between measurements": 1.05, "LABPAL amortized": 1.05, "PAL": 1.45},
    "own work": {"LABPAL between measurements": 0.7, "PAL": 2.2},
    "measured": {"measured": 1.05},
}
RUN_STEPS = 100


def in_turns(work: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each piece of work, by round; the order rotates so that drift hits all alike."""
    names = list(work)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(-1, rounds):
        for i in range(len(names)):
            name = names[(i + round_) % len(names)]
            taken = work[name]()
            if round_ >= 0:  # the first round warms up
                seconds[name].append(taken)
    return seconds


def timed(step: Callable[[], Any], repeats: int) -> Callable[[], float]:
    def run() -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            step()
        return (time.perf_counter() - start) / repeats

    return run


def training_steps(batch_size: int = 128) -> dict[str, Callable[[], float]]:
    """Forward, backward and optimizer, on resnet20 and random images."""
    from surefoot_lab.models import cifar_resnet

    x, y = torch.randn(batch_size, 3, 32, 32), torch.randint(0, 10, (batch_size,))

    def closure_of(model: nn.Module) -> Callable[[], Tensor]:
        return lambda: nn.functional.cross_entropy(model(x), y)

    sgd_model = cifar_resnet(20)
    sgd = torch.optim.SGD(sgd_model.parameters(), lr=1e-3, momentum=0.9, foreach=True)
    sgd_loss = closure_of(sgd_model)

    def sgd_step() -> None:
        sgd.zero_grad()
        sgd_loss().backward()
        sgd.step()

    labpal_model, pal_model = cifar_resnet(20), cifar_resnet(20)
    labpal = LABPAL(labpal_model, lr=1e-3, measuring_batches=1, reuse=10**9, untrusted=0)
    pal = PAL(pal_model, lr=1e-3)
    labpal_loss, pal_loss = closure_of(labpal_model), closure_of(pal_model)
    labpal.step(labpal_loss)  # the one measurement
    return {
        "SGD with momentum": timed(sgd_step, 1),
        "LABPAL between measurements": timed(lambda: labpal.step(labpal_loss), 1),
        "PAL": timed(lambda: pal.step(pal_loss), 1),
    }


def measurement_seconds(batch_size: int = 128) -> Callable[[], float]:
    """A whole LABPAL measurement with k = 10 on resnet20, divided by its ten batches."""
    from surefoot_lab.models import cifar_resnet

    x, y = torch.randn(batch_size, 3, 32, 32), torch.randint(0, 10, (batch_size,))
    model = cifar_resnet(20)
    optimizer = LABPAL(model, lr=1e-3, measuring_batches=10, reuse=1, untrusted=10**9)
    return timed(lambda: optimizer.step(lambda: nn.functional.cross_entropy(model(x), y)), 10)


def own_work() -> dict[str, Callable[[], float]]:
    """The optimizers alone: gradients lie ready, losses are constants."""
    from torchvision.models import resnet18

    gradients = [torch.randn_like(p) * 1e-2 for p in resnet18().parameters()]

    def ready(make: Callable[[nn.Module], torch.optim.Optimizer]) -> tuple[nn.Module, Any]:
        model = resnet18()
        for p, g in zip(model.parameters(), gradients, strict=True):
            p.grad = g.clone()
        return model, make(model)

    def no_passes(optimizer: Any) -> Any:
        """Replace forward and backward by constants: a falling, then rising loss."""
        losses = [torch.tensor(2.0), torch.tensor(1.9)]
        optimizer._gradient = lambda call: (losses[0], optimizer._active())
        return lambda: losses[1]

    _, plain = ready(lambda m: torch.optim.SGD(m.parameters(), lr=1e-6, foreach=True))
    _, sgd = ready(lambda m: torch.optim.SGD(m.parameters(), lr=1e-6, momentum=0.9, foreach=True))
    # groups without the model: buffers belong to the forward pass, which is not timed here
    _, labpal = ready(lambda m: LABPAL(m.parameters(), lr=1e-6, measuring_batches=1, untrusted=0))
    _, pal = ready(lambda m: PAL(m.parameters(), lr=1e-6))
    labpal_loss, pal_loss = no_passes(labpal), no_passes(pal)
    labpal._memory.update(rate=1e-6, batches_per_update=1, recent=[1e-6], checked=True)
    labpal.param_groups[0]["reuse"] = 10**9
    return {
        "SGD with momentum": timed(sgd.step, 5),
        "SGD": timed(plain.step, 5),
        "LABPAL between measurements": timed(lambda: labpal.step(labpal_loss), 5),
        "PAL": timed(lambda: pal.step(pal_loss), 5),
    }


def measured_runs(
    build: Callable[[], nn.Module], base: type[torch.optim.Optimizer]
) -> dict[str, Callable[[], float]]:
    """Whole runs, their measurements and all, from the first step to the last."""
    x, y = torch.randn(128, 3, 32, 32), torch.randint(0, 10, (128,))

    def plain() -> Callable[[], Any]:
        model = build()
        optimizer = base(model.parameters(), lr=1e-3)

        def step() -> None:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

        return step

    def measured() -> Callable[[], Any]:
        model = build()
        inner = base(model.parameters(), lr=1e-3)
        optimizer = MeasuredLR(inner, model, total_steps=RUN_STEPS)
        return lambda: optimizer.step(lambda: nn.functional.cross_entropy(model(x), y))

    return {
        name: lambda make=make: timed(make(), RUN_STEPS)()  # type: ignore[misc]
        for name, make in (("plain", plain), ("measured", measured))
    }


def table(
    title: str,
    seconds: dict[str, list[float]],
    limits: dict[str, float],
    against: str = "SGD with momentum",
) -> bool:
    base = seconds[against]
    print(f"\n{title}\n\n| method | ms, median | × {against} | quartiles | at most |")
    print("|---|---|---|---|---|")
    kept = True
    for name, taken in seconds.items():
        ratios = [t / b for t, b in zip(taken, base, strict=True)]
        ratio, quartiles = statistics.median(ratios), statistics.quantiles(ratios, n=4)
        limit = limits.get(name)
        kept &= limit is None or ratio <= limit
        print(
            f"| {name} | {1e3 * statistics.median(taken):.1f} | {ratio:.3f} "
            f"| {quartiles[0]:.3f} to {quartiles[2]:.3f} | {limit or ''} |"
        )
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parts = ("step", "own", "measured")
    parser.add_argument("--parts", nargs="*", choices=parts, default=parts)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, "
          f"{options.threads} thread(s), {options.rounds} rounds")  # fmt: skip
    kept = True
    if "step" in options.parts:
        work = training_steps()
        work["LABPAL measuring, per batch"] = measurement_seconds()
        seconds = in_turns(work, options.rounds)
        # 10 measuring batches for every 1000 updates, of which the measurement makes one
        seconds["LABPAL amortized"] = [
            (999 * between + 10 * measuring) / 1009
            for between, measuring in zip(
                seconds["LABPAL between measurements"],
                seconds["LABPAL measuring, per batch"],
                strict=True,
            )
        ]
        kept &= table("Training step, resnet20, batch 128, per batch", seconds, LIMITS["step"])
    if "own" in options.parts:
        seconds = in_turns(own_work(), options.rounds)
        kept &= table("Optimizer alone, ResNet-18 (11.7 million)", seconds, LIMITS["own work"])
    if "measured" in options.parts:
        kept &= all(measured_tables(options.rounds))
    return 0 if kept else 1


def measured_tables(rounds: int) -> list[bool]:
    from surefoot_lab.models import ConvNet, cifar_resnet

    networks: dict[str, Callable[[], nn.Module]] = {
        "resnet8": lambda: cifar_resnet(8),
        "conv net without BatchNorm": lambda: ConvNet(10, 3, (32, 32)),
    }
    bases = (torch.optim.SGD, torch.optim.AdamW)
    return [
        table(
            f"{base.__name__} on {name}, runs of {RUN_STEPS} steps, per step",
            in_turns(measured_runs(build, base), rounds),
            LIMITS["measured"],
            "plain",
        )
        for name, build in networks.items()
        for base in bases
    ]


if __name__ == "__main__":
    raise SystemExit(main())
