"""Run every cell of a sweep. Started again, it goes on where it was stopped."""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, get_type_hints

from surefoot_lab.config import EarlyStoppingConfig, Experiment, SweepConfig, UserError
from surefoot_lab.parse import SWEEP_KEYS, joined, parse_with_sections
from surefoot_lab.records import RECORD_NAME, has_record, read_run
from surefoot_lab.sweep.cells import Trial, trials_of
from surefoot_lab.sweep.executor import check_address, check_ray, run_on_ray
from surefoot_lab.sweep.table import write_table
from surefoot_lab.sweep.trial import alone, is_done
from surefoot_lab.values import shown, typed

GOOD_ENDS = ("finished", "stopped")


def run(words: Sequence[str]) -> int:
    """Run `surefoot sweep`.

    Args:
        words: the words after `sweep`: its own options, a file, overrides.

    Returns:
        0 if every run was finished, or given up by early stopping; else 1.

    Raises:
        UserError: the file, an option or the folder cannot be used.
    """
    own, rest = _parser().parse_known_args(joined(words))
    base, sweep = read_sweep(own.experiment, rest)
    trials = trials_of(base, sweep, own.experiment)
    if own.concurrent is not None and own.concurrent < 1:
        raise UserError(f"--concurrent: must be at least 1, not {own.concurrent}")
    if own.list:
        for trial in trials:
            print(f"{trial.fingerprint}  {trial.experiment.label}, seed {trial.experiment.seed}")
        return 0
    check_ray()
    check_address(own.address)
    folder = Path(own.out) if own.out else _folder(base)
    try:
        with _left_as_it_was(folder.absolute()):
            return _run_all(trials, folder.absolute(), sweep, own)
    except OSError as error:
        where = folder if error.filename is None else error.filename
        raise UserError(f"{where}: {error.strerror or error}") from error


def _run_all(
    trials: Sequence[Trial], folder: Path, sweep: SweepConfig, own: argparse.Namespace
) -> int:
    """Run what is not done, and say what came of everything."""
    folder.mkdir(parents=True, exist_ok=True)
    with _only_one(folder):
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
            table = write_table(trials, folder)
    return _conclude(trials, folder, table)


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


def read_sweep(file: str, overrides: Sequence[str]) -> tuple[Experiment, SweepConfig]:
    """An experiment file with the sections of a sweep, taken apart.

    Args:
        file: the file.
        overrides: `--key value` words for the experiment.

    Raises:
        UserError: something in it cannot be used.
    """
    base, sections = parse_with_sections(file, overrides, SWEEP_KEYS)
    return base, _sweep_config(sections)


def _sweep_config(values: dict[str, Any]) -> SweepConfig:
    for key in ("grid", "random", "early_stopping"):
        value = values.get(key, {})
        if not isinstance(value, dict) and (key, value) != ("early_stopping", None):
            raise UserError(f"{key}: must hold its settings one a line, but it is {shown(value)}")
    for key in ("cpus_per_trial", "gpus_per_trial"):
        if key in values:
            number = values[key] = typed(key, values[key], float)
            if not (number >= 0 and math.isfinite(number)):
                raise UserError(f"{key}: must be a number that is not negative, not {number}")
    stopping = values.pop("early_stopping", None)
    if stopping is None:
        return SweepConfig(**values)
    hints = get_type_hints(EarlyStoppingConfig)
    for key in stopping:
        if key not in hints:
            raise UserError(f"early_stopping.{key}: no such setting; known: {', '.join(hints)}")
    config = EarlyStoppingConfig(
        **{
            key: typed(f"early_stopping.{key}", value, hints[key])
            for key, value in stopping.items()
        }
    )
    if not (config.grace_epochs > 0 and 1 < config.reduction_factor < math.inf):
        raise UserError(
            "early_stopping: grace_epochs must be a whole number above 0, reduction_factor above 1"
        )
    return SweepConfig(**values, early_stopping=config)


def _parser() -> argparse.ArgumentParser:
    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> Any:
            raise UserError(message)

    parser = Parser(
        prog="surefoot sweep",
        description=__doc__,
        usage="surefoot sweep EXPERIMENT.yaml [--out DIR] [--KEY VALUE ...]",
        allow_abbrev=False,
    )
    parser.add_argument("experiment", help="an experiment with a section `grid` or `random`")
    parser.add_argument("--out", help="folder of the runs; default runs/NAME/LABEL-sweep")
    parser.add_argument("--address", help="a running Ray cluster; default: this machine")
    parser.add_argument("--concurrent", type=int, help="most runs at a time")
    parser.add_argument("--list", action="store_true", help="only say which runs there are")
    return parser


def _folder(base: Experiment) -> Path:
    single = base.run_dir
    return single.with_name(single.name.rpartition("-seed")[0] + "-sweep")


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """One sweep at a time in a folder."""
    with alone(folder, patience_s=0.0):
        yield


def _tell(trial: Trial, said: str, folder: Path, place: int, count: int) -> None:
    run_dir = folder / trial.fingerprint
    end = (read_run(run_dir).end if has_record(run_dir) else None) or {"message": said}
    message = f" ({end['message']})" if end.get("message") else ""
    head = f"{place}/{count}  {trial.experiment.label}, seed {trial.experiment.seed}"
    print(f"{head}: {end.get('reason', 'not recorded')}{message}", flush=True)


def _conclude(trials: Sequence[Trial], folder: Path, table: Path) -> int:
    ends: dict[str, int] = {}
    damaged = []
    for trial in trials:
        run_dir = folder / trial.fingerprint
        run = read_run(run_dir) if has_record(run_dir) else None
        reason = run.end["reason"] if run and run.end else "unfinished" if run else "missing"
        ends[reason] = ends.get(reason, 0) + 1
        damaged += [(run_dir, run.problems)] if run and run.problems else []
    print(", ".join(f"{count} {reason}" for reason, count in ends.items()) + f": {table}")
    for run_dir, problems in damaged:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        print(f"{run_dir}: damaged: {problems[0]}{more}; remove it to have it run anew")
    names = {trial.fingerprint for trial in trials}
    strangers = [p.parent for p in folder.rglob(RECORD_NAME) if p.parent.name not in names]
    if strangers:
        print(f"{len(strangers)} runs in the folder belong to no cell of this file")
    return int(bool(damaged) or any(reason not in GOOD_ENDS for reason in ends))
