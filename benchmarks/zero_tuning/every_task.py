"""The tasks of the suite and those that were kept back, by name."""

from __future__ import annotations

from pathlib import Path

from kept_back import SECOND_CONFIRMATION
from suite import CONFIRMATION, DEVELOPMENT, Task
from unseen import THIRD_CONFIRMATION

FIRST = {**DEVELOPMENT, **CONFIRMATION}
TASKS = {**THIRD_CONFIRMATION, **SECOND_CONFIRMATION, **FIRST}


def load(name: str, folder: Path, device: str = "cpu") -> Task:
    """The task of that name, its data on the device."""
    return TASKS[name](Path(folder), device)
