"""What pages are made of, and how they come to disk."""

from __future__ import annotations

import os
import tempfile
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from surefoot_lab.compare import text


def asset(name: str) -> str:
    """The text of a file of this package."""
    content = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return content.replace("\r\n", "\n")


def render(name: str, **shown: Any) -> str:
    """A page, filled in: what is shown appears as text, whatever it holds."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.globals.update(
        words=text,
        style=asset("style.css"),
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    )
    return environment.get_template(name).render(shown)


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
