"""Lines along which the loss of all the data is measured, not that of the step's batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from surefoot._closure import Closure
from surefoot.line import Line
from surefoot.optim._every_step import EveryStepOptimizer, Visit
from surefoot.outcome import Cost, StepOutcome
from surefoot.searches import Search

__all__ = ["FullLoss", "FullLossOptimizer"]

FullLoss = Callable[[], Any]
"""Returns the mean loss over all the data at the present weights, as a number."""


class FullLossOptimizer(EveryStepOptimizer):
    """Searches the loss of all the data, where it was given one. Abstract.

    Attributes:
        full_loss: returns that loss, or None for the loss of the step's batch. Copies and
            checkpoints do not keep it: it belongs to one model and one data set.
    """

    full_loss: FullLoss | None = None
    _full_loss_needs_graph = False

    def _fresh_memory(self) -> dict[str, Any]:
        return {**super()._fresh_memory(), "has_full_loss": False}

    def _set_full_loss(self, full_loss: FullLoss | None) -> None:
        self.full_loss = full_loss
        self._memory["has_full_loss"] = full_loss is not None

    def _search_with(self, search: Search, line: Line, visit: Visit) -> StepOutcome:
        """Search the line through the full-batch loss in the batch's direction.

        The passes are counted: as many a call as ``full_loss.batches`` says, or one.
        """
        full_loss = self.full_loss
        if full_loss is None:
            if self._memory["has_full_loss"]:
                raise RuntimeError(
                    "this run searched the loss of all the data, and copies and checkpoints do "
                    "not keep the function that computes it: set optimizer.full_loss again"
                )
            return search(line)
        passes = int(getattr(full_loss, "batches", 1))
        known = self._full_loss_needs_graph
        call = Closure(full_loss, visit.active.params, calls_backward=False, needs_graph=known)
        try:
            visit.room.hush()
            value0 = self._mean(call.value(rewind=visit.room.rewind))
            self._full_loss_needs_graph = call.needs_graph
            # the batch's slope is not the slope of all the data
            direction = dataclasses.replace(visit.direction, slope0=None)
            group = self._process_group
            params, room = visit.active.params, visit.room
            with Line(params, direction, call, room, value0, process_group=group) as whole:
                return dataclasses.replace(search(whole), value0=line.value0)
        finally:
            spent = Cost(call.cost.forwards * passes, 0, call.cost.probes * passes)
            visit.call.cost = visit.call.cost + spent
