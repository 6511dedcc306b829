"""What pages are made of, and how they come to disk."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from surefoot_lab.compare import text
from surefoot_lab.text_files import write_whole


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


def write_pictures(
    pictures: Mapping[str, bytes], path: Path, *, title: str, facts: Sequence[tuple[str, str]] = ()
) -> Path:
    """Write a page of pictures and facts that needs neither network nor script.

    Args:
        pictures: PNG images by their titles, in order.
        path: the file to write.
        title: heading.
        facts: name and text of each.
    """
    images = [(name, base64.b64encode(png).decode()) for name, png in pictures.items()]
    return write_whole(path, render("pictures.html", title=title, pictures=images, facts=facts))
