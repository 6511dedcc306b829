"""Save and load everything a run needs to go on as if it had never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from surefoot._archive import load_archive, save_archive
from surefoot._quiet import RngState
from surefoot_lab.errors import UserError

CHECKPOINT_NAME = "checkpoint.pt"
SCHEMA = 2


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
    save_archive(content, run_dir / CHECKPOINT_NAME)


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
        state: Any = load_archive(path, "start the run anew with --overwrite")
    except ValueError as error:
        raise UserError(str(error)) from error
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        raise UserError(f"{path}: written by another version; start anew with --overwrite")
    return state


def random_state() -> dict[str, Any]:
    """All global random states, as tensors and plain values."""
    return RngState.capture(_devices()).to_dict()


def restore_random_state(state: dict[str, Any], rank: int = 0) -> bool:
    """Put a process's random states back, as the last thing before training goes on.

    Returns:
        Whether there was such a process when the checkpoint was written.
    """
    if rank >= len(state["random"]):
        return False
    saved = dict(state["random"][rank])
    if "torch" in saved:  # as version 0.1 wrote them
        saved |= {f"cuda:{place}": kept for place, kept in enumerate(saved.pop("cuda"))}
        saved["cpu"] = saved.pop("torch")
    there = ("cpu", "python", "numpy", *map(str, _devices()))
    RngState.from_dict({name: kept for name, kept in saved.items() if name in there}).restore()
    return True


def _devices() -> list[torch.device]:
    return [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
