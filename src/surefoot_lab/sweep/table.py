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
from surefoot_lab.records import has_record, read_run
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


def write_table(trials: Sequence[Trial], folder: Path) -> Path:
    """Write `table.csv`: the cells in the order of the file, with what became of each.

    Args:
        trials: all of them, run or not.
        folder: the sweep's directory.
    """
    keys = list(dict.fromkeys(key for trial in trials for key in trial.cell))
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["run", "method", *keys, "seed", "end", *FIGURES, *TIMES])
    for trial in trials:
        table.writerow(_row(trial, folder / trial.fingerprint, keys))
    path = folder / TABLE_NAME
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text.getvalue(), encoding="utf-8", newline="\n")
    os.replace(temporary, path)
    return path


def _row(trial: Trial, run_dir: Path, keys: Sequence[str]) -> list[Any]:
    cell = [_plain(trial.cell.get(key)) for key in keys]
    head = [trial.fingerprint, trial.method, *cell, trial.experiment.seed]
    if not has_record(run_dir):
        return [*head, "missing", *([""] * len(FIGURES + TIMES))]
    record = read_run(run_dir)
    summary = summarize_run(record)
    end = (record.end or {"reason": "unfinished"})["reason"]
    return [*head, end, *(_plain(getattr(summary, name)) for name in FIGURES + TIMES)]


def _plain(value: Any) -> Any:
    if value is None:
        return ""
    return value if isinstance(value, str | int | float) else json.dumps(value)
