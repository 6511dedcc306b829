"""MeasuredLR: any torch optimizer, with a learning rate that is measured while it trains."""

from __future__ import annotations

import dataclasses
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from surefoot import _params, _reduce
from surefoot._networks import has_batch_norm, largest_change, size_of
from surefoot._quiet import Buffers, RngState, devices_of
from surefoot.line import NotRepeatableError
from surefoot.measured.bound import Bound
from surefoot.measured.estimate import RateInterval
from surefoot.measured.linear import respond
from surefoot.measured.pace import Budget
from surefoot.measured.probing import Probes, is_near, rounding_of, search
from surefoot.measured.rate import RateState
from surefoot.measured.settings import Settings
from surefoot.measured.taken_step import TakenStep
from surefoot.measured.wrapper import Wrapper
from surefoot.optim.base import LineSearchOptimizer, rejected
from surefoot.outcome import Cost, Status, StepOutcome
from surefoot.parabola import Parabola
from surefoot.replay import Loss, Recorder, ReplayError, Tape, Watched
from surefoot.searches.least_squares import LeastSquaresSearch

__all__ = ["MeasuredLR"]

UNDER_A_HORIZON = 3.0
"""α where the rate falls to zero: measured, docs/measured-lr.md."""
_CHECK_EVERY = 8
"""Measurements from one with several probes to the next, which tells whether the losses lie on a
parabola and whether the gradient's slope is theirs."""
_REPEAT_EVERY = 16
"""Measurements from one that replays the unmoved weights to the next."""
_FIRST_SHARE = 0.01
"""Where the first probe goes, as a share of the weights' norm."""
_NEARLY_NOTHING = 0.05
"""What is left of a horizon below which measuring is no longer worth it."""
_INFORMATIVE = 4.0
"""A probe tells of a minimum that is at most this factor away from it."""
_TOO_FAR = 4.0
"""How many times as far as it should have gone a step may go before it is taken back."""
_UNMEASURED_CHANGE = 0.1
"""Share of the weights' norm up to which a rate may grow where no minimum was measured."""
_TELL_REFUSED, _MOST_REFUSED = 3, 100
_STATE = "measured"
"""Under which key of the first group checkpoints keep the state."""

HELP = """\
MeasuredLR cannot evaluate this loss at other weights: {reason}.

Let it run the forward pass and the loss itself; the rest of the loop stays as it is:

    loss = optimizer.watch(lambda: loss_fn(model(x), y))
    loss.backward()
    optimizer.step()

or give step() a closure that returns the loss: optimizer.step(lambda: loss_fn(model(x), y)){hint}"""


