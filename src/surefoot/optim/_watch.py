"""What a line search notices about a run, and says once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from surefoot import _params
from surefoot._networks import MAX_CHANGE, can_be_ruined
from surefoot._notices import Notices
from surefoot.outcome import Status, StepOutcome

_FAR = 0.5
"""Length of a step, as a share of the weights' norm, from which on it is told."""
_REFUSALS = 50
"""Steps refused in a row after which it is told."""
_LOW = 0.1
"""Share of the step multiplier, below which the peak of a schedule is told."""
_MAX_LR = (
    "the schedule's max_lr={:g} is no learning rate here: a line search's lr multiplies the step "
    "that was measured, and this leaves little of it. Pass max_lr={:g}"
)
_HEADS = (
    "the loss adds up the losses of {} heads. One step for all of them follows the one that bends "
    "most, and line searches tend to fail there (docs/line-searches.md): compare with "
    "surefoot.MeasuredLR around torch.optim.AdamW, which scales every weight by itself"
)
_GRADIENTS = (
    "gradients computed outside of step(closure) are not used: the line search needs the loss "
    "that belongs to them. Let the closure return all of it (several batches: the mean of their "
    "losses), and call backward() nowhere else"
)
_CHANGED = (
    "the closure changes its gradients after backward() (clips them?), so the slope of the loss, "
    "which is read from them, is another one, and so are the steps. Leave that out: a line search "
    "measures how far to go however long the gradient is"
)
_REFUSED = (
    "{} steps in a row were refused, because losses or gradients are not finite, at the start "
    "(loss {:.3g}) or wherever the search looked: nothing is trained"
)
_FLAT = (
    "the first {} steps found nothing to do, at a loss of {:.3g}: its gradient is zero, or it "
    "changes by less than its rounding. Is it scaled down, or does it not look at the weights?"
)
PAST_THE_END = (
    "the run goes on after its total_steps={}: steps are zero from here on; set "
    "optimizer.total_steps to the new length"
)
_FAR_STEP = (
    "a step of length {:.2g}, where all weights together have the norm {:.2g}: little of the "
    "network is left after it. It happens where losses of several heads are added, and where a "
    "small network starts on a plateau. Bound the step (max_length; {:.0%} of the norm: {:.2g}), "
    "or use surefoot.MeasuredLR, which bounds every step"
)


class Watch:
    """Looks at every step of one optimizer.

    Args:
        model: the network, if it is known.

    Attributes:
        steps: how many all line searches of this process have made together.
    """

    steps: ClassVar[int] = 0

    def __init__(self, model: nn.Module | None) -> None:
        self._model = model
        self.tell = Notices().tell
        self._refused, self._flat, self._norm = 0, 0, 0.0
        self._has_moved = False
        self._stepped: set[int] = set()
        self._steps_before = Watch.steps

    def begins(self, params: Sequence[Tensor], is_first: bool) -> None:
        """Look for gradients that were accumulated for this step, which does not use them."""
        # the step of another line search, a GAN's, may have sent gradients through these parameters
        if Watch.steps != self._steps_before:
            return
        # later, a parameter that is new here may have one
        own = [p for p in params if is_first or id(p) in self._stepped]
        others = [g for p in own if (g := p.grad) is not None and not _is_marked(g)]
        if any(bool(torch.any(g._values() if g.is_sparse else g)) for g in others):
            self.tell("gradients", _GRADIENTS)

    def schedules(self, groups: Sequence[dict[str, Any]], multiplier: float) -> None:
        """Look for a schedule whose peak is meant as a learning rate."""
        for group in groups:
            top = group.get("max_lr")
            if isinstance(top, int | float) and 0.0 < top <= _LOW * multiplier:
                self.tell("max_lr", _MAX_LR.format(top, multiplier))

    def ends(self, params: Sequence[Tensor]) -> None:
        """Mark what a step left in ``.grad``, however it ended."""
        self._stepped = {id(p) for p in params}
        Watch.steps += 1
        self._steps_before = Watch.steps
        for p in params:
            if p.grad is not None:  # the gradient itself remembers that a step computed it
                p.grad._surefoot_version = p.grad._version  # type: ignore[attr-defined]

    def made(
        self,
        params: Sequence[Tensor],
        outcome: StepOutcome,
        heads: int,
        has_own_gradient: bool,
    ) -> None:
        """Look at the outcome: a far step, refusals in a row, several heads, clipped gradients."""
        if not has_own_gradient:
            self.tell("changed", _CHANGED)
        self._look_how_far(params, outcome.length)
        self._refused = self._refused + 1 if outcome.status is Status.NON_FINITE else 0
        self._has_moved = self._has_moved or outcome.length > 0.0
        self._flat = self._flat + 1 if outcome.status is Status.FLAT else 0
        if self._flat == _REFUSALS and not self._has_moved:
            self.tell("flat", _FLAT.format(_REFUSALS, outcome.value0))
        if self._refused == _REFUSALS:
            self.tell("refused", _REFUSED.format(_REFUSALS, outcome.value0))
        if heads > 1:
            self.tell("heads", _HEADS.format(heads))

    def _look_how_far(self, params: Sequence[Tensor], length: float) -> None:
        """Whether a step is about as long as all weights of a network together."""
        if length <= _FAR * self._norm or not can_be_ruined(self._model):
            return
        self._norm = math.sqrt(_params.norm_sq(params, [1.0] * len(params)))
        if length > _FAR * self._norm:
            most = MAX_CHANGE * self._norm
            self.tell("far", _FAR_STEP.format(length, self._norm, MAX_CHANGE, most))


def _is_marked(grad: Tensor) -> bool:
    """Whether a gradient is as a step left it."""
    return getattr(grad, "_surefoot_version", None) == grad._version
