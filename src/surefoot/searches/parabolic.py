"""PAL's search (1903.11991): a slope, one further loss, the minimum of their parabola."""

from __future__ import annotations

from dataclasses import dataclass

from surefoot.line import Walkable
from surefoot.outcome import Status, StepOutcome
from surefoot.parabola import Parabola
from surefoot.searches._search import Search, all_finite, drowns, outcome


@dataclass(frozen=True)
class ParabolicSearch(Search):
    r"""One probe at the measuring length; three cases of the parabola.

    .. math:: s = \min(-\alpha\, b / 2a,\; s_{max}) \;\text{if}\; a > 0,\; b < 0; \quad
              s = \mu \;\text{if}\; a \le 0,\; b < 0; \quad s = 0 \;\text{otherwise}

    with *b* the slope and *2a* the curvature per unit of length.

    Args:
        measuring_length: μ, distance of the probe from the start.
        max_length: s_max, largest distance moved.
        step_adaptation: α, multiple of the minimum that is taken.
        rounding: relative rounding error of a loss; differences below it count as zero.

    References: Mutschler and Zell, "Parabolic Approximation Line Search for DNNs", 1903.11991.

    *When it fails*: the batch's own gradient makes the batch's own loss fall further than the
    loss of other data; the minimum is that of the batch.
    """

    measuring_length: float = 1.0
    max_length: float = 3.16
    step_adaptation: float = 1.0
    rounding: float = 0.0

    def __call__(self, line: Walkable) -> StepOutcome:
        """Search ``line``, which must know its slope at 0. One evaluation."""
        slope0 = line.slope0
        if slope0 is None:
            raise ValueError("the parabolic search needs the slope at t = 0")
        per_t = line.direction_norm
        probe = self.measuring_length / per_t
        value = line.value(probe)
        if not all_finite(line.value0, slope0, value):
            return outcome(line, 0.0, Status.NON_FINITE)
        parabola = Parabola.from_slope(line.value0, slope0, probe, value)
        status, length = self._decide(parabola, probe, value, per_t)
        return outcome(line, length / per_t, status, parabola)

    def _decide(
        self, parabola: Parabola, probe: float, value: float, per_t: float
    ) -> tuple[Status, float]:
        values = (parabola.value0, value)
        if parabola.slope0 >= 0.0:
            return Status.NOT_DESCENT, 0.0  # PAL, third case
        bend = 0.5 * parabola.curvature * probe * probe
        straight = drowns(bend, values, self.rounding)
        # Departure: where neither fall nor bend can be told from rounding, the paper's second
        # case would walk μ on a measurement that is none.
        if straight and drowns(parabola.slope0 * probe, values, self.rounding):
            return Status.FLAT, 0.0
        vertex = parabola.vertex
        if straight or vertex is None:
            # second case; departure: an α below 1, as schedulers make it, shortens this step too
            length = min(1.0, self.step_adaptation) * self.measuring_length
            return Status.NOT_CONVEX, min(length, self.max_length)
        length = self.step_adaptation * vertex * per_t  # first case
        if length > self.max_length:
            return Status.CAPPED, self.max_length
        return Status.MINIMUM, length
