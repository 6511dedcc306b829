"""Text files as people save them: in UTF-8, or in whatever encoding their first bytes name."""

from __future__ import annotations

import codecs
import gzip
import os
import zlib
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

GZIP = b"\x1f\x8b"
# What is often named in the place of a text, by its first bytes.
OTHERS = (
    (b"PK\x03\x04", "a zip archive or a spreadsheet"),
    (b"\xd0\xcf\x11\xe0", "a spreadsheet"),
    (b"PAR1", "a Parquet file"),
    (b"SQLite format 3\0", "a database"),
    (b"\x89HDF", "an HDF5 file"),
    (b"%PDF", "a PDF"),
    (b"version https://git-lfs", "a pointer of Git LFS (git lfs pull fetches what it stands for)"),
)


def read_text(path: Path, name: str, what: str) -> str:
    """The characters of a file, without its byte order mark; all ends of lines become one.

    What gzip has compressed is read as well.

    Args:
        path: the file.
        name: what the error message begins with.
        what: the kind of file that is wanted, for the error message.

    Raises:
        UserError: it is no file, cannot be read, or is no text.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_fifo()):  # a device has no end
            raise UserError(f"{name}: cannot be read (it is no file); name {what}")
        content = path.read_bytes()
        if content.startswith(GZIP):
            content = gzip.decompress(content)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UserError(f"{name}: cannot be read ({reason}); name {what}") from None
    kind = next((kind for mark, kind in OTHERS if content.startswith(mark)), None)
    if kind is not None:
        raise UserError(f"{name}: is {kind}; name {what}, or save it as one")
    encoding = next((code for mark, code in MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name}: is not UTF-8 text ({error.reason} at byte {error.start}); convert it first"
        ) from None
    if "\0" in text:
        raise UserError(
            f"{name}: holds zero bytes, so it is no UTF-8 text (perhaps UTF-16 without a mark); "
            "convert it first"
        )
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
    except OSError as error:
        error.filename = str(path)  # what the user knows of
        raise
    finally:
        part.unlink(missing_ok=True)
    return path
