"""MeasuredLR: any torch optimizer, with a learning rate that is measured while it trains."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from surefoot._evaluation import NOT_REPEATABLE, OF_NO_PARAMETER, agree
from surefoot._fresh_gradient import have_changed, marks
from surefoot._notices import Notices
from surefoot._numbers import check_callable, check_count
from surefoot.line import NotRepeatableError
from surefoot.measured import notices
from surefoot.measured.advice import Advice, Prediction
from surefoot.measured.estimate import RateInterval
from surefoot.measured.history import RatePoint
from surefoot.measured.measuring import ROUGH, roughest
from surefoot.measured.ratios import GroupRatio
from surefoot.measured.refusals import check_base, check_checkpoint, check_model, check_scaler
from surefoot.measured.settings import Settings
from surefoot.measured.stepper import Stepper
from surefoot.measured.wrapper import Wrapper
from surefoot.outcome import Cost, StepOutcome
from surefoot.replay import Tape, Watched
from surefoot.replay.tape import stop_abandoned

__all__ = ["MeasuredLR"]


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
        max_change: share of the weights' norm by which a step may change them at most; the
            norm is the geometric mean of the smallest so far and today's, and the share falls with
            the horizon. None: 0.03, or 1 / √total_steps if that is less, but no bound where
            the model has BatchNorm or one layer; ``math.inf``: no bound.
        overhead: what measuring may cost, as a share of plain training in forward-equivalents.
            Without ``total_steps``, 24 forward-equivalents more, for the start.
        frozen: measure and report, but train as the plain optimizer does.
        groups: ``"ratio"``: groups keep the ratios of their ``lr``; ``"measured"``: those are
            measured, too; see ``ratios``.
        weight_decay: ``"measured"``: the weight decay that holds the decay time at the length of
            the run, of groups that have one, or of all where none has.
        advice: keep what :meth:`advice` and :meth:`predict` need: one copy of the weights from a
            step that measures to the next.
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
    _watched: Watched | None = None

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
        groups: Literal["ratio", "measured"] = "ratio",
        weight_decay: Literal["given", "measured"] = "given",
        advice: bool = False,
        process_group: Any = None,
        on_measure: Callable[[StepOutcome], None] | None = None,
    ) -> None:
        check_base(optimizer)
        check_model(optimizer, model)
        params = [p for group in optimizer.param_groups for p in group["params"]]
        if averaging is None and total_steps is None and roughest(params) > ROUGH:
            # a fifth of a step is what they would see at once: less than their last bit
            averaging = False
            Notices().tell("rough", notices.ROUGH)
        settings = Settings(
            total_steps=total_steps,
            horizon=horizon,
            step_adaptation=step_adaptation,
            max_change=max_change,
            averaging=averaging,
            overhead=overhead,
            frozen=frozen,
            groups=groups,
            weight_decay=weight_decay,
            advice=advice,
        )
        check_callable("on_measure", on_measure)
        super().__init__(optimizer)
        stop_abandoned()
        self._stepper = Stepper(optimizer, model, settings, process_group, on_measure)

    def __getstate__(self) -> dict[str, Any]:
        return {"_base": self._base, "_stepper": self._stepper}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's; what this one remembers is in the first group."""
        return self._stepper.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint; one of the wrapped optimizer alone starts measuring anew.

        Raises:
            ValueError: it is that of another optimizer.
        """
        check_checkpoint(self._base, state_dict)
        self._stepper.load_state_dict(state_dict)
        self._watched = None

    @property
    def cost(self) -> Cost:
        """Passes spent since the start of training."""
        return self._stepper.cost

    @property
    def rate(self) -> RateInterval:
        """The measured multiple of ``lr``, and how sure it is."""
        return self._stepper.rate.interval

    @property
    def ratios(self) -> list[GroupRatio]:
        """How the groups' rates relate, as far as ``groups="measured"`` has found out."""
        return self._stepper.ratios.told()

    @property
    def last(self) -> StepOutcome | None:
        """Outcome of the last step; None before the first."""
        return self._stepper.last

    def history(self) -> list[RatePoint]:
        """The rate at every measurement so far, its interval, its bound and what it decays by.

        :func:`surefoot.plots.rate` draws it. Of more than 4,096 measurements every second one is
        kept. Copies and pickles keep it; a ``state_dict()`` does not.
        """
        return list(self._stepper.history)

    @property
    def total_steps(self) -> int | None:
        """Length of the run; may be set anew, and a decay that has begun goes on from its place."""
        return self._stepper.settings.total_steps

    @total_steps.setter
    def total_steps(self, value: int | None) -> None:
        stepper = self._stepper
        stepper.extend(value, decays=stepper.settings.decay_from is not None)

    @torch.no_grad()
    def finish(self, steps: int) -> None:
        """Begin the end of the run: the rate falls linearly to zero from wherever it is.

        Where weights are averaged, nothing changes: the average is as good as a decay from it
        (docs/beyond-the-rate.md).

        Args:
            steps: until the end; ``total_steps`` is set accordingly.
        """
        check_count("steps", steps)
        if self._stepper.averages is None:
            self._stepper.extend(self._stepper.steps + steps, decays=True)

    def advice(self, batch_size: int | None = None) -> Advice:
        """The rate, the gradient noise scale and the batch size beyond which returns diminish.

        Args:
            batch_size: examples in a step's batch, over all processes and accumulated ones.

        Returns:
            A dataclass that prints as words.

        Raises:
            RuntimeError: unless the optimizer was built with ``advice=True``.
        """
        self._check_advice()
        if batch_size is not None:
            check_count("batch_size", batch_size)
        return self._stepper.advice(batch_size)

    def predict(self, steps: int) -> Prediction | None:
        """The loss that ``finish(steps)`` would reach, with an interval.

        Args:
            steps: of the decay.

        Returns:
            None where too little was measured.

        Raises:
            RuntimeError: unless the optimizer was built with ``advice=True``.
        """
        self._check_advice()
        return self._stepper.predict(check_count("steps", steps))

    def _check_advice(self) -> None:
        if not self._stepper.settings.advice:
            raise RuntimeError("build MeasuredLR with advice=True: it keeps what that needs")

    # The loop

    def averaged(self) -> AbstractContextManager[None]:
        """A context in which the parameters hold the averaged weights.

        They do in evaluation mode anyway, and a ``state_dict()`` and checkpoints see them at any
        time; it is for an evaluation in training mode.
        """
        averages = self._stepper.averages
        return nullcontext() if averages is None else averages.shown()

    def watch(self, function: Callable[[], Any]) -> Tensor:
        """Run forward pass and loss, and keep the function, to run it again where it measures.

        For losses that cannot be followed from the model's outputs: gradient penalties, derivatives
        of the output, detours through NumPy, batches that are overwritten.

        Args:
            function: returns the loss of one batch; does not call ``backward()``.

        Returns:
            The loss, to be differentiated as ever.
        """
        if not callable(function):
            raise TypeError(notices.WATCH_TAKES_A_FUNCTION)
        if not self._stepper.is_due:
            with torch.enable_grad():
                return function()  # type: ignore[no-any-return]
        self._stepper.recorder.disarm()  # a function that can be run again is there
        self._watched = self._stepper.watched(function)
        try:
            loss = self._watched.first()
            if loss is None:
                raise TypeError(notices.WATCH_TAKES_A_FUNCTION)
            return loss  # type: ignore[no-any-return]
        except BaseException:
            self._watched = None
            self._stepper.plan()
            raise

    # without no_grad: it takes longer than all that is done here on most steps
    @torch._disable_dynamo  # type: ignore[attr-defined]
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
            stepper = self._stepper
            stepper.closure_differentiates = None  # as far as is known, no closure comes
            self._step_without(stepper.recorder.finish())
            return None
        except BaseException:
            self._stepper.plan()  # listen again: whoever interrupted it may go on
            raise

    def _step_without(self, tape: Tape | None) -> None:
        """The step of a loop that differentiated its loss itself."""
        loss, self._watched = self._watched or tape, None
        self._stepper.take(loss)

    @torch.no_grad()
    def _step_with(self, closure: Callable[[], Any]) -> Any:
        if not callable(closure):
            raise TypeError(notices.NO_CLOSURE_TAKES_A_LOSS)
        check_scaler()
        stepper = self._stepper
        params = stepper.groups.params()
        watched, before = stepper.watched(closure) if stepper.is_due else None, marks(params)
        with torch.enable_grad():
            loss = closure() if watched is None else watched.first()
        differentiates = have_changed(before, params)
        tape = stepper.recorder.finish()
        if loss is None:  # from Lightning's manual optimization, or a batch left out
            self._step_without(tape)
            return None
        stepper.closure_differentiates = differentiates
        if differentiates:
            whole = watched is not None and (tape is None or tape.problem() is not None)
            stepper.take(watched.with_backward(tape) if watched and whole else tape)
            return loss
        if not (isinstance(loss, Tensor) and loss.requires_grad):
            raise RuntimeError(OF_NO_PARAMETER)
        with torch.enable_grad():
            loss.backward()
        if all(p.grad is None for p in params):
            raise RuntimeError(OF_NO_PARAMETER)
        stepper.take(watched, float(loss.detach()))
        for p in params:
            p.grad = None  # these gradients are used up; any that are found next are others'
        return loss.detach()

    @torch.no_grad()
    def check_closure(self, closure: Callable[[], Any]) -> None:
        """Evaluate a loss twice and compare. Leaves no trace; not counted.

        Args:
            closure: returns the loss of one batch.

        Raises:
            NotRepeatableError: if the losses differ.
        """
        stepper = self._stepper
        if not callable(closure):
            raise TypeError("check_closure() takes a function that returns the loss")
        watched = stepper.watched(closure)
        watched.calls_backward = bool(stepper.closure_differentiates)
        first, second = watched.replay(), watched.replay()
        if not (math.isnan(first) or agree(first, second)):
            raise NotRepeatableError(NOT_REPEATABLE.format(first=first, second=second))

    check = check_closure
