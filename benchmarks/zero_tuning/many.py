"""Many runs of one task at once: same seed, same batches, different optimizers, one batched network.

All weights of all runs are one matrix, a row a run. `torch.func.vmap` makes one network out of all; the gradient of the
sum of their losses is every run's own. A whole grid costs little more than its largest run on an accelerator.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from suite import MARKS, Task
from torch import Tensor
from torch.func import functional_call, vmap

Ask = Callable[[Tensor], Tensor]
"""Losses of the same batch, a row each, at other weights."""


@dataclass(frozen=True)
class Setting:
    """What optimizers know of a task."""

    steps: int
    betas: tuple[float, float]
    decay: Tensor
    """Weight decay of every weight."""


def column(configs: list[dict[str, Any]], name: str, default: float, like: Tensor) -> Tensor:
    """A setting of every run, to be multiplied with rows."""
    values = [[float(config.get(name, default))] for config in configs]
    return torch.tensor(values, device=like.device)


def factor(schedule: str, share: float) -> float:
    """What multiplies the rate after a share of the run."""
    if schedule == "constant":
        return 1.0
    if schedule == "linear":  # 5 % warm-up
        return min((share + 1e-9) / 0.05, 1.0) * min(1.0, (1.0 - share) / 0.95)
    if schedule == "1cycle":  # torch's OneCycleLR
        if share < 0.3:
            return 1 / 25 + (1 - 1 / 25) * 0.5 * (1 - math.cos(math.pi * share / 0.3))
        return 2e-6 + (1 - 2e-6) * 0.5 * (1 + math.cos(math.pi * (share - 0.3) / 0.7))
    raise ValueError(schedule)


class Group:
    """Some of the runs: those of one optimizer."""

    def __init__(self, start: Tensor, configs: list[dict[str, Any]], setting: Setting) -> None:
        self.weights = start.repeat(len(configs), 1)
        self.configs, self.setting, self.t = configs, setting, 0

    def _rate(self) -> Tensor:
        share = self.t / self.setting.steps
        rates = [[c["lr"] * factor(c.get("schedule", "constant"), share)] for c in self.configs]
        return torch.tensor(rates, device=self.weights.device)

    def step(self, losses: Tensor, grads: Tensor, ask: Ask) -> None:
        """Move the weights."""
        raise NotImplementedError

    def judged(self) -> Tensor:
        """The weights to evaluate."""
        return self.weights

    def told(self) -> list[dict[str, Any]]:
        """What there is to say about every run at the end."""
        return [{} for _ in self.configs]


class SGD(Group):
    """Momentum 0.9."""

    def step(self, losses: Tensor, grads: Tensor, ask: Ask) -> None:
        self.buffer = grads.clone() if self.t == 0 else self.buffer.mul_(0.9).add_(grads)
        self.weights = self.weights - self._rate() * self.buffer
        self.t += 1


class AdamW(Group):
    """As torch's."""

    def step(self, losses: Tensor, grads: Tensor, ask: Ask) -> None:
        if self.t == 0:
            self.m, self.v = torch.zeros_like(grads), torch.zeros_like(grads)
        b1, b2 = self.setting.betas
        self.m.lerp_(grads, 1 - b1)
        self.v.mul_(b2).addcmul_(grads, grads, value=1 - b2)
        rate, n = self._rate(), self.t + 1
        size = (self.v / (1 - b2**n)).sqrt_().add_(1e-8)
        move = self.m / size / (1 - b1**n) + self.setting.decay * self.weights
        self.weights = self.weights - rate * move
        self.t = n


class ScheduleFree(Group):
    """Schedule-free AdamW (Defazio et al. 2024), 5 % warm-up."""

    def step(self, losses: Tensor, grads: Tensor, ask: Ask) -> None:
        if self.t == 0:
            self.z, self.x = self.weights.clone(), self.weights.clone()
            self.v = torch.zeros_like(grads)
            self.sum = torch.zeros(len(grads), 1, device=grads.device)
        b1, b2 = self.setting.betas
        n = self.t + 1
        self.v.mul_(b2).addcmul_(grads, grads, value=1 - b2)
        rate = self._rate() * min(1.0, n / max(1.0, 0.05 * self.setting.steps))
        size = (self.v / (1 - b2**n)).sqrt_().add_(1e-8)
        self.z = self.z - rate * (grads / size + self.setting.decay * self.weights)
        self.sum = self.sum + rate**2
        share = rate**2 / self.sum
        self.x = self.x + share * (self.z - self.x)
        self.weights = self.z + b1 * (self.x - self.z)
        self.t = n

    def judged(self) -> Tensor:
        return self.x if self.t else self.weights


