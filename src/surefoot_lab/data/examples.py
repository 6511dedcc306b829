"""Examples in memory: inputs and labels, and how they are split."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from surefoot_lab.data.task import Classification, Task
from surefoot_lab.errors import UserError


@dataclass(frozen=True)
class Examples:
    """Inputs with their labels.

    Attributes:
        inputs: shape (count, ...). Images: uint8, (count, channels, height, width), 0 to 255. Text:
            int64 character numbers, (count, length). Tables: float32, (count, columns). Tensors of
            one's own: as they are. Images that stay on the disk are an `ImageFiles`, which gives
            such tensors where it is indexed.
        labels: shape (count, ...): int64 class numbers from 0, or float32 numbers.
    """

    inputs: Any
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, places: slice | Tensor) -> Examples:
        return Examples(self.inputs[places], self.labels[places])

    def to(self, device: torch.device) -> Examples:
        """The same examples on `device`."""
        return Examples(self.inputs.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set.

    Attributes:
        train: examples to train on.
        validation: examples to choose by; may be empty.
        test: examples to report on; may be empty.
        classes: names of the classes, by number; of a table, the name of its target.
        kind: what the inputs are.
        task: what is asked.
        statistics: the channels' mean and deviation on the scale 0 to 1, as published; None to
            measure them on the training images.
    """

    train: Examples
    validation: Examples
    test: Examples
    classes: tuple[str, ...]
    kind: Literal["images", "text", "table", "tensors"] = "images"
    task: Task = field(default_factory=Classification)
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    @property
    def channels(self) -> int:
        """Channels of an image, or columns of a table."""
        return int(self.train.inputs.shape[1])

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of an image; a row of a table counts as one pixel of many channels."""
        if self.kind == "table":
            return 1, 1
        return int(self.train.inputs.shape[2]), int(self.train.inputs.shape[3])

    @property
    def facts(self) -> dict[str, Any]:
        """What a network may want to know of the data, by the names of its arguments."""
        facts: dict[str, Any] = {"num_classes": len(self.classes)}
        if self.kind == "tensors" and self.train.inputs.dim() != 4:
            return facts  # of what shape they are, the network must know by itself
        if self.kind == "text":
            return {**facts, "sequence_length": int(self.train.inputs.shape[1])}
        return {**facts, "in_channels": self.channels, "image_size": self.image_size}

    def held_on(self, device: torch.device) -> Splits:
        """The same, with validation and test on `device` (the loader moves what it trains on)."""
        return replace(self, validation=self.validation.to(device), test=self.test.to(device))


def hold_out(examples: Examples, amount: float, seed: int, what: str) -> tuple[Examples, Examples]:
    """Split off a random part.

    Args:
        examples: what to split.
        amount: how many to hold out; below 1, their share.
        seed: of the random choice.
        what: name of the setting, for the error message.

    Returns:
        The remaining examples and those held out.

    Raises:
        UserError: nothing would remain.
    """
    if len(examples) == 0:
        raise UserError("data.root: the data set there is empty; choose another folder")
    count = held_out_count(len(examples), amount, what)
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(int(seed)))
    return examples[order[count:]], examples[order[:count]]


def held_out_count(total: int, amount: float, what: str) -> int:
    """How many of `total` are held out: `amount` itself, or below 1 that share.

    Raises:
        UserError: nothing would remain.
    """
    count = round(amount * total) if amount < 1 else int(amount)
    if count >= total:
        raise UserError(f"{what}: cannot hold out {count} of {total}; choose a smaller number")
    return count