class MeasuredLR(Wrapper):
    r"""Wraps any torch optimizer and measures the learning rate it should have.

    The wrapped optimizer decides where to go, this class how far. Rarely, after a step of the
    wrapped optimizer, the loss of the same batch is evaluated once more where that step ended; slope
    and curvature of many such parabolas give a rate with a confidence interval, and every step is
    the wrapped optimizer's own with

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
            overhead=overhead,
            frozen=frozen,
        )
        super().__init__(optimizer)
        self._response = respond(optimizer)
        self._steps_before = 32 if optimizer.state else 0  # a memory that is there counts as filled
        self._rate = RateState(tuple(_unit(group) for group in optimizer.param_groups))
        self._steps, self._closure_differentiates = 0, None
        self._cost = Cost()
        self._model = model
        self._attach(process_group, on_measure)

    def _attach(self, group: Any, on_measure: Callable[[StepOutcome], None] | None) -> None:
        """What copies and checkpoints do not keep."""
        self._process_group, self._on_measure = group, on_measure
        self._recorder, self._line = Recorder(self._model), TakenStep(group)
        self._watched: Watched | None = None
        self._told: set[str] = set()
        self._refused = self._failed = 0
        self._passes = (1, 1)
        self._has_batch_norm = self._model is not None and has_batch_norm(self._model)
        given = self._settings.max_change
        self._bound = Bound(largest_change(self._model) if given is None else given)
        self._last: StepOutcome | None = None
        self._applied: tuple[float, Status] | None = None
        self._smallest: list[Tensor] = []
        self._base.param_groups[0].setdefault(_STATE, None)
        self._plan()

    def __getstate__(self) -> dict[str, Any]:
        names = ("_base", "_model", "_settings", "_response", "_rate", "_steps", "_steps_before")
        return {n: vars(self)[n] for n in (*names, "_closure_differentiates", "_cost")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._attach(None, None)

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's; what this one remembers is in the first group."""
        state = self._base.state_dict()
        first = dict(state["param_groups"][0])
        first[_STATE] = {
            **self._rate.to_dict(),
            "step": self._steps,
            "steps_before": self._steps_before,
            "closure_differentiates": self._closure_differentiates,
            "cost": [self._cost.forwards, self._cost.backwards, self._cost.probes],
        }
        return {**state, "param_groups": [first, *state["param_groups"][1:]]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint; one of the wrapped optimizer alone starts measuring anew."""
        own = state_dict["param_groups"][0].get(_STATE) or _of_0_1(state_dict.get("measured"))
        self._base.load_state_dict({k: v for k, v in state_dict.items() if k != "measured"})
        self._base.param_groups[0][_STATE] = None
        self._rate = RateState(tuple(_unit(group) for group in self._base.param_groups))
        self._steps, self._cost, self._closure_differentiates = 0, Cost(), None
        self._steps_before = 32 if self._base.state else 0
        if own:
            self._rate = RateState.from_dict(own)
            self._steps, self._steps_before = own["step"], own["steps_before"]
            self._closure_differentiates = own["closure_differentiates"]
            self._cost = Cost(*own["cost"])
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
            forwards, backwards = self._passes
            self._last = StepOutcome(
                t, math.nan, status, math.nan, effective_lr=effective,
                cost=Cost(forwards, backwards),
            )  # fmt: skip
        return self._last

    @property
    def total_steps(self) -> int | None:
        """Length of the run; may be set anew."""
        return self._settings.total_steps

    @total_steps.setter
    def total_steps(self, value: int | None) -> None:
        self._settings = dataclasses.replace(self._settings, total_steps=value)
        self._plan()

    # The loop

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
        return self._watched.first()  # type: ignore[no-any-return]

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
        if closure is not None:
            return self._step_with(closure)
        if all(float(group["lr"]) == 0.0 for group in self.param_groups):
            self._base.step()  # nothing moves: whoever asks wants the state made
        elif self._is_due:
            loss = self._watched if self._watched is not None else self._recorder.finish()
            self._watched = None
            self._measured_step(loss)
        elif self._is_bad_gradient():
            self._refuse(math.nan)
        else:
            self._plain_step()
        return None

    def _step_with(self, closure: Callable[[], Any]) -> Any:
        if not callable(closure):
            raise TypeError(
                "step() takes no loss: call loss.backward(), then optimizer.step(), or give step() "
                "a function that returns the loss"
            )
        _refuse_scaler()
        params = self._params()
        watched = Watched(closure, params, self._model, self._devices()) if self._is_due else None
        before = [(p.grad, 0 if p.grad is None else p.grad._version) for p in params]
        if watched is not None:
            loss = watched.first()
        else:
            with torch.enable_grad():
                loss = closure()
        tape = self._recorder.finish() if self._is_due else None
        if loss is None:  # Lightning's way to leave a batch out
            self._plan()
            return None
        differentiates = any(
            p.grad is not old or (old is not None and old._version != version)
            for p, (old, version) in zip(params, before, strict=True)
        )
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
            loss.backward()  # type: ignore[no-untyped-call]
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
        self._apply(factor)
        self._done(status)

    def _apply(self, factor: float) -> None:
        groups = self._base.param_groups
        if factor == 1.0:
            self._base.step()
        else:
            with multiplied(groups, factor):
                self._base.step()
        self._publish(factor)

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
        self._last, self._applied = None, (self._multiple, status)
        self._book(Cost())
        self._plan()

    def _book(self, probes: Cost) -> None:
        forwards, backwards = self._passes
        cost = self._cost
        self._cost = Cost(
            cost.forwards + forwards + probes.forwards,
            cost.backwards + backwards + probes.backwards,
            cost.probes + probes.probes,
        )

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
        return self._rate.attempts in (1, 2) or self._rate.attempts % _CHECK_EVERY == _CHECK_EVERY - 1

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
            self._tell(
                "end",
                f"the run goes on after its total_steps={settings.total_steps}: steps are zero "
                "from here on; set optimizer.total_steps to the new length",
            )
        factor = rate.in_use * self._step_adaptation() * left * rate.approach(self._steps)
        if not math.isfinite(self._bound.share):
            return factor, Status.REUSED
        scheduled = self._scheduled()
        length = factor * scheduled * rate.length / self._filling()
        limit = self._bound.limit(rate.norm, left * min(1.0, scheduled))
        shortened = length > 1.001 * limit
        self._note_bound(shortened)
        return (factor * limit / length, Status.CAPPED) if shortened else (factor, Status.REUSED)

    def _note_bound(self, shortened: bool) -> None:
        if self._bound.note(shortened):
            self._tell("bound", self._bound.advice)

    def _filling(self) -> float:
        return self._response.growth_to_come(self._steps_before + self._steps)

    def _step_adaptation(self) -> float:
        """α: measured minima to go."""
        if self._settings.step_adaptation is not None:
            return self._settings.step_adaptation
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
        problem = "no forward pass of the model was seen before step()"
        if loss is not None:
            problem = loss.problem() or ""
        value0 = math.nan
        if loss is not None and not problem:
            value0 = _reduce.mean(float(loss.value), self._process_group, loss.value.device)
            self._passes = (max(1, self._recorder.forwards or loss.forwards), loss.backwards)
        if _reduce.is_distributed(self._process_group):
            if _reduce.mean(float(bool(problem)), self._process_group, self._params()[0].device):
                problem = problem or "another process cannot"
        if problem:
            self._cannot_measure(loss, problem)
            return
        assert loss is not None
        active = self._active()
        if not self._settings.frozen and not (math.isfinite(value0) and _is_finite(active)):
            self._refuse(value0)
            return
        self._notice_schedules()
        try:
            self._measure(loss, value0, active)
        finally:
            self._line.forget()

    def _active(self) -> list[Tensor]:
        """Those with a gradient."""
        active = [p for p in self._params() if p.grad is not None]
        for p in active:
            if p.grad is not None and p.grad.is_sparse:
                raise RuntimeError(
                    "MeasuredLR does not support sparse gradients: build the embedding with "
                    "sparse=False"
                )
        return active

    def _measure(self, loss: Loss, value0: float, active: list[Tensor]) -> None:
        rate, line, settings = self._rate, self._line, self._settings
        rounding = rounding_of(loss.value)
        probes = Probes(
            line, loss, value0, None, math.nan, self._recorder.model, self._process_group
        )
        moved = isinstance(loss, Tape) and loss.weights_have_moved
        if self._repeats() or moved:
            again = probes.evaluate()
            if not moved and not is_near(again, value0, rounding):
                self._not_repeatable(value0, again)
            probes.value0 = value0 = again
        rate = rate.saw(value0)
        factor, status = self._factor()
        if rate.in_use is None:
            factor *= rate.trial
        grads = [p.grad for p in active]
        scale = None if moved or loss.backwards > 1 else _scale(loss, active)
        line.begin(active)
        try:
            self._apply(factor)
            slope = self._slope(loss, line, active, grads, scale)
            probes.slope0 = slope if rate.slopes == "gradient" else None
            probes.direction_norm = line.slope_and_length([None] * len(active))[1]
            rate = dataclasses.replace(rate, norm=min(rate.norm, self._size(active)))
            if self._multiple == 0.0 or probes.direction_norm == 0.0:
                outcome, rate = self._nothing_moved(probes, rate)
            else:
                outcome, rate = self._probe(probes, rate, status, rounding, slope)
        except BaseException:
            line.go_back()
            raise
        units = loss.forwards / self._passes[0]
        price = 3.0 * units if probes.cost.backwards else units
        spent = probes.cost.forward_equivalents / loss.forwards * units
        self._rate = dataclasses.replace(rate, spent=rate.spent + spent, price=price)
        self._steps += 1
        self._refused = self._failed = 0
        self._book(probes.cost)
        forwards, backwards = self._passes
        self._last = dataclasses.replace(outcome, cost=probes.cost + Cost(forwards, backwards))
        if settings.frozen and self._rate.in_use is None:
            self._rate = dataclasses.replace(self._rate, in_use=1.0)
        self._plan()
        if self._on_measure is not None and outcome.status.measured:
            self._on_measure(self._last)

    def _slope(
        self,
        loss: Loss,
        line: TakenStep,
        active: list[Tensor],
        grads: list[Tensor | None],
        scale: float | None,
    ) -> float | None:
        """Derivative of the loss along the step; None where the gradient is not the loss's own."""
        if scale is None or any(g is None for g in grads):
            return None
        after = _scale(loss, active)  # some optimizers write into gradients
        if after is None or not math.isclose(after, scale, rel_tol=1e-4):
            return None
        slope, _ = line.slope_and_length(grads)
        if not _reduce.is_sharded(active):
            slope = _reduce.mean(slope, self._process_group, active[0].device)
        return slope / scale

    def _size(self, active: list[Tensor]) -> float:
        """The norm of the weights where the step began."""
        return self._line.start_norm(size_of)

    def _probe(
        self, probes: Probes, rate: RateState, status: Status, rounding: float, slope: float | None
    ) -> tuple[StepOutcome, RateState]:
        """Look along the step, conclude, and leave the weights where they are to be."""
        settings, line, filling = self._settings, self._line, self._filling()
        multiple, length = self._multiple, probes.direction_norm
        per_unit = length / multiple * filling
        rate = dataclasses.replace(rate, length=per_unit)
        is_first = rate.in_use is None
        end, limited = 1.0, False
        if not settings.frozen and not is_first:
            left = settings.left(self._steps) * min(1.0, self._scheduled())
            limit = self._bound.limit(rate.norm, left)
            if length > 1.001 * limit:
                end, limited = limit / length, True
                line.go_to(end)
        if is_first:
            if length < 0.03 * _sharpness(self._params()) * rate.norm and not settings.frozen:
                return self._nothing_moved(probes, rate)
            reach = _FIRST_SHARE * rate.norm / length
            found = search(probes, rounding, reach, exact=settings.frozen)
            places: tuple[float, ...] = tuple(probes.values)
        else:
            wanted = float(rate.in_use or 1.0) / filling / multiple
            near = 1.0 / _INFORMATIVE <= wanted / end <= _INFORMATIVE
            base = end if near else wanted
            checks = self._checks() or rate.slopes == "losses"
            places = (base, 0.5 * base) if checks else (base,)
            if probes.slope0 is None and len(places) == 1:
                places = (base, 0.5 * base)
            if not near or len(places) > 1:
                if near and end == 1.0:
                    probes.value(1.0)
                    if math.isfinite(probes.values[1.0]):
                        line.keep_end()
                elif end == 1.0:
                    line.keep_end()
            finite = all(math.isfinite(probes.value(t)) for t in places[:1])
            found = LeastSquaresSearch(places if finite else places[:1], _INFORMATIVE * base, rounding)(
                probes
            )
        rate = self._compare_slopes(rate, probes, places, slope, rounding)
        if len(places) > 1 and found.parabola is not None and probes.slope0 is not None and not is_first:
            rate = rate.checked(found.parabola, max(places))
            self._tell_misfit(rate)
        self._notice_unmoved(probes, rounding, slope)
        parabola = None if found.parabola is None else _per_multiple(found.parabola, multiple)
        most = _UNMEASURED_CHANGE * rate.norm / per_unit if per_unit > 0.0 else math.inf
        rate = rate.learned(
            self._steps,
            found.status,
            parabola,
            probed=max(places) * multiple,
            filling=filling,
            total_steps=settings.total_steps,
            most=most,
        )
        if found.status is Status.FLAT:
            self._tell_flat(rate)
        end, limited = self._place(found, rate, end, limited, is_first)
        if rate.is_misfit and rate.interval.value is not None and found.parabola is not None:
            found = dataclasses.replace(found, status=Status.MISFIT)
        if limited and found.status in (Status.MINIMUM, Status.NOT_CONVEX):
            found = dataclasses.replace(found, status=Status.CAPPED)
        if not is_first:
            self._note_bound(limited)
        if end != 1.0:
            self._publish_share(end)
        outcome = dataclasses.replace(
            found,
            t=self._multiple,
            length=end * length,
            direction_norm=length / multiple,
            slope0=None if found.slope0 is None else found.slope0 / multiple,
            parabola=parabola,
            effective_lr=max(float(g["effective_lr"]) for g in self.param_groups),
        )
        return outcome, rate

    def _place(
        self, found: StepOutcome, rate: RateState, end: float, limited: bool, is_first: bool
    ) -> tuple[float, bool]:
        """Leave the weights where the step is to end; how much of it that is."""
        line, settings, multiple = self._line, self._settings, self._multiple
        if settings.frozen:
            line.return_to_end()
            return 1.0, False
        aim = (rate.in_use or 0.0) * self._step_adaptation() * settings.left(self._steps)
        if is_first:
            wanted = aim / self._filling() * 2.0**-3 / (multiple / self._scheduled_or_one())
            line.go_to(wanted) if wanted > 0.0 else line.go_back()
            return wanted, False
        if found.status is Status.NON_FINITE:
            line.go_back()
            return 0.0, True
        if found.status is Status.MINIMUM and found.parabola is not None:
            alpha = self._step_adaptation() * settings.left(self._steps)
            best = found.t * max(1.0, alpha)
            if end > _TOO_FAR * best:
                line.go_to(best)
                return best, True
        if end == 1.0:
            line.return_to_end()
        else:
            line.go_to(end)
        return end, limited

    def _scheduled_or_one(self) -> float:
        return self._scheduled() or 1.0

    def _publish_share(self, share: float) -> None:
        self._multiple *= share
        for group in self.param_groups:
            group["effective_lr"] *= share

    def _nothing_moved(self, probes: Probes, rate: RateState) -> tuple[StepOutcome, RateState]:
        """The step drowned in the weights' rounding: try a larger unit at the next one."""
        length = probes.direction_norm
        wanted = 1e-3 * rate.norm / length if length > 0.0 and math.isfinite(length) else 1e4
        trial = rate.trial * min(max(wanted, 2.0), 1e6)
        flat = rate.flat + 1
        rate = dataclasses.replace(rate, trial=min(trial, 1e30), flat=flat, next=self._steps + 1)
        if rate.in_use is not None:
            rate = dataclasses.replace(rate, next=self._steps + min(8 * flat, 1000))
        self._tell_flat(rate)
        outcome = StepOutcome(
            self._multiple, length, Status.FLAT, probes.value0,
            effective_lr=max(float(g["effective_lr"]) for g in self.param_groups),
        )  # fmt: skip
        return outcome, rate

    def _compare_slopes(
        self,
        rate: RateState,
        probes: Probes,
        places: tuple[float, ...],
        slope: float | None,
        rounding: float,
    ) -> RateState:
        """Decide where derivatives come from: where gradient and losses disagree, from losses."""
        if slope is None:
            if rate.slopes == "gradient":
                self._tell(
                    "losses",
                    "the gradients at step() are not those of the last loss alone (accumulated, "
                    "clipped one by one, changed by the optimizer or by hand), so slopes are "
                    "measured from losses: one more forward pass a measurement",
                    UserWarning if self._settings.frozen else None,
                )
            return dataclasses.replace(rate, slopes="losses")
        if len(places) < 2 or not all(map(math.isfinite, probes.values.values())):
            return rate
        far, near = max(places), min(places)
        if near == far or near not in probes.values or far not in probes.values:
            return rate
        fit = Parabola.from_values(
            (0.0, near, far), (probes.value0, probes.values[near], probes.values[far])
        )
        bend = abs(0.5 * fit.curvature * far)
        noise = 8.0 * rounding * abs(probes.value0) / near
        differ = abs(fit.slope0 - slope) > 0.5 * max(abs(slope), abs(fit.slope0), bend) + noise
        disagreed = rate.disagreed + 1 if differ else 0
        if disagreed >= 2 and rate.slopes == "gradient":
            self._tell(
                "slopes",
                "the gradient does not tell how the loss falls along the step (it was changed "
                "before step(), or belongs to more than this loss), so slopes are measured from "
                "losses: one more forward pass a measurement",
            )
            return dataclasses.replace(rate, slopes="losses", disagreed=disagreed)
        if not differ and rate.slopes == "losses" and rate.disagreed <= 0:
            return dataclasses.replace(rate, slopes="gradient", disagreed=0)
        return dataclasses.replace(rate, disagreed=disagreed)

    # What goes wrong

    def _is_bad_gradient(self) -> bool:
        """Whether the smallest gradient is not finite: what a NaN of the loss shows in at once."""
        if self._settings.frozen:
            return False
        if not self._smallest or self._smallest[0].grad is None:
            active = self._active()
            if not active:
                return False
            self._smallest = [min(reversed(active), key=lambda p: p.numel())]
        grad = self._smallest[0].grad
        assert grad is not None
        total = float(_reduce.local([grad])[0].sum())
        if _reduce.is_sharded([grad]):
            total = _reduce.over_shards([total], True, self._process_group)[0]
        return not math.isfinite(total)

    def _refuse(self, value0: float) -> None:
        """No step on a loss or a gradient that is not finite; the rate stays."""
        self._refused += 1
        self._publish(0.0)
        self._steps += 1
        self._book(Cost())
        self._last = rejected(value0)
        self._watched = None
        if self._refused == _TELL_REFUSED:
            self._tell(
                "refused",
                f"the loss or its gradient was not finite {_TELL_REFUSED} times in a row; these "
                "batches are left out",
            )
        if self._refused >= _TELL_REFUSED:
            broken = not _is_finite_all(self._params())
            if broken or self._refused >= _MOST_REFUSED:
                raise RuntimeError(
                    f"{self._refused} losses in a row were not finite"
                    + (", and the weights hold NaN or infinity" if broken else "")
                    + ": go back to a checkpoint, and look at the data of these batches"
                )
        self._plan()
        if self._on_measure is not None:
            self._on_measure(self._last)

    def _cannot_measure(self, loss: Loss | None, problem: str) -> None:
        """Say that nothing is measured, and how it could be; step at the rate in use, if any."""
        self._failed += 1
        self._rate = dataclasses.replace(
            self._rate, next=self._steps + (1 if self._failed < 4 else 50)
        )
        overwritten = isinstance(loss, Tape) and loss.was_overwritten
        retries = overwritten or self._recorder.looks_again()
        if self._rate.in_use is None and not self._settings.frozen:
            if not retries or self._failed > 2:
                self._plan()
                raise ReplayError(HELP.format(reason=problem, hint=self._hint(problem)))
            self._publish(0.0)
            self._steps += 1
            self._last = StepOutcome(0.0, 0.0, Status.COLLECTING, math.nan)
            self._book(Cost())
            self._plan()
            return
        if not overwritten:
            self._tell("cannot", HELP.format(reason=problem, hint=self._hint(problem)))
        self._plain_step()

    def _hint(self, problem: str) -> str:
        if "forward" not in problem:
            return ""
        if self._model is None:
            return "\n\nPass the model: surefoot.MeasuredLR(optimizer, model)."
        return (
            "\n\nIs the model that was passed the one that the loop calls? A model that was "
            "compiled, or wrapped, after it was passed is another one."
        )

    def _not_repeatable(self, value0: float, again: float) -> None:
        message = (
            f"the loss was {value0!r} and then {again!r} for the same weights and the same random "
            "numbers, so a step size cannot be measured with it. Does the forward pass or the "
            "closure draw a new batch, or use NumPy's or Python's random numbers? Draw them before. "
            "Are its buffers out of reach? Pass the model: MeasuredLR(optimizer, model)"
        )
        if self._rate.in_use is None:
            raise NotRepeatableError(message)
        self._tell("repeat", message)

    def _notice_unmoved(self, probes: Probes, rounding: float, slope: float | None) -> None:
        """A loss that does not look at the weights: the same bits where it must differ."""
        if self._rate.attempts > 0 or slope is None:
            return
        same = all(v == probes.value0 for v in probes.values.values())
        far = max(map(abs, probes.values), default=0.0)
        if same and abs(slope * far) > 1000.0 * rounding * abs(probes.value0):
            raise RuntimeError(
                "the loss is the same to the bit after the weights have moved: compute the "
                "model's output inside the closure, not before it"
            )

    def _notice_schedules(self) -> None:
        """A schedule on top of the horizon, or one that takes the unit for a rate."""
        groups, units = self._base.param_groups, self._units()
        for group, unit in zip(groups, units, strict=True):
            top = group.get("max_lr")
            if isinstance(top, int | float) and unit > 0.0 and abs(top / unit - 1.0) > 0.01:
                self._tell(
                    "max_lr",
                    f"OneCycleLR's max_lr={top:g} is {top / unit:.3g} times the group's lr, and "
                    "that many measured rates will be applied at its peak: under MeasuredLR the "
                    f"lr is only a unit. Pass max_lr={unit:g}",
                )
        if self._settings.falls and self._scheduled() < 0.97 and self._steps > 1:
            before, self._lowest = getattr(self, "_lowest", 1.0), self._scheduled()
            if self._lowest < before and before < 1.0:
                self._tell(
                    "schedule",
                    "a scheduler lowers the rate on top of MeasuredLR's own horizon, so it falls "
                    'twice: leave the scheduler out (Hugging Face: lr_scheduler_type="constant"), '
                    'or pass horizon="none"',
                )

    def _tell_misfit(self, rate: RateState) -> None:
        if rate.is_misfit:
            self._tell(
                "misfit",
                "the loss along the updates is no parabola, so the measured learning rate is "
                "taken from the cautious end of its interval; see optimizer.rate",
            )

    def _tell_flat(self, rate: RateState) -> None:
        if rate.flat >= 6 and rate.interval.value is None:
            self._tell(
                "flat",
                "no learning rate could be measured: along the updates the loss changes by less "
                "than its rounding. Is the loss scaled down, or solved already?",
            )

    def _tell(self, what: str, message: str, kind: type[Warning] | None = UserWarning) -> None:
        """Warn, once of each kind."""
        if what not in self._told:
            self._told.add(what)
            if kind is not None:
                warnings.warn(message, kind, stacklevel=_outside())

    @torch.no_grad()
    def check_closure(self, closure: Callable[[], Any]) -> None:
        """Evaluate the loss twice and compare. Leaves no trace; not counted.

        Args:
            closure: returns the loss of one batch.

        Raises:
            NotRepeatableError: if the losses differ.
        """
        random, buffers = RngState.capture(self._devices()), Buffers(self._model).snapshot()
        watched = Watched(closure, self._params(), self._model, self._devices())
        watched.calls_backward = bool(self._closure_differentiates)
        try:
            first, second = watched.replay(), watched.replay()
        finally:
            random.restore()
            buffers.restore()
        if not (math.isnan(first) or is_near(first, second, 0.0)):
            raise NotRepeatableError(
                f"the closure gave {first!r} and then {second!r} for the same weights and the same "
                "random numbers: draw batches and random numbers before it"
            )

    check = check_closure


@contextmanager
def multiplied(groups: list[dict[str, Any]], factor: float) -> Iterator[None]:
    """Inside, every group's ``lr`` is ``factor`` times what it is; afterwards the same object."""
    rates = [group["lr"] for group in groups]
    try:
        for group, lr in zip(groups, rates, strict=True):
            group["lr"] = lr * factor
        yield
    finally:
        for group, lr in zip(groups, rates, strict=True):
            group["lr"] = lr


def _scale(loss: Loss, active: list[Tensor]) -> float | None:
    return None if loss.gradient is None else loss.gradient.scale_since(active)


def _per_multiple(p: Parabola, multiple: float) -> Parabola:
    return Parabola(p.value0, p.slope0 / multiple, p.curvature / multiple**2, p.residual)


def _unit(group: dict[str, Any]) -> float:
    """What a multiple of 1 stands for: the rate before schedulers, or the peak of 1cycle."""
    return float(group.get("max_lr", group.get("initial_lr", group["lr"])))


def _sharpness(params: list[Tensor]) -> float:
    return math.sqrt(max(torch.finfo(p.dtype).eps for p in params))


def _is_finite(active: list[Tensor]) -> bool:
    grads = _reduce.local([p.grad for p in active if p.grad is not None])
    sharded = _reduce.is_sharded([p.grad for p in active if p.grad is not None])
    largest = math.fsum(
        0.0 if math.isfinite(n) else 1.0 for n in _params.norms_sq(grads)
    )
    # a square may overflow where the number does not
    if largest and all(bool(torch.isfinite(g).all()) for g in grads):
        largest = 0.0
    return _reduce.over_shards([largest], sharded)[0] == 0.0


def _is_finite_all(params: list[Tensor]) -> bool:
    bad = 0.0 if all(bool(torch.isfinite(p).all()) for p in _reduce.local(params)) else 1.0
    return _reduce.over_shards([bad], _reduce.is_sharded(params))[0] == 0.0


def _outside() -> int:
    """How many frames up the user's code is."""
    frame, level = sys._getframe(1), 1
    while frame is not None and frame.f_globals.get("__name__", "").startswith(
        ("surefoot.", "torch.")
    ):
        frame, level = frame.f_back, level + 1  # type: ignore[assignment]
    return level


def _refuse_scaler() -> None:
    """``scaler.step(optimizer, closure)`` would run the closure's backward pass unscaled."""
    frame = sys._getframe(2)
    for _ in range(4):
        if frame is None:
            return
        scaler = frame.f_locals.get("self")
        if isinstance(scaler, torch.amp.GradScaler) and scaler.is_enabled():
            raise RuntimeError(
                "scaler.step(optimizer, closure) would differentiate without the scale: call "
                "scaler.scale(loss).backward() in the loop, then scaler.step(optimizer)"
            )
        frame = frame.f_back  # type: ignore[assignment]


def _of_0_1(own: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What 0.1 remembered, in today's words."""
    if own is None:
        return None
    gauge, counts = own["gauge"], own["counts"]
    seen, mean, spread = gauge["losses"]
    return {
        "units": list(gauge["reference"]),
        "in_use": gauge["scale"],
        "since": -8,
        "measurements": [list(m) for m in gauge["measurements"]],
        "attempts": gauge["attempts"],
        "next": gauge["next"],
        "spent": gauge["spent"],
        "probed": gauge["reach"],
        "misfits": list(gauge["misfits"]),
        "losses": [seen, mean, spread, 0],
        "norm": gauge["size"],
        "step": counts["steps"],
        "steps_before": 32,
        "closure_differentiates": counts["closure_calls_backward"],
        "cost": [counts["forwards"], counts["backwards"], counts["probes"]],
    }


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
    if model is None:
        return
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    own = {id(p) for p in model.parameters()}
    if own and not any(id(p) in own for g in optimizer.param_groups for p in g["params"]):
        raise ValueError(
            "the model has none of the optimizer's parameters: pass the model that it trains"
        )
