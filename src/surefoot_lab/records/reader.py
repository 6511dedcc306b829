"""Read the record of a run: whatever state it was left in, say what is there."""

from __future__ import annotations

import errno
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surefoot_lab.records.views import as_html, in_a_line
from surefoot_lab.records.writer import RECORD_NAME, SCHEMA, has_record

_LISTS = {"step": "steps", "measure": "measurements", "evaluation": "evaluations"}
_START = {"name": str, "label": str, "seed": int, "experiment": dict, "environment": dict}
_MOST_STEPS = 2**53  # whole numbers up to here are exact wherever they are shown
_LARGEST = 1e100  # beyond it, no run got there and squares overflow
_FIGURES = ("train_loss", "loss", "accuracy", "effective_lr", "forwards", "backwards", "seconds")


@dataclass(repr=False)
class RunRecord:
    """Everything one run wrote down, with void lines already left out.

    Attributes:
        path: the run's directory.
        name: name of the run.
        label: the method, the same for all seeds; what a table shows.
        seed: the run's seed; None if the record has no start line.
        experiment: the resolved experiment.
        environment: versions and hardware of the process that wrote last.
        node: `host` that wrote last, and `ray`, its node in a Ray cluster.
        sweep: `method` and `cell` of a sweep's trial; empty for a run of its own.
        steps: the `step` lines, in order. In these and in evaluations `cost` is added, the
            forward-equivalents so far, and a figure that is no number a run can reach is None.
        measurements: the `measure` lines, in order.
        evaluations: the `evaluation` lines, in order.
        warnings: the `warning` lines, in order: `message`, and `step`, the steps done before.
        end: the `end` line, or None if the run did not end (killed, or still running).
        problems: what was wrong with the file, one sentence each.
    """

    path: Path
    name: str = ""
    label: str = ""
    seed: int | None = None
    experiment: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    node: dict[str, Any] = field(default_factory=dict)
    sweep: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    measurements: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] | None = None
    problems: list[str] = field(default_factory=list)

    def to_pandas(self) -> Any:
        """Steps, measurements and evaluations as a pandas DataFrame, a line a row, by step."""
        import pandas

        lines = [*self.steps, *self.measurements, *self.evaluations]
        return pandas.DataFrame(sorted(lines, key=lambda line: line["step"]))

    @property
    def reached(self) -> int:
        """The last step that a line tells of."""
        return max((line["step"] for line in self.steps + self.evaluations), default=0)

    def split(self, name: str) -> list[dict[str, Any]]:
        """The evaluations on `validation` or `test`."""
        return [line for line in self.evaluations if line.get("split") == name]

    def setting(self, key: str) -> Any:
        """What the experiment has for a dotted key; None where it has nothing."""
        value: Any = self.experiment
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def __repr__(self) -> str:
        return in_a_line(self)

    def _repr_html_(self) -> str:
        return as_html(self)


def read_run(run_dir: str | Path) -> RunRecord:
    """Read one run directory.

    Args:
        run_dir: a directory that holds `record.jsonl`.

    Returns:
        The record; lines that are corrupt or repeated are left out and named in its `problems`,
        as is a file that cannot be read at all.

    Raises:
        FileNotFoundError: there is no record in the directory.
    """
    path = Path(run_dir)
    if not has_record(path):
        raise FileNotFoundError(f"{path} holds no {RECORD_NAME}: it is not a run directory")
    record = RunRecord(path=path, name=path.name, label=path.name)
    try:
        if not (path / RECORD_NAME).is_file():  # a device would be read without end
            raise OSError(errno.EINVAL, "is not a file")
        content = (path / RECORD_NAME).read_bytes()
    except OSError as error:
        record.problems.append(f"{RECORD_NAME} cannot be read: {error.strerror}")
        return record
    started = False
    for number, line in _lines(content, record.problems):
        if line.get("kind") == "start" and not started:
            started = True
            _take_start(record, line)
        elif (why := _take(record, line)) is not None:
            record.problems.append(f"line {number}: {why}, left out")
    if not started:
        record.problems.append("no start line: the run's name, seed and experiment are unknown")
    return record


