"""Save and load everything a run needs to go on as if it had never stopped."""

from __future__ import annotations

import hashlib
import os
import random
import zipfile
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch

from surefoot_lab.config import UserError

CHECKPOINT_NAME = "checkpoint.pt"
SCHEMA = 2
PIECE_BYTES = 2**24  # read at a time
DIGEST_BYTES = 64  # of SHA-256 in hexadecimal
LENGTH_BYTES = 2  # of the number before a ZIP archive's comment


def save_checkpoint(
    run_dir: Path, state: dict[str, Any], random_states: list[dict[str, Any]] | None = None
) -> None:
    """Write the state and the random states; the old file is there until the new one is whole.

    Args:
        run_dir: the run's directory.
        state: everything else that the run needs.
        random_states: those of all processes, by rank; None for this process alone.

    Raises:
        OSError: the file cannot be written; the old one is still there.
    """
    content = {"schema": SCHEMA, "random": random_states or [random_state()], **state}
    path = run_dir / CHECKPOINT_NAME
    temporary = path.with_suffix(".tmp")
    try:
        _write(content, temporary)
        os.replace(temporary, path)
    except Exception:
        temporary.unlink(missing_ok=True)  # on a full disk, its room is needed
        raise


def _write(content: dict[str, Any], path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        target = _Target(file)
        try:
            torch.save(content, cast(IO[bytes], target))  # it only ever writes
            target.write_digest()
        except RuntimeError as error:  # what torch makes of a write that failed
            raise (target.error or error) from None
        os.fsync(file.fileno())


class _Target:
    """A file to write to that remembers what went wrong, and what all was written.

    torch writes a ZIP archive, whose last two bytes are the length of a comment: that comment will
    be the digest of everything before it. They are held back until it is known.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._last = b""
        self.error: OSError | None = None

    def write_digest(self) -> None:
        """Write the comment; nothing may be written after it."""
        length = DIGEST_BYTES.to_bytes(len(self._last), "little")
        self._digest.update(length)
        self._write(length + self._digest.hexdigest().encode())

    def write(self, content: Any) -> int:
        new = memoryview(content).cast("B")
        if len(new) < LENGTH_BYTES:
            new = memoryview(self._last + new.tobytes())
        else:
            self._put(self._last)
        self._last = new[-LENGTH_BYTES:].tobytes()
        self._put(new[:-LENGTH_BYTES])
        return memoryview(content).nbytes

    def _put(self, content: Any) -> None:
        self._digest.update(content)
        self._write(content)

    def _write(self, content: Any) -> None:
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Nothing is held back."""


def load_checkpoint(run_dir: Path) -> dict[str, Any] | None:
    """Read the state back; None if the run was stopped before its first checkpoint.

    Raises:
        UserError: the file cannot be read, a byte of it has changed since it was written, or it
            holds more than tensors and plain values.
    """
    path = run_dir / CHECKPOINT_NAME
    if not path.exists():
        return None
    try:
        _check_digest(path)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what it likes for damaged files
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: cannot be loaded ({reason}); start the run anew with --overwrite"
        ) from error
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        raise UserError(f"{path}: written by another version; start anew with --overwrite")
    return state


def _check_digest(path: Path) -> None:
    """Compare a checkpoint with the digest at its end; torch does not look at checksums.

    Raises:
        ValueError: they differ, or the file is no archive.
    """
    with zipfile.ZipFile(path) as file:
        if not file.comment:  # written before there were digests: ZIP's own checksums
            damaged = file.testzip()
            if damaged is not None:
                raise ValueError(f"the checksum of {damaged} is wrong: bytes have changed")
            return
    rest = path.stat().st_size - DIGEST_BYTES
    digest = hashlib.sha256()
    with open(path, "rb") as content:
        while rest > 0:
            piece = content.read(min(rest, PIECE_BYTES))
            digest.update(piece)
            rest -= len(piece)
        written = content.read()
    if digest.hexdigest().encode() != written:
        raise ValueError("its checksum is wrong: bytes have changed since it was written")


def restore_random_state(state: dict[str, Any], rank: int = 0) -> bool:
    """Put a process's random states back, as the last thing before training goes on.

    Returns:
        Whether there was such a process when the checkpoint was written.
    """
    if rank >= len(state["random"]):
        return False
    saved = state["random"][rank]
    torch.set_rng_state(saved["torch"])
    if torch.cuda.is_available():
        for device, cuda in enumerate(saved["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(cuda, device)
    version, internal, gauss = saved["python"]
    random.setstate((version, tuple(internal.tolist()), gauss))
    name, keys, position, has_gauss, cached = saved["numpy"]
    keys = keys.numpy().astype(np.uint32)
    np.random.set_state((name, keys, position, has_gauss, cached))  # noqa: NPY002
    return True


def random_state() -> dict[str, Any]:
    """All global random states, as tensors and plain values that a weights-only load accepts."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": (version, torch.tensor(internal), gauss),
        "numpy": (name, torch.tensor(np.asarray(keys, np.int64)), position, has_gauss, cached),
    }
