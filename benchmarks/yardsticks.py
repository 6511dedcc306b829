"""What the foreign yardsticks share: the methods, the loop that any user writes, records, commands.

A record is one line of JSON a run, beside the benchmark: task, method, seed, length, attempts, figure, seconds, and
on what it ran. `evidence.py` makes the table and the picture of docs/evidence.md from these files.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

import surefoot

DEVICE = "cpu"
"""Where models and batches are; `--device` sets it."""
Groups = list[dict[str, Any]]
Schedule = Callable[[float], float]
"""Share of the run that is over, from 0 to 1, to the factor of the rate."""


class Task(Protocol):
    """What is trained, on what, for how long, and how it is judged."""

    name: str
    steps: int
    higher_is_better: bool
    clip: float | None
    look_every: int | None
    """Steps between two looks, of which the best counts; None for the figure at the end."""

    def model(self, seed: int) -> nn.Module: ...

    def groups(self, model: nn.Module) -> Groups: ...

    def batches(self, seed: int) -> Iterator[Any]: ...

    def loss(self, model: nn.Module, batch: Any) -> Tensor: ...

    def evaluate(self, model: nn.Module) -> float: ...


@dataclass(frozen=True)
class Method:
    """An optimizer with everything that it needs.

    Args:
        name: in tables.
        build: parameter groups, the model and the number of steps to an optimizer.
        schedule: of the rate; None for none.
        attempts: runs that whoever uses it pays for, the search for its settings included.
    """

    name: str
    build: Callable[[Groups, nn.Module, int], Optimizer]
    schedule: Schedule | None = None
    attempts: int = 1


def linear(share: float) -> float:
    """Down to zero."""
    return 1.0 - share


def cosine(share: float) -> float:
    """Down to zero."""
    return 0.5 * (1.0 + math.cos(math.pi * share))


def _muon(groups: Groups, model: nn.Module, steps: int) -> Optimizer:
    """torch's Muon for matrices and its AdamW for the rest, both at their default rate; nothing is measured."""
    return surefoot.MeasuredMuon(groups, lr=1e-3, model=model, frozen=True, overhead=0.0)


def _prodigy(groups: Groups, model: nn.Module, steps: int) -> Optimizer:
    from prodigyopt import Prodigy

    return Prodigy(groups, lr=1.0)


def _schedule_free(groups: Groups, model: nn.Module, steps: int) -> Optimizer:
    from schedulefree import AdamWScheduleFree

    return AdamWScheduleFree(groups, warmup_steps=steps // 20)


MEASURED = (
    Method(
        "measured AdamW",
        lambda groups, model, _: surefoot.MeasuredLR(torch.optim.AdamW(groups), model),
    ),
    Method(
        "measured AdamW, length known",
        lambda groups, model, steps: surefoot.MeasuredLR(
            torch.optim.AdamW(groups), model, total_steps=steps
        ),
    ),
)
MUON = (
    Method("measured Muon", lambda groups, model, _: surefoot.MeasuredMuon(groups, model=model)),
    Method(
        "measured Muon, length known",
        lambda groups, model, steps: surefoot.MeasuredMuon(groups, model=model, total_steps=steps),
    ),
)
UNTUNED = (
    Method("AdamW, its default, linear", lambda groups, *_: torch.optim.AdamW(groups), linear),
    Method("Prodigy, cosine", _prodigy, cosine),
    Method("AdamW schedule-free", _schedule_free),
    Method("Muon, its default, linear", _muon, linear),
)


def at_rate(
    kind: type[Optimizer], rate: float, schedule: Schedule | None, attempts: int, **settings: Any
) -> Method:
    """An optimizer at a rate that a search found."""
    name = f"{kind.__name__} {rate:g}" + (f", {schedule.__name__}" if schedule else "")
    return Method(name, lambda groups, *_: kind(groups, lr=rate, **settings), schedule, attempts)


def put(batch: Any) -> Any:
    """A batch on the device."""
    return tree_map(lambda x: x.to(DEVICE) if isinstance(x, Tensor) else x, batch)


def train(task: Task, method: Method, seed: int) -> dict[str, Any]:
    """One run: the figure at its end, the rates on the way, seconds."""
    model = task.model(seed).to(DEVICE)
    torch.manual_seed(seed)
    optimizer = method.build(task.groups(model), model, task.steps)
    schedule = method.schedule and torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: method.schedule(step / task.steps)
    )
    batches, rates, figures, begun = task.batches(seed), [], [], time.process_time()
    looks = {max(1, round(task.steps * share)) for share in (0.01, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8)}
    _mode(optimizer, "train")
    model.train()
    for step in range(1, task.steps + 1):
        loss = task.loss(model, put(next(batches)))
        loss.backward()
        if task.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), task.clip)
        optimizer.step()
        optimizer.zero_grad()
        if schedule:
            schedule.step()
        if task.look_every and step % task.look_every == 0:
            figures.append(_evaluated(task, model, optimizer))
        if step in looks:
            group = optimizer.param_groups[0]
            rates.append(float(f"{group.get('effective_lr', group['lr']):.3g}"))
    end = _evaluated(task, model, optimizer)
    best = (max if task.higher_is_better else min)([*figures, end])
    seconds = round(time.process_time() - begun, 1)
    told = {"end": end} if task.look_every else {}
    return {"figure": best, **told, "rates": rates, "seconds": seconds}


