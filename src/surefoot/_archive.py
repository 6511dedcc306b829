"""Files that torch saved, read back only if they are what was written."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch


def load_archive(path: Path) -> Any:
    """What `torch.save` wrote, on the CPU; tensors and plain values only.

    Raises:
        ValueError: in one line; the file is damaged, which torch itself does not look for.
    """
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises what it likes for damaged files
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: cannot be loaded ({reason}); remove it to start anew") from error
