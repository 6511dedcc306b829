"""What the optimizers share that search the line anew at every step."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from typing import Any

from torch import Tensor

from surefoot import _params, _reduce
from surefoot._closure import Closure
from surefoot.directions import Direction, conjugate_like, steepest
from surefoot.line import Line, QuietRoom
from surefoot.optim.base import Active, LineSearchOptimizer, rejected
from surefoot.outcome import Status, StepOutcome

__all__ = ["EveryStepOptimizer"]


class EveryStepOptimizer(LineSearchOptimizer):
    """Gradient, direction, line, search, move, at every step. Abstract.

    ``t`` on the line is a learning rate: the direction is the negated gradient, or PAL's
    conjugate-like one where ``direction_adaptation`` is set, neither normalized. An exception
    leaves weights, buffers, random state and everything the optimizer remembers as they were.
    """

    _compares_losses = True
    """Whether the closure must be repeatable; then the first step makes sure that it is."""

    _probes_run_backward = False
    """Whether slopes are asked for on the line."""

    def _fresh_memory(self) -> dict[str, Any]:
        return {**super()._fresh_memory(), "direction_adaptation": 0.0, "checked": False}

    @abstractmethod
    def _search(self, line: Line, visit: Visit) -> StepOutcome:
        """Search the line; change nothing that is remembered."""

    @abstractmethod
    def _learn(self, found: StepOutcome, visit: Visit) -> None:
        """Remember what the next step needs, now that this one has happened."""

    def _advance(self, call: Closure) -> tuple[Tensor, StepOutcome]:
        with self._quiet_room() as room:
            loss, active = self._gradient(call)
            value0 = self._mean(loss)
            if not (math.isfinite(value0) and active.is_finite):
                return loss, rejected(value0)
            direction, buffers = self._direction(active)
            if not direction.is_usable:
                return loss, StepOutcome(0.0, 0.0, Status.FLAT, value0)
            visit = Visit(call, room, loss, active, direction)
            with self._line(active.params, direction, call, room, value0) as line:
                if self._compares_losses and not self._memory["checked"]:
                    line.check_repeatable()
                found = self._search(line, visit)
                outcome = self._scaled(found)
                self._before_leaving(line, outcome, visit)
                line.commit(outcome.t)
        for p, buffer in zip(active.params, buffers, strict=False):
            self.state[p]["direction"] = buffer
        self._memory["checked"] = True
        self._learn(found, visit)
        self._decay(active.params, outcome.effective_lr)
        return loss, outcome

    def _before_leaving(self, line: Line, outcome: StepOutcome, visit: Visit) -> None:
        """Look around once more, before the move is final."""

    def _direction(self, active: Active) -> tuple[Direction, list[Tensor]]:
        """The direction, and what its memory will be once the step has happened."""
        beta: float = self._memory["direction_adaptation"]
        if beta > 0.0:
            buffers = [m.clone() for m in active.memory(self.state, "direction")]
            norms_sq = _params.norms_sq(buffers)
            found = conjugate_like(active.grads, buffers, beta, active.ratios, norms_sq)
            assert found is not None  # the caller has seen that the gradient is finite
            return found, buffers
        grads = active.grads
        if self._probes_run_backward and _reduce.is_distributed(self._process_group):
            # with gradient_as_bucket_view the next backward pass writes into these very tensors
            grads = [g.clone() for g in grads]
        return steepest(grads, active.ratios), []

    def _scaled(self, found: StepOutcome) -> StepOutcome:
        """From the place found to the place taken: α and the horizon."""
        t = found.t * self._top_lr() * self._horizon()
        beta: float = self._memory["direction_adaptation"]
        return dataclasses.replace(
            found,
            t=t,
            length=t * found.direction_norm,
            # the memory holds (1 − β) times the recursion dₜ = −gₜ + β dₜ₋₁
            effective_lr=t * (1.0 - beta),
        )


@dataclasses.dataclass
class Visit:
    """What one step has at hand while it searches."""

    call: Closure
    room: QuietRoom
    loss: Tensor
    active: Active
    direction: Direction
