"""Who answers Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def answered(handler: Any, number: int = signal.SIGINT) -> Iterator[None]:
    """Let `handler` answer a signal, Ctrl-C if no other; nothing outside of the main thread.

    Python lets no other thread handle signals. Afterwards whoever answered before does again,
    whatever was set in between.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, former)
