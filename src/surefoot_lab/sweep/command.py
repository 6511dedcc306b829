"""Run every cell of a sweep. Started again, it goes on where it was stopped."""

from __future__ import annotations

import argparse
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from surefoot_lab.compare import summarize_run
from surefoot_lab.config import Experiment, SweepConfig
from surefoot_lab.errors import UserError, of_the_system
from surefoot_lab.parse import SWEEP_KEYS, parse_words
from surefoot_lab.records import RECORD_NAME, RunRecord, has_record, read_run
from surefoot_lab.records.lock import alone
from surefoot_lab.sweep.cells import Trial, trials_of
from surefoot_lab.sweep.executor import check_address, load_ray, run_on_ray
from surefoot_lab.sweep.trial import is_done
from surefoot_lab.text_files import write_whole
from surefoot_lab.values import validated

GOOD_ENDS = ("finished", "stopped")
TABLE_NAME = "table.csv"
FIGURES = (
    "steps",
    "test_accuracy",
    "test_loss",
    "best_validation_accuracy",
    "validation_accuracy",
    "validation_loss",
    "train_loss",
    "forward_equivalents",
)
TIMES = ("seconds",)  # last, so that whoever compares two tables can leave them out


Runs = Sequence[tuple[Trial, RunRecord | None]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `surefoot sweep`."""
    parser.add_argument("--out", help="folder of the runs; default runs/NAME/LABEL-sweep")
    parser.add_argument("--address", help="a running Ray cluster; default: this machine")
    parser.add_argument("--concurrent", type=int, help="most runs at a time")
    parser.add_argument("--list", action="store_true", help="only say which runs there are")


def main(options: argparse.Namespace) -> int:
    """Run `surefoot sweep`.

    Returns:
        0 if every run was finished, or given up by early stopping; else 1.

    Raises:
        UserError: the file, an option or the folder cannot be used.
    """
    base, sweep = read_sweep(options.words)
    trials = trials_of(base, sweep)
    if options.concurrent is not None and options.concurrent < 1:
        raise UserError(f"--concurrent: must be at least 1, not {options.concurrent}")
    if options.list:
        for trial in trials:
            print(f"{trial.fingerprint}  {trial.experiment.label}, seed {trial.experiment.seed}")
        return 0
    load_ray()  # before anything is written
    check_address(options.address)
    single = base.run_dir
    folder = single.with_name(single.name.rpartition("-seed")[0] + "-sweep")
    folder = Path(options.out or folder).absolute()
    with of_the_system(folder), _left_as_it_was(folder):
        return _run_all(trials, folder, sweep, options)


def _run_all(
    trials: Sequence[Trial], folder: Path, sweep: SweepConfig, own: argparse.Namespace
) -> int:
    """Run what is not done, and say what came of everything."""
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder, patience_s=0.0):  # one sweep at a time
        pending = [trial for trial in trials if not is_done(folder / trial.fingerprint)]
        print(f"{len(trials)} runs, {len(trials) - len(pending)} of them done: {folder}")
        told = iter(range(1, len(pending) + 1))
        try:
            if pending:
                run_on_ray(
                    pending,
                    folder,
                    sweep,
                    address=own.address,
                    concurrent=own.concurrent,
                    tell=lambda trial, said: _tell(trial, said, folder, next(told), len(pending)),
                )
        finally:
            runs = runs_of(trials, folder)
            table = write_table(runs, folder)
    return _conclude(runs, folder, table)


@contextmanager
def _left_as_it_was(folder: Path) -> Iterator[None]:
    """Leave no new folder behind where nothing could be run at all."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        yield
    except UserError:
        if folder in made and not any(folder.rglob(RECORD_NAME)):
            shutil.rmtree(folder, ignore_errors=True)
            for place in made[1:]:
                with suppress(OSError):  # somebody else uses it by now
                    place.rmdir()
        raise


def read_sweep(words: Sequence[str]) -> tuple[Experiment, SweepConfig]:
    """An experiment file with the sections of a sweep, taken apart.

    Args:
        words: the file, and `--key value` overrides for the experiment.

    Raises:
        UserError: something in it cannot be used.
    """
    base, file, sections = parse_words(words, SWEEP_KEYS)
    if file is None:
        raise UserError("sweep: needs an experiment file with a section `grid` or `random`")
    return base, validated(SweepConfig, sections)


def _tell(trial: Trial, said: str, folder: Path, place: int, count: int) -> None:
    run_dir = folder / trial.fingerprint
    end = (read_run(run_dir).end if has_record(run_dir) else None) or {"message": said}
    message = f" ({end['message']})" if end.get("message") else ""
    head = f"{place}/{count}  {trial.experiment.label}, seed {trial.experiment.seed}"
    print(f"{head}: {end.get('reason', 'not recorded')}{message}", flush=True)


def _conclude(runs: Runs, folder: Path, table: Path) -> int:
    ends = Counter(end_of(run) for _, run in runs)
    print(", ".join(f"{count} {reason}" for reason, count in ends.items()) + f": {table}")
    damaged = [run for _, run in runs if run is not None and run.problems]
    for run in damaged:
        more = f" (and {len(run.problems) - 1} more)" if len(run.problems) > 1 else ""
        print(f"{run.path}: damaged: {run.problems[0]}{more}; remove it to have it run anew")
    names = {trial.fingerprint for trial, _ in runs}
    strangers = [p.parent for p in folder.rglob(RECORD_NAME) if p.parent.name not in names]
    if strangers:
        print(f"{len(strangers)} runs in the folder belong to no cell of this file")
    return int(bool(damaged) or any(reason not in GOOD_ENDS for reason in ends))


def runs_of(trials: Sequence[Trial], folder: Path) -> Runs:
    """The trials of a sweep in the order of the file, each with its record if there is one."""
    places = [folder / trial.fingerprint for trial in trials]
    records = [read_run(place) if has_record(place) else None for place in places]
    return list(zip(trials, records, strict=True))


def end_of(run: RunRecord | None) -> str:
    """How a run ended; `missing` without a record, `unfinished` where that does not say."""
    return "missing" if run is None else str((run.end or {"reason": "unfinished"})["reason"])


def write_table(runs: Runs, folder: Path) -> Path:
    """Write `table.csv`: the cells, with what became of each."""
    import pandas

    keys = list(dict.fromkeys(key for trial, _ in runs for key in trial.cell))
    rows = []
    for trial, run in runs:
        cell = [_plain(trial.cell.get(key)) for key in keys]
        summary = None if run is None else summarize_run(run)
        figures = [getattr(summary, name, None) for name in FIGURES + TIMES]
        head = [trial.fingerprint, trial.method, *cell, trial.experiment.seed, end_of(run)]
        rows.append([*head, *figures])
    names = ["run", "method", *keys, "seed", "end", *FIGURES, *TIMES]
    table = pandas.DataFrame(rows, columns=names, dtype=object)  # object: 100 stays 100
    return write_whole(folder / TABLE_NAME, table.to_csv(index=False, lineterminator="\n"))


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value)
