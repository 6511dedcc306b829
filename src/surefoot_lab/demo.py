"""Train a small network on scikit-learn's digits with measured and with chosen learning rates."""

from __future__ import annotations

import argparse
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from surefoot_lab._command import add_settings, settings_of
from surefoot_lab.config import Experiment, ModelConfig, OptimizerConfig, TrainConfig
from surefoot_lab.errors import UserError, named
from surefoot_lab.signals import answered
from surefoot_lab.values import Positive, Settings

METHODS = {
    # Nothing to choose: all in their default settings, `total_steps: None` is averaged weights.
    "Measured AdamW": OptimizerConfig("MeasuredAdamW", {"total_steps": None}),
    "Measured SGD": OptimizerConfig("MeasuredSGD", {"total_steps": None}),
    "PAL": OptimizerConfig("PAL"),
    "LABPAL": OptimizerConfig("LABPAL"),
    # A rate to choose, or a default to trust.
    "SGD 0.01": OptimizerConfig("SGD", {"lr": 0.01, "momentum": 0.9}),
    "SGD 0.1": OptimizerConfig("SGD", {"lr": 0.1, "momentum": 0.9}),
    "SGD 1.0": OptimizerConfig("SGD", {"lr": 1.0, "momentum": 0.9}),
    "Adam 0.001": OptimizerConfig("Adam", {"lr": 0.001}),
    "AdamW schedule-free": OptimizerConfig("AdamWScheduleFree"),
}
# Small enough for a minute, and with BatchNorm, as the networks these methods are made for.
MODEL = ModelConfig("resnet8", {"widths": [8, 16, 32]})
BATCH_SIZE = 64
EPOCHS = 15
WORKERS = 2  # one thread each, so that a run comes out the same on every number of cores

RUNS_FOLDER = "surefoot-demo"
REPORT_NAME = "report.html"
REPORT_MARK = '<meta name="generator" content="surefoot report">'


@dataclass(frozen=True)
class DemoConfig(Settings):
    """What the demo may be told.

    Attributes:
        out: folder for the runs and the report; without it, ./surefoot-demo and ./report.html.
        seeds: runs of each method.
        epochs: of each run.
    """

    out: str | None = None
    seeds: Positive = 3
    epochs: Positive = EPOCHS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `surefoot demo`."""
    add_settings(parser, DemoConfig)


def main(options: argparse.Namespace) -> int:
    """Run `surefoot demo`: 0, or 1 if a run could not be carried out.

    Raises:
        UserError: the arguments or the folder cannot be used.
    """
    from rich.console import Console

    from surefoot_lab.records import has_record, read_runs
    from surefoot_lab.report import conclude

    args = settings_of(options, DemoConfig)
    folder = Path(RUNS_FOLDER if args.out is None else args.out)
    report = Path(REPORT_NAME) if args.out is None else folder / REPORT_NAME
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; choose another --out")
    trials = _trials(folder, args.seeds, args.epochs)
    if report.exists() and REPORT_MARK not in report.read_text("utf-8", "replace")[:4096]:
        raise UserError(f"{report}: is not a report of surefoot; move it, or choose --out DIR")
    console = Console(highlight=False)
    console.print(
        f"{len(METHODS)} methods × {args.seeds} seeds, {args.epochs} epochs each: "
        "a small ResNet on 1,797 handwritten digits"
    )
    started = time.monotonic()
    try:
        failures = _run_all(trials, console)
    except KeyboardInterrupt:
        console.print(f"interrupted; surefoot report {folder} shows what was reached", markup=False)
        raise
    for failure in failures:
        console.print(f"failed: {failure}", style="red", markup=False)
    run_dirs = [run_dir for run_dir in trials if has_record(run_dir)]
    if not run_dirs:
        console.print("no run left a record, so there is nothing to compare")
        return 1
    console.print(f"all runs took {time.monotonic() - started:.0f} s; the curves are on the page")
    conclude(read_runs(run_dirs), report, title="Digits: rates measured and rates chosen")
    return 1 if failures else 0


def _trials(folder: Path, seeds: int, epochs: int) -> dict[Path, Experiment]:
    """What is run, by its run directory.

    Seed by seed, so that an interrupted demo has compared all methods on the first seeds.
    """
    return {
        folder / f"{label.lower().replace(' ', '-')}-seed{seed}": Experiment(
            name="digits, small resnet8",
            label=label,
            seed=seed,
            epochs=epochs,
            batch_size=BATCH_SIZE,
            model=MODEL,
            optimizer=optimizer,
            train=TrainConfig(device="cpu", log_every=3, tensorboard=False),
        )
        for seed in range(seeds)
        for label, optimizer in METHODS.items()
    }


def _run_all(trials: dict[Path, Experiment], console: Any) -> list[str]:
    """Run the trials in worker processes; return what went wrong, one line a trial."""
    from surefoot_lab.training.progress import bar_of

    failures, others = [], set(active_children())
    workers = min(WORKERS, os.cpu_count() or 1, len(trials))
    # Spawned, not forked: torch's threads do not survive a fork.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread)
    try:
        with answered(signal.SIG_IGN):  # inherited by the workers: Ctrl-C is answered here
            futures = {pool.submit(_run, *trial): trial[1] for trial in trials.items()}
        with bar_of(console) as bar:
            task = bar.add_task("", total=len(trials), figures="starting")
            for future in as_completed(futures):
                name = f"{futures[future].label}, seed {futures[future].seed}"
                bar.update(task, advance=1, figures=name)
                said = "done"
                if (error := future.exception()) is not None:
                    said = named(error)
                    failures.append(f"{name}: {said}")
                if not console.is_terminal:
                    console.print(f"{name}: {said}", markup=False)
    except KeyboardInterrupt:
        for worker in set(active_children()) - others:
            worker.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return failures


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _run(run_dir: Path, experiment: Experiment) -> None:
    from surefoot_lab.training import train

    train(experiment, run_dir, overwrite=True, progress=False)
