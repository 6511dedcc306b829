"""What pages are made of, and how they come to disk."""

from __future__ import annotations

import os
import tempfile
from importlib import resources
from pathlib import Path

import jinja2


def asset(name: str) -> str:
    """The text of a file of this package."""
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")


def template(name: str) -> jinja2.Template:
    """A page or a part of one, to be filled in; what is filled in is shown as text."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(asset(name))


def write_whole(path: Path, html: str) -> Path:
    """Write a page; it appears whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with open(handle, "w", encoding="utf-8", errors="replace", newline="\n") as file:
            file.write(html)
        os.chmod(part, 0o644)  # mkstemp's files are private, a report is made to be shared
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise
    return path
