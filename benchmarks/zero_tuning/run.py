"""Who needs no tuning? Trains every task with every method; `score.py` makes the table.

    python benchmarks/zero_tuning/run.py --cifar10 data/cifar10 --fashion-mnist DIR --workers 2
    python benchmarks/zero_tuning/score.py runs/zero-tuning
    surefoot report runs/zero-tuning

Every run is an ordinary run of the lab, one thread each. What is finished stays, so the command may
be stopped and given again. The grid runs with seed 0; its best cells, as many as `--best`, with the
other seeds, too: their best mean is the ceiling. `--ablation` runs MeasuredLR with one of its parts
taken away or exchanged at a time, which `score.py --ablation` compares with the whole.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # for benchmarks.rivals
sys.path.insert(0, str(Path(__file__).parent))
os.environ["OMP_NUM_THREADS"] = "1"

from methods import ABLATION, OURS, RIVALS, Method, grid
from tasks import Task, prepare, tasks

from surefoot_lab.config import Experiment, TrainConfig
from surefoot_lab.errors import UserError
from surefoot_lab.records import read_run

SEEDS = (0, 1, 2)
Cell = tuple[str, str, int]  # task, label, seed


def run_dir(out: Path, name: str, label: str, seed: int) -> Path:
    """Where a run goes."""
    word = re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-")
    return out / name / f"{word}-seed{seed}"


def experiment_of(task: Task, name: str, label: str, method: Method, seed: int) -> Experiment:
    """A run in the words of an experiment file."""
    optimizer, scheduler = method
    return Experiment(
        name=name,
        label=label,
        seed=seed,
        epochs=task.epochs,
        batch_size=task.batch_size,
        data=task.data,
        model=task.model,
        optimizer=optimizer,
        scheduler=scheduler,
        train=TrainConfig(device="cpu", tensorboard=False),
    )


def train_one(experiment: Experiment, path: Path) -> str:
    """Train, unless it is done; what went wrong, in a line."""
    import torch

    from surefoot_lab.training import train

    torch.set_num_threads(1)
    if is_done(path):
        return ""
    try:
        train(experiment, path, overwrite=True, progress=False)
    except UserError as error:
        return str(error)
    except Exception:
        return traceback.format_exc().strip().splitlines()[-1]
    return ""


def is_done(path: Path) -> bool:
    """Whether the run came to an end, if only that of a loss that is no number."""
    if not (path / "record.jsonl").exists():
        return False
    end = read_run(path).end
    return end is not None and end["reason"] in ("finished", "non_finite")


def score_of(path: Path, figure: str) -> float:
    """The test figure, larger is better; a run without one comes last."""
    if not (path / "record.jsonl").exists():
        return float("-inf")
    run = read_run(path)
    tests = [line for line in run.evaluations if line["split"] == "test"]
    value = tests[-1][figure] if tests else None
    if value is None:
        return float("-inf")
    return float(value) if figure == "accuracy" else -float(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cifar10", type=Path, help="CIFAR-10 as an image folder")
    parser.add_argument("--fashion-mnist", type=Path, help="folder of its four files")
    parser.add_argument("--data", type=Path, default=Path("data/zero-tuning"))
    parser.add_argument("--out", type=Path, default=Path("runs/zero-tuning"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--best", type=int, default=4, help="cells of the grid with all seeds")
    parser.add_argument("--tasks", nargs="*", help="only these")
    parser.add_argument(
        "--ablation", action="store_true", help="what makes up MeasuredLR, and nothing else"
    )
    options = parser.parse_args()
    prepare(options.data, options.cifar10, options.fashion_mnist)
    known = tasks(options.data)
    given = {"cifar10": options.cifar10, "fashion": options.fashion_mnist}
    names = [
        name
        for name in options.tasks or known
        if all(given[need] is not None for need in known[name].needs)
    ]
    methods = {**OURS, **RIVALS, **grid(), **ABLATION}
    alone = ABLATION if options.ablation else {**OURS, **RIVALS}
    searched = {} if options.ablation else grid()
    first: list[Cell] = []  # task by task: what is there when it is stopped can be scored
    for name in names:
        first += [(name, label, 0) for label in searched]
        first += [(name, label, seed) for seed in SEEDS for label in alone]
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:

        def run(cells: list[Cell]) -> None:
            waiting = {
                pool.submit(
                    train_one,
                    experiment_of(known[name], name, label, methods[label], seed),
                    run_dir(options.out, name, label, seed),
                ): (name, label, seed)
                for name, label, seed in cells
            }
            for count, future in enumerate(as_completed(waiting), 1):
                if future.result():
                    print(*waiting[future], future.result(), sep=" | ", flush=True)
                if count % 20 == 0:
                    print(f"{count} of {len(cells)} runs", flush=True)

        run(first)
        best = []
        for name in names:
            scores = {
                label: score_of(run_dir(options.out, name, label, 0), known[name].figure)
                for label in searched
            }
            best += [
                (name, label, seed)
                for label in sorted(scores, key=scores.__getitem__, reverse=True)[: options.best]
                for seed in SEEDS[1:]
            ]
        run(best)


if __name__ == "__main__":
    main()
