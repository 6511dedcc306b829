"""Trains many cells of the suite in parallel until a deadline, the most valuable first.

    python benchmarks/zero_tuning/batch.py DATA OUT --seconds 400 --cpu-workers 12 --gpu-workers 4

Writes OUT/results.jsonl, a line a run: task, seed, name, figures at 25, 50, 75 and 100 % of the run. What is in it
already is not run again. The cells are the grid of `many.py`; on large tasks, further seeds run its best cells only.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"

import many
import suite
import torch
from every_task import load
from kept_back import SECOND_CONFIRMATION
from suite_score import ACCURACY
from unseen import THIRD_CONFIRMATION

HEAVY = ("nanogpt-2000", "vit", "nanogpt-500", "resnet", "fashion-convnet", "text-transformer")
HEAVY_LATER = (
    "gru",
    "mixer",
    "unet",
    "adapters",
    "graph-attention",
    *SECOND_CONFIRMATION,
    *THIRD_CONFIRMATION,
)
LIGHT = (
    "friedman",
    "digits-former",
    "digits-mlp",
    "polynomial",
    "gcn",
    "forward-forward",
    "linear-far",
)
LIGHT_LATER = ("long", "pinn", "factors", "diffusion", "vae", "shapes-1d", "quadratic-deep")
BEST = 6
"""Cells that large tasks run with further seeds."""

Job = tuple[str, int, str]  # task, seed, plan


@functools.lru_cache(maxsize=3)
def _task(name: str, folder: str, device: str) -> suite.Task:
    return load(name, Path(folder), device)


def work(
    job: Job, only: list[str] | None, folder: str, device: str, deadline: float, share: float
) -> tuple[Job, dict[str, Any] | str]:
    """In a process of its own: train a job's cells."""
    torch.set_num_threads(1)
    name, seed, _ = job
    try:
        methods = many.grid()
        if only is not None:
            methods = {label: methods[label] for label in only}
        if time.time() > deadline:
            return job, "no time"
        task = _task(name, folder, device)
        if share < 1.0:
            task.steps = max(8, int(task.steps * share))
        return job, _trained(task, seed, methods, device, deadline)
    except Exception:
        return job, traceback.format_exc()


def _trained(
    task: suite.Task, seed: int, methods: dict[str, Any], device: str, deadline: float
) -> dict[str, Any]:
    """All of them, in halves where the memory is too small."""
    try:
        return many.run_many(task, seed, methods, device, deadline)
    except torch.cuda.OutOfMemoryError:
        if len(methods) == 1:
            raise
    finally:
        if device == "cuda":
            torch.cuda.empty_cache()
    names = list(methods)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    found: dict[str, Any] = {}
    for half in halves:
        found |= _trained(task, seed, {name: methods[name] for name in half}, device, deadline)
    return found


def order(gpu: bool) -> tuple[list[Job], list[Job]]:
    """Jobs of the accelerator and of the cores, the most valuable first."""
    plan, seeds = "ceilings", (0, 1, 2)
    light = [("long", seed, plan) for seed in seeds]
    light += [(name, seed, plan) for name in (*LIGHT, *LIGHT_LATER[1:]) for seed in seeds]
    heavy = [(name, 0, plan) for name in (*HEAVY, *HEAVY_LATER)]
    heavy += [(name, seed, plan) for name in (*HEAVY, *HEAVY_LATER) for seed in (1, 2)]
    return (heavy, light) if gpu else ([], light + heavy)


def best_of(lines: list[dict[str, Any]], name: str, task: suite.Task) -> list[str] | None:
    """The best cells of seed 0, None if there are none yet."""
    found = {
        line["name"]: line["figures"][-1]
        for line in lines
        if line["task"] == name and line["seed"] == 0 and line["plan"] == "ceilings"
        and len(line["figures"]) == len(suite.MARKS)
    }  # fmt: skip
    found = {label: value for label, value in found.items() if value == value}
    if not found:
        return None
    return sorted(found, key=found.__getitem__, reverse=task.name in ACCURACY)[:BEST]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=400.0)
    parser.add_argument("--cpu-workers", type=int, default=12)
    parser.add_argument("--gpu-workers", type=int, default=4)
    parser.add_argument("--tasks", nargs="*", help="only these")
    parser.add_argument("--seeds", nargs="*", type=int, help="only these")
    parser.add_argument("--share", type=float, default=1.0, help="of every run's length, to try it")
    options = parser.parse_args()
    deadline = time.time() + options.seconds
    gpu = options.gpu_workers > 0 and torch.cuda.is_available()
    suite._decoded(Path(options.data))
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(line["task"], line["seed"], line["plan"]) for line in lines}
    print("gpu" if gpu else "no gpu", torch.__version__, flush=True)
    kind = {
        name: load(name, Path(options.data))
        for name in (*HEAVY, *HEAVY_LATER)
        if gpu or name in (options.tasks or [name])
    }

    def kept(jobs: list[Job]) -> list[Job]:
        return [
            job
            for job in jobs
            if job not in done
            and (not options.tasks or job[0] in options.tasks)
            and (options.seeds is None or job[1] in options.seeds)
        ]

    heavy, light = (kept(jobs) for jobs in order(gpu))
    context = get_context("spawn")
    queues = []
    if gpu and heavy:
        queues.append(
            (ProcessPoolExecutor(options.gpu_workers, context), heavy, "cuda", options.gpu_workers)
        )
    if light:
        queues.append(
            (ProcessPoolExecutor(options.cpu_workers, context), light, "cpu", options.cpu_workers)
        )
    pools = [pool for pool, *_ in queues]
    running: dict[Future[Any], int] = {}
    free = [count for *_, count in queues]
    with path.open("a") as file:
        while time.time() < deadline:
            for at, (pool, jobs, device, _) in enumerate(queues):
                waiting = 0
                while free[at] > 0 and waiting < len(jobs):
                    job = jobs[waiting]
                    only = None
                    if job[2] == "ceilings" and job[1] > 0 and job[0] in kind:
                        only = best_of(lines, job[0], kind[job[0]])
                        if only is None:  # its seed 0 is not done: the next one
                            waiting += 1
                            continue
                    jobs.pop(waiting)
                    free[at] -= 1
                    future = pool.submit(
                        work, job, only, options.data, device, deadline - 3.0, options.share
                    )
                    running[future] = at
            if not running:
                break
            ready, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in ready:
                free[running.pop(future)] += 1
                job, found = future.result()
                left = deadline - time.time()
                if isinstance(found, str):
                    print(*job, found.strip(), f"{left:.0f} s left", sep=" | ", flush=True)
                    continue
                seconds = next(iter(found.values()))["seconds_of_all"]
                print(*job, len(found), f"{seconds} s", f"{left:.0f} s left", sep=" | ", flush=True)
                for label, more in found.items():
                    line = {"task": job[0], "seed": job[1], "plan": job[2], "name": label, **more}
                    lines.append(line)
                    file.write(json.dumps(line) + "\n")
                file.flush()
    print("left over:", [job for _, jobs, *_ in queues for job in jobs], len(running), flush=True)
    for pool in pools:
        for process in list(pool._processes.values()):
            process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)


if __name__ == "__main__":
    main()