def _evaluated(task: Task, model: nn.Module, optimizer: Optimizer) -> float:
    """The figure of the weights that a user would keep; the training goes on as if nothing was."""
    _mode(optimizer, "eval")
    model.eval()
    devices = [] if DEVICE == "cpu" else [torch.device(DEVICE)]
    averaged = getattr(optimizer, "averaged", nullcontext)
    with torch.no_grad(), averaged(), torch.random.fork_rng(devices):
        torch.manual_seed(0)
        figure = task.evaluate(model)
    _mode(optimizer, "train")
    model.train()
    return figure


def _mode(optimizer: Optimizer, mode: str) -> None:
    """Schedule-free optimizers hold two sets of weights."""
    if hasattr(optimizer, mode):
        getattr(optimizer, mode)()


@cache
def told() -> dict[str, str]:
    """On what a run ran."""
    here = Path(__file__).parent
    asked = ["git", "-C", str(here), "describe", "--always", "--abbrev=7", "--exclude", "*"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    device = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        device = next(
            (x.split(":")[1].strip() for x in lines if x.startswith("model name")), device
        )
    if DEVICE != "cpu":
        device = torch.cuda.get_device_name(DEVICE)
    return {
        "torch": torch.__version__,
        "surefoot": surefoot.__version__,
        "commit": commit,
        "hardware": device,
    }


def run(
    out: Path,
    tasks: Iterable[Task],
    methods: Callable[[Task], Iterable[Method]],
    seeds: Iterable[int],
    part: str = "1/1",
) -> None:
    """Train what OUT does not hold yet: seed by seed, so that what is finished early is fair."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines = out.read_text().splitlines() if out.exists() else []
    done = {(r["task"], r["method"], r["seed"], r["steps"]) for r in map(json.loads, lines)}
    kept, here = list(tasks), told()
    own, parts = (int(number) for number in part.split("/"))
    cells = [(seed, task, method) for seed in seeds for task in kept for method in methods(task)]
    for seed, task, method in cells[own - 1 :: parts]:
        if (task.name, method.name, seed, task.steps) in done:
            continue
        line = {
            "task": task.name,
            "method": method.name,
            "seed": seed,
            "steps": task.steps,
            "attempts": method.attempts,
            **train(task, method, seed),
            **here,
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(task.name, method.name, seed, line["figure"], line["seconds"], flush=True)


def command(description: str, here: Path) -> argparse.ArgumentParser:
    """What all the commands understand."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--full", action="store_true", help="published length, all seeds, all methods"
    )
    parser.add_argument("--tasks", nargs="+", help="only these")
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument(
        "--methods", nargs="+", help="only those with one of these words in the name"
    )
    parser.add_argument(
        "--steps", type=int, help="length of every run, instead of what is built in"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--part", default="1/1", help="2/8: of eight such commands the second")
    parser.add_argument("--out", type=Path, default=here / "results.jsonl")
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options; the device is set."""
    global DEVICE
    options = parser.parse_args()
    DEVICE = options.device
    return options


def chosen(methods: Iterable[Method], words: list[str] | None) -> list[Method]:
    """Those that the command names."""
    return [m for m in methods if not words or any(word in m.name for word in words)]
