"""One process at a time in a run's directory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from surefoot_lab.errors import UserError

LOCK_NAME = ".lock"
PATIENCE_S = 60.0  # for the last writer of a sweep that was killed a moment ago
_HELD: set[Path] = set()  # by this process


@contextmanager
def alone(run_dir: Path, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Keep all other processes out of a run's directory, the orphans of a killed sweep above all.

    The lock is the operating system's: it ends with the process that holds it. Who holds it may
    ask for it again.

    Raises:
        UserError: another process holds it longer than `patience_s` seconds.
    """
    place = run_dir.resolve()
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    if place in _HELD:
        yield
        return
    deadline = time.monotonic() + patience_s
    with open(run_dir / LOCK_NAME, "a", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise UserError(f"{run_dir}: another process is at work here") from None
                time.sleep(0.1)
            except OSError:  # a file system without locks
                break
        _HELD.add(place)
        try:
            yield
        finally:
            _HELD.discard(place)
