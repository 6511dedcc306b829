"""Rates by group, weight decay, the end of a run and batch size on tasks of seconds.

    python benchmarks/beyond/run.py groups decay finish branch --text TEXT --out runs.jsonl

Appends a line a run. `--text` is any plain text of a megabyte (tiny Shakespeare here).
"""

from __future__ import annotations

import argparse
import copy
import json
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import tasks as T
import torch
from torch import nn

from surefoot import MeasuredLR

Result = dict[str, Any]
UNIT = 1e-3
DECAYS = (0.0, 1e-4, 1e-3, 1e-2, 1e-1)
ADAMW_DECAYS = (0.0, 0.01, 0.1, 1.0, 10.0)


def all_tasks(text: str) -> dict[str, T.Task]:
    return {t.name: t for t in (T.fine_tuning(), T.characters(text), T.lora(text))}


def groups(text: str, seeds: int) -> Iterator[Result]:
    """Ratios as they are and measured, from units that fit and that do not."""
    for task in all_tasks(text).values():
        for seed in range(seeds):
            for ratio in (1.0, 0.03, 30.0):
                for way in ("ratio", "measured"):
                    score, optimizer = T.train(
                        task,
                        seed,
                        lambda b, m, way=way, task=task: MeasuredLR(
                            b, m, total_steps=task.steps, groups=way
                        ),
                        UNIT,
                        UNIT * ratio,
                        False,
                    )
                    told = [[r.applied, r.value, r.low, r.high] for r in optimizer.ratios]
                    cost = optimizer.cost.forward_equivalents / (3 * task.steps)
                    yield {
                        "task": task.name,
                        "seed": seed,
                        "ratio": ratio,
                        "way": way,
                        "score": score,
                        "told": told,
                        "cost": cost,
                    }


def small(text: str) -> dict[str, tuple[T.Task, Callable[..., torch.optim.Optimizer]]]:
    """Four tasks with one optimizer each."""
    chars = T.characters(text)

    def adamw(m: nn.Module, decay: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(m.parameters(), UNIT, weight_decay=decay)

    def sgd(m: nn.Module, decay: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(m.parameters(), 0.01, momentum=0.9, weight_decay=decay)

    digits = T.digits()
    return {
        "characters AdamW": (chars, adamw),
        "characters SGD": (chars, sgd),
        "digits AdamW": (digits, adamw),
        "digits SGD": (digits, sgd),
    }


def loop(
    task: T.Task, seed: int, build: Any, wrap: Any, steps: int, at: dict[int, Any] | None = None
) -> tuple[float, Any, nn.Module, list[float]]:
    """A run, with something done to the optimizer before some steps."""
    model = task.model(seed)
    optimizer = wrap(build(model), model)
    losses = []
    for i, (x, y) in enumerate(T.batches(task, seed, steps)):
        if at and i in at:
            at[i](optimizer)
        loss = T.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return task.score(model), optimizer, model, losses


def decay(text: str, seeds: int) -> Iterator[Result]:
    """A grid of five decays under a measured rate, and the measured decay."""
    for name, (task, build) in small(text).items():
        grid = ADAMW_DECAYS if "AdamW" in name else DECAYS
        for seed in range(seeds):
            for weight_decay in (*grid, "measured"):
                given = 0.01 if weight_decay == "measured" else weight_decay
                way = {"weight_decay": "measured"} if weight_decay == "measured" else {}
                score, *_ = loop(
                    task,
                    seed,
                    lambda m, b=build, d=given: b(m, d),
                    lambda b, m, t=task, w=way: MeasuredLR(b, m, total_steps=t.steps, **w),
                    task.steps,
                )
                yield {"task": name, "seed": seed, "decay": weight_decay, "score": score}


def finish(text: str, seeds: int) -> Iterator[Result]:
    """A run that knew its length, and runs that were ended without."""
    for name, (task, build) in small(text).items():
        steps = task.steps
        last = steps // 3
        ways: dict[str, tuple[dict[str, Any], bool]] = {
            "known": ({"total_steps": steps}, False),
            "held": ({"horizon": "none", "advice": True}, True),
            "averaged": ({}, False),
        }
        for seed in range(seeds):
            for way, (settings, ends) in ways.items():
                said: list[Any] = []

                def end(o: Any, said: list[Any] = said, last: int = last) -> None:
                    said.append(o.predict(last))
                    o.finish(last)

                at = {steps - last: end} if ends else {}
                score, _, _, losses = loop(
                    task,
                    seed,
                    lambda m, b=build: b(m, 0.0),
                    lambda b, m, s=settings: MeasuredLR(b, m, **s),
                    steps,
                    at,
                )
                late = losses[-max(1, last // 5) :]
                told = [said[0].loss, said[0].low, said[0].high] if said and said[0] else None
                yield {
                    "task": name,
                    "seed": seed,
                    "way": way,
                    "score": score,
                    "late": sum(late) / len(late),
                    "told": told,
                }


def branch(text: str, seeds: int) -> Iterator[Result]:
    """Train on from one point at several batch sizes for as many examples; the noise scale there."""
    for name, (task, build) in small(text).items():
        if name == "characters SGD":
            continue
        for seed in range(seeds):
            half = task.steps // 2
            _, optimizer, model, _ = loop(
                task,
                seed,
                lambda m, b=build: b(m, 0.0),
                lambda b, m: MeasuredLR(b, m, horizon="none", advice=True),
                half,
            )
            advice = optimizer.advice(batch_size=16)
            scale = advice.noise_scale
            found = {}
            for times in (1, 4, 16):
                best = float("inf")
                for speed in (1.0, times**0.5, float(times)):
                    net = copy.deepcopy(model)
                    base = build(net, 0.0)
                    base.load_state_dict(copy.deepcopy(optimizer.optimizer.state_dict()))
                    rates = [g["effective_lr"] for g in base.param_groups]
                    data = list(T.batches(task, 50 + seed, 160))
                    for i in range(0, 160, times):
                        for group, lr in zip(base.param_groups, rates, strict=True):
                            group["lr"] = lr * speed * (1 - i / 160)
                        for x, y in data[i : i + times]:
                            (T.cross_entropy(net(x), y) / times).backward()
                        base.step()
                        base.zero_grad()
                    value = task.score(net)
                    best = min(best, value) if value == value else best
                found[times] = best
            yield {
                "task": name,
                "seed": seed,
                "noise_scale": scale.value,
                "low": scale.low,
                "high": scale.high,
                "scores": found,
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="+", choices=("groups", "decay", "finish", "branch"))
    parser.add_argument("--text", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    makers = {"groups": groups, "decay": decay, "finish": finish, "branch": branch}
    for what in options.what:
        start = time.perf_counter()
        for result in makers[what](options.text, options.seeds):
            seconds = round(time.perf_counter() - start, 1)
            with open(options.out, "a") as out:
                out.write(json.dumps({"what": what, **result, "seconds": seconds}) + "\n")
            start = time.perf_counter()


if __name__ == "__main__":
    main()
