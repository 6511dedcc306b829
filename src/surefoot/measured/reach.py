"""How far a step goes: what the groups' rates are multiplied by, before anything is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

from surefoot.bound import Bound, longest
from surefoot.measured.linear import Response
from surefoot.measured.rate import RateState
from surefoot.measured.settings import Settings
from surefoot.outcome import Status

__all__ = ["Reach"]

AVERAGED = 0.7
"""α under averaged weights."""
FALLING = 2.0
"""By how much it may grow there while the loss surely falls."""
UNDER_A_HORIZON = 3.0
"""α where the rate falls to zero: measured, docs/measured-lr.md."""
_SHORT = 0.1
"""Share of the weights' norm that a step of a short run may change where the loss asks for it."""
_RUIN, _AVERAGED_RUIN = 0.5, 0.15
"""Share of the weights' norm beyond which a step leaves little of what was learnt, whatever the
loss of one batch says; under averaged weights, where what is seen at once is a fifth of it."""


@dataclass
class Reach:
    """What decides it beside the measured rate.

    Args:
        settings: of the run.
        response: of the wrapped optimizer.
        bound: on the change of the weights.
        averages: whether weights are averaged.
        has_batch_norm: whether the model has.
        filled_before: steps that the wrapped optimizer had made before it was wrapped.

    Attributes:
        most: what α may be multiplied by while the loss falls.
        often: how many losses to hear while the run grows by a factor of e.
        is_unbounded: whether nothing but ruin bounds a step, as it is under averaged weights.
    """

    settings: Settings
    response: Response
    bound: Bound
    averages: bool
    has_batch_norm: bool
    filled_before: int = 0

    def __post_init__(self) -> None:
        self.most = FALLING if self.averages else 1.0
        self.often = 16 if self.averages else 32  # three minima far, a run may be lost within a few
        self.is_unbounded = self.averages and math.isinf(self.bound.share)

    @property
    def alpha(self) -> float:
        """α: measured minima to go."""
        if self.settings.step_adaptation is not None:
            return self.settings.step_adaptation
        if self.averages:
            return AVERAGED
        # with BatchNorm weights can grow without the loss's noticing, and the rate with them; a
        # rate that was held already is where it is: measured, docs/beyond-the-rate.md
        planned = self.settings.falls and self.settings.decay_from is None
        return UNDER_A_HORIZON if planned and not self.has_batch_norm else 1.0

    def filling(self, step: int) -> float:
        """How many times longer updates will be as the optimizer's memory fills."""
        return self.response.growth_to_come(self.filled_before + step)

    def idle(self, step: int) -> int:
        """How many steps from this one on the optimizer stands still by itself, as RAdam may."""
        return self.response.idle(self.filled_before + step)

    def limit(self, rate: RateState, step: int, scheduled: float) -> float:
        """The longest step."""
        lowered = self.settings.left(step) * min(1.0, scheduled) * self.slower
        # between the smallest norm and today's: weights that have to grow may, and none run away
        norm = math.sqrt(rate.norm * rate.size)
        ruin = _AVERAGED_RUIN if self.averages else _RUIN
        return min(longest(self.bound.share, norm, lowered * rate.slack), ruin * rate.size)

    @property
    def _long(self) -> float:
        """How much longer a run is than one that may walk 3 % at each step, by its root.

        As many steps as it has, each in a random direction, lead no farther than the weights' norm.
        """
        total, share = self.settings.total_steps, self.bound.share
        if total is None or self.settings.max_change is not None or not math.isfinite(share):
            return math.nan
        return share * math.sqrt(total)

    @property
    def slower(self) -> float:
        """What a long run leaves of the bound."""
        return 1.0 / self._long if self._long > 1.0 else 1.0

    @property
    def loosest(self) -> float:
        """What the bound of a short run may be multiplied by."""
        return _SHORT / self.bound.share if self._long <= 1.0 else 1.0

    def factor(
        self, rate: RateState, step: int, scheduled: float, louder: float
    ) -> tuple[float, Status]:
        """What the groups' rates are multiplied by.

        Args:
            rate: what was measured.
            step: which one it is.
            scheduled: what schedulers leave of the rates.
            louder: the gradient's norm over that of the last measured step.
        """
        if self.settings.frozen:
            return 1.0, Status.FIXED
        if rate.in_use is None:
            return 1.0, Status.REUSED
        factor = rate.in_use * self.alpha * rate.ebb * self.settings.left(step)
        if not self.averages:
            factor *= rate.approach(step)
        length = factor * scheduled * rate.length / self.filling(step)
        length *= max(1.0, 0.5 * louder)  # steps of SGD grow with the gradient
        limit = self.limit(rate, step, scheduled)
        if length > 1.001 * limit:
            return factor * limit / length, Status.CAPPED
        return factor, Status.REUSED
