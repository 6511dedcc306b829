"""No step changes the weights by more than a share of their norm."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

_WINDOW = 50


def longest(share: float, norm: float, lowered: float = 1.0) -> float:
    """The longest step: a share of the norm, less as rates are lowered; infinite without either."""
    if not math.isfinite(share) or not math.isfinite(norm):
        return math.inf
    return share * norm * lowered


@dataclass
class Bound:
    """How long a step may be, and how often that decided.

    The loss of one batch may have its minimum far away, where rectifiers have died for good and
    other batches' losses are a hundred times as high. The norm is not today's: along updates
    whose length does not follow the gradient's (Muon), weights grow at every step and the minimum
    moves away with them, so a bound that grew along would hold nothing back.

    Args:
        share: of the weights' norm; infinite for no bound.
    """

    share: float
    recent: deque[bool] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    def note(self, shortened: bool) -> bool:
        """Whether a step was shortened; whether most of the last fifty were."""
        self.recent.append(shortened)
        return 2 * self.recent.count(True) > _WINDOW == len(self.recent)

    def advice(self, left: float = 1.0) -> str:
        """What to say then.

        Args:
            left: what a long run leaves of the share.
        """
        share = 100.0 * left * self.share
        return (
            f"most of the last {_WINDOW} steps were shortened: they would have changed the weights "
            f"by more than {share:.2g}% of their norm, so the bound decides the learning rate, "
            "not the measurement. If the weights have to grow, raise max_change "
            f"({10 * self.share:.0%}, or math.inf for none)"
        )
