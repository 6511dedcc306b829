"""Run the small recipes that decide the claims of docs/claims.md; one process, one thread.

    python benchmarks/claims/run.py [--recipes FOLDER/NAME ...]

Runs go to runs/claims, done ones are left alone; each adds a line to benchmarks/claims/results.jsonl. A recipe
with a grid is also run by `surefoot sweep`, one with lines by `surefoot lines`: here all share one process, so
that images are decoded once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from surefoot.shape import LineSample, fit_errors, is_convex
from surefoot_lab.data import load_data
from surefoot_lab.errors import UserError
from surefoot_lab.lines.findings import find, mark
from surefoot_lab.lines.run import LinesConfig, sample_experiment
from surefoot_lab.parse import parse_words
from surefoot_lab.range_tests.measure import measure
from surefoot_lab.records import RunRecord
from surefoot_lab.sweep.cells import trials_of
from surefoot_lab.sweep.command import read_sweep
from surefoot_lab.sweep.trial import run_trial
from surefoot_lab.training import assemble
from surefoot_lab.values import validated

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).with_name("results.jsonl")
RUNS = ROOT / "runs" / "claims"
SEEDS = (0, 1, 2)
LAST = 5  # lines of the record, one every 50 steps, that the training loss is the mean of
RECIPES = (
    "lines-resnet20/small-sgd",
    "lines-resnet20/small-momentum",
    "lines-resnet20/small-convnet",
    "lines-resnet20/small-training",
    "batch-and-rate/small",
    "cyclical-rates/small",
    "cyclical-rates/small-long",
    "cyclical-rates/small-bounds",
    "super-convergence/small-one-cycle",
    "super-convergence/small-piecewise",
    "super-convergence/small-piecewise-long",
    "momentum-cycled/small",
    "momentum-cycled/small-cycled",
    "weight-decay-under-a-large-rate/small",
    "pal-grid/small-pal",
    "pal-grid/small-sgd",
    "pal-grid/small-sgd-constant",
    "pal-grid/small-adam",
    "pal-grid/small-adam-constant",
    "labpal-networks/small-cifar10",
    "labpal-networks/small-cifar10-sgd",
    "labpal-grid/small-labpal-64",
    "labpal-grid/small-sgd-64",
    "labpal-grid/small-labpal-8",
    "labpal-grid/small-sgd-8",
    "cifar10-resnet20/small-measured",
    "cifar10-resnet20/small-sgd",
    "labpal-networks/small-densenet",
    "labpal-networks/small-densenet-sgd",
    "labpal-networks/small-mobilenet",
    "labpal-networks/small-mobilenet-sgd",
    "fashion-mnist-convnet/small-measured",
    "fashion-mnist-convnet/small-sgd",
    "regression/small-measured",
    "regression/small-rates",
    "text-lstm/small-measured",
    "text-lstm/small-rates",
    "lines-resnet20/small-training-128",
)
# Of these the range test is made as well, with every seed: it is to find the bounds of their rates,
# by the command's defaults and as in 1506.01186, the rate rising on a straight line.
RANGE_TESTS = {
    "default": {"start_lr": 1e-7, "end_lr": 10.0, "num_iter": 100, "step_mode": "exp"},
    "linear": {"start_lr": 1e-4, "end_lr": 1.0, "num_iter": 500, "step_mode": "linear"},
}
RANGE_TESTED = ("cyclical-rates/small-bounds", "super-convergence/small-one-cycle")


def main() -> None:
    """Run what is not done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", nargs="+", default=RECIPES, metavar="FOLDER/NAME")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    own = parser.parse_args()
    torch.set_num_threads(1)
    assemble.load_data = read_once()
    done = [json.loads(text) for text in _lines_of(own.results)]
    for recipe in own.recipes:
        file = ROOT / "experiments" / f"{recipe}.yaml"
        sections = parse_words([str(file)], ("grid", "lines")).sections
        if recipe in RANGE_TESTED:
            range_tests(recipe, file, own, done)
        run = sweep if "grid" in sections else along_lines
        run(recipe, file, own, done)


def read_once() -> Any:
    """`load_data`, which keeps what it has read."""
    kept: dict[str, Any] = {}

    def load(config: Any) -> Any:
        if str(config) not in kept:
            kept.clear()
            kept[str(config)] = load_data(config)
        return kept[str(config)]

    return load


