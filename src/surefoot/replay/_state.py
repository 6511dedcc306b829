"""What a forward pass depends on besides weights and inputs, and whether it is a replay."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from surefoot._quiet import RngState

_here = threading.local()


def is_measuring() -> bool:
    """Whether the forward pass that asks is a replay: made to measure, not to train.

    For code inside a model's ``forward`` that must not run twice a step: counters, queues, logs.

    Example:
        >>> import surefoot
        >>> surefoot.is_measuring()
        False
    """
    return getattr(_here, "replays", 0) > 0


@contextlib.contextmanager
def replaying() -> Iterator[None]:
    """Inside, :func:`is_measuring` is true."""
    _here.replays = getattr(_here, "replays", 0) + 1
    try:
        yield
    finally:
        _here.replays -= 1


@dataclass
class Modes:
    """Tells evaluations from training, whatever mode the loop trains in.

    Attributes:
        has_trained: whether the model was seen in training mode.
        trains_anyway: whether the loop was then seen to train it in evaluation mode, as one does
            that calls ``eval()`` and never ``train()`` again.
    """

    has_trained: bool = False
    trains_anyway: bool = False
    _in_training: bool = False
    _in_evaluation: bool = False

    def is_evaluation(self, model: nn.Module) -> bool:
        """Whether a pass of the model that records a graph, in the mode that it is in, is one."""
        if model.training:
            self.has_trained = self._in_training = True
            self.trains_anyway = False
            return False
        self._in_evaluation = self.has_trained and not self.trains_anyway
        return self._in_evaluation

    def stepped(self) -> bool:
        """A step is made; whether its loss was taken for an evaluation."""
        mistaken = self._in_evaluation and not self._in_training
        self.trains_anyway = self.trains_anyway or mistaken
        self._in_training = self._in_evaluation = False
        return mistaken


@dataclass(frozen=True)
class Surroundings:
    """Random states and autocast, as they are before a forward pass."""

    devices: tuple[torch.device, ...]
    random: RngState
    autocast: tuple[tuple[str, bool, torch.dtype], ...]

    @classmethod
    def capture(cls, devices: Iterable[torch.device]) -> Surroundings:
        """What is now."""
        devices = tuple(devices)
        kinds = {"cpu", *(d.type for d in devices)} - {"meta"}
        autocast = tuple(
            (kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
            for kind in sorted(kinds)
        )
        return cls(devices, RngState.capture(devices), autocast)

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Inside, the same random numbers are drawn and the same casts made."""
        self.random.restore()
        with contextlib.ExitStack() as stack:
            for kind, enabled, dtype in self.autocast:
                stack.enter_context(torch.autocast(kind, enabled=enabled, dtype=dtype))
            torch.clear_autocast_cache()  # of the weights' casts, which move from one to the next
            stack.callback(torch.clear_autocast_cache)
            yield