KINDS: dict[str, type[Group]] = {"sgd": SGD, "adamw": AdamW, "schedule-free": ScheduleFree}


def grid() -> dict[str, dict[str, Any]]:
    """The cells that the ceiling is searched among."""
    cells: dict[str, dict[str, Any]] = {}
    for schedule in ("1cycle", "linear", "constant"):
        for rate in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1):
            cells[f"adamw {rate:g} {schedule}"] = {
                "kind": "adamw",
                "lr": rate,
                "schedule": schedule,
            }
        for rate in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0):
            cells[f"sgd {rate:g} {schedule}"] = {"kind": "sgd", "lr": rate, "schedule": schedule}
    for rate in (3e-4, 1e-3, 2.5e-3, 1e-2, 3e-2):
        cells[f"schedule-free {rate:g}"] = {"kind": "schedule-free", "lr": rate}
    return cells


def run_many(
    task: Task,
    seed: int,
    methods: dict[str, dict[str, Any]],
    device: str,
    deadline: float = math.inf,
) -> dict[str, dict[str, Any]]:
    """Train all; for each the figures at `MARKS` (fewer if the deadline, in `time.time()`, came first)."""
    model = task.model(seed).to(device)
    named = dict(model.named_parameters())
    shapes = {name: p.shape for name, p in named.items()}
    sizes = [p.numel() for p in named.values()]
    start = torch.cat([p.detach().flatten() for p in named.values()])
    decay = [
        torch.full((p.numel(),), task.decay if task.decays(name, p) else 0.0)
        for name, p in named.items()
    ]
    setting = Setting(task.steps, task.betas, torch.cat(decay).to(device))
    by_kind: dict[str, list[str]] = {}
    for name, config in methods.items():
        by_kind.setdefault(config["kind"], []).append(name)
    groups = [
        KINDS[kind](start, [methods[name] for name in names], setting)
        for kind, names in by_kind.items()
    ]
    counts = [len(names) for names in by_kind.values()]

    def unflatten(row: Tensor) -> dict[str, Tensor]:
        parts = row.split(sizes)
        return {name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)}

    def loss_of(row: Tensor, batch: Any) -> Tensor:
        weights = unflatten(row)
        return task.loss(lambda *args: functional_call(model, weights, args), batch)

    def figure_of(row: Tensor) -> Tensor:
        weights = unflatten(row)
        return task.evaluate(lambda *args: functional_call(model, weights, args))

    losses_of = vmap(loss_of, in_dims=(0, None))
    figures_of = vmap(figure_of, chunk_size=8)
    marks = {round(mark * task.steps) for mark in MARKS}
    batches = task.batches(seed)
    names = [name for kept in by_kind.values() for name in kept]
    figures: list[list[float]] = [[] for _ in names]
    begun = time.time()
    for step in range(1, task.steps + 1):
        batch = next(batches)
        weights = torch.cat([group.weights for group in groups]).requires_grad_()
        losses = losses_of(weights, batch)
        (grads,) = torch.autograd.grad(losses.sum(), weights)
        if task.clip is not None:
            grads = grads * (task.clip / (grads.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1.0)
        with torch.no_grad():

            def ask(rows: Tensor, batch: Any = batch) -> Tensor:
                return losses_of(rows, batch)

            parts = zip(groups, losses.detach().split(counts), grads.split(counts), strict=True)
            for group, own, grad in parts:
                group.step(own, grad, ask)
            if step in marks:
                found = figures_of(torch.cat([group.judged() for group in groups]))
                for kept, value in zip(figures, found.tolist(), strict=True):
                    kept.append(value)
        if time.time() > deadline:
            break
    told = [more for group in groups for more in group.told()]
    seconds = round(time.time() - begun, 2)
    return {
        name: {"figures": kept, "seconds_of_all": seconds, "steps_done": step, **more}
        for name, kept, more in zip(names, figures, told, strict=True)
    }
