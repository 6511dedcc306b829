"""What a sweep came to, one run a row, always made anew from the records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from surefoot_lab.compare import summarize_run
from surefoot_lab.records import RunRecord, has_record, read_run
from surefoot_lab.sweep.cells import Trial
from surefoot_lab.text_files import write_whole

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
