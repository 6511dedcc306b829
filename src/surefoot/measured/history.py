"""What was measured when: a bounded list, thinned out where a run is long. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field

__all__ = ["History", "Moment"]

_KEPT = 512


@dataclass(frozen=True)
class Moment:
    """One measurement of a run.

    Args:
        step: at which it was made, from 0.
        rate: the multiple of ``lr`` in use after it, α and horizon not included.
        low: lower end of the measured multiple's interval.
        high: upper end; infinite where unknown.
        bound: the multiple at which the bound on the weights' change, or the ruin of them, would
            shorten the step; infinite where nothing would.
        loss: of the batch, before the step.
    """

    step: int
    rate: float
    low: float
    high: float
    bound: float
    loss: float


@dataclass
class History:
    """The moments of a run; every second one of the older half goes where they become too many."""

    moments: list[Moment] = field(default_factory=list)

    def note(self, moment: Moment) -> None:
        """Keep one more."""
        self.moments.append(moment)
        if len(self.moments) > _KEPT:
            half = _KEPT // 2
            self.moments = [*self.moments[:half:2], *self.moments[half:]]

    def to_list(self) -> list[list[float]]:
        """Plain numbers, for a checkpoint."""
        return [list(astuple(moment)) for moment in self.moments]

    @classmethod
    def from_list(cls, plain: Sequence[Sequence[float]]) -> History:
        """Back from :meth:`to_list`."""
        return cls([Moment(int(step), *rest) for step, *rest in plain])
