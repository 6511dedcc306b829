"""PAL's search (1903.11991): a slope, one further loss, the minimum of their parabola."""

from __future__ import annotations

from dataclasses import dataclass

from surefoot.line import Walkable
from surefoot.outcome import Status, StepOutcome
from surefoot.parabola import Parabola
from surefoot.searches._search import Search, all_finite, outcome, vertex_within


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
        values, alpha, max_t = (line.value0, value), self.step_adaptation, self.max_length / per_t
        t, status = vertex_within(parabola, probe, values, self.rounding)
        t *= alpha  # first case, and third
        if t > max_t:
            t, status = max_t, Status.CAPPED
        elif status is Status.NOT_CONVEX:
            # second case; departure: an α below 1, as schedulers make it, shortens this step too
            t = min(min(1.0, alpha) * probe, max_t)
        return outcome(line, t, status, parabola)
