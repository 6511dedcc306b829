"""A text file as sequences of characters, each to be told from those before it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from surefoot_lab.config import DataConfig
from surefoot_lab.data.examples import Examples, Splits, held_out_count
from surefoot_lab.errors import UserError
from surefoot_lab.text_files import read_text


def text(config: DataConfig) -> Splits:
    """The characters of one file: its beginning to train on, then validation, its end to test on.

    The parts are contiguous, because a neighbouring sentence gives much away. The classes are all
    characters of the file.
    """
    characters, numbers = _read(config)
    end = len(numbers) - held_out_count(len(numbers), config.test, "data.test")
    middle = end - held_out_count(end, config.validation, "data.validation")
    train, validation, test = numbers[:middle], numbers[middle:end], numbers[end:]
    if len(train) <= config.sequence_length:
        raise UserError(
            f"data.sequence_length: {config.sequence_length} is too long for the {len(train)} "
            "characters to train on; choose a shorter one, or a longer text"
        )
    length = config.sequence_length
    parts = [_sequences(part, length) for part in (train, validation, test)]
    return Splits(parts[0], parts[1], parts[2], classes=characters, kind="text")


def _read(config: DataConfig) -> tuple[tuple[str, ...], Tensor]:
    """The characters that occur, and the whole text as their numbers."""
    if not config.root:
        raise UserError("data.root: text needs the path of a text file")
    path = Path(config.root)
    content = read_text(path, f"data.root: {path}", "a text file")
    if not content:
        raise UserError(f"data.root: {path}: is empty; name a text file")
    if len(set(content)) == 1:
        raise UserError(f"data.root: {path}: holds one character only, {content[0]!r}")
    code_points = np.frombuffer(content.encode("utf-32-le"), dtype="<u4")
    known, numbers = np.unique(code_points, return_inverse=True)
    characters = tuple(chr(point) for point in known)
    return characters, torch.from_numpy(numbers.reshape(-1).astype(np.int64))


def _sequences(numbers: Tensor, length: int) -> Examples:
    """Sequences side by side, and for each of their characters the one that follows it."""
    count = max(0, len(numbers) - 1) // length
    inputs, labels = numbers[: count * length], numbers[1 : count * length + 1]
    return Examples(inputs.view(count, length), labels[: count * length].view(count, length))
