"""PAL: a parabola through the batch loss along the update direction, at every step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from surefoot import _params
from surefoot._closure import Closure
from surefoot.directions import Direction, conjugate_like, steepest
from surefoot.optim.base import (
    Active,
    LineSearchOptimizer,
    ParamsLike,
    check_count,
    check_number,
    check_share,
    rejected,
)
from surefoot.outcome import Status, StepOutcome
from surefoot.searches.parabolic import ParabolicSearch

__all__ = ["PAL"]


class PAL(LineSearchOptimizer):
    r"""Parabolic approximation line search (PAL): no learning rate to choose.

    Along the unit direction :math:`d_t \propto -g_t + \beta d_{t-1}`, the batch loss at 0, its
    slope there, and the batch loss at the measuring length μ determine a parabola; the step goes to
    α times its minimum. Two forward passes and one backward pass a step.

    .. math:: s = \min(-\alpha\, b / 2a,\; s_{max}) \;\text{if}\; a > 0,\; b < 0; \quad
              s = \mu \;\text{if}\; a \le 0,\; b < 0; \quad s = 0 \;\text{otherwise}

    Args:
        params: the model (recommended), or parameters, or dicts of groups, as for ``torch.optim``.
        lr: α, multiple of the measured minimum that is taken; 1/0.6 in the authors' code. Torch's
            schedulers act on it.
        measuring_length: μ, distance of the probe from the start, in units of the weights.
        max_length: s_max, largest distance moved in a step. None: 3.16, as published, but where the
            model is known and has several layers and no BatchNorm, at most 3 % of the norm of the
            weights (counted anew every 32 steps).
        direction_adaptation: β, share of the previous direction, at least 0 and below 1.
        weight_decay: decoupled, per unit of the effective learning rate.
        total_steps: length of the run in steps; the step then falls linearly to 0 over it. Strongly
            recommended: see the comparison in the documentation.
        measure_every: steps between measurements. With 1, PAL as published. With more, the lengths
            measured are averaged exponentially and used for the steps in between, which costs less
            and, measured, trains better.
        averaging: weight of the past in that average; not used where ``measure_every`` is 1.
        model, loss_precision, process_group, grad_scaler, on_measure: see
            :class:`LineSearchOptimizer`.

    Example:
        >>> import torch, surefoot
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(64, 3)
        >>> y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = surefoot.PAL(model)
        >>> for _ in range(40):
        ...     loss = optimizer.step(lambda: torch.nn.functional.mse_loss(model(x), y))
        >>> bool(loss < 1e-3), optimizer.cost.forwards, optimizer.cost.backwards
        (True, 80, 40)

    References: Mutschler and Zell, "Parabolic Approximation Line Search for DNNs", 1903.11991.

    Departures from the authors' code: all groups are trained; non-finite probes are rejected; where
    rounding drowns the measurement the step is 0 instead of μ.

    *When it fails*: the parabola is that of one batch, so with small batches the step is too long
    for all other data; a horizon (``total_steps``) repairs most of that. Models whose forward pass
    draws random numbers outside torch cannot be measured.
    """

    def __init__(
        self,
        params: ParamsLike,
        lr: float = 1 / 0.6,
        *,
        measuring_length: float = 1.0,
        max_length: float | None = None,
        direction_adaptation: float = 0.4,
        weight_decay: float = 0.0,
        total_steps: int | None = None,
        measure_every: int = 1,
        averaging: float = 0.7,
        model: nn.Module | None = None,
        loss_precision: float | None = None,
        process_group: Any = None,
        grad_scaler: Any = None,
        on_measure: Callable[[StepOutcome], None] | None = None,
    ) -> None:
        check_number("measuring_length", measuring_length, at_least=0.0, above=True)
        if max_length is not None:
            check_number("max_length", max_length, at_least=0.0, above=True)
        check_share("direction_adaptation", direction_adaptation)
        check_share("averaging", averaging)
        check_count("measure_every", measure_every)
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "measuring_length": measuring_length,
            "max_length": max_length,
            "direction_adaptation": direction_adaptation,
            "measure_every": measure_every,
            "averaging": averaging,
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
        return {**super()._fresh_memory(), "length": None}

    def _advance(self, call: Closure) -> tuple[Tensor, StepOutcome]:
        memory = self._memory
        every: int = memory["measure_every"]
        if every > 1 and memory["length"] is not None and memory["steps"] % every != 0:
            return self._follow(call)
        with self._quiet_room() as room:
            loss, active = self._gradient(call)
            value0 = self._mean(loss)
            before = self._norms_sq(active)
            direction = self._direction(active)
            if direction is None or not math.isfinite(value0):
                return loss, rejected(value0)
            if not direction.is_usable:
                return loss, StepOutcome(0.0, 0.0, Status.FLAT, value0)
            try:
                with self._line(active.params, direction.unit(), call, room, value0) as line:
                    found = self._search(loss, active.params)(line)
                    outcome = self._settle(found, direction)
                    line.commit(outcome.t)
            except BaseException:
                self._forget(active, before)
                raise
        self._decay(active.params, outcome.effective_lr)
        return loss, outcome

    def _follow(self, call: Closure) -> tuple[Tensor, StepOutcome]:
        """A step of the averaged length, without a probe."""
        loss, active = self._gradient(call)
        direction = self._direction(active)
        if direction is None:
            return loss, rejected(float(loss))
        if not direction.is_usable:
            return loss, StepOutcome(0.0, 0.0, Status.FLAT, float(loss))
        unit = direction.unit()
        length: float = self._memory["length"] * self._top_lr() * self._horizon()
        _params.add_scaled(active.params, unit.tensors, unit.weights, length)
        outcome = StepOutcome(
            t=length,
            length=length,
            status=Status.REUSED,
            value0=float(loss),
            slope0=unit.slope0,
            direction_norm=1.0,
            effective_lr=self._as_rate(length, direction),
        )
        self._decay(active.params, outcome.effective_lr)
        return loss, outcome

    def _direction(self, active: Active) -> Direction | None:
        """The next direction, or None where the gradient is not finite. Advances the memory."""
        beta: float = self._memory["direction_adaptation"]
        if beta == 0.0:
            direction = steepest(active.grads, active.ratios)
            return direction if math.isfinite(direction.norm) else None
        norms_sq = self._norms_sq(active)
        memory = active.memory(self.state, "direction")
        found = conjugate_like(active.grads, memory, beta, active.ratios, norms_sq)
        self._keep_norms_sq(active, norms_sq)
        return found

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; see the base class for what cannot differ between groups."""
        super().add_param_group(param_group)
        added = self.param_groups[-1]
        added["direction_norms_sq"] = [0.0] * len(added["params"])

    def _norms_sq(self, active: Active) -> list[float]:
        """Squared norms of the direction's tensors; they lie in the groups, one a parameter."""
        return [group["direction_norms_sq"][place] for group, place in active.places]

    def _keep_norms_sq(self, active: Active, norms_sq: list[float]) -> None:
        for group in self.param_groups:  # new lists: a state_dict may still hold the old ones
            group["direction_norms_sq"] = list(group["direction_norms_sq"])
        for (group, place), norm_sq in zip(active.places, norms_sq, strict=True):
            group["direction_norms_sq"][place] = norm_sq

    def _forget(self, active: Active, norms_sq: list[float]) -> None:
        """Take the last gradient out of the memory again, after a step that did not happen."""
        beta: float = self._memory["direction_adaptation"]
        if beta > 0.0:
            # the inverse of the interpolation, exact up to rounding
            _params.lerp(active.memory(self.state, "direction"), active.grads, 1.0 - 1.0 / beta)
            self._keep_norms_sq(active, norms_sq)

    def _search(self, loss: Tensor, params: list[Tensor]) -> ParabolicSearch:
        memory = self._memory
        as_published = memory["measure_every"] == 1
        alpha = self._top_lr()
        return ParabolicSearch(
            measuring_length=memory["measuring_length"],
            # PAL's cap holds for the adapted step; an average is taken of the minima themselves
            max_length=self._max_length(params, 1.0 if as_published else alpha),
            step_adaptation=alpha if as_published else 1.0,
            rounding=self._rounding(loss),
        )

    def _settle(self, found: StepOutcome, direction: Direction) -> StepOutcome:
        """From the searched place to the place that is taken: averaging, α, horizon."""
        memory = self._memory
        length = found.length
        if memory["measure_every"] > 1:
            if found.status in (Status.MINIMUM, Status.CAPPED, Status.NOT_CONVEX):
                past: float | None = memory["length"]
                share = memory["averaging"] if past is not None else 0.0
                memory["length"] = share * (past or 0.0) + (1.0 - share) * length
            length = self._top_lr() * (memory["length"] or 0.0)
        length *= self._horizon()
        return dataclasses.replace(
            found, t=length, length=length, effective_lr=self._as_rate(length, direction)
        )

    def _as_rate(self, length: float, direction: Direction) -> float:
        """The rate of a momentum-like step −rate · (g + β …) that moves by ``length``."""
        beta: float = self._memory["direction_adaptation"]
        return length * (1.0 - beta) / direction.norm
