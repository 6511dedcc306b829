"""One trial: an ordinary run in its own directory, gone on with where it was left."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from surefoot_lab.errors import UserError, named, of_the_system, one_line
from surefoot_lab.records import RecordWriter, RunRecord, describe_environment, has_record, read_run
from surefoot_lab.sweep.cells import Trial
from surefoot_lab.train import train
from surefoot_lab.train.log import MESSAGE_LENGTH

DONE = ("finished", "non_finite", "stopped")
LOCK_NAME = ".lock"
PATIENCE_S = 60.0  # for the last writer of a sweep that was killed a moment ago


def is_done(run_dir: Path) -> bool:
    """Whether a run came to an end that running it again would not change."""
    if not has_record(run_dir):
        return False
    end = read_run(run_dir).end
    return end is not None and end["reason"] in DONE


def run_trial(
    trial: Trial, run_dir: Path, observe: Callable[[dict[str, Any]], None] | None = None
) -> RunRecord:
    """Run a trial, or go on with it; a trial that is done is left as it is.

    Args:
        trial: what to run.
        run_dir: the run's directory.
        observe: called after every validation.

    Raises:
        Exception: whatever stopped the run; its record says what.
    """
    with of_the_system(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        with alone(run_dir):
            return _run_alone(trial, run_dir, observe)


def _run_alone(
    trial: Trial, run_dir: Path, observe: Callable[[dict[str, Any]], None] | None
) -> RunRecord:
    if is_done(run_dir):
        return read_run(run_dir)
    resume = has_record(run_dir) and "filled_in" in read_run(run_dir).experiment
    try:
        return train(
            trial.experiment,
            run_dir,
            resume=resume,
            overwrite=not resume,
            progress=False,
            observe=observe,
            sweep=trial.mark,
        )
    except Exception as error:
        _write_failure(trial, run_dir, error)
        raise


def close_record(run_dir: Path, reason: str, message: str, patience_s: float = PATIENCE_S) -> None:
    """Write the end of a run whose process could not.

    Raises:
        UserError: another process still works in the run's directory.
        OSError: nothing can be written there.
    """
    with alone(run_dir, patience_s):
        run = read_run(run_dir) if has_record(run_dir) else None
        if run is None or run.end is not None:
            return
        step = max((line["step"] for line in run.evaluations + run.steps), default=0)
        with RecordWriter(run_dir) as record:
            record.end(step, reason, message)


@contextmanager
def alone(run_dir: Path, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Keep all other processes out of a run's directory, the orphans of a killed sweep above all.

    The lock is the operating system's: it ends with the process that holds it.

    Raises:
        UserError: another process holds it longer than `patience_s` seconds.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    deadline = time.monotonic() + patience_s
    with open(run_dir / LOCK_NAME, "a", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(f"{run_dir}: another process is at work here") from None
                time.sleep(0.1)
        yield


def _write_failure(trial: Trial, run_dir: Path, error: Exception) -> None:
    """See to it that the record says what happened, also where the run never began."""
    try:
        run = read_run(run_dir) if has_record(run_dir) else None
        reason = one_line(error, MESSAGE_LENGTH)
        if run is not None and run.end is not None and reason in str(run.end["message"]):
            return
        experiment = trial.experiment
        with RecordWriter(run_dir) as record:
            if run is None or not run.experiment:
                record.start(
                    name=str(experiment.name),
                    label=str(experiment.label),
                    seed=experiment.seed,
                    experiment=experiment.to_dict(),
                    environment=describe_environment(),
                    sweep=trial.mark,
                )
            if not isinstance(error, UserError):
                reason = named(error, MESSAGE_LENGTH)
            step = max((line["step"] for line in run.steps), default=0) if run else 0
            record.end(step, "failed", reason)
    except OSError:
        os.write(2, f"surefoot: {run_dir}: {error}; nor could that be written down\n".encode())
