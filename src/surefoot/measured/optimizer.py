"""MeasuredLR: any torch optimizer, with a learning rate that is measured while it trains."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from surefoot import _reduce
from surefoot._networks import check_belongs, has_batch_norm, largest_change
from surefoot._quiet import devices_of
from surefoot.line import NotRepeatableError
from surefoot.measured import notices
from surefoot.measured.averaging import Averages, take_averages, without_momentum
from surefoot.measured.bound import Bound
from surefoot.measured.checkpoint import STATE, read, write
from surefoot.measured.estimate import RateInterval
from surefoot.measured.finite import GradientGauge, are_finite, has_finite_gradient
from surefoot.measured.history import RatePoint, remember
from surefoot.measured.linear import respond
from surefoot.measured.measuring import Step, conclude, own_slope, roughest, scale_of
from surefoot.measured.notices import Notices
from surefoot.measured.pace import Budget
from surefoot.measured.probes import Probes, is_near, rounding_of
from surefoot.measured.rate import RateState
from surefoot.measured.settings import Settings
from surefoot.measured.wrapper import Wrapper, multiplied
from surefoot.optim.base import LineSearchOptimizer, rejected
from surefoot.outcome import Cost, Status, StepOutcome
from surefoot.replay import Loss, Recorder, ReplayError, Tape, Watched
from surefoot.replay.loss import have_changed, marks
from surefoot.replay.tape import stop_abandoned
from surefoot.taken_step import TakenStep

__all__ = ["MeasuredLR"]

SHARE, POWER = 0.8, 3.0
"""β, the share of the average where gradients are taken, and the power of the step with which
weights of the average grow: measured, docs/zero-tuning.md."""
AVERAGED = 0.7
"""α under averaged weights."""
UNDER_A_HORIZON = 3.0
"""α where the rate falls to zero: measured, docs/measured-lr.md."""
_CHECK_EVERY = 8
"""Measurements from one with two probes to the next, which tells whether the losses lie on a
parabola and whether the gradient's slope is theirs."""
_REPEAT_EVERY = 16
"""Measurements from one that replays the unmoved weights to the next."""
_MUCH_LOUDER = 4.0
"""Times the gradient's norm when last measured, from which on it is measured at once."""
_LOOK_EVERY = 8
"""Steps from one look at what schedulers do to the next."""
_NEARLY_NOTHING = 0.05
"""What is left of a horizon below which measuring is no longer worth it."""
_RUIN = 0.5
"""Share of the weights' norm beyond which a step leaves little of what was learnt, whatever the
loss of one batch says."""
_TELL_REFUSED, _MOST_REFUSED = 3, 100
"""Losses in a row that are not finite: to be told, and to give up."""


