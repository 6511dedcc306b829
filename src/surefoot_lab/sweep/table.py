"""What a sweep came to, one run a row, always made anew from the records."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from surefoot_lab.compare import summarize_run
from surefoot_lab.records import RunRecord, has_record, read_run
from surefoot_lab.sweep.cells import Trial

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
    keys = list(dict.fromkeys(key for trial, _ in runs for key in trial.cell))
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["run", "method", *keys, "seed", "end", *FIGURES, *TIMES])
    for trial, run in runs:
        cell = [_plain(trial.cell.get(key)) for key in keys]
        head = [trial.fingerprint, trial.method, *cell, trial.experiment.seed, end_of(run)]
        summary = None if run is None else summarize_run(run)
        figures = (_plain(getattr(summary, name, None)) for name in FIGURES + TIMES)
        table.writerow([*head, *figures])
    path = folder / TABLE_NAME
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text.getvalue(), encoding="utf-8", newline="\n")
    os.replace(temporary, path)
    return path


def _plain(value: Any) -> Any:
    if value is None:
        return ""
    return value if isinstance(value, str | int | float) else json.dumps(value)
