"""Save and load everything a run needs to go on as if it had never stopped."""

from __future__ import annotations

import hashlib
import io
import os
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from surefoot_lab.errors import UserError, one_line

CHECKPOINT_NAME = "checkpoint.pt"
SCHEMA = 2
DIGEST_BYTES = 64  # of SHA-256 in hexadecimal


def save_checkpoint(
    run_dir: Path, state: dict[str, Any], random_states: list[dict[str, Any]] | None = None
) -> None:
    """Write the state and the random states; the old file is there until the new one is whole.

    torch writes a ZIP archive, whose last two bytes are the length of a comment: that comment is
    the digest of everything before it.

    Args:
        run_dir: the run's directory.
        state: everything else that the run needs.
        random_states: those of all processes, by rank; None for this process alone.

    Raises:
        OSError: the file cannot be written; the old one is still there.
    """
    content = io.BytesIO()
    torch.save({"schema": SCHEMA, "random": random_states or [random_state()], **state}, content)
    content.seek(-2, io.SEEK_END)
    content.write(DIGEST_BYTES.to_bytes(2, "little"))
    content.write(hashlib.sha256(content.getvalue()).hexdigest().encode())
    path = run_dir / CHECKPOINT_NAME
    temporary = path.with_suffix(".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception:
        temporary.unlink(missing_ok=True)  # on a full disk, its room is needed
        raise


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
        content = path.read_bytes()
        _check_digest(content)
        state: dict[str, Any] = torch.load(
            io.BytesIO(content), map_location="cpu", weights_only=True
        )
    except Exception as error:  # torch raises what it likes for damaged files
        raise UserError(
            f"{path}: cannot be loaded ({one_line(error)}); start the run anew with --overwrite"
        ) from error
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        raise UserError(f"{path}: written by another version; start anew with --overwrite")
    return state


def _check_digest(content: bytes) -> None:
    """Compare a checkpoint with the digest at its end; torch does not look at checksums.

    Raises:
        ValueError: they differ, or the file is no archive.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        if not file.comment:  # written before there were digests: ZIP's own checksums
            damaged = file.testzip()
            if damaged is not None:
                raise ValueError(f"the checksum of {damaged} is wrong: bytes have changed")
            return
    digest = hashlib.sha256(content[:-DIGEST_BYTES]).hexdigest()
    if digest.encode() != content[-DIGEST_BYTES:]:
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