def read_runs(paths: str | Path | Iterable[str | Path]) -> list[RunRecord]:
    """Read run directories, and all runs found below other directories.

    Args:
        paths: run directories, or directories that hold run directories at any depth; or one.

    Returns:
        The records, each run once, in the order given and sorted by path below one directory.

    Raises:
        FileNotFoundError: a path does not exist, or no run is in it.
    """
    found: dict[Path, RunRecord] = {}
    for given in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        if not given.is_dir():
            raise FileNotFoundError(f"{given}: no such directory")
        runs = sorted(file.parent for file in given.rglob(RECORD_NAME))
        if not runs:
            raise FileNotFoundError(f"{given} holds no run (no {RECORD_NAME} in it or below)")
        for run in runs:
            if run.resolve() not in found:
                found[run.resolve()] = read_run(run)
    return list(found.values())


def _lines(content: bytes, problems: list[str]) -> Iterable[tuple[int, dict[str, Any]]]:
    for number, raw in enumerate(io.BytesIO(content), start=1):
        try:
            line = json.loads(raw, parse_constant=_refuse_constant)
            if b"\\u" in raw:  # half a character, which no page and no terminal can show
                json.dumps(line, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
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
    for key, kind in _START.items():
        if isinstance(line.get(key), kind):
            setattr(record, key, line[key])
        else:
            record.problems.append(f"the start line has no usable {key!r}")
    for key in ("node", "sweep"):  # of newer records, and of trials
        if isinstance(line.get(key), dict):
            setattr(record, key, line[key])
    if not isinstance(record.sweep.get("cell", {}), dict):
        record.problems.append("the start line has no usable 'sweep'")
        record.sweep = {}


def _take(record: RunRecord, line: dict[str, Any]) -> str | None:
    """Put a line where it belongs; where it does not, say why."""
    kind, step = line.get("kind"), line.get("step")
    placed = type(step) is int and 0 <= step < _MOST_STEPS
    if kind == "end" and isinstance(line.get("reason"), str):
        record.end = line
    elif kind == "resume" and placed:
        _take_resume(record, line)
    elif kind == "warning" and placed and isinstance(line.get("message"), str):
        record.warnings.append(line)
    elif kind in ("step", "measure", "evaluation") and placed:
        return _take_fact(record, line, getattr(record, _LISTS[str(kind)]))
    else:
        return f"a {str(kind)[:40]!r} line that does not belong here"
    return None


def _take_fact(record: RunRecord, line: dict[str, Any], facts: list[dict[str, Any]]) -> str | None:
    """Steps rise: a line that does not go on from the last of its kind was written twice."""
    split = line.get("split")
    last = next((old["step"] for old in reversed(facts) if old.get("split") == split), -1)
    if line["step"] <= last:
        return f"step {line['step']} of a {line['kind']!r} line comes after step {last}"
    kept: dict[str, Any] = {key: _sound(key, value) for key, value in line.items()}
    if line["kind"] != "measure":
        passes: Any = kept.get("forwards"), kept.get("backwards")
        kept["cost"] = None if None in passes else passes[0] + 2 * passes[1]
    facts.append(kept)
    return None


def _sound(key: str, value: Any) -> Any:
    """Null in place of what no figure can be made of."""
    if isinstance(value, list) and (key == "effective_lr" or key not in _FIGURES):
        return [_sound(key, item) for item in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return None if abs(value) > _LARGEST else value
    return None if key in _FIGURES else value


def _take_resume(record: RunRecord, line: dict[str, Any]) -> None:
    """Void what the resumed run repeats: lines beyond its step, and a former end."""
    for name in _LISTS.values():
        kept = [old for old in getattr(record, name) if old["step"] <= line["step"]]
        setattr(record, name, kept)
    record.warnings = [old for old in record.warnings if old["step"] < line["step"]]
    record.end = None
    if isinstance(line.get("environment"), dict):
        record.environment = line["environment"]
    if isinstance(line.get("node"), dict):
        record.node = line["node"]
