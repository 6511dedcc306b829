"""What a user is told: one line that names the culprit and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class UserError(Exception):
    """Input that cannot be used; the message is one line that names the culprit and the remedy."""


@contextmanager
def of_the_system(place: object) -> Iterator[None]:
    """Tell what the system says about a file, or else about `place`, as a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not the system, but a library about a file's content
            raise
        raise UserError(f"{error.filename or place}: {error.strerror}") from error


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """A closing phrase that names the nearest known word, or lists the known ones."""
    spelled = {name.lower(): name for name in known}  # Adamw is AdamW before it is Adam
    near = difflib.get_close_matches(word.lower(), spelled, n=1, cutoff=0.6)
    if near:
        return f"did you mean {spelled[near[0]]!r}?"
    return f"known: {', '.join(known)}" if known else "none is known"


def one_line(error: BaseException, length: int = 200) -> str:
    """What an exception says, on one line; its name where it says nothing."""
    return " ".join(str(error).split())[:length] or type(error).__name__


def named(error: BaseException, length: int = 200) -> str:
    """The kind of an exception and what it says, on one line."""
    kind, said = type(error).__name__, one_line(error, length)
    return kind if said == kind else f"{kind}: {said}"
