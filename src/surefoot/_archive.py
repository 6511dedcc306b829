"""Files that torch saves: whole or not there, and read back only if they are what was written."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

_DIGEST_BYTES = 64  # of SHA-256 in hexadecimal


def save_archive(content: Any, path: Path) -> None:
    """Write a file; the old one is there until the new one is whole.

    torch writes a ZIP archive, whose last two bytes are the length of a comment: that comment is
    the digest of everything before it.

    Raises:
        OSError: it cannot be written; the old file is still there.
    """
    archive = io.BytesIO()
    torch.save(content, archive)
    archive.seek(-2, io.SEEK_END)
    archive.write(_DIGEST_BYTES.to_bytes(2, "little"))
    archive.write(hashlib.sha256(archive.getvalue()).hexdigest().encode())
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(archive.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception:
        temporary.unlink(missing_ok=True)  # on a full disk, its room is needed
        raise


def load_archive(path: Path, remedy: str = "remove it to start anew") -> Any:
    """What :func:`save_archive` wrote, on the CPU; tensors and plain values only.

    Raises:
        ValueError: in one line with the remedy; a byte has changed, which torch itself does not
            look for, or there is more in it.
    """
    try:
        archive = path.read_bytes()
        _check_digest(archive)
        return torch.load(io.BytesIO(archive), weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises what it likes for damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path}: cannot be loaded ({reason}); {remedy}") from error


def _check_digest(archive: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        if not file.comment:  # written by version 0.1: ZIP's own checksums
            if (damaged := file.testzip()) is not None:
                raise ValueError(f"the checksum of {damaged} is wrong: bytes have changed")
            return
    digest = hashlib.sha256(archive[:-_DIGEST_BYTES]).hexdigest()
    if digest.encode() != archive[-_DIGEST_BYTES:]:
        raise ValueError("its checksum is wrong: bytes have changed since it was written")