def _lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def write(own: argparse.Namespace, line: dict[str, Any]) -> None:
    """Add a line to the results."""
    line["torch"] = torch.__version__
    with own.results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def sweep(recipe: str, file: Path, own: argparse.Namespace, done: list[dict[str, Any]]) -> None:
    """All cells of a grid, the seeds outside, so that what is stopped half-way has whole seeds."""
    there = {line.get("run") for line in done}
    trials = trials_of(*read_sweep([str(file)]))
    trials = [trial for trial in trials if trial.experiment.seed in own.seeds]
    for trial in sorted(trials, key=lambda trial: trial.experiment.seed):
        if trial.fingerprint in there:
            continue
        began = time.process_time()
        try:
            record = run_trial(trial, RUNS / recipe / trial.fingerprint)
        except UserError as error:
            print(f"{recipe}: {trial.experiment.label}: {error}", flush=True)
            continue
        row = {
            "recipe": recipe,
            "cell": trial.experiment.label,
            "seed": trial.experiment.seed,
            "run": trial.fingerprint,
            **figures_of(record),
            "cpu_s": round(time.process_time() - began, 1),
        }
        write(own, row)
        print(row, flush=True)


def figures_of(record: RunRecord) -> dict[str, Any]:
    """Test accuracy and loss at the end, and the training loss shortly before."""
    assert record.end is not None
    test = [line for line in record.evaluations if line["split"] == "test"]
    losses = [f for r in record.steps[-LAST:] if (f := r["train_loss"]) is not None]
    cost = record.steps[-1] if record.steps else {}
    return {
        "end": record.end["reason"],
        "steps": record.end["step"],
        "accuracy": test[-1]["accuracy"] if test else None,
        "loss": test[-1]["loss"] if test else None,
        "train_loss": statistics.fmean(losses) if losses else None,
        "forwards": cost.get("forwards"),
        "backwards": cost.get("backwards"),
    }


def along_lines(
    recipe: str, file: Path, own: argparse.Namespace, done: list[dict[str, Any]]
) -> None:
    """Lines along one training a seed, and what they say."""
    there = {(line["recipe"], line["seed"]) for line in done}
    for seed in own.seeds:
        if (recipe, seed) in there:
            continue
        experiment, _, sections = parse_words([str(file), f"--seed={seed}"], ("lines",))
        config = validated(LinesConfig, sections["lines"], "lines")
        folder = RUNS / recipe / f"seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        began = time.process_time()
        records = sample_experiment(experiment, config, folder)
        samples = records.pop("lines").read()
        others = {int(size): found.read() for size, found in records.items()}
        found = find(samples, mark(samples, config), config, others, experiment.batch_size)
        found["near"] = near_minima(samples)
        row = {"recipe": recipe, "seed": seed, "findings": found}
        write(own, {**row, "cpu_s": round(time.process_time() - began, 1)})
        print(recipe, seed, found["minimum_length"], found["parabola_error_over_range"], flush=True)


def near_minima(samples: Sequence[LineSample], times: float = 4.0) -> dict[str, float]:
    """How convex and parabolic the lines are as far as a few times the distance of their minimum."""
    windows = [max(times * abs(line.exact_minimum().length), 0.06) for line in samples]
    pairs = list(zip(samples, windows, strict=True))
    errors = [fit_errors(line, window) for line, window in pairs]
    ranges = []
    for line, window in pairs:
        there = [f for s, f in zip(line.lengths, line.losses, strict=True) if abs(s) <= window]
        ranges.append(max(there) - min(there))
    return {
        "convex_share": statistics.fmean(is_convex(line, w, tolerance=1e-3) for line, w in pairs),
        "parabola_error_over_range": statistics.median(
            error[2] / size for error, size in zip(errors, ranges, strict=True)
        ),
        "straight_over_parabola": statistics.median(error[1] / error[2] for error in errors),
    }


def range_tests(
    recipe: str, file: Path, own: argparse.Namespace, done: list[dict[str, Any]]
) -> None:
    """What every rule says of the recipe's task, its own schedule left out."""
    there = {(line["recipe"], line["seed"]) for line in done if "suggestions" in line}
    for seed in own.seeds:
        if (recipe, seed) in there:
            continue
        experiment = parse_words([str(file), f"--seed={seed}"], ("grid",)).experiment
        found = {}
        for test, settings in RANGE_TESTS.items():
            curve, _ = measure(experiment, **settings)
            found[test] = {rule: said.rate for rule, said in curve.suggestions().items()}
        row = {"recipe": recipe, "seed": seed, "suggestions": found}
        write(own, row)
        print(row, flush=True)


if __name__ == "__main__":
    main()
