"""SLS: the longest step that makes the batch loss fall enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import nn

from surefoot.line import Line
from surefoot.optim._every_step import EveryStepOptimizer, Visit
from surefoot.optim.base import ParamsLike, check_count, check_number
from surefoot.outcome import Status, StepOutcome
from surefoot.searches.armijo import ArmijoSearch

__all__ = ["SLS"]


class SLS(EveryStepOptimizer):
    r"""Stochastic line search (SLS): SGD whose rate backs off until the batch loss falls enough.

    .. math:: L(\theta - \eta\, g) \le L(\theta) - c\, \eta\, \lVert g \rVert^2

    Args:
        params: the model (recommended), or parameters, or dicts of groups, as for ``torch.optim``.
        lr: multiple of the accepted rate that is taken. The condition is checked for 1. Torch's
            schedulers act on it.
        start: learning rate that the first step tries first.
        max_rate: η_max, largest rate.
        condition: ``"armijo"``, or ``"goldstein"``, which also refuses rates that are too small.
        sufficient_decrease: c; the paper uses 0.1 for networks.
        shrink: factor after a refused rate.
        grow: factor after a rate that is too small; for ``"goldstein"`` only.
        reset: what the next step tries first: ``"growing"``, the last rate times
            γ^(batch size / data set size); ``"previous"``, the last rate; ``"maximum"``, η_max.
        reset_growth: γ, by how much the rate may grow in an epoch.
        dataset_size, batch_size: for ``reset="growing"``; 500 batches per epoch if not given, as
            in the authors' code.
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
        >>> optimizer = surefoot.SLS(model)
        >>> for _ in range(60):
        ...     loss = optimizer.step(lambda: torch.nn.functional.mse_loss(model(x), y))
        >>> bool(loss < 1e-3)
        True

    References: Vaswani, Mishkin, Laradji, Schmidt, Gidel, Lacoste-Julien, "Painless stochastic
    gradient: interpolation, line-search, and convergence rates", 1905.09997; algorithms 1 and 2.

    Departures: where no rate is accepted, the step is 0 (released code: 1e-6) and the rate is kept.

    *When it fails*: without interpolation, or with small batches, the accepted rate is that of
    one batch and too long for the others; with BatchNorm the rate tends to grow to η_max.
    """

    def __init__(
        self,
        params: ParamsLike,
        lr: float = 1.0,
        *,
        start: float = 1.0,
        max_rate: float = 10.0,
        condition: Literal["armijo", "goldstein"] = "armijo",
        sufficient_decrease: float = 0.1,
        shrink: float = 0.9,
        grow: float = 2.0,
        reset: Literal["growing", "previous", "maximum"] = "growing",
        reset_growth: float = 2.0,
        dataset_size: int | None = None,
        batch_size: int | None = None,
        weight_decay: float = 0.0,
        total_steps: int | None = None,
        model: nn.Module | None = None,
        loss_precision: float | None = None,
        process_group: Any = None,
        grad_scaler: Any = None,
        on_measure: Callable[[StepOutcome], None] | None = None,
    ) -> None:
        if condition not in ("armijo", "goldstein"):
            raise ValueError(f'condition must be "armijo" or "goldstein", got {condition!r}')
        if reset not in ("growing", "previous", "maximum"):
            raise ValueError(f'reset must be "growing", "previous" or "maximum", got {reset!r}')
        check_number("start", start, at_least=0.0, above=True)
        check_number("max_rate", max_rate, at_least=0.0, above=True)
        check_number("sufficient_decrease", sufficient_decrease, at_least=0.0, above=True)
        if sufficient_decrease >= (0.5 if condition == "goldstein" else 1.0):
            raise ValueError(f"sufficient_decrease is too large: {sufficient_decrease!r}")
        check_number("shrink", shrink, at_least=0.0, above=True)
        if shrink >= 1.0:
            raise ValueError(f"shrink must be below 1, got {shrink!r}")
        check_number("grow", grow, at_least=1.0, above=True)
        check_number("reset_growth", reset_growth, at_least=1.0)
        share = 1.0 / 500.0
        if dataset_size is not None and batch_size is not None:
            check_count("dataset_size", dataset_size)
            check_count("batch_size", batch_size)
            share = batch_size / dataset_size
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "start": start,
            "max_rate": max_rate,
            "condition": condition,
            "sufficient_decrease": sufficient_decrease,
            "shrink": shrink,
            "grow": grow,
            "reset": reset,
            "growth_per_step": reset_growth**share,
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

    def _first_rate(self) -> float:
        """SLS, algorithm 2: where this step's search begins."""
        memory = self._memory
        rate: float | None = memory["rate"]
        first: float
        if rate is None:
            first = memory["start"]
        elif memory["reset"] == "growing":
            first = rate * memory["growth_per_step"]
        else:
            first = rate if memory["reset"] == "previous" else memory["max_rate"]
        top: float = memory["max_rate"]
        return min(first, top)

    def _search(self, line: Line, visit: Visit) -> StepOutcome:
        memory = self._memory
        search = ArmijoSearch(
            start=self._first_rate(),
            condition=memory["condition"],
            sufficient_decrease=memory["sufficient_decrease"],
            shrink=memory["shrink"],
            grow=memory["grow"],
            max_t=memory["max_rate"],
            rounding=self._rounding(visit.loss),
        )
        return search(line)

    def _learn(self, found: StepOutcome, visit: Visit) -> None:
        if found.status in (Status.ACCEPTED, Status.CAPPED):
            self._memory["rate"] = found.t
