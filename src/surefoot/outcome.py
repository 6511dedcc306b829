"""What a line search reports: where it stopped, why, and what it cost. No torch here."""

from __future__ import annotations

import dataclasses
import enum
import math
from dataclasses import dataclass, field
from typing import Any

from surefoot.parabola import Parabola


class Status(str, enum.Enum):
    """Why a step has the length it has. A string, so that it can be logged and saved as it is."""

    MINIMUM = "minimum"
    """The step goes to (a multiple of) a measured minimum."""
    CAPPED = "capped"
    """The measured minimum lies beyond the maximum length; the step ends there."""
    ACCEPTED = "accepted"
    """The place meets the search's own condition, which is weaker than being a minimum."""
    EXHAUSTED = "exhausted"
    """The evaluations ran out first; the step goes to the best safe place seen, or nowhere."""
    FIXED = "fixed"
    """The step was given, not measured."""
    NOT_CONVEX = "not_convex"
    """The loss falls, but the measured points have no minimum; the method's fallback was taken."""
    NOT_DESCENT = "not_descent"
    """The loss does not fall along the direction; no step, or the last one kept."""
    FLAT = "flat"
    """The differences drown in rounding: nothing was measured; no step, or the last one kept."""
    NON_FINITE = "non_finite"
    """A loss, gradient or direction was NaN or infinite; the trial was rejected."""
    MISFIT = "misfit"
    """The losses lie on no parabola; the cautious end of what they allow was taken."""
    REUSED = "reused"
    """An earlier measurement was used again."""
    COLLECTING = "collecting"
    """This batch went into a measurement that still waits for more; the weights did not move."""
    ACCUMULATING = "accumulating"
    """This batch's gradient was added to a larger batch; the weights did not move."""

    @property
    def measured(self) -> bool:
        """Whether the step ended a measurement (as opposed to using or preparing one)."""
        return self not in (Status.REUSED, Status.COLLECTING, Status.ACCUMULATING, Status.FIXED)

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Cost:
    """How many passes through the network were spent.

    Args:
        forwards: evaluations of the loss, those that a backward pass followed included.
        backwards: backward passes.
        probes: those of the forwards that were made away from the starting point of a step, or
            only to measure.
    """

    forwards: int = 0
    backwards: int = 0
    probes: int = 0

    @property
    def forward_equivalents(self) -> int:
        """Forwards plus twice the backwards: the field's rule of thumb for arithmetic."""
        return self.forwards + 2 * self.backwards

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.forwards + other.forwards,
            self.backwards + other.backwards,
            self.probes + other.probes,
        )

    def __sub__(self, other: Cost) -> Cost:
        return self + Cost(-other.forwards, -other.backwards, -other.probes)


@dataclass(frozen=True)
class StepOutcome:
    """One step of a line-search optimizer.

    Args:
        t: place on the line where the step ended, a multiple of the direction, α included.
        length: Euclidean distance moved, ``t · direction_norm``.
        status: why this length.
        value0: loss at the starting point (over all batches of the measurement).
        slope0: derivative of the loss along the direction at the start, per unit of ``t``; None
            where no slope was needed.
        direction_norm: Euclidean norm of the direction, over all groups.
        effective_lr: learning rate that a plain SGD step along the gradient (or the momentum
            buffer) would have needed for the same move; the largest over the groups.
        parabola: the measured parabola, None where none was measured.
        cost: passes spent in this step.
        ratios: what each group's rate was multiplied by beside the common one; None where that is
            not measured.
        weight_decay: by group, as it was applied; None where that is the groups' own.
        noise_scale: of the gradient, in batches of the size in use; None where not measured.
    """

    t: float
    length: float
    status: Status
    value0: float
    slope0: float | None = None
    direction_norm: float = math.nan
    effective_lr: float = 0.0
    parabola: Parabola | None = None
    cost: Cost = field(default_factory=Cost)
    ratios: tuple[float, ...] | None = None
    weight_decay: tuple[float, ...] | None = None
    noise_scale: float | None = None

    @property
    def measured(self) -> bool:
        """Whether the step ended a measurement; one that a bound alone shortened did not."""
        alone = self.status is Status.CAPPED and math.isnan(self.value0)
        return self.status.measured and not alone

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for logs and records (NaN and infinities stay floats)."""
        return dataclasses.asdict(self) | {"status": self.status.value}