class MeasuredLR(Wrapper):
    r"""Wraps any torch optimizer and measures the learning rate it should have.

    The wrapped optimizer decides where to go, this class how far. Rarely, after a step of the
    wrapped optimizer, the loss of the same batch is evaluated once more where that step ended;
    slope and curvature of many such parabolas give a rate with a confidence interval, and every
    step is the wrapped optimizer's own with

    .. math:: \mathrm{effective\_lr} = \mathrm{lr} \cdot \alpha\, h\, r, \qquad
              r = -\frac{\sum_i a_i}{\sum_i c_i}

    where ``lr`` is the group's (so ratios between groups and schedulers work as ever), *r* the
    measured multiple of it, α = ``step_adaptation``, *h* the horizon, and :math:`a_i, c_i` slope
    and curvature of the *i*-th parabola per unit of that multiple. Between measurements nothing
    happens but the wrapped optimizer's step.

    The loop stays as it is: forward, ``backward()``, ``step()``, ``zero_grad()``. On steps that
    measure, what the loop does between the model's outputs and ``backward()`` is recorded, and
    played again. Where that cannot be right, it is said, and :meth:`watch` is the way.

    Args:
        optimizer: the optimizer to wrap. Its ``lr`` only sets the unit and the ratios between the
            groups.
        model: the model whose forward pass the loop calls, or a module that contains it. None: the
            outermost module that is seen to own a parameter.
        total_steps: length of the run in steps.
        horizon: ``"linear"``: the rate falls linearly to 0 over ``total_steps``, where they are
            given; ``"none"``: no such factor.
        step_adaptation: α: how far to go, in measured minima. None: 3 under a horizon, which takes
            back what was too far; 1 without, and where the model has BatchNorm.
        max_change: share of the weights' norm, the smallest so far, by which a step may change them
            at most; falls with the horizon. None: 0.03, but no bound where the model has BatchNorm
            or one layer; ``math.inf``: no bound.
        overhead: what measuring may cost, as a share of plain training in forward-equivalents.
            Without ``total_steps``, 24 forward-equivalents more, for the start.
        frozen: measure and report, but train as the plain optimizer does.
        process_group: processes to agree with; None for torch's default group, if there is one.
        on_measure: called with the :class:`StepOutcome` of every step that measured.

    Attributes:
        last: outcome of the last step. ``t`` is the multiple of ``lr`` that was applied; ``length``
            is known where the step measured, else NaN.
        cost: passes spent since the start of training, resumes included.
        rate: the measured multiple and its interval.

    Raises:
        TypeError: for what cannot be wrapped, with the reason.

    Example:
        >>> import torch, surefoot
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(64, 3)
        >>> y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
        >>> model = torch.nn.Linear(3, 1)
        >>> base = torch.optim.AdamW(model.parameters(), lr=1e-6)
        >>> optimizer = surefoot.MeasuredLR(base, model, total_steps=200)
        >>> for _ in range(200):
        ...     loss = torch.nn.functional.mse_loss(model(x), y)
        ...     loss.backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> bool(loss < 1e-2), optimizer.cost.forward_equivalents <= 1.03 * 600
        (True, True)

    *When it fails*: where losses along an update are no parabola (several heads added up, large
    jumps): that is told once, by a warning, and the rate falls back to the cautious end of its
    interval. Optimizers whose step does not follow ``lr`` cannot be wrapped.
    """

    # a GradScaler unscales and looks for infinities itself, whatever the wrapped optimizer could do
    _step_supports_amp_scaling = False

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module | None = None,
        *,
        total_steps: int | None = None,
        horizon: Literal["linear", "none"] = "linear",
        step_adaptation: float | None = None,
        max_change: float | None = None,
        averaging: bool | None = None,
        overhead: float = 0.03,
        frozen: bool = False,
        process_group: Any = None,
        on_measure: Callable[[StepOutcome], None] | None = None,
    ) -> None:
        _check_base(optimizer)
        _check_model(optimizer, model)
        self._settings = Settings(
            total_steps=total_steps,
            horizon=horizon,
            step_adaptation=step_adaptation,
            max_change=max_change,
            averaging=averaging,
            overhead=overhead,
            frozen=frozen,
        )
        super().__init__(optimizer)
        stop_abandoned()
        self._response = respond(optimizer)
        if self._averages_weights():
            without_momentum(optimizer)
            self._response = respond(optimizer)
        self._start_anew()
        self._model = model
        self._averages: Averages | None = None
        if self._averages_weights():
            self._averages = Averages(model, SHARE, POWER)
        self._history: list[RatePoint] = []
        self._attach(process_group, on_measure)

    def _start_anew(self) -> None:
        """The state of an optimizer that has measured nothing yet."""
        self._rate = RateState(tuple(_unit(group) for group in self._base.param_groups))
        self._steps, self._cost = 0, Cost()
        self._closure_differentiates: bool | None = None
        # a memory that is there counts as filled
        self._filled_before = 32 if self._base.state else 0

    def _averages_weights(self) -> bool:
        return self._settings.averages and not self._response.averaged

    def _attach(self, group: Any, on_measure: Callable[[StepOutcome], None] | None) -> None:
        """What copies and checkpoints do not keep."""
        self._process_group, self._on_measure = group, on_measure
        self._recorder, self._line = Recorder(self._model), TakenStep(group)
        self._watched: Watched | None = None
        self._notices = Notices()
        self._refused = self._failed = 0
        self._passes = 1
        self._lowest = 1.0
        self._has_batch_norm = self._model is not None and has_batch_norm(self._model)
        given = self._settings.max_change
        largest = math.inf if self._averages_weights() else largest_change(self._model)
        self._bound = Bound(largest if given is None else given)
        self._last: StepOutcome | None = None
        self._applied: tuple[float, Status] | None = None
        self._gauge, self._louder = GradientGauge(), 1.0
        self._base.param_groups[0].setdefault(STATE, None)
        for each in self._base.param_groups:
            each.setdefault("effective_lr", 0.0)
        self._plan()

    def __getstate__(self) -> dict[str, Any]:
        names = ("_base", "_model", "_settings", "_response", "_rate", "_steps", "_filled_before")
        more = ("_closure_differentiates", "_cost", "_averages", "_history")
        return {n: vars(self)[n] for n in (*names, *more)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._attach(None, None)

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's; what this one remembers is in the first group."""
        base = self._base.state_dict()
        if self._averages is not None:
            base = self._averages.write(base, self._params())
        return write(
            base,
            self._rate,
            self._cost,
            step=self._steps,
            filled_before=self._filled_before,
            closure_differentiates=self._closure_differentiates,
            average_weight=0.0 if self._averages is None else self._averages.total,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint; one of the wrapped optimizer alone starts measuring anew."""
        plain, own = read(state_dict)
        plain, averages = take_averages(plain)
        self._base.load_state_dict(plain)
        self._base.param_groups[0][STATE] = None
        self._start_anew()
        if own is not None:
            self._rate, self._cost = own.rate, own.cost
            self._steps, self._filled_before = own.step, own.filled_before
            self._closure_differentiates = own.closure_differentiates
            if self._averages is not None:
                self._averages.load(self._params(), averages, own.average_weight)
        self._last = self._applied = self._watched = None
        self._plan()

    @property
    def cost(self) -> Cost:
        """Passes spent since the start of training."""
        return self._cost

    @property
    def rate(self) -> RateInterval:
        """The measured multiple of ``lr``, and how sure it is."""
        return self._rate.interval

    @property
    def last(self) -> StepOutcome | None:
        """Outcome of the last step; None before the first."""
        if self._last is None and self._applied is not None:
            t, status = self._applied
            effective = max(float(g["effective_lr"]) for g in self.param_groups)
            cost = Cost(self._passes, self._passes)
            self._last = StepOutcome(
                t, math.nan, status, math.nan, effective_lr=effective, cost=cost
            )
        return self._last

    @property
    def total_steps(self) -> int | None:
        """Length of the run; may be set anew."""
        return self._settings.total_steps

    @total_steps.setter
    def total_steps(self, value: int | None) -> None:
        self._settings = dataclasses.replace(self._settings, total_steps=value)
        self._plan()

    def history(self) -> list[RatePoint]:
        """The rate at every measurement so far, its interval, its bound and what it decays by.

        :func:`surefoot.plots.rate` draws it. Of more than 4,096 measurements every second one is
        kept. Copies and pickles keep it; a ``state_dict()`` does not.
        """
        return list(self._history)

    # The loop

    def averaged(self) -> AbstractContextManager[None]:
        """A context in which the parameters hold the averaged weights.

        A model in evaluation mode, its ``state_dict()`` and checkpoints see them without it; it is
        for code that reads the parameters themselves.
        """
        return nullcontext() if self._averages is None else self._averages.shown()

    def watch(self, function: Callable[[], Any]) -> Tensor:
        """Run forward pass and loss, and keep the function, to run it again where it measures.

        For losses that cannot be followed from the model's outputs: gradient penalties, derivatives
        of the output, detours through NumPy, batches that are overwritten.

        Args:
            function: returns the loss of one batch; does not call ``backward()``.

        Returns:
            The loss, to be differentiated as ever.
        """
        if not self._is_due:
            with torch.enable_grad():
                return function()  # type: ignore[no-any-return]
        self._recorder.disarm()
        self._watched = Watched(function, self._params(), self._model, self._devices())
        try:
            return self._watched.first()  # type: ignore[no-any-return]
        except BaseException:
            self._watched = None
            self._plan()
            raise

    @torch._disable_dynamo  # type: ignore[attr-defined]
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step, measure if it is time, and return what the closure returned.

        Args:
            closure: not needed. If given, it returns the loss of one batch; it may call
                ``backward()`` itself or leave that to the optimizer.

        Returns:
            None without a closure; the detached loss of one that leaves ``backward()`` to the
            optimizer; what it returned of any other.

        Raises:
            ReplayError: if the first loss cannot be evaluated at other weights.
            NotRepeatableError: if it gives another loss for the same weights.
            RuntimeError: for sparse gradients, or if the loss does not depend on the parameters.
        """
        try:
            if closure is not None:
                return self._step_with(closure)
            self._step_without(self._recorder.finish() if self._is_due else None)
            return None
        except BaseException:
            self._plan()  # listen again: whoever interrupted it may go on
            raise

    def _step_without(self, tape: Tape | None) -> None:
        """The step of a loop that differentiated its loss itself."""
        loss = self._watched if self._watched is not None else tape
        self._watched = None
        if self._is_idle():
            self._base.step()
            self._publish(0.0)
            self._plan()
        elif self._is_due:
            self._measured_step(loss)
        elif self._is_bad_gradient():
            self._refuse(math.nan)
        else:
            self._plain_step()

    def _is_idle(self) -> bool:
        """Whether nothing will move: every rate is 0 (a warm-up begins), or no gradient is."""
        groups = self._base.param_groups
        if all(float(group["lr"]) == 0.0 for group in groups):
            return True
        return all(p.grad is None for group in groups for p in group["params"])

    def _step_with(self, closure: Callable[[], Any]) -> Any:
        if not callable(closure):
            raise TypeError(notices.NO_CLOSURE_TAKES_A_LOSS)
        _refuse_scaler()
        params = self._params()
        watched = Watched(closure, params, self._model, self._devices()) if self._is_due else None
        before = marks(params)
        if watched is not None:
            loss = watched.first()
        else:
            with torch.enable_grad():
                loss = closure()
        tape = self._recorder.finish() if self._is_due else None
        if loss is None:  # Lightning: its manual optimization, or a batch that is left out
            self._step_without(tape)
            return None
        differentiates = have_changed(before, params)
        self._closure_differentiates = differentiates
        if differentiates:
            self._step_after(tape, watched, loss)
            return loss
        if not (isinstance(loss, Tensor) and loss.requires_grad):
            raise RuntimeError(
                "the closure's loss does not depend on any parameter of this optimizer, or was "
                "computed under no_grad: compute it from the model inside the closure"
            )
        with torch.enable_grad():
            loss.backward()
        value = float(loss.detach())
        if watched is not None:
            self._measured_step(watched)
        elif not math.isfinite(value) and not self._settings.frozen:
            self._refuse(value)
        else:
            self._plain_step()
        for p in params:
            p.grad = None  # these gradients are used up; any that are found next are others'
        return loss.detach()

    def _step_after(self, tape: Tape | None, watched: Watched | None, loss: Any) -> None:
        """The step after a closure that called ``backward()``."""
        if not self._is_due or watched is None:
            if self._is_bad_gradient():
                self._refuse(math.nan)
            else:
                self._plain_step()
            return
        if tape is not None and tape.problem() is None:
            self._measured_step(tape)
            return
        watched.calls_backward = True
        if tape is not None:
            watched.gradient = tape.gradient
        self._measured_step(watched)

    def _plain_step(self) -> None:
        """The wrapped optimizer's own step at the rate in use."""
        factor, status = self._factor()
        self._note_bound(status is Status.CAPPED)
        self._apply(factor)
        self._absorb()
        self._done(status)

    def _apply(self, factor: float) -> None:
        averages, active = self._averages, self._with_gradient()
        if averages is not None:
            averages.to_iterate(active)
        if factor == 1.0:
            self._base.step()
        else:
            with multiplied(self._base.param_groups, factor):
                self._base.step()
        if averages is not None:
            averages.to_gradient(active)
        self._publish(factor)

    def _absorb(self) -> None:
        """Take what was moved into the average."""
        if self._averages is not None:
            self._averages.absorb(self._with_gradient(), self._steps)

    def _with_gradient(self) -> list[Tensor]:
        return [p for p in self._params() if p.grad is not None]

    def _publish(self, factor: float) -> None:
        multiple = 0.0
        for group, unit in zip(self._base.param_groups, self._units(), strict=True):
            rate = float(group["lr"]) * factor
            group["effective_lr"] = rate
            if unit > 0.0:
                multiple = max(multiple, rate / unit)
        self._multiple = multiple

    def _done(self, status: Status) -> None:
        """A step that did not measure was made."""
        self._refused = 0
        self._steps += 1
        if self._steps % _LOOK_EVERY == 0:
            self._notice_schedules()
        self._last, self._applied = None, (self._multiple, status)
        self._book(Cost())
        self._plan()

    def _book(self, probes: Cost) -> None:
        self._cost = self._cost + probes + Cost(self._passes, self._passes)

    def _plan(self) -> None:
        """Decide whether the next step measures, and listen if so."""
        settings, rate = self._settings, self._rate
        self._is_due = (
            self._steps >= rate.next
            and (rate.in_use is None or settings.left(self._steps) > _NEARLY_NOTHING)
            and Budget(settings.overhead, settings.total_steps).allows(
                self._steps, rate.spent, self._price()
            )
        )
        if self._is_due and self._closure_differentiates is not False:
            self._recorder.arm(self._params())

    def _price(self) -> float:
        """Forward-equivalents of the next measurement."""
        rate = self._rate
        probes = 1 if rate.slopes == "gradient" else 2
        probes += 1 if self._checks() else 0
        return rate.price * (probes + self._repeats())

    def _checks(self) -> bool:
        return (
            self._rate.attempts in (1, 2) or self._rate.attempts % _CHECK_EVERY == _CHECK_EVERY - 1
        )

    def _repeats(self) -> bool:
        return self._rate.attempts < 2 or self._rate.attempts % _REPEAT_EVERY == 0

    # What a step is multiplied by

    def _factor(self) -> tuple[float, Status]:
        """What the groups' rates are multiplied by, as far as can be told before the step."""
        settings, rate = self._settings, self._rate
        if settings.frozen:
            return 1.0, Status.FIXED
        if rate.in_use is None:
            return 1.0, Status.REUSED
        left = settings.left(self._steps)
        if left == 0.0:
            self._tell("end", notices.PAST_THE_END.format(total=settings.total_steps))
        factor = rate.in_use * self._step_adaptation() * left
        if self._averages is None:
            factor *= rate.approach(self._steps)
        length = factor * self._scheduled() * rate.length / self._filling()
        length *= max(1.0, 0.5 * self._louder)  # steps of SGD grow with the gradient
        limit = self._limit()
        shortened = length > 1.001 * limit
        return (factor * limit / length, Status.CAPPED) if shortened else (factor, Status.REUSED)

    def _limit(self) -> float:
        """The longest step."""
        lowered = self._settings.left(self._steps) * min(1.0, self._scheduled())
        return min(self._bound.limit(self._rate.norm, lowered), _RUIN * self._rate.size)

    def _note_bound(self, shortened: bool) -> None:
        if math.isfinite(self._bound.share) and self._bound.note(shortened):
            self._tell("bound", self._bound.advice)

    def _filling(self) -> float:
        return self._response.growth_to_come(self._filled_before + self._steps)

    def _step_adaptation(self) -> float:
        """α: measured minima to go."""
        if self._settings.step_adaptation is not None:
            return self._settings.step_adaptation
        if self._averages is not None:
            return AVERAGED
        # with BatchNorm weights can grow without the loss's noticing, and the rate with them
        return UNDER_A_HORIZON if self._settings.falls and not self._has_batch_norm else 1.0

    def _scheduled(self) -> float:
        """What schedulers have made of the groups' rates."""
        pairs = zip(self._base.param_groups, self._units(), strict=True)
        return max((float(g["lr"]) / unit for g, unit in pairs if unit > 0.0), default=1.0)

    def _units(self) -> tuple[float, ...]:
        units, groups = self._rate.units, self._base.param_groups
        if len(units) != len(groups):  # a group was added, here or to the wrapped optimizer
            units = (*units, *(_unit(group) for group in groups[len(units) :]))
            self._rate = dataclasses.replace(self._rate, units=units)
        return units

    def _params(self) -> list[Tensor]:
        return [p for group in self._base.param_groups for p in group["params"]]

    def _devices(self) -> tuple[torch.device, ...]:
        return devices_of(self._params())

    # Measuring

    def _measured_step(self, loss: Loss | None) -> None:
        """The wrapped optimizer's step, and a measurement of it."""
        problem = self._problem(loss)
        if problem is not None:
            self._cannot_measure(loss, problem)
            return
        assert loss is not None
        value0 = _reduce.mean(float(loss.value), self._process_group, loss.value.device)
        self._passes = loss.backwards
        active = self._active()
        if not self._settings.frozen and not (
            math.isfinite(value0) and has_finite_gradient(active)
        ):
            self._refuse(value0)
            return
        self._notice_schedules()
        loud = 1.0 if self._settings.frozen else self._gauge.norm(self._with_gradient)
        self._louder = loud / self._rate.loud if self._rate.loud > 0.0 else 1.0
        self._rate = dataclasses.replace(self._rate, loud=loud)
        try:
            self._measure(loss, value0, active)
        finally:
            self._line.forget()

    def _problem(self, loss: Loss | None) -> str | None:
        """Why nothing can be measured, the same on every process; None where something can."""
        problem = "no forward pass of the model was seen before step()"
        if loss is not None:
            problem = loss.problem() or ""
        if _reduce.is_distributed(self._process_group):
            device = self._params()[0].device
            if _reduce.mean(float(bool(problem)), self._process_group, device) > 0.0:
                problem = problem or "another process cannot"
        return problem or None

    def _active(self) -> list[Tensor]:
        """Those with a gradient."""
        active = self._with_gradient()
        for p in active:
            if p.grad is not None and p.grad.is_sparse:
                raise RuntimeError(
                    "MeasuredLR does not support sparse gradients: build the embedding with "
                    "sparse=False"
                )
        return active

    def _measure(self, loss: Loss, value0: float, active: list[Tensor]) -> None:
        rate, line, frozen = self._rate, self._line, self._settings.frozen
        probes = Probes(line, loss, value0, self._recorder.model, self._process_group)
        rounding = rounding_of(loss.value)
        moved = loss.weights_have_moved
        if self._repeats() or moved:
            again = probes.evaluate()
            if not moved and not is_near(again, value0, rounding):
                self._not_repeatable(value0, again)
            probes.value0 = again
        factor, status = self._factor()
        if rate.in_use is None and not frozen:
            factor *= rate.trial
        grads = [p.grad for p in active]
        scale = None if moved else scale_of(loss, active)
        line.begin(active)
        try:
            self._apply(factor)
            slope = own_slope(probes, active, grads, scale)
            size = line.start_size()
            seen = rate.saw(probes.value0)
            is_out = rate.in_use is not None and seen.in_use != rate.in_use
            rate = dataclasses.replace(seen, norm=min(rate.norm, size), size=size)
            self._rate = rate
            step = Step(
                number=self._steps,
                multiple=self._multiple,
                alpha=self._step_adaptation(),
                left=self._settings.left(self._steps),
                scheduled=self._scheduled(),
                filling=self._filling(),
                limit=self._limit(),
                total_steps=self._settings.total_steps,
                frozen=frozen,
                shortened=status is Status.CAPPED,
                checks=self._checks(),
                share=0.0 if self._averages is None else 1.0 - self._averages.share,
                foreign=scale is None and not moved,
                rounding=rounding,
                eps=roughest(active),
            )
            measured = conclude(step, probes, rate, slope, self._tell)
        except BaseException:
            line.return_to_start()
            raise
        self._absorb()
        if self._averages is not None:
            for module in self._recorder.outermost:
                self._averages.watch(module)
        if measured.share != 1.0:
            self._publish(factor * measured.share)
        if not frozen and rate.in_use is not None:
            self._note_bound(measured.limited)
        self._learn(measured.rate, loss, probes.cost)
        if is_out and self._averages is not None:
            self._averages.go_home(self._params())
        effective = max(float(g["effective_lr"]) for g in self.param_groups)
        self._last = dataclasses.replace(
            measured.outcome,
            effective_lr=effective,
            cost=probes.cost + Cost(self._passes, self._passes),
        )
        remember(self._history, self._point(step, self._last))
        if self._on_measure is not None and self._last.status.measured:
            self._on_measure(self._last)

    def _point(self, step: Step, outcome: StepOutcome) -> RatePoint:
        """What the history keeps of a measurement."""
        unit, found, rate = max(self._units()), self.rate, outcome.effective_lr
        has_bound = math.isfinite(self._bound.share) and outcome.length > 0.0
        return RatePoint(
            step=self._steps,
            effective_lr=rate,
            measured=None if found.value is None else found.value * unit,
            low=found.low * unit,
            high=found.high * unit,
            bound=rate * step.limit / outcome.length if has_bound else math.inf,
            decay=step.left * step.scheduled,
        )

    def _learn(self, rate: RateState, loss: Loss, cost: Cost) -> None:
        """Book a measurement, and plan the next."""
        spent = rate.spent + cost.forward_equivalents / self._passes
        price = (3.0 if loss.calls_backward else 1.0) / self._passes
        self._rate = dataclasses.replace(rate, spent=spent, price=price)
        self._steps += 1
        self._refused = self._failed = 0
        self._book(cost)
        self._plan()

    # What goes wrong

    def _is_bad_gradient(self) -> bool:
        """Whether the gradient is not finite; one much louder than usual is measured soon."""
        if self._settings.frozen:
            return False
        loud = self._gauge.norm(self._with_gradient)
        self._louder = loud / self._rate.loud if self._rate.loud > 0.0 else 1.0
        if self._louder > _MUCH_LOUDER and self._rate.next > self._steps + 1:
            self._rate = dataclasses.replace(self._rate, next=self._steps + 1)
        return not math.isfinite(loud)

    def _refuse(self, value0: float) -> None:
        """No step on a loss or a gradient that is not finite; the rate stays."""
        self._refused += 1
        self._hold(rejected(value0))
        if self._refused >= _TELL_REFUSED:
            self._tell("refused", notices.REFUSED.format(n=self._refused))
            if self._averages is not None and self._refused == _TELL_REFUSED:
                self._go_home()
            broken = not are_finite(self._params())
            if broken or self._refused >= _MOST_REFUSED:
                weights = ", and the weights hold NaN or infinity" if broken else ""
                raise RuntimeError(notices.BROKEN.format(n=self._refused, weights=weights))
        if self._on_measure is not None and self._last is not None:
            self._on_measure(self._last)

    def _go_home(self) -> None:
        """Go on from the average, which left the range of finite losses last."""
        assert self._averages is not None
        self._averages.go_home(self._params())
        in_use = None if self._rate.in_use is None else 0.25 * self._rate.in_use
        self._rate = dataclasses.replace(self._rate, in_use=in_use, next=self._steps + 1)

    def _hold(self, outcome: StepOutcome) -> None:
        """A step that does not move the weights."""
        self._publish(0.0)
        self._steps += 1
        self._book(Cost())
        self._last = dataclasses.replace(outcome, cost=Cost(self._passes, self._passes))
        self._plan()

    def _cannot_measure(self, loss: Loss | None, problem: str) -> None:
        """Say that nothing is measured, and how it could be; step at the rate in use, if any."""
        self._failed += 1
        following = self._steps + (1 if self._failed < 4 else 50)
        self._rate = dataclasses.replace(self._rate, next=following)
        overwritten = isinstance(loss, Tape) and loss.was_overwritten  # the next one keeps it
        retries = (overwritten or self._recorder.looks_again()) and self._failed <= 2
        message = notices.CANNOT.format(reason=problem)
        if "forward" in problem:
            message += notices.PASS_THE_MODEL if self._model is None else notices.ANOTHER_MODEL
        if self._rate.in_use is not None or self._settings.frozen:
            if not retries:
                self._tell("cannot", message)
            self._plain_step()
        elif retries:
            self._hold(StepOutcome(0.0, 0.0, Status.COLLECTING, math.nan))
        else:
            self._plan()
            raise ReplayError(message)

    def _not_repeatable(self, first: float, second: float) -> None:
        message = notices.NOT_REPEATABLE.format(first=first, second=second)
        if self._rate.in_use is None:
            self._plan()
            raise NotRepeatableError(message)
        self._tell("repeat", message)

    def _notice_schedules(self) -> None:
        """A schedule on top of the horizon, or one that takes the unit for a rate."""
        for group, unit in zip(self._base.param_groups, self._units(), strict=True):
            top = group.get("max_lr")
            if isinstance(top, int | float) and unit > 0.0 and abs(top / unit - 1.0) > 0.01:
                self._tell("max_lr", notices.MAX_LR.format(top=top, times=top / unit, unit=unit))
        scheduled = self._scheduled()
        if self._settings.falls and scheduled < min(0.97, self._lowest):
            if self._lowest < 1.0:
                self._tell("schedule", notices.SCHEDULE)
            self._lowest = scheduled

    def _tell(self, kind: str, message: str) -> None:
        self._notices.tell(kind, message)

    @torch.no_grad()
    def check_closure(self, closure: Callable[[], Any]) -> None:
        """Evaluate a loss twice and compare. Leaves no trace; not counted.

        Args:
            closure: returns the loss of one batch.

        Raises:
            NotRepeatableError: if the losses differ.
        """
        watched = Watched(closure, self._params(), self._model, self._devices())
        watched.calls_backward = bool(self._closure_differentiates)
        first, second = watched.replay(), watched.replay()
        if not (math.isnan(first) or is_near(first, second, 0.0)):
            raise NotRepeatableError(notices.NOT_REPEATABLE.format(first=first, second=second))

    check = check_closure


def _unit(group: dict[str, Any]) -> float:
    """What a multiple of 1 stands for: the rate before schedulers, or the peak of 1cycle."""
    return float(group.get("max_lr", group.get("initial_lr", group["lr"])))


def _refuse_scaler() -> None:
    """``scaler.step(optimizer, closure)`` would run the closure's backward pass unscaled."""
    frame = sys._getframe(2)
    for _ in range(12):  # torch's wrappers of step() are between
        scaler = frame.f_locals.get("self")
        if isinstance(scaler, torch.amp.GradScaler) and scaler.is_enabled():
            raise RuntimeError(notices.SCALER)
        if frame.f_back is None:
            return
        frame = frame.f_back


def _check_base(optimizer: Any) -> None:
    """Refuse what cannot be wrapped, in a line that says why."""
    if isinstance(optimizer, LineSearchOptimizer | MeasuredLR):
        raise TypeError(f"{type(optimizer).__name__} measures its steps already")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"the first argument must be a torch optimizer, got {type(optimizer).__name__}: "
            "MeasuredLR(torch.optim.AdamW(model.parameters()), model)"
        )


def _check_model(optimizer: Optimizer, model: Any) -> None:
    """The model must own what the optimizer trains."""
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    check_belongs(optimizer, model)
