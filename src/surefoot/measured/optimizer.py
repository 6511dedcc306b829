"""MeasuredLR: any torch optimizer, with a learning rate that is measured while it trains."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from surefoot import _params, _reduce
from surefoot._closure import CLOSURE_HELP, Closure
from surefoot._networks import has_batch_norm, largest_change
from surefoot.line import QuietRoom
from surefoot.measured._bound import Bound, can_be_pulled_back
from surefoot.measured._gauge import Gauge, Visit
from surefoot.measured._settings import Settings
from surefoot.measured._trial import multiplied
from surefoot.measured.estimate import Measurement, RateInterval
from surefoot.optim.base import LineSearchOptimizer, rejected
from surefoot.outcome import Cost, Status, StepOutcome

__all__ = ["MeasuredLR"]

UNDER_A_HORIZON = 3.0
"""α where the rate falls to zero: measured, docs/measured-lr.md."""
_COUNTERS = ("steps", "forwards", "backwards", "probes")
_CONVENTION = "closure_calls_backward"


class MeasuredLR(Optimizer):
    r"""Wraps any torch optimizer and measures the learning rate it should have.

    The wrapped optimizer decides where to go, this class how far. Rarely, the loss along the
    optimizer's own update is measured at one or several distances; slope and curvature of many
    such parabolas give a rate with a confidence interval, and every step is the wrapped optimizer's
    own with

    .. math:: \mathrm{effective\_lr} = \mathrm{lr} \cdot \alpha\, h\, r, \qquad
              r = -\frac{\sum_i a_i}{\sum_i c_i}

    where ``lr`` is the group's (so ratios between groups and schedulers work as ever), *r* the
    measured multiple of it, α = ``step_adaptation``, *h* the horizon, and :math:`a_i, c_i` slope
    and curvature of the *i*-th parabola per unit of that multiple.

    Args:
        optimizer: the optimizer to wrap. Its ``lr`` only sets the unit and the ratios between the
            groups.
        model: the model (recommended); its buffers are kept still while measuring.
        total_steps: length of the run in steps.
        overhead: what measuring may cost, as a share of plain training in forward-equivalents.
            Without ``total_steps``, 24 forward-equivalents more, for the start.
        precision: relative half-width of the rate's interval that is wanted. As long as the rate
            is less sure, it is measured as often as the budget allows.
        confidence: of that interval.
        horizon: ``"linear"``: the rate falls linearly to 0 over ``total_steps``, where they are
            given; ``"none"``: no such factor.
        step_adaptation: α: how far to go, in measured minima. None: 3 under a horizon, which takes
            back what was too far; 1 without, and where the model has BatchNorm.
        line: what is measured. ``"share"``: the part of the update that this batch's gradient
            has, with all the effect it will have through the optimizer's memory (momentum).
            ``"update"``: the whole next update.
        batch: ``"own"``: the loss of the batch whose gradient entered the update. ``"fresh"``:
            that of the batch after it, which is far more cautious; needs ``line="update"``.
        curvature: ``"probe"``: from losses at distances that follow the measured minimum.
            ``"hessian"``: exact at the start, by a Hessian-vector product; costs five
            forward-equivalents, and the closure must not call ``backward()``.
        measuring_length: distance of the farthest probe as a share of the weights' norm; None for
            the measured minimum itself.
        places: the probes, as shares of that distance. With several, the parabola is a fit.
        check_every: measurements from one with three probes to the next, which tells whether the
            parabola fits; 0 for none.
        growth: by how much a measurement may raise the rate at most.
        max_change: share of the weights' norm, the smallest so far, by which a step may change them
            at most; falls with the horizon; costs a copy of the weights. None: 0.03, but no bound
            where the model has BatchNorm or one layer; ``math.inf``: no bound. Optimizers with two
            sets of weights (schedule-free) are never bounded.
        frozen: measure and report, but train as the plain optimizer does.
        loss_precision: relative rounding error of a loss; None takes it from the loss's dtype.
        process_group: processes to agree with; None for torch's default group, if there is one.
        on_measure: called with the :class:`StepOutcome` of every step that measured.

    Attributes:
        last: outcome of the last step. ``t`` is the multiple of ``lr`` that was applied; ``length``
            is known where the step measured, else NaN.
        cost: passes spent since the start of training, resumes included.
        rate: the measured multiple and its interval.

    Example:
        >>> import torch, surefoot
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(64, 3)
        >>> y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
        >>> model = torch.nn.Linear(3, 1)
        >>> base = torch.optim.AdamW(model.parameters(), lr=1e-6)
        >>> optimizer = surefoot.MeasuredLR(base, model, total_steps=200)
        >>> for _ in range(200):
        ...     loss = optimizer.step(lambda: torch.nn.functional.mse_loss(model(x), y))
        >>> bool(loss < 1e-2), optimizer.cost.forward_equivalents <= 1.03 * 600
        (True, True)

    *When it fails*: where losses along an update are no parabola (several heads added up, large
    jumps): that is told once, by a warning, and the rate falls back to the cautious end of its
    interval. Optimizers that need a closure of their own (LBFGS) cannot be wrapped.
    """

    # see LineSearchOptimizer: the only way to notice scaler.step(optimizer, closure)
    _step_supports_amp_scaling = True

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module | None = None,
        *,
        total_steps: int | None = None,
        overhead: float = 0.03,
        precision: float = 0.1,
        confidence: float = 0.95,
        horizon: Literal["linear", "none"] = "linear",
        step_adaptation: float | None = None,
        line: Literal["update", "share"] = "update",
        batch: Literal["own", "fresh"] = "own",
        curvature: Literal["probe", "hessian"] = "probe",
        measuring_length: float | None = None,
        places: tuple[float, ...] = (1.0,),
        check_every: int = 8,
        growth: float = 2.0,
        max_change: float | None = None,
        frozen: bool = False,
        loss_precision: float | None = None,
        process_group: Any = None,
        on_measure: Callable[[StepOutcome], None] | None = None,
    ) -> None:
        # torch's own __init__ would make groups of its own; these are the wrapped optimizer's
        _check_base(optimizer)
        settings = Settings(
            total_steps=total_steps,
            overhead=overhead,
            precision=precision,
            confidence=confidence,
            horizon=horizon,
            step_adaptation=step_adaptation,
            line=line,
            batch=batch,
            curvature=curvature,
            measuring_length=measuring_length,
            places=tuple(places),
            check_every=check_every,
            growth=growth,
            max_change=max_change,
            frozen=frozen,
            loss_precision=loss_precision,
        )
        self._base, self._model = optimizer, model
        self._gauge = Gauge(optimizer, settings)
        self._counts: dict[str, Any] = {**dict.fromkeys(_COUNTERS, 0), _CONVENTION: None}
        self._attach(process_group, on_measure)

    def _attach(self, group: Any, on_measure: Any) -> None:
        """Everything that copies and checkpoints do not keep."""
        self._process_group, self._on_measure = group, on_measure
        self._gauge.attach(group)
        # asked once: a walk through all modules is no part of a step
        self._has_batch_norm = self._model is not None and has_batch_norm(self._model)
        share = self._max_change()
        bounded = math.isfinite(share) and can_be_pulled_back(self._base)
        self._bound = Bound(share) if bounded else None
        self.last: StepOutcome | None = None

    # What makes it an optimizer: the wrapped one's groups and state

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_base":
            raise AttributeError(name)
        return getattr(self._base, name)

    @property
    def optimizer(self) -> Optimizer:
        """The wrapped optimizer."""
        return self._base

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The wrapped optimizer's groups themselves."""
        return self._base.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The wrapped optimizer's state itself."""
        return self._base.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The wrapped optimizer's defaults."""
        return self._base.defaults

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As the wrapped optimizer's; ``step`` does it, too."""
        self._base.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As the wrapped optimizer's. The new ``lr`` is in the same unit as the others."""
        self._base.add_param_group(param_group)
        self._gauge.memory["reference"].append(float(self._base.param_groups[-1]["lr"]))

    def __repr__(self) -> str:
        return f"MeasuredLR({self._base!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: vars(self)[name] for name in ("_base", "_model", "_gauge", "_counts")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._attach(None, None)

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's, and under ``"measured"`` what this one remembers."""
        memory = dict(self._gauge.memory)
        memory["measurements"] = [list(m) for m in memory["measurements"]]
        for name in ("reference", "misfits", "losses"):
            memory[name] = list(memory[name])
        own = {"counts": dict(self._counts), "gauge": memory, "pending": list(self._gauge.pending)}
        return {**self._base.state_dict(), "measured": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint; one of the wrapped optimizer alone starts measuring anew."""
        self._base.load_state_dict({k: v for k, v in state_dict.items() if k != "measured"})
        fresh = Gauge(self._base, self._gauge.settings)
        self._counts = {**dict.fromkeys(_COUNTERS, 0), _CONVENTION: None}
        own = state_dict.get("measured")
        if own is not None:
            self._counts.update(own["counts"])
            fresh.memory.update(own["gauge"])
            for name in ("reference", "misfits", "losses"):
                fresh.memory[name] = list(fresh.memory[name])
            fresh.memory["measurements"] = [Measurement(*m) for m in own["gauge"]["measurements"]]
            device = self._params()[0].device
            fresh.pending = [move.to(device) for move in own["pending"]]
        self._gauge = fresh
        self._gauge.attach(self._process_group)
        self.last = None

    @property
    def cost(self) -> Cost:
        """Passes spent since the start of training."""
        return Cost(*(self._counts[name] for name in _COUNTERS[1:]))

    @property
    def rate(self) -> RateInterval:
        """The measured multiple of ``lr``, and how sure it is."""
        return self._gauge.rate

    @property
    def total_steps(self) -> int | None:
        """Length of the run; may be set anew."""
        return self._gauge.settings.total_steps

    @total_steps.setter
    def total_steps(self, value: int | None) -> None:
        self._gauge.settings = dataclasses.replace(self._gauge.settings, total_steps=value)

    # A step

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Tensor:  # type: ignore[override]
        """Measure if it is time, step, and return the loss at the starting point.

        Args:
            closure: returns the loss of one batch. It need not call ``zero_grad`` or
                ``backward``; if it does, that works too, and measuring costs more.

        Raises:
            TypeError: without a closure, or if it returns no single number.
            RuntimeError: for sparse gradients, under a ``GradScaler``, or if the loss does not
                depend on the parameters.
        """
        if closure is None:
            raise TypeError(CLOSURE_HELP)
        if vars(self).get("grad_scale") is not None:
            raise RuntimeError(
                "MeasuredLR does not work with a GradScaler (fp16): use bf16, which needs none"
            )
        params = self._params()
        call = Closure(closure, params, None, self._counts[_CONVENTION])
        with QuietRoom(params, self._model) as room:
            loss = call.gradient()
            active = self._active(call, params)
            value0 = _reduce.mean(float(loss), self._process_group, loss.device)
            visit = Visit(call, closure, room, loss, value0, active)
            usable = math.isfinite(value0) and math.isfinite(
                _params.norm_sq(visit.grads, [1.0] * len(active))
            )
            found = self._gauge.look(visit) if usable else None
        # outside the quiet room: the optimizer's own random numbers are an ordinary step's
        outcome = self._move(found, value0) if usable else self._reject(value0)
        outcome = dataclasses.replace(outcome, cost=call.cost)
        self._book(call, outcome)
        return loss

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    def _active(self, call: Closure, params: list[Tensor]) -> list[Tensor]:
        """Those with a gradient."""
        active = [p for p in params if p.grad is not None]
        for p in active:
            if p.grad is not None and p.grad.is_sparse:
                raise RuntimeError(
                    "MeasuredLR does not support sparse gradients: build the embedding with "
                    "sparse=False"
                )
        if call.calls_backward and _reduce.is_distributed(self._process_group):
            # with gradient_as_bucket_view a backward pass in a probe writes into these very tensors
            for p in active:
                p.grad = None if p.grad is None else p.grad.clone()
        return active

    def _reject(self, value0: float) -> StepOutcome:
        """No step on a loss or a gradient that is not finite, and smaller ones from now on."""
        memory = self._gauge.memory
        if memory["scale"] is not None:
            memory["scale"] *= 0.5
        memory["next"] = memory["step"] + 1
        self._gauge.pending = []
        return rejected(value0)

    def _factor(self, horizon: float) -> float:
        """What the groups' rates are multiplied by in this step."""
        settings, memory = self._gauge.settings, self._gauge.memory
        if settings.frozen:
            return 1.0
        scale: float = 1.0 if memory["scale"] is None else memory["scale"]
        return scale * self._step_adaptation() * horizon

    def _step_adaptation(self) -> float:
        """α: measured minima to go."""
        settings = self._gauge.settings
        if settings.step_adaptation is not None:
            return settings.step_adaptation
        falls = settings.horizon == "linear" and settings.total_steps is not None
        # with BatchNorm weights can grow without the loss's noticing, and the rate with them
        return UNDER_A_HORIZON if falls and not self._has_batch_norm else 1.0

    def _max_change(self) -> float:
        """The share of their norm by which a step may change the weights."""
        given = self._gauge.settings.max_change
        return largest_change(self._model) if given is None else given

    def _horizon(self) -> float:
        """The factor that falls from 1 to 0 over ``total_steps``."""
        settings = self._gauge.settings
        done: int = self._counts["steps"]
        if settings.frozen or settings.horizon == "none" or settings.total_steps is None:
            return 1.0
        if done == settings.total_steps:
            warnings.warn(
                f"the run goes on after its total_steps={done}: steps are zero from here on; set "
                "optimizer.total_steps to the new length",
                stacklevel=5,
            )
        return max(0.0, 1.0 - done / settings.total_steps)

    def _scheduled(self) -> float:
        """What schedulers have made of the groups' rates."""
        units = self._gauge.memory["reference"]
        pairs = zip(self.param_groups, units, strict=True)
        return max((float(g["lr"]) / unit for g, unit in pairs if unit > 0.0), default=1.0)

    def _move(self, found: StepOutcome | None, value0: float) -> StepOutcome:
        """The wrapped optimizer's own step, at the measured rate."""
        memory, horizon = self._gauge.memory, self._horizon()
        factor = self._factor(horizon)
        bound = None if self._gauge.settings.frozen else self._bound
        if bound is not None:
            # what lowers the rate towards the end, lowers the bound, too
            lowered = horizon * min(1.0, self._scheduled())
            memory["size"] = bound.take(self._params(), memory["size"], lowered)
        with multiplied(self._base, factor):
            self._base.step()
        if bound is not None:
            factor *= bound.hold()
        multiples = []
        for group, unit in zip(self.param_groups, memory["reference"], strict=True):
            group["effective_lr"] = float(group["lr"]) * factor
            multiples.append(group["effective_lr"] / unit if unit > 0.0 else 0.0)
        memory["applied"] = max(multiples)
        if found is None:
            status = Status.FIXED if self._gauge.settings.frozen else Status.REUSED
            found = StepOutcome(0.0, math.nan, status, value0)
        return dataclasses.replace(
            found,
            t=memory["applied"],
            length=memory["applied"] * found.direction_norm,
            effective_lr=max(group["effective_lr"] for group in self.param_groups),
        )

    def _book(self, call: Closure, outcome: StepOutcome) -> None:
        counts = self._counts
        counts["steps"] += 1
        self._gauge.memory["step"] = counts["steps"]
        counts[_CONVENTION] = call.calls_backward
        for name in _COUNTERS[1:]:
            counts[name] += getattr(call.cost, name)
        self.last = outcome
        if self._on_measure is not None and outcome.status.measured:
            self._on_measure(outcome)


def _check_base(optimizer: Any) -> None:
    """Refuse what cannot be wrapped, in a line that says why."""
    if isinstance(optimizer, LineSearchOptimizer | MeasuredLR):
        raise TypeError(f"{type(optimizer).__name__} measures its steps already")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"the first argument must be a torch optimizer, got {type(optimizer).__name__}: "
            "MeasuredLR(torch.optim.AdamW(model.parameters()), model)"
        )
    if isinstance(optimizer, LBFGS):
        raise TypeError("LBFGS evaluates the loss itself; it cannot be wrapped")
    if not any(float(group["lr"]) > 0.0 for group in optimizer.param_groups):
        raise ValueError("every lr is 0: there is nothing to take multiples of")
