"""One process at a time in a run's directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from surefoot_lab.errors import UserError

LOCK_NAME = ".lock"
PATIENCE_S = 60.0  # for the last writer of a sweep that was killed a moment ago


@contextmanager
def alone(run_dir: Path, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Keep all other processes out of a run's directory, the orphans of a killed sweep above all.

    The lock is the operating system's: it ends with the process that holds it. Who holds it may
    ask for it again.

    Raises:
        UserError: another process holds it longer than `patience_s` seconds.
    """
    lock = FileLock(run_dir.resolve() / LOCK_NAME, thread_local=False, is_singleton=True)
    try:
        lock.acquire(timeout=patience_s)
    except Timeout:
        raise UserError(f"{run_dir}: another process is at work here") from None
    try:
        yield
    finally:
        lock.release()
