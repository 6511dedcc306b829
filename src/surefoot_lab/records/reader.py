"""Read the record of a run: whatever state it was left in, say what is there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surefoot_lab.records.writer import RECORD_NAME, SCHEMA

_LISTS = {"step": "steps", "measure": "measurements", "evaluation": "evaluations"}


@dataclass
class RunRecord:
    """Everything one run wrote down, with void lines already left out.

    Attributes:
        path: the run's directory.
        name: name of the run.
        label: the method, the same for all seeds; what a table shows.
        seed: the run's seed; None if the record has no start line.
        experiment: the resolved experiment.
        environment: versions and hardware of the process that wrote last.
        applied: settings as they were read back from what was built.
        sweep: `method` and `cell` of a sweep's trial; empty for a run of its own.
        steps: the `step` lines, in order.
        measurements: the `measure` lines, in order.
        evaluations: the `evaluation` lines, in order.
        end: the `end` line, or None if the run did not end (killed, or still running).
        problems: what was wrong with the file, one sentence each.
    """

    path: Path
    name: str = ""
    label: str = ""
    seed: int | None = None
    experiment: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    applied: dict[str, Any] = field(default_factory=dict)
    sweep: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    measurements: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] | None = None
    problems: list[str] = field(default_factory=list)


def read_run(run_dir: str | Path) -> RunRecord:
    """Read one run directory.

    Args:
        run_dir: a directory that holds `record.jsonl`.

    Returns:
        The record; corrupt lines are left out and named in its `problems`.

    Raises:
        FileNotFoundError: there is no record in the directory.
    """
    path = Path(run_dir)
    if not (path / RECORD_NAME).is_file():
        raise FileNotFoundError(f"{path} holds no {RECORD_NAME}: it is not a run directory")
    record = RunRecord(path=path, name=path.name, label=path.name)
    started = False
    for number, line in _lines(path / RECORD_NAME, record.problems):
        kind = line.get("kind")
        if kind == "start" and not started:
            started = True
            _take_start(record, line)
        elif kind in _LISTS and isinstance(line.get("step"), int):
            getattr(record, _LISTS[kind]).append(line)
        elif kind == "resume" and isinstance(line.get("step"), int):
            _take_resume(record, line)
        elif kind == "end" and isinstance(line.get("reason"), str):
            record.end = line
        else:
            record.problems.append(f"line {number}: a {kind!r} line that does not belong here")
    if not started:
        record.problems.append("no start line: the run's name, seed and experiment are unknown")
    return record


def read_runs(paths: Iterable[str | Path]) -> list[RunRecord]:
    """Read run directories, and all runs found below other directories.

    Args:
        paths: run directories, or directories that hold run directories at any depth.

    Returns:
        The records, each run once, in the order given and sorted by path below one directory.

    Raises:
        FileNotFoundError: a path does not exist, or no run is in it.
    """
    found: dict[Path, RunRecord] = {}
    for given in map(Path, paths):
        if not given.is_dir():
            raise FileNotFoundError(f"{given}: no such directory")
        runs = sorted(file.parent for file in given.rglob(RECORD_NAME))
        if not runs:
            raise FileNotFoundError(f"{given} holds no run (no {RECORD_NAME} in it or below)")
        for run in runs:
            if run.resolve() not in found:
                found[run.resolve()] = read_run(run)
    return list(found.values())


def _lines(path: Path, problems: list[str]) -> Iterable[tuple[int, dict[str, Any]]]:
    for number, raw in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        try:
            line = json.loads(raw, parse_constant=_refuse_constant)
        except ValueError:
            what = "not valid JSON" if raw.endswith(b"\n") else "cut off in the middle"
            problems.append(f"line {number}: {what}, left out")
            continue
        if isinstance(line, dict):
            yield number, line
        else:
            problems.append(f"line {number}: not a JSON object, left out")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _take_start(record: RunRecord, line: dict[str, Any]) -> None:
    if line.get("schema") != SCHEMA:
        record.problems.append(f"schema {line.get('schema')!r}: this version reads {SCHEMA}")
    for key in ("name", "label", "seed", "experiment", "environment"):
        if line.get(key) is not None:
            setattr(record, key, line[key])
        else:
            record.problems.append(f"the start line has no {key!r}")
    for key in ("applied", "sweep"):  # of newer records, and of trials
        if isinstance(line.get(key), dict):
            setattr(record, key, line[key])


def _take_resume(record: RunRecord, line: dict[str, Any]) -> None:
    """Void what the resumed run repeats: lines beyond its step, and a former end."""
    for name in _LISTS.values():
        kept = [old for old in getattr(record, name) if old["step"] <= line["step"]]
        setattr(record, name, kept)
    record.end = None
    record.environment = line.get("environment") or record.environment
