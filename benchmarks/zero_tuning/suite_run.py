"""Trains measured optimizers on the suite, in the loop that any user writes.

    python benchmarks/zero_tuning/suite_run.py DATA OUT.jsonl [--tasks digits-mlp gcn] [--seeds 0 1 2]

Appends a line a run to OUT.jsonl, in the form of `batch.py`. What is in it already is not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import suite
import torch
from torch import nn

import surefoot

WAYS: dict[str, Any] = {
    "measured AdamW, averaged": lambda steps: {},
    "measured AdamW, linear": lambda steps: {"total_steps": steps},
}
DIFFERENTIATES = ("pinn",)
"""Tasks whose loss holds derivatives: the loop lets the optimizer watch them."""


def train(task: suite.Task, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """One run: the figure at 25, 50, 75 and 100 % of it, and what measuring cost."""
    model = task.model(seed)
    torch.manual_seed(seed)
    base = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=task.betas, weight_decay=task.decay)
    optimizer = surefoot.MeasuredLR(base, model, **settings)
    batches, figures, started = task.batches(seed), [], time.perf_counter()
    marks = [max(1, round(mark * task.steps)) for mark in suite.MARKS]
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
        if step in marks:
            with torch.no_grad(), optimizer.averaged():
                figures.append(float(task.evaluate(model)))
    return {
        "figures": figures,
        "probes": optimizer.cost.probes,
        "seconds_of_all": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", nargs="+", default=[*suite.DEVELOPMENT, *suite.CONFIRMATION])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    done = {(r["task"], r["seed"], r["name"]) for r in map(json.loads, lines)}
    for name in options.tasks:
        task = suite.load(name, options.data)
        for seed in options.seeds:
            for way, settings in WAYS.items():
                if (name, seed, way) in done:
                    continue
                found = train(task, seed, settings(task.steps))
                line = {"task": name, "seed": seed, "plan": "surefoot", "name": way, **found}
                with options.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(name, seed, way, found, flush=True)


if __name__ == "__main__":
    main()
