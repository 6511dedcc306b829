"""What every search is: a rule that turns a line into a place on it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from surefoot.line import Walkable
from surefoot.outcome import Status, StepOutcome
from surefoot.parabola import Parabola


class Search(ABC):
    """A step-size rule: asks a line for values, returns where to stop and why.

    A search never moves weights itself and never raises for a strange loss: NaN, plateaus and
    ascent are statuses. Its outcome's ``t`` is 0 where it found nothing better than the start.

    :class:`surefoot.LineSearch` makes an optimizer of it. There a search that learns from step to
    step is one that :meth:`after` replaces: a frozen dataclass of plain values, which a checkpoint
    keeps. Where it has a field ``rounding`` of 0, that is the rounding error of the losses.

    Attributes:
        compares_losses: whether the loss must be the same when it is evaluated again.
        takes_slope0: whether it needs how steep the start is, not only whether it falls.
        takes_slopes: whether it asks for slopes away from the start.
        compares_batches: whether it wants to know how noisy a batch is: see :meth:`knowing`.
        internal: fields that an optimizer sets, not its user.
    """

    compares_losses: ClassVar[bool] = True
    takes_slope0: ClassVar[bool] = True
    takes_slopes: ClassVar[bool] = False
    compares_batches: ClassVar[bool] = False
    internal: ClassVar[tuple[str, ...]] = ("rounding",)

    @abstractmethod
    def __call__(self, line: Walkable) -> StepOutcome:
        """Search ``line``."""

    def after(self, found: StepOutcome) -> Search:
        """The search of the next step, where this one has ``found`` its place."""
        return self

    def knowing(self, line: Any) -> Search:
        """This search with the noise of the batch in it; asked where it compares batches.

        Args:
            line: one that tells, ``line.noise_within(t)`` and ``line.noise_between``.
        """
        return self


def outcome(
    line: Walkable, t: float, status: Status, parabola: Parabola | None = None
) -> StepOutcome:
    """A :class:`StepOutcome` for the place ``t`` on ``line``."""
    slope0, norm = line.slope0 if parabola is None else parabola.slope0, line.direction_norm
    return StepOutcome(t, t * norm, status, line.value0, slope0, norm, parabola=parabola)


def refusal(line: Walkable) -> StepOutcome | None:
    """Why no search from this start makes sense; None where one does.

    Raises:
        ValueError: if the slope at the start is not known.
    """
    slope0 = line.slope0
    if slope0 is None:
        raise ValueError("this search needs the slope at t = 0")
    if not all_finite(line.value0, slope0):
        return outcome(line, 0.0, Status.NON_FINITE)
    if slope0 >= 0.0:
        return outcome(line, 0.0, Status.NOT_DESCENT if slope0 > 0.0 else Status.FLAT)
    return None


def vertex_within(
    parabola: Parabola,
    far: float,
    values: Sequence[float],
    rounding: float,
    max_t: float = math.inf,
) -> tuple[float, Status]:
    """The place of a parabola's minimum, ``max_t`` at most; else 0, and why there is none ahead.

    Departure of all methods: where neither fall nor bend can be told from rounding, nothing was
    measured.

    Args:
        parabola: through the losses.
        far: the farthest place that was measured.
        values: the losses.
        rounding: relative rounding error of a loss.
        max_t: farthest place.
    """
    bends = not drowns(0.5 * parabola.curvature * far * far, values, rounding)
    if not bends and drowns(parabola.slope0 * far, values, rounding):
        return 0.0, Status.FLAT
    if parabola.slope0 >= 0.0:
        return 0.0, Status.NOT_DESCENT
    t = parabola.vertex if bends else None
    if t is None:
        return 0.0, Status.NOT_CONVEX
    return (max_t, Status.CAPPED) if t > max_t else (t, Status.MINIMUM)


def drowns(difference: float, values: Sequence[float], rounding: float) -> bool:
    """Whether a difference of losses is no larger than the rounding of those losses."""
    return abs(difference) <= rounding * max(map(abs, values))


def is_level(value: float, value0: float, rounding: float, fall: float = 0.0) -> bool:
    """Whether a loss cannot be told from that at the start, nor ``fall``, the slope's promise."""
    values = (value, value0)
    if not all_finite(value) or not drowns(value - value0, values, rounding):
        return False
    return drowns(fall, values, rounding)


def all_finite(*numbers: float | None) -> bool:
    """Whether all numbers are there and finite."""
    return all(n is not None and math.isfinite(n) for n in numbers)
