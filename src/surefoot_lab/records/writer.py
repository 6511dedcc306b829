"""Write the record of a run: one line a fact, never rewritten."""

from __future__ import annotations

import json
import math
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

SCHEMA = 1
RECORD_NAME = "record.jsonl"
END_REASONS = ("finished", "non_finite", "interrupted", "failed", "stopped")


def has_record(run_dir: str | Path) -> bool:
    """Whether `run_dir` already holds the record of a run."""
    return (Path(run_dir) / RECORD_NAME).exists()


class RecordWriter:
    """Append the lines of one run to `run_dir/record.jsonl`.

    Every line is flushed to the operating system, so that a killed process loses none of them;
    evaluations, starts, resumes and ends are also forced to the disk. A line torn by an earlier
    crash is cut off before the first new line is written.

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
        self._file = open(self.path, "a", encoding="utf-8", newline="\n")  # noqa: SIM115

    def start(
        self,
        *,
        name: str,
        label: str,
        seed: int,
        experiment: dict[str, Any],
        environment: dict[str, Any],
        applied: dict[str, Any] | None = None,
        sweep: dict[str, Any] | None = None,
    ) -> None:
        """Write the first line: what is run, where.

        Args:
            name: what is studied.
            label: the method, as tables show it.
            seed: the run's seed.
            experiment: the resolved experiment.
            environment: versions and hardware.
            applied: settings as read back from what was built.
            sweep: `method` and `cell` of a trial; None for a run of its own.
        """
        self.write(
            "start",
            sync=True,
            schema=SCHEMA,
            name=name,
            label=label,
            seed=seed,
            time=_now(),
            experiment=experiment,
            environment=environment,
            **({} if applied is None else {"applied": applied}),
            **({} if sweep is None else {"sweep": sweep}),
        )

    def resume(self, step: int, environment: dict[str, Any]) -> None:
        """Declare that the run goes on from `step`: earlier lines beyond it are void."""
        self.write("resume", sync=True, step=step, time=_now(), environment=environment)

    def evaluation(self, **fields: Any) -> None:
        """Write an evaluation, and force everything so far to the disk."""
        self.write("evaluation", sync=True, **fields)

    def end(self, step: int, reason: str, message: str | None = None) -> None:
        """Write how the run ended: one of `END_REASONS`."""
        self.write("end", sync=True, step=step, reason=reason, message=message)

    def write(self, kind: str, *, sync: bool = False, **fields: Any) -> None:
        """Append one line; `sync` forces it to the disk."""
        clean, non_finite = _strict({"kind": kind, **fields})
        if non_finite:
            clean["non_finite"] = True
        self._file.write(json.dumps(clean, allow_nan=False, ensure_ascii=False) + "\n")
        self._file.flush()
        if sync:
            self.sync()

    def sync(self) -> None:
        """Force everything written so far to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _strict(value: Any) -> tuple[Any, bool]:
    """Replace every number that JSON cannot hold by null; say whether there was one."""
    if isinstance(value, float):
        return (value, False) if math.isfinite(value) else (None, True)
    if isinstance(value, dict):
        pairs = {str(key): _strict(item) for key, item in value.items()}
        return {key: item for key, (item, _) in pairs.items()}, any(
            bad for _, bad in pairs.values()
        )
    if isinstance(value, list | tuple):
        items = [_strict(item) for item in value]
        return [item for item, _ in items], any(bad for _, bad in items)
    return value, False


def _repair_last_line(path: Path) -> None:
    """Finish or cut a last line that a crash left without its line end."""
    content = path.read_bytes()
    if not content or content.endswith(b"\n"):
        return
    head, _, torn = content.rpartition(b"\n")
    try:
        json.loads(torn)
    except ValueError:
        keep = len(head) + 1 if head else 0
        with open(path, "r+b") as file:
            file.truncate(keep)
    else:  # the line is whole, only its end is missing
        with open(path, "ab") as file:
            file.write(b"\n")
