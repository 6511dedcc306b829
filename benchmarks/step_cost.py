"""What a step costs beside torch's SGD with momentum (foreach), measured in turns.

Three parts: a whole training step of resnet20 at batch 128 (`step`); the optimizer's own work,
without forward and backward passes, on the 11 million parameters of ResNet-18 (`own`); and whole
runs with a measured rate beside the same runs of the wrapped optimizer alone, step by step in
turns (`measured`: resnet8, and a conv net without BatchNorm, where each step is bounded, too).

glibc keeps the memory that is freed here: otherwise it gives tens of megabytes back and takes them
anew at each step, at random more of one method than of the other. `--give-back` leaves it as it is.

Every round times each method once, in an order that changes. The ratio is taken within the round
(of the runs: within 100 steps); its median is printed with its quartiles, and the ratio of the
sums, by which whole runs are judged.

    python benchmarks/step_cost.py [--rounds 15] [--threads 1] [--parts step own measured]
    python benchmarks/step_cost.py --parts measured --networks resnet8 --bases AdamW \\
        --steps 3120 --rounds 1 --bf16
"""

from __future__ import annotations

import argparse
import ctypes
import functools
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
BLOCK = 100
"""Steps of which one mean is taken."""


def keep_memory() -> None:
    """Let malloc neither map large blocks one by one nor return what is free; glibc only."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_max, 0)


def in_turns(
    work: dict[str, Callable[[], float]], rounds: int, warm_up: bool = True
) -> dict[str, list[float]]:
    """Seconds of each piece of work, by round; the order rotates so that drift hits all alike."""
    names = list(work)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(-1 if warm_up else 0, rounds):
        for i in range(len(names)):
            name = names[(i + round_) % len(names)]
            taken = work[name]()
            if round_ >= 0:  # the round before warms up
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
    from surefoot_lab.models.cifar import cifar_resnet

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
    labpal = LABPAL(labpal_model, step_multiplier=1e-3, measuring_batches=1, reuse=10**9, burn_in=0)
    pal = PAL(pal_model, step_multiplier=1e-3)
    labpal_loss, pal_loss = closure_of(labpal_model), closure_of(pal_model)
    labpal.step(labpal_loss)  # the one measurement
    return {
        "SGD with momentum": timed(sgd_step, 1),
        "LABPAL between measurements": timed(lambda: labpal.step(labpal_loss), 1),
        "PAL": timed(lambda: pal.step(pal_loss), 1),
    }


def measurement_seconds(batch_size: int = 128) -> Callable[[], float]:
    """A whole LABPAL measurement with k = 10 on resnet20, divided by its ten batches."""
    from surefoot_lab.models.cifar import cifar_resnet

    x, y = torch.randn(batch_size, 3, 32, 32), torch.randint(0, 10, (batch_size,))
    model = cifar_resnet(20)
    optimizer = LABPAL(model, step_multiplier=1e-3, measuring_batches=10, reuse=1, burn_in=10**9)
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
    _, labpal = ready(
        lambda m: LABPAL(m.parameters(), step_multiplier=1e-6, measuring_batches=1, burn_in=0)
    )
    _, pal = ready(lambda m: PAL(m.parameters(), step_multiplier=1e-6))
    labpal_loss, pal_loss = no_passes(labpal), no_passes(pal)
    memory = labpal.memory
    memory.rate, memory.batches_per_update, memory.measured_for = 1e-6, 1, 1
    labpal._settings["reuse"] = 10**9
    return {
        "SGD with momentum": timed(sgd.step, 5),
        "SGD": timed(plain.step, 5),
        "LABPAL between measurements": timed(lambda: labpal.step(labpal_loss), 5),
        "PAL": timed(lambda: pal.step(pal_loss), 5),
    }


def measured_runs(
    build: Callable[[], nn.Module],
    base: Callable[..., torch.optim.Optimizer],
    options: argparse.Namespace,
) -> dict[str, list[float]]:
    """Seconds a step of whole runs, measurements and all, as means of 100 steps.

    The two runs go on in turns, step by step, so that a machine whose speed drifts within seconds
    is the same for both.
    """
    x, y = torch.randn(128, 3, 32, 32), torch.randint(0, 10, (128,))

    def closure_of(model: nn.Module) -> Callable[[], Tensor]:
        def closure() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
                return nn.functional.cross_entropy(model(x), y)

        return closure

    def plain() -> Callable[[], Any]:
        model = build()
        closure, optimizer = closure_of(model), base(model.parameters(), lr=1e-3)

        def step() -> None:
            optimizer.zero_grad()
            closure().backward()
            optimizer.step()

        return step

    def measured() -> Callable[[], Any]:
        model = build()
        inner = base(model.parameters(), lr=1e-3)
        optimizer = MeasuredLR(inner, model, total_steps=options.steps)
        closure = closure_of(model)
        return lambda: optimizer.step(closure)

    seconds: dict[str, list[float]] = {"plain": [], "measured": []}
    for round_ in range(-1, options.rounds):
        steps = options.steps if round_ >= 0 else min(options.steps, BLOCK)  # the first warms up
        work = {"plain": timed(plain(), 1), "measured": timed(measured(), 1)}
        for name, taken in in_turns(work, steps, warm_up=False).items():
            if round_ >= 0:
                blocks = [taken[i : i + BLOCK] for i in range(0, steps, BLOCK)]
                seconds[name] += [statistics.fmean(block) for block in blocks]
    return seconds


def table(
    title: str,
    seconds: dict[str, list[float]],
    limits: dict[str, float],
    against: str = "SGD with momentum",
) -> bool:
    base = seconds[against]
    print(f"\n{title}\n\n| method | ms, median | × {against} | quartiles | sums | at most |")
    print("|---|---|---|---|---|---|")
    kept = True
    for name, taken in seconds.items():
        ratios = [t / b for t, b in zip(taken, base, strict=True)]
        ratio, quartiles = statistics.median(ratios), statistics.quantiles(ratios, n=4)
        limit, whole = limits.get(name), sum(taken) / sum(base)
        kept &= limit is None or (whole if against == "plain" else ratio) <= limit
        print(
            f"| {name} | {1e3 * statistics.median(taken):.1f} | {ratio:.3f} "
            f"| {quartiles[0]:.3f} to {quartiles[2]:.3f} | {whole:.3f} "
            f"| {limit or ''} |"
        )
    return kept


def _resnet8() -> nn.Module:
    from surefoot_lab.models.cifar import cifar_resnet

    return cifar_resnet(8)


def _conv_net() -> nn.Module:
    from surefoot_lab.models.small import ConvNet

    return ConvNet(10, 3, (32, 32))


NETWORKS: dict[str, Callable[[], nn.Module]] = {"resnet8": _resnet8, "convnet": _conv_net}
BASES: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": functools.partial(torch.optim.SGD, momentum=0.9),
    "AdamW": torch.optim.AdamW,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parts = ("step", "own", "measured")
    parser.add_argument("--parts", nargs="*", choices=parts, default=parts)
    parser.add_argument("--give-back", action="store_true", help="glibc's own use of memory")
    of_runs = parser.add_argument_group("measured")
    of_runs.add_argument("--steps", type=int, default=100, help="length of a run")
    of_runs.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    of_runs.add_argument("--bases", nargs="*", choices=BASES, default=list(BASES))
    of_runs.add_argument("--bf16", action="store_true", help="autocast, as the recipes do")
    options = parser.parse_args()
    if not options.give_back:
        keep_memory()
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
        kept &= all(measured_tables(options))
    return 0 if kept else 1


def measured_tables(options: argparse.Namespace) -> list[bool]:
    return [
        table(
            f"{base} on {network}, runs of {options.steps} steps, per step",
            measured_runs(NETWORKS[network], BASES[base], options),
            LIMITS["measured"],
            "plain",
        )
        for network in options.networks
        for base in options.bases
    ]


if __name__ == "__main__":
    raise SystemExit(main())
