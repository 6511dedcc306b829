"""FBPAL: PAL's parabola through the full-batch loss, at every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import nn

from surefoot.line import Line
from surefoot.optim._every_step import Visit
from surefoot.optim._full_loss import FullLoss, FullLossOptimizer
from surefoot.optim.base import ParamsLike, check_number, check_share
from surefoot.outcome import Status, StepOutcome
from surefoot.searches.large_batch import LargeBatchSearch

__all__ = ["FullBatchPAL"]


class FullBatchPAL(FullLossOptimizer):
    r"""Full-batch parabolic approximation line search (FBPAL).

    Along the direction of the step's batch, the loss of *all* the data at 0, μ/2 and μ determines
    a parabola; the step goes to α times its minimum. Three passes over the data a step: a
    yardstick for the cheap methods, not a rival of theirs.

    Args:
        params: the model (recommended), or parameters, or dicts of groups, as for ``torch.optim``.
        lr: α, multiple of the measured minimum that is taken. Torch's schedulers act on it.
        full_loss: a callable that returns the mean loss over all the data at the present
            weights. Where it has an attribute ``batches``, each call counts as so many passes. With
            several processes, each passes the loss of its share. None where the step's batch is
            all the data.
        measuring_length: μ, distance of the farther probe, in units of the weights; 0.1 in
            2103.17132.
        max_length: largest distance moved in a step, before α.
        direction_adaptation: β of PAL's conjugate-like direction; 0 for the negated gradient.
        weight_decay: decoupled, per unit of the effective learning rate.
        total_steps: length of the run in steps; the step then falls linearly to 0 over it.
        model, loss_precision, process_group, grad_scaler, on_measure: see
            :class:`LineSearchOptimizer`.

    Example:
        >>> import torch, surefoot
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(64, 3)
        >>> y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
        >>> model, loss_fn = torch.nn.Linear(3, 1), torch.nn.functional.mse_loss
        >>> optimizer = surefoot.FullBatchPAL(model, full_loss=lambda: loss_fn(model(x), y))
        >>> for i in range(80):
        ...     part = slice(16 * (i % 4), 16 * (i % 4) + 16)
        ...     loss = optimizer.step(lambda: loss_fn(model(x[part]), y[part]))
        >>> bool(loss < 1e-3)
        True

    References: Mutschler and Zell, "Empirically explaining SGD from a line search perspective",
    2103.17132.

    Departures: three losses instead of two and a slope, because a slope of the full-batch loss
    costs a backward pass over all the data.

    *When it fails*: it is as greedy as an exact search on the full-batch loss.
    """

    def __init__(
        self,
        params: ParamsLike,
        lr: float = 1.0,
        *,
        full_loss: FullLoss | None = None,
        measuring_length: float = 0.1,
        max_length: float = 3.16,
        direction_adaptation: float = 0.0,
        weight_decay: float = 0.0,
        total_steps: int | None = None,
        model: nn.Module | None = None,
        loss_precision: float | None = None,
        process_group: Any = None,
        grad_scaler: Any = None,
        on_measure: Callable[[StepOutcome], None] | None = None,
    ) -> None:
        check_number("measuring_length", measuring_length, at_least=0.0, above=True)
        check_number("max_length", max_length, at_least=0.0, above=True)
        check_share("direction_adaptation", direction_adaptation)
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "measuring_length": measuring_length,
            "max_length": max_length,
            "direction_adaptation": direction_adaptation,
        }
        super().__init__(
            params,
            defaults,
            model=model,
            total_steps=total_steps,
            loss_precision=loss_precision,
            process_group=process_group,
            grad_scaler=grad_scaler,
            on_measure=on_measure,
        )
        self._set_full_loss(full_loss)

    def _search(self, line: Line, visit: Visit) -> StepOutcome:
        memory = self._memory
        search = LargeBatchSearch(
            measuring_length=memory["measuring_length"],
            max_length=memory["max_length"],
            rounding=self._rounding(visit.loss),
        )
        found = self._search_with(search, line, visit)
        if found.status is not Status.NOT_CONVEX:
            return found
        # PAL's second case: the loss falls and bends the wrong way, so as far as it was seen to
        length = min(memory["measuring_length"], memory["max_length"])
        return dataclasses.replace(found, t=length / found.direction_norm, length=length)

    def _learn(self, found: StepOutcome, visit: Visit) -> None:
        """Nothing: every step measures anew."""
