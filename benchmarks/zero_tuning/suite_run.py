"""Trains measured optimizers and their rivals on the suite.

    python benchmarks/zero_tuning/suite_run.py DATA OUT.jsonl [--tasks digits-mlp gcn] [--seeds 0 1 2] [--ways DoG AMUSE]

Measured optimizers run in the loop that any user writes; rivals (`rivals.py`) as their authors say. Appends a line a
run to OUT.jsonl, in the form of `batch.py`. What is in it already is not run again. A measured run's line also holds
what its first 16 measurements said: `foreseen.py` reads it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # for benchmarks.rivals
sys.path.insert(0, str(Path(__file__).parent))

import suite
import torch
from every_task import TASKS, load
from rivals import RIVALS
from torch import nn

import surefoot

WAYS: dict[str, Any] = {
    "measured AdamW, averaged": lambda steps: {},
    "measured AdamW, linear": lambda steps: {"total_steps": steps},
    "measured Muon, averaged": lambda steps: {},
    "measured Muon, linear": lambda steps: {"total_steps": steps},
}
DIFFERENTIATES = ("pinn",)
"""Tasks whose loss holds derivatives: the loop lets the optimizer watch them."""
FIRST = 16
"""Measurements at the start of a run that are kept."""


def measured(task: suite.Task, model: nn.Module, way: str) -> surefoot.MeasuredLR:
    """What a way names; Muon, as its users do, with AdamW for what is no matrix."""
    settings = {"advice": True, **WAYS[way](task.steps)}
    if "Muon" in way:
        return surefoot.MeasuredMuon(
            model.parameters(), model=model, weight_decay=task.decay, **settings
        )
    base = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=task.betas, weight_decay=task.decay)
    return surefoot.MeasuredLR(base, model, **settings)


def train(task: suite.Task, seed: int, way: str) -> dict[str, Any]:
    """One run: the figure at 25, 50, 75 and 100 % of it, what measuring cost, and how it began."""
    model = task.model(seed)
    torch.manual_seed(seed)
    optimizer = measured(task, model, way)
    batches, figures, started = task.batches(seed), [], time.perf_counter()
    marks = [max(1, round(mark * task.steps)) for mark in suite.MARKS]
    first: list[dict[str, Any]] = []
    for step in range(1, task.steps + 1):
        batch = next(batches)
        if task.name in DIFFERENTIATES:
            loss = optimizer.watch(lambda batch=batch: task.loss(model, batch))
        else:
            loss = task.loss(model, batch)
        loss.backward()
        if task.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), task.clip)
        optimizer.step()
        optimizer.zero_grad()
        last = optimizer.last
        if len(first) < FIRST and last is not None and last.measured:
            first.append(_said(last, optimizer.rate))
        if step in marks:
            with torch.no_grad(), optimizer.averaged():
                figures.append(float(task.evaluate(model)))
    return {
        "figures": figures,
        "probes": optimizer.cost.probes,
        "seconds_of_all": round(time.perf_counter() - started, 1),
        "first": first,
    }


def _said(outcome: surefoot.StepOutcome, rate: surefoot.RateInterval) -> dict[str, Any]:
    """One measurement: applied, where its own minimum was, how far from a parabola, how noisy, how sure."""
    line = outcome.parabola
    said = {
        "status": str(outcome.status),
        "t": outcome.t,
        "vertex": line and line.vertex,
        "misfit": line and line.residual / max(abs(line.slope0 * outcome.t), 1e-12),
        "noise": outcome.noise_scale,
        "low": rate.low,
        "high": rate.high,
    }
    return {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in said.items()
    }


def train_rival(task: suite.Task, seed: int, way: str) -> dict[str, Any]:
    """One run of somebody else's method."""
    torch.manual_seed(seed)
    started = time.perf_counter()
    figures = suite.run(task, seed, lambda model, steps: RIVALS[way](task, model))
    return {"figures": figures, "seconds_of_all": round(time.perf_counter() - started, 1)}


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", nargs="+", choices=[*TASKS], default=[*TASKS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", choices=[*WAYS, *RIVALS], default=[*WAYS])
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    done = {(r["task"], r["seed"], r["name"]) for r in map(json.loads, lines)}
    for name in options.tasks:
        task = load(name, options.data)
        for seed in options.seeds:
            for way in options.ways:
                if (name, seed, way) in done:
                    continue
                found = (train if way in WAYS else train_rival)(task, seed, way)
                line = {"task": name, "seed": seed, "plan": "surefoot", "name": way, **found}
                with options.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                shown = {key: value for key, value in found.items() if key != "first"}
                print(name, seed, way, shown, flush=True)


if __name__ == "__main__":
    main()
