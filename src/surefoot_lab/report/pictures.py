"""Pictures on a page of their own, or as a section of the report."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from surefoot_lab.report.files import render, write_whole


@dataclass(frozen=True)
class Picture:
    """A PNG image with its title.

    Attributes:
        title: above the image.
        png: the content of the file.
        note: a few words after the title.
        alt: for those who do not see the image; empty for the title.
    """

    title: str
    png: bytes
    note: str = ""
    alt: str = ""

    @property
    def description(self) -> str:
        """The text for those who do not see the image."""
        return self.alt or self.title

    @property
    def width(self) -> int:
        """In pixels, from the file's header."""
        return int.from_bytes(self.png[16:20], "big")

    @property
    def uri(self) -> str:
        """The image as an address that needs no network."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


def write_pictures(
    pictures: Sequence[Picture],
    path: Path,
    *,
    title: str,
    facts: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write a page of pictures and facts that needs neither network nor script.

    Args:
        pictures: in order.
        path: the file to write.
        title: heading.
        facts: name and text of each.
    """
    html = render("pictures.html", title=title, pictures=pictures, facts=facts)
    return write_whole(path, html)
