"""LABPAL's search (2108.13880): three losses of a large batch, the minimum of the parabola."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from surefoot._numbers import check_positive
from surefoot.line import Walkable
from surefoot.outcome import Status, StepOutcome
from surefoot.parabola import Parabola
from surefoot.searches._search import Search, all_finite, vertex_within

FIRST_PLACE = {"parabola": 0.5, "released": 0.0177}
"""Where the middle loss is measured, as a share of the measuring length."""


@dataclass(frozen=True)
class LargeBatchSearch(Search):
    r"""Losses at 0, at a middle place and at the measuring length; no slope needed.

    ``fit="parabola"`` interpolates the three losses, so the step is the minimum of the parabola.
    ``fit="released"`` repeats what the authors' released code computes: the slope is the first
    difference quotient, and the second derivative comes from differentiating the unequally spaced
    losses twice, which yields *half* of it. The step is then twice the minimum of a parabola.

    Args:
        measuring_length: μ, distance of the farthest probe.
        max_length: largest distance, before the optimizer's α.
        fit: ``"parabola"`` or ``"released"``.
        not_convex: where the loss falls and bends the wrong way: ``"stay"``, or ``"probe"``, PAL's
            second case: as far as it was seen to fall.
        rounding: relative rounding error of a loss; differences below it count as zero.

    References: Mutschler, Laube, Zell, "Using a one dimensional parabolic model of the full-batch
    loss to estimate learning rates during training", 2108.13880.

    *When it fails*: with several loss heads added up, the authors report that it tends to.
    """

    takes_slope0: ClassVar[bool] = False

    measuring_length: float = 1.0
    max_length: float = 1.0
    fit: Literal["parabola", "released"] = "parabola"
    rounding: float = 0.0
    not_convex: Literal["stay", "probe"] = "stay"

    def __post_init__(self) -> None:
        check_positive(self, "measuring_length")
        if self.max_length != math.inf:
            check_positive(self, "max_length")

    @property
    def lengths(self) -> tuple[float, float]:
        """Distances of the two probes from the start."""
        return FIRST_PLACE[self.fit] * self.measuring_length, self.measuring_length

    def __call__(self, line: Walkable) -> StepOutcome:
        """Search ``line``. Two evaluations. ``t`` is 0 where there is no minimum ahead."""
        per_t = line.direction_norm
        values = [line.value(length / per_t) for length in self.lengths]
        return self.conclude((line.value0, *values), per_t)

    def conclude(self, values: Sequence[float], per_t: float = 1.0) -> StepOutcome:
        """What losses at the three places say.

        Args:
            values: at 0 and at the two lengths.
            per_t: length of the direction.
        """
        value0, *_ = values
        if not all_finite(*values):
            return StepOutcome(0.0, 0.0, Status.NON_FINITE, value0, direction_norm=per_t)
        near, far = (length / per_t for length in self.lengths)
        parabola = Parabola.from_values((0.0, near, far), values)
        if self.fit == "released":
            # Differences of the released code, on the same three points: the slope is that of the
            # chord to the near point; the "second derivative" is the slope at the near point minus
            # the chord's, over the whole gap although the chord's belongs to its middle: f''/2.
            chord = (values[1] - value0) / near
            parabola = Parabola(value0, chord, 0.5 * parabola.curvature)
        max_t = self.max_length / per_t
        t, status = vertex_within(parabola, far, values, self.rounding, max_t)
        if status is Status.NOT_CONVEX and self.not_convex == "probe":
            t = min(far, max_t)
        slope0 = parabola.slope0
        return StepOutcome(t, t * per_t, status, value0, slope0, per_t, parabola=parabola)
