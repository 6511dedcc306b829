"""What a range test measured: plain numbers, and nothing that is done with them."""

from __future__ import annotations

from dataclasses import dataclass, field

from surefoot.lr_range.ramp import Ramp
from surefoot.lr_range.stop import StopReason
from surefoot.outcome import Cost


@dataclass(frozen=True)
class ValidationPoint:
    """One validation during a range test: after the step with index ``iteration``."""

    iteration: int
    lr: float
    loss: float
    accuracy: float | None
    samples: int


@dataclass(frozen=True)
class RangeData:
    """Loss against learning rate; :class:`~surefoot.RangeCurve` can be asked about it.

    Args:
        lr: learning rate of each iteration.
        loss: training loss of each iteration, mean over all processes; may end in NaN.
        ramp: the ramp that was walked, with the ranges of all param groups.
        stop: why the test ended.
        accuracy: training accuracy of each iteration's batch (0 to 1), or empty.
        validation: what was measured on the validation set, or empty.
        optimizer: name of the optimizer's class.
        batch_norm: whether the network has BatchNorm; None if unknown. :func:`consensus` reads it.
        cost: forward and backward passes spent, validation included.
        seconds: wall-clock time spent.
    """

    lr: list[float]
    loss: list[float]
    ramp: Ramp
    stop: StopReason = StopReason.FINISHED
    accuracy: list[float] = field(default_factory=list)
    validation: list[ValidationPoint] = field(default_factory=list)
    optimizer: str = ""
    batch_norm: bool | None = None
    cost: Cost = field(default_factory=Cost)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in ("loss", "accuracy"):
            length = len(getattr(self, name))
            if length != len(self.lr) and (name == "loss" or length):
                raise ValueError(f"{len(self.lr)} learning rates but {length} values of {name}")
