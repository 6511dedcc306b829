"""Warnings: once of each kind, and at the line of the user's code."""

from __future__ import annotations

import sys
import warnings


class Notices:
    """Warns, once of each kind."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, kind: str, message: str) -> None:
        """Say it, unless that kind was said."""
        if kind not in self._told:
            self._told.add(kind)
            warnings.warn(message, stacklevel=_level_of_the_caller())


def _level_of_the_caller() -> int:
    """How many frames above the warning the user's code is."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(
        ("surefoot.", "torch.")
    ):
        frame, level = frame.f_back, level + 1
    return level
