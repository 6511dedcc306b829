"""GOLS: double or halve the step until the slope changes its sign."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from surefoot.line import Line
from surefoot.optim._every_step import EveryStepOptimizer, Visit
from surefoot.optim.base import ParamsLike, check_number
from surefoot.outcome import StepOutcome
from surefoot.searches.gradient_only import GradientOnlySearch

__all__ = ["GOLS"]


class GOLS(EveryStepOptimizer):
    r"""Gradient-only line search, inexact (GOLS-I): SGD whose rate the sign of the slope decides.

    From the last rate, double while the slope along the line is negative, halve while it is
    positive, accept at once where it is positive and small,
    :math:`0 < L'(t) < c_2 |L'(0)|`. A forward and a backward pass at each place.

    The closure may draw a new batch at every call, as in the paper (dynamic sub-sampling): only
    signs of slopes are compared, never losses. With a closure that keeps its batch, the line is
    that batch's.

    Args:
        params: the model (recommended), or parameters, or dicts of groups, as for ``torch.optim``.
        lr: multiple of the accepted rate that is taken. Torch's schedulers act on it.
        start: learning rate that the first step tries first; 1e-8 in the paper, from where it
            doubles some twenty times, once.
        overshoot: c₂.
        factor: η, by which a rate grows or shrinks.
        min_rate: smallest rate tried.
        max_rate: largest rate tried.
        max_length: largest distance moved, in units of the weights.
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
        >>> optimizer = surefoot.GOLS(model)
        >>> for _ in range(40):
        ...     loss = optimizer.step(lambda: torch.nn.functional.mse_loss(model(x), y))
        >>> bool(loss < 1e-3)
        True

    References: Kafka and Wilke, "Gradient-only line searches: an alternative to probabilistic line
    searches", 1903.09383.

    Departures: the gradient at the accepted place is not reused as the next step's; see also
    :class:`surefoot.searches.GradientOnlySearch`.

    *When it fails*: on one batch's line, steps end behind the minimum by up to ``factor``.
    """

    _compares_losses = False
    _probes_run_backward = True

    def __init__(
        self,
        params: ParamsLike,
        lr: float = 1.0,
        *,
        start: float = 1e-8,
        overshoot: float = 0.9,
        factor: float = 2.0,
        min_rate: float = 1e-8,
        max_rate: float = 1e7,
        max_length: float = 1.0,
        weight_decay: float = 0.0,
        total_steps: int | None = None,
        model: nn.Module | None = None,
        loss_precision: float | None = None,
        process_group: Any = None,
        grad_scaler: Any = None,
        on_measure: Callable[[StepOutcome], None] | None = None,
    ) -> None:
        check_number("start", start, at_least=0.0, above=True)
        check_number("overshoot", overshoot, at_least=0.0)
        check_number("factor", factor, at_least=1.0, above=True)
        check_number("min_rate", min_rate, at_least=0.0, above=True)
        check_number("max_rate", max_rate, at_least=min_rate)
        check_number("max_length", max_length, at_least=0.0, above=True)
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "start": start,
            "overshoot": overshoot,
            "factor": factor,
            "min_rate": min_rate,
            "max_rate": max_rate,
            "max_length": max_length,
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

    def _fresh_memory(self) -> dict[str, Any]:
        return {**super()._fresh_memory(), "rate": None}

    def _search(self, line: Line, visit: Visit) -> StepOutcome:
        memory = self._memory
        search = GradientOnlySearch(
            start=memory["start"] if memory["rate"] is None else memory["rate"],
            overshoot=memory["overshoot"],
            factor=memory["factor"],
            min_t=memory["min_rate"],
            max_t=memory["max_rate"],
            max_length=memory["max_length"],
        )
        return search(line)

    def _learn(self, found: StepOutcome, visit: Visit) -> None:
        if found.t > 0.0:
            self._memory["rate"] = found.t
