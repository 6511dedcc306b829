"""What goes wrong on the way: how often in a row, what is said, and when a run ends."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from surefoot._notices import Notices
from surefoot.measured import notices
from surefoot.measured.finite import are_finite
from surefoot.measured.groups import Groups

__all__ = ["Trouble"]

_TELL_REFUSED, _MOST_REFUSED = 3, 100
"""Losses in a row that are not finite: to be told, and to give up."""
_TELL_IDLE = 10
"""Calls without a gradient, of which none had one, to be told."""
_PATIENCE = 2
"""Steps in a row that may not be measurable before that is said."""


class Trouble(Notices):
    """Counts refused losses and steps that could not be measured; says each thing once."""

    _lowest = 1.0
    refused = 0
    """Losses in a row that were not finite."""
    idle = 0
    """Calls without a gradient."""
    failed = 0
    """Steps in a row that were to be measured and could not."""

    def notice_idle(self, steps: int) -> None:
        """A call of ``step()`` without a gradient; a run that never had one is told so."""
        self.idle += 1
        if steps == 0 and self.idle == _TELL_IDLE:
            self.tell("idle", notices.NO_GRADIENT.format(n=self.idle))

    def refuse(self) -> bool:
        """One more loss is not finite; whether that is now too many for a coincidence."""
        self.refused += 1
        if self.refused >= _TELL_REFUSED:
            self.tell("refused", notices.REFUSED.format(n=self.refused))
        return self.refused == _TELL_REFUSED

    def give_up(self, params: Sequence[Tensor]) -> None:
        """End a run that cannot go on.

        Raises:
            RuntimeError: after a hundred losses in a row, or where the weights are not finite.
        """
        if self.refused < _TELL_REFUSED:
            return
        broken = not are_finite(params)
        if broken or self.refused >= _MOST_REFUSED:
            weights = ", and the weights hold NaN or infinity" if broken else ""
            raise RuntimeError(notices.BROKEN.format(n=self.refused, weights=weights))

    def cannot_measure(self, step: int) -> int:
        """One more step cannot be measured; the step at which to try again."""
        self.failed += 1
        return step + (1 if self.failed < 4 else 50)

    @property
    def may_pass(self) -> bool:
        """Whether that may have been a single step."""
        return self.failed <= _PATIENCE

    def explain(self, problem: str, model: nn.Module | None) -> str:
        """Why nothing can be measured, and what helps."""
        message = notices.CANNOT.format(reason=problem)
        if "forward pass" in problem:
            message += notices.PASS_THE_MODEL if model is None else notices.ANOTHER_MODEL
        return message

    def notice_schedules(self, groups: Groups, *, falls: bool) -> None:
        """A schedule on top of the horizon, or one that takes the unit for a rate."""
        for group, unit in zip(groups.all, groups.units, strict=True):
            top = group.get("max_lr")
            if isinstance(top, int | float) and unit > 0.0 and abs(top / unit - 1.0) > 0.01:
                self.tell("max_lr", notices.MAX_LR.format(top=top, times=top / unit, unit=unit))
        scheduled = groups.scheduled
        if falls and scheduled < min(0.97, self._lowest):
            if self._lowest < 1.0:
                self.tell("schedule", notices.SCHEDULE)
            self._lowest = scheduled
