"""Exact line search as an optimizer: to the minimum of the batch loss, or of all the data's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import nn

from surefoot.line import Line
from surefoot.optim._every_step import Visit
from surefoot.optim._full_loss import FullLoss, FullLossOptimizer
from surefoot.optim.base import ParamsLike, check_count, check_number, check_share
from surefoot.outcome import Status, StepOutcome
from surefoot.searches.exact import ExactSearch

__all__ = ["ExactLineSearch"]


class ExactLineSearch(FullLossOptimizer):
    r"""Go to the minimum along the line, at every step.

    .. math:: t^* = \arg\min_{t \ge 0} L(\theta + t\, d)

    Not a method to train with but the yardstick for those that are: the papers measure how far
    they are from it, and that on the batch's own loss it trains worse than they do.

    Args:
        params: the model (recommended), or parameters, or dicts of groups, as for ``torch.optim``.
        lr: multiple of the minimum that is taken. Torch's schedulers act on it.
        full_loss: a callable that returns the mean loss over all the data at the present
            weights; then that loss is minimized, along the batch's direction. Where it has an
            attribute ``batches``, each call counts as so many passes. With several processes, each
            passes the loss of its share. None for the loss of the step's own batch.
        method: ``"brent"``, ``"golden"`` or ``"binary"``, see
            :class:`surefoot.searches.ExactSearch`.
        first_length: first distance tried in the first step; later steps start from the last
            length found.
        max_length: largest distance.
        tolerance: relative error of the minimum's place.
        max_evaluations: budget of a step.
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
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = surefoot.ExactLineSearch(model)
        >>> for _ in range(20):
        ...     loss = optimizer.step(lambda: torch.nn.functional.mse_loss(model(x), y))
        >>> bool(loss < 1e-3)
        True

    References: Mutschler and Zell, 1903.11991, for the comparison on batch losses; Mutschler and
    Zell, 2103.17132, for that on full-batch losses.

    *When it fails*: on batch losses, by design: see the documentation.
    """

    def __init__(
        self,
        params: ParamsLike,
        lr: float = 1.0,
        *,
        full_loss: FullLoss | None = None,
        method: Literal["brent", "golden", "binary"] = "brent",
        first_length: float = 0.1,
        max_length: float = 10.0,
        tolerance: float = 1e-2,
        max_evaluations: int = 60,
        direction_adaptation: float = 0.0,
        weight_decay: float = 0.0,
        total_steps: int | None = None,
        model: nn.Module | None = None,
        loss_precision: float | None = None,
        process_group: Any = None,
        grad_scaler: Any = None,
        on_measure: Callable[[StepOutcome], None] | None = None,
    ) -> None:
        if method not in ("brent", "golden", "binary"):
            raise ValueError(f'method must be "brent", "golden" or "binary", got {method!r}')
        check_number("first_length", first_length, at_least=0.0, above=True)
        check_number("max_length", max_length, at_least=0.0, above=True)
        check_number("tolerance", tolerance, at_least=0.0, above=True)
        check_count("max_evaluations", max_evaluations)
        check_share("direction_adaptation", direction_adaptation)
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "method": method,
            "first_length": first_length,
            "max_length": max_length,
            "tolerance": tolerance,
            "max_evaluations": max_evaluations,
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

    def _fresh_memory(self) -> dict[str, Any]:
        return {**super()._fresh_memory(), "length": None}

    def _search(self, line: Line, visit: Visit) -> StepOutcome:
        memory = self._memory
        search = ExactSearch(
            method=memory["method"],
            first_length=memory["length"] or memory["first_length"],
            max_length=memory["max_length"],
            tolerance=memory["tolerance"],
            max_evaluations=memory["max_evaluations"],
            rounding=self._rounding(visit.loss),
        )
        return self._search_with(search, line, visit)

    def _learn(self, found: StepOutcome, visit: Visit) -> None:
        if found.status is Status.MINIMUM:
            self._memory["length"] = found.length
