"""Write the record of a run: one line a fact, never rewritten."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from surefoot_lab.records.environment import describe_node
from surefoot_lab.values import plain

SCHEMA = 1
RECORD_NAME = "record.jsonl"
TRACEBACK_NAME = "traceback.txt"  # of a run that failed
RECORDED = "recorded_by_surefoot"  # attribute of an error that its run's record tells of
END_REASONS = ("finished", "non_finite", "interrupted", "failed", "stopped")
REPEATED = ("step", "measure", "evaluation", "warning")  # what a resumed run writes again
RESERVE_NAME = ".reserve"
RESERVE_BYTES = 8192


def has_record(run_dir: str | Path) -> bool:
    """Whether `run_dir` already holds the record of a run."""
    return os.path.exists(Path(run_dir) / RECORD_NAME)  # False also where nobody may look


class RecordWriter:
    """Append the lines of one run to `run_dir/record.jsonl`.

    Every line is handed to the operating system, so that a killed process loses none of them;
    evaluations, starts, resumes and ends are also forced to the disk. A line torn by an earlier
    crash is cut off before the first new line is written; one that a full disk tears, at once.
    While the writer is open, a small file holds room for the last line: a record on a full disk
    still says how its run ended.

    Args:
        run_dir: the run's directory; created if it is not there.

    Example:
        >>> import tempfile
        >>> with RecordWriter(tempfile.mkdtemp()) as record:
        ...     record.write("end", step=0, reason="finished", message=None)
    """

    def __init__(self, run_dir: str | Path) -> None:
        self.path = Path(run_dir) / RECORD_NAME
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            _repair_last_line(self.path)
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
        self._reserve = self.path.with_name(RESERVE_NAME)
        with suppress(OSError):  # without room for it, there may still be room for the lines
            self._reserve.write_bytes(os.urandom(RESERVE_BYTES))

    def start(
        self,
        experiment: Mapping[str, Any],
        environment: Mapping[str, Any],
        sweep: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the first line: what is run, where; of a trial its `method` and `cell`, too.

        Args:
            experiment: plain values, among them `name`, `label` and `seed`.
            environment: what `describe_environment` says.
            sweep: the trial's `method` and `cell`.
        """
        facts = {key: experiment[key] for key in ("name", "label", "seed")}
        facts |= {"experiment": experiment, "environment": environment}
        facts |= {} if sweep is None else {"sweep": sweep}
        about = {"schema": SCHEMA, "time": _now(), "node": describe_node()}
        self.write("start", sync=True, **about, **facts)

    def resume(self, step: int, environment: dict[str, Any]) -> None:
        """Declare that the run goes on from `step`: what it will write again is cut off.

        How it ended before stays.
        """
        with open(self.path, "rb") as file:
            content = file.read()
        count, ends = _void_end(content, step)
        self._file.truncate(len(content) - count)
        for line in ends:
            self._append(line)
        where = {"environment": environment, "node": describe_node()}
        self.write("resume", sync=True, step=step, time=_now(), **where)

    def evaluation(self, **fields: Any) -> None:
        """Write an evaluation, and force everything so far to the disk."""
        self.write("evaluation", sync=True, **fields)

    def end(self, step: int, reason: str, message: str | None = None) -> None:
        """Write how the run ended: one of `END_REASONS`."""
        fields = {"step": step, "reason": reason, "message": message}
        try:
            self.write("end", sync=True, **fields)
        except OSError:
            self._reserve.unlink(missing_ok=True)
            self.write("end", sync=True, **fields)

    def write(self, kind: str, *, sync: bool = False, **fields: Any) -> None:
        """Append one line; `sync` forces it to the disk.

        Raises:
            OSError: the line could not be written as a whole; nothing of it is left.
        """
        line = plain({"kind": kind, **fields})
        try:
            text = json.dumps(line, allow_nan=False, ensure_ascii=False)
        except ValueError:  # a number that JSON cannot hold
            line = {**to_jsonable_python(line, inf_nan_mode="null"), "non_finite": True}
            text = json.dumps(line, ensure_ascii=False)
        self._append(f"{text}\n".encode("utf-8", "replace"))  # half a character, of a file's name
        if sync:
            self.sync()

    def _append(self, line: bytes) -> None:
        """All of a line or nothing of it."""
        before = os.fstat(self._file.fileno()).st_size
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError:
            with suppress(OSError):  # no file to cut, such as a device
                self._file.truncate(before)
            raise

    def sync(self) -> None:
        """Force everything written so far to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()
        with suppress(OSError):
            self._reserve.unlink(missing_ok=True)

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _void_end(content: bytes, step: int) -> tuple[int, list[bytes]]:
    """How many bytes at the end of a record tell of what a run that resumes at `step` repeats.

    Returns:
        Their number, and of their lines those that say how the run ended.
    """
    void = 0
    ends: list[bytes] = []
    for raw in reversed(content.splitlines(keepends=True)):
        try:
            line = json.loads(raw)
            kind, place = line["kind"], line["step"]
        except (ValueError, KeyError, TypeError, RecursionError):
            break
        beyond = isinstance(place, int) and place >= step + (kind != "warning")
        if kind != "end" and not (kind in REPEATED and beyond):
            break
        void += len(raw)
        if kind == "end":
            ends.insert(0, raw)
    return void, ends


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _repair_last_line(path: Path) -> None:
    """Finish or cut a last line that a crash left without its line end."""
    content = path.read_bytes()
    if not content or content.endswith(b"\n"):
        return
    head, _, torn = content.rpartition(b"\n")
    try:
        json.loads(torn)
    except (ValueError, RecursionError):
        keep = len(head) + 1 if head else 0
        with open(path, "r+b") as file:
            file.truncate(keep)
    else:  # the line is whole, only its end is missing
        with open(path, "ab") as file:
            file.write(b"\n")
