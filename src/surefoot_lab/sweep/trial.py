"""One trial: an ordinary run in its own directory, gone on with where it was left."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from surefoot_lab.errors import UserError, named, of_the_system, one_line
from surefoot_lab.records import RecordWriter, RunRecord, describe_environment, has_record, read_run
from surefoot_lab.records.lock import PATIENCE_S, alone
from surefoot_lab.sweep.cells import Trial
from surefoot_lab.training import train
from surefoot_lab.training.log import MESSAGE_LENGTH

DONE = ("finished", "non_finite", "stopped")


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
        with RecordWriter(run_dir) as record:
            record.end(run.reached, reason, message)


def _write_failure(trial: Trial, run_dir: Path, error: Exception) -> None:
    """See to it that the record says what happened, also where the run never began."""
    try:
        run = read_run(run_dir) if has_record(run_dir) else None
        reason = one_line(error, MESSAGE_LENGTH)
        if run is not None and run.end is not None and reason in str(run.end["message"]):
            return
        with RecordWriter(run_dir) as record:
            if run is None or not run.experiment:
                record.start(trial.experiment.to_dict(), describe_environment(), trial.mark)
            if not isinstance(error, UserError):
                reason = named(error, MESSAGE_LENGTH)
            record.end(run.reached if run else 0, "failed", reason)
    except OSError:
        os.write(2, f"surefoot: {run_dir}: {error}; nor could that be written down\n".encode())
