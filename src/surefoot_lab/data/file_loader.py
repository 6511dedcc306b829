"""Training batches from images that stay on the disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from surefoot_lab.data.files import ATTEMPTS, ImageFiles
from surefoot_lab.data.loader import Batch, TrainLoader
from surefoot_lab.errors import UserError


class FileLoader(TrainLoader):
    """Training batches from image files: the next batch is decoded while this one is trained on.

    All random numbers of a batch are drawn before it is decoded, so the position that is saved is
    that of the last batch handed out, and threads change nothing.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        if self._crop:
            raise UserError(
                "data.crop: images read from the disk are cropped at random scale and place "
                "already; leave it 0"
            )
        self._ahead: tuple[Callable[[], Batch], dict[str, Any]] | None = None
        self._position: dict[str, Any] | None = None

    def next_batch(self) -> Batch:
        """The next batch: normalized images and labels."""
        decode, self._position = self._ahead or self._begin()
        self._ahead = self._begin()
        return decode()

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch handed out."""
        return super().state_dict() if self._position is None else self._position

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position."""
        self._ahead = self._position = None
        super().load_state_dict(state)

    def _begin(self) -> tuple[Callable[[], Batch], dict[str, Any]]:
        """Draw a batch and begin to decode it; return what waits for it, and the position then."""
        decode = self._start(self._next_places(), self._generator)
        return decode, super().state_dict()

    def _start(self, places: Tensor, generator: torch.Generator) -> Callable[[], Batch]:
        files: ImageFiles = self._examples.inputs[places]
        numbers = torch.rand(len(files), ATTEMPTS, 4, generator=generator)
        mirrored = torch.rand(len(files), generator=generator) < (0.5 if self._flip else 0.0)
        futures = files.start_random_crops(numbers, mirrored)
        labels = self._examples.labels[places.to(self._device)]
        return lambda: (self._normalizer(torch.stack([f.result() for f in futures])), labels)

    def _batch(self, places: Tensor, generator: torch.Generator) -> Batch:
        return self._start(places, generator)()
