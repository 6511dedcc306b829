"""Text files as people save them: in UTF-8, or in whatever encoding their first bytes name."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from surefoot_lab.errors import UserError, one_line

# The longer marks first: UTF-32's begins with UTF-16's.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path, name: str, what: str) -> str:
    """The characters of a file, without its byte order mark; all ends of lines become one.

    Args:
        path: the file.
        name: what the error message begins with.
        what: the kind of file that is wanted, for the error message.

    Raises:
        UserError: it is no file, cannot be read, or is no text.
    """
    try:
        if path.exists() and not path.is_file():  # a device would be read without end
            raise UserError(f"{name}: cannot be read (it is no file); name {what}")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UserError(f"{name}: cannot be read ({reason}); name {what}") from None
    encoding = next((code for mark, code in MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name}: is not UTF-8 text ({error.reason} at byte {error.start}); convert it first"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def write_whole(path: Path, text: str) -> Path:
    """Write a text; the file appears whole or not at all, and the old one is there until then.

    Raises:
        OSError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8", errors="replace", newline="\n")
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return path
