"""The order of events: every step of the wrapped optimizer, and a measurement of some of them."""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from surefoot import _reduce
from surefoot._evaluation import Graphless, agree
from surefoot._networks import has_batch_norm, largest_change
from surefoot._numbers import check_rates
from surefoot.bound import Bound
from surefoot.line import NotRepeatableError
from surefoot.measured import notices
from surefoot.measured.advice import Advice, Prediction, predict
from surefoot.measured.averaging import Averages, take_averages, without_momentum
from surefoot.measured.checkpoint import STATE, Kept
from surefoot.measured.decay import DecayForm, decay_form
from surefoot.measured.due import checks, is_due, parts, repeats
from surefoot.measured.finite import GradientGauge, has_finite_gradient
from surefoot.measured.groups import Groups
from surefoot.measured.history import RatePoint, remember
from surefoot.measured.linear import respond
from surefoot.measured.measuring import Measured, Step, conclude, own_slope, roughest, scale_of
from surefoot.measured.noise import Fresh, noise_scale, own_share
from surefoot.measured.probes import Probes
from surefoot.measured.rate import RateState
from surefoot.measured.ratios import GroupLine, Ratios, drawn
from surefoot.measured.reach import Reach
from surefoot.measured.refusals import check_sparse
from surefoot.measured.settings import Settings
from surefoot.measured.trouble import Trouble
from surefoot.optim.base import rejected
from surefoot.outcome import Cost, Status, StepOutcome
from surefoot.replay import Hearing, Loss, Recorder, ReplayError, Tape, Watched
from surefoot.replay._state import Modes
from surefoot.taken_step import TakenStep

__all__ = ["Stepper"]

SHARE, POWER = 0.8, 3.0
"""β, the share of the average where gradients are taken, and the power of the step with which
weights of the average grow: measured, docs/zero-tuning.md."""
_MUCH_LOUDER = 4.0
"""Times the gradient's norm when last measured, from which on it is measured at once."""
_ECHO = 0.9
"""What is left after a step of a loud gradient, in the momentum of what is wrapped."""
_LOSSES = 256
"""Losses kept for predictions."""
_LOOK_EVERY = 8
"""Steps from one look at what schedulers do to the next."""


def _end(averages: weakref.ref[Averages]) -> None:
    found = averages()
    if found is not None:
        found.end()


class Stepper:
    """Takes the wrapped optimizer's steps at the measured rate.

    Args:
        base: the wrapped optimizer.
        model: as for :class:`surefoot.MeasuredLR`, as are the others.
        settings: of the run.
        process_group: processes to agree with.
        on_measure: told of every step that measured.

    Attributes:
        groups: the wrapped optimizer's.
        rate: what was measured, and the rate in use.
        history: the measurements.
        steps: made so far.
        is_due: whether the next step measures.
        hears: whether the next loss is recorded.
        closure_differentiates: whether the loop's closure calls ``backward()``; None where not
            known.
    """

    def __init__(
        self,
        base: Optimizer,
        model: nn.Module | None,
        settings: Settings,
        process_group: Any,
        on_measure: Callable[[StepOutcome], None] | None,
    ) -> None:
        self._base, self.model, self.settings = base, model, settings
        self._process_group = process_group
        self._response = respond(base)
        self._averages: Averages | None = None
        if settings.averages and not self._response.averaged:
            without_momentum(base)
            self._response = respond(base)
            self._averages = Averages(model, SHARE, POWER)
        self._decay: DecayForm | None = None
        if settings.weight_decay == "measured":
            self._decay = decay_form(base)
        self._share = own_share(base) if settings.advice and not self._response.averaged else None
        self.groups = Groups(base)
        self.history: list[RatePoint] = []
        self._start_anew()
        self._attach(process_group, on_measure)

    def _start_anew(self) -> None:
        """The state of a run in which nothing was measured yet."""
        self.rate, self.ratios = RateState(), Ratios()
        self.steps, self._cost, self._made = 0, Cost(), 0
        self.closure_differentiates: bool | None = None
        self._graphless = Graphless()
        self._fresh = Fresh(self._share, self._process_group)
        self._losses: list[tuple[int, float]] = []
        # a memory that is there counts as filled
        self._filled_before = 32 if self._base.state else 0

    def _attach(self, group: Any, on_measure: Callable[[StepOutcome], None] | None) -> None:
        """What copies and checkpoints do not keep."""
        self._process_group, self._on_measure = group, on_measure
        averages = self._averages
        self._modes = Modes() if averages is None else averages.modes
        self._recorder, self._hearing = Recorder(self.model, self._modes), Hearing()
        if averages is not None:  # if the model is gone, too, nobody asks for it
            weakref.finalize(self, _end, weakref.ref(averages)).atexit = False
        self._line = TakenStep(group, keeps_line=self.settings.advice)
        self._trouble, self._gauge = Trouble(), GradientGauge()
        self._passes, self._louder, self._echo = 1, 1.0, 0.0
        self._last: StepOutcome | None = None
        self._applied: tuple[float, Status] | None = None
        given = self.settings.max_change
        largest = largest_change(self.model) if averages is None else math.inf
        self._reach = Reach(
            self.settings,
            self._response,
            Bound(largest if given is None else given),
            averages is not None,
            self.model is not None and has_batch_norm(self.model),
            self._filled_before,
        )
        self._base.param_groups[0].setdefault(STATE, None)
        self.groups.start()
        self.plan()

    def __getstate__(self) -> dict[str, Any]:
        names = ("_base", "model", "settings", "_response", "groups", "rate", "history", "steps")
        more = ("_cost", "_made", "_filled_before", "closure_differentiates", "_averages", "_decay")
        new = ("ratios", "_share", "_losses", "_graphless")
        kept = {n: vars(self)[n] for n in (*names, *more, *new)}
        return {**kept, "pairs": self._fresh.pairs}

    def __setstate__(self, state: dict[str, Any]) -> None:
        pairs = state.pop("pairs")
        vars(self).update(state)
        self._fresh = Fresh(self._share)
        self._fresh.pairs = pairs
        self._attach(None, None)

    def kept(self) -> Kept:
        """What a checkpoint keeps."""
        return Kept(
            self.rate,
            self.cost,
            self.steps,
            self._filled_before,
            self.closure_differentiates,
            0.0 if self._averages is None else self._averages.total,
            self.groups.units,
            self.ratios,
            self._fresh.pairs,
            self._losses,
            self._ending,
            self._graphless.needs_graph,
        )

    @property
    def _ending(self) -> tuple[int, int, float] | None:
        total, decay = self.settings.total_steps, self.settings.decay_from
        return None if total is None or decay is None else (total, *decay)

    def with_averages(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """The wrapped optimizer's state_dict, with averages where there are any."""
        if self._averages is None:
            return state_dict
        return self._averages.write(state_dict, self.groups.params())

    def load(self, state_dict: dict[str, Any], own: Kept | None) -> None:
        """Go on from :meth:`with_averages` and :meth:`kept`, or anew without the latter."""
        plain, averages = take_averages(state_dict)
        self._base.load_state_dict(plain)
        self._base.param_groups[0][STATE] = None
        self.groups = Groups(self._base, () if own is None else own.units)
        self._start_anew()
        if own is not None:
            self.rate, self._cost = own.rate, own.cost
            self.steps, self._filled_before = own.step, own.filled_before
            self.closure_differentiates = own.closure_differentiates
            self._graphless.needs_graph = own.needs_graph
            self.ratios, self._fresh.pairs, self._losses = own.ratios, own.pairs, own.losses
            self.groups.ratios = own.ratios.applied
            if own.ending is not None:
                total, *decay = own.ending
                self.change(total_steps=total, decay_from=tuple(decay))
            if self._averages is not None:
                self._averages.load(self.groups.params(), averages, own.average_weight)
        self._last = self._applied = None
        self._reach.filled_before = self._filled_before
        self.plan()

    def change(self, **settings: Any) -> None:
        """Go on with other settings."""
        self.settings = self._reach.settings = dataclasses.replace(self.settings, **settings)
        self.plan()

    def finish(self, steps: int) -> None:
        """Let the rate fall to zero from here; an average is at its end at any time."""
        if self._averages is None:
            left = self.settings.left(self.steps)
            self.change(total_steps=self.steps + steps, decay_from=(self.steps, left))

    def extend(self, total_steps: int | None) -> None:
        """Another length of the run; a decay that has begun goes on from where it is."""
        decay = self.settings.decay_from
        if decay is not None:
            decay = (self.steps, self.settings.left(self.steps))
        averages = self._averages is not None  # whoever averages goes on to, and needs no decay
        self.change(total_steps=total_steps, decay_from=decay, averaging=averages)

    def advice(self, batch_size: int | None) -> Advice:
        """What the measurements say beyond the rate."""
        found = self.rate.interval
        lr = None if found.value is None else found.value * max(self.groups.units)
        scale = noise_scale(self._fresh.pairs, self._share)
        return Advice(found, lr, scale, batch_size)

    def predict(self, steps: int) -> Prediction | None:
        """The loss that a decay of so many steps would reach."""
        pairs = self._fresh.pairs[-16:]
        if not pairs or self._share is None:
            return None
        excess = 0.25 * math.fsum(p.fresh - p.own for p in pairs) / len(pairs) / self._share
        return predict(self._losses, max(excess, 0.0), self.steps, steps)

    def averaged(self) -> AbstractContextManager[None]:
        """A context in which the parameters hold the averaged weights."""
        return nullcontext() if self._averages is None else self._averages.shown()

    @property
    def cost(self) -> Cost:
        """Passes spent."""
        return self._cost + Cost(self._made, self._made)

    @property
    def last(self) -> StepOutcome | None:
        """Outcome of the last step; None before the first."""
        if self._last is None and self._applied is not None:
            t, status = self._applied
            cost = Cost(self._passes, self._passes)
            self._last = StepOutcome(
                t, math.nan, status, math.nan, effective_lr=self.groups.effective_lr, cost=cost
            )
        return self._last

    # Listening

    def plan(self) -> None:
        """Decide whether the next step measures, and listen if so."""
        self.is_due = is_due(self.settings, self.rate, self.steps)
        measures = self.is_due or self._fresh.waits
        listens = self.is_due or self.rate.listens(self.steps, self._reach.often)
        self._listens = listens and not self.settings.frozen
        self.hears = measures or self._listens
        if self.closure_differentiates is not False:
            if measures:
                self._recorder.arm(self.groups.params())
            if self._listens:
                self._hearing.start(self.groups.params())

    def _hear(self, value: float | None) -> None:
        """Take note of the loss on the way."""
        heard = self._hearing.finish()
        value = heard if value is None else value
        value = _reduce.mean(value, self._process_group, self.groups.params()[0].device)
        self.rate = self.rate.hears(self.steps, value, self._reach.most)

    def tape(self) -> Tape | None:
        """What was heard."""
        return self._recorder.finish()

    def watch(self, function: Callable[[], Any]) -> Watched:
        """Listen no more: a function that can be run again is there."""
        self._recorder.disarm()
        return self.watched(function)

    def watched(self, function: Callable[[], Any]) -> Watched:
        """A loss, or a closure, to be run again."""
        return Watched(function, self.groups.params(), self.model, self.groups.devices())

    # A step

    def take(self, loss: Loss | None, value: float | None = None) -> None:
        """Step along the gradient that is there.

        Args:
            loss: what was differentiated, on steps that measure.
            value: of the loss, where it is known; else the gradient tells whether it is finite.
        """
        check_rates(self.groups.all)
        self._was_mistaken = self._modes.stepped()
        if self._averages is not None:
            self._averages.leave()
        if value is None and self.groups.are_idle:
            if not self.groups.with_gradient():  # else its rates are 0
                self._trouble.notice_idle(self.steps)
            self._base.step()
            self._publish(0.0)
            self.plan()
            return
        if self._fresh.waits:
            self._end_move(loss, value)
        if self.is_due:
            self._measured_step(loss, value)
        elif self._is_bad(value):
            self._refuse(math.nan if value is None else value)
        else:
            if self._listens:
                self._hear(value)
            self._plain_step()

    @torch.no_grad()
    def _end_move(self, loss: Loss | None, value: float | None) -> None:
        """The gradient that the last measured move waits for is there."""
        known = loss is not None and not loss.weights_have_moved
        scale = scale_of(loss, self.groups.with_gradient()) if known and loss else None
        self._fresh.end(1.0 if value is not None else scale)

    def _is_bad(self, value: float | None) -> bool:
        """Whether the loss, or the gradient in its stead, is not finite.

        A gradient much louder than usual is measured soon.
        """
        if self.settings.frozen:
            return False
        if value is not None:
            return not math.isfinite(value)
        loud = self._listen()
        if self._louder > _MUCH_LOUDER and self.rate.next > self.steps + 1:
            self.rate = dataclasses.replace(self.rate, next=self.steps + 1)
        return not math.isfinite(loud)

    def _listen(self) -> float:
        loud = self._gauge.norm(self.groups.with_gradient)
        self._louder = loud / self.rate.loud if self.rate.loud > 0.0 else 1.0
        if math.isfinite(loud):
            self._echo = max(loud, 0.0 if self._averages is not None else _ECHO * self._echo)
        return loud

    def _plain_step(self) -> None:
        """The wrapped optimizer's own step at the rate in use."""
        factor, status = self._factor()
        if status is Status.CAPPED and self._reach.is_unbounded:
            # it would ruin the weights: only where the loss is looked at
            self.rate = self.rate.at_once(self.steps)
            self._hold(StepOutcome(0.0, 0.0, status, math.nan))
            return
        self._note_bound(status is Status.CAPPED)
        self._apply(factor)
        self._absorb()
        self._trouble.refused = 0
        if (self.steps + 1) % _LOOK_EVERY == 0:
            self._notice_schedules()
        self._last, self._applied = None, (self._multiple, status)
        self._book()

    def _factor(self) -> tuple[float, Status]:
        """What the groups' rates are multiplied by, as far as can be told before the step."""
        if self.rate.in_use is not None and self.settings.left(self.steps) == 0.0:
            self._tell("end", notices.PAST_THE_END.format(total=self.settings.total_steps))
        louder = max(self._louder, self._echo / self.rate.loud if self.rate.loud > 0.0 else 0.0)
        return self._reach.factor(self.rate, self.steps, self.groups.scheduled, louder)

    def _apply(self, factor: float) -> None:
        decays: list[float | None] = []
        if self._decay is not None:
            known = self.rate.in_use is not None
            left = self.settings.left(self.steps) * self.groups.scheduled if known else 0.0
            decays = self.groups.decays(
                self._decay, factor, left, self.steps, self.settings.total_steps
            )
        self.groups.step(factor, self._averages, decays)
        self._publish(factor)

    def _absorb(self) -> None:
        """Take what was moved into the average."""
        if self._averages is not None:
            self._averages.absorb(self.groups.with_gradient(), self.steps)
            if self._averages.has_given_up:
                self._tell("turns", notices.IN_TURNS)

    def _publish(self, factor: float) -> None:
        self._multiple = self.groups.publish(factor)

    def _notice_schedules(self) -> None:
        self._trouble.notice_schedules(self.groups, falls=self.settings.falls)

    def _note_bound(self, shortened: bool) -> None:
        advice = self._reach.note_bound(shortened)
        if advice is not None:
            self._tell("bound", advice)

    def _tell(self, kind: str, message: str) -> None:
        self._trouble.tell(kind, message)

    def _book(self) -> None:
        """A step was made; plan the next."""
        self.steps += 1
        self._made += self._passes
        self.plan()

    # A step that measures

    @torch.no_grad()
    def _measured_step(self, loss: Loss | None, value: float | None) -> None:
        """The wrapped optimizer's step, and a measurement of it."""
        problem = self._problem(loss)
        if problem is not None:
            self._cannot_measure(loss, problem)
            return
        assert loss is not None
        loss.graphless = self._graphless
        value0 = _reduce.mean(float(loss.value), self._process_group, loss.value.device)
        self._passes = loss.backwards
        active, frozen = self.groups.with_gradient(), self.settings.frozen
        check_sparse(active)
        if not frozen and not (math.isfinite(value0) and has_finite_gradient(active)):
            self._refuse(value0)
            return
        if not frozen:
            self._hear(value)
        self._notice_schedules()
        loud = 1.0 if frozen else self._listen()
        self.rate, self._echo = dataclasses.replace(self.rate, loud=loud), 0.0
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
            device = self.groups.params()[0].device
            if _reduce.mean(float(bool(problem)), self._process_group, device) > 0.0:
                problem = problem or "another process cannot"
        return problem or None

    def _measure(self, loss: Loss, value0: float, active: list[Tensor]) -> None:
        probes = Probes(self._line, loss, value0, self._recorder.model, self._process_group)
        moved = loss.weights_have_moved
        if repeats(self.rate) or moved:
            self._repeat(probes, moved)
        factor, status = self._factor()
        if self.rate.in_use is None and not self.settings.frozen:
            factor *= self.rate.trial
        grads = [p.grad for p in active]
        scale = None if moved else scale_of(loss, active)
        self._line.begin(active)
        try:
            self._apply(factor)
            slope = own_slope(probes, active, grads, scale)
            if not (math.isfinite(probes.direction_norm) or self.settings.frozen):
                name, dtype = type(self._base).__name__, active[0].dtype
                raise RuntimeError(notices.ENDLESS.format(optimizer=name, dtype=dtype))
            is_out = self._see(probes.value0)
            line = None if slope is None else self._probe_parts(probes, active, scale or 1.0)
            step = self._describe(loss, active, status, foreign=scale is None and not moved)
            measured = conclude(step, probes, self.rate, slope, self._tell)
        except BaseException:
            self._line.return_to_start()
            raise
        if self.settings.advice:
            self._keep_move(active, measured, slope)
        self._absorb()
        if self._averages is not None:
            for module in self._recorder.outermost:
                self._averages.watch(module)
        self._learn(measured, step, factor, loss, probes.cost)
        if line is not None:
            self._learn_ratios(line, measured.outcome)
        if is_out and self._averages is not None:
            self._averages.go_home(self.groups.params())
        if self._on_measure is not None and self._last is not None and self._last.status.measured:
            self._on_measure(self._last)

    def _keep_move(self, active: list[Tensor], measured: Measured, slope: float | None) -> None:
        """Wait with this step's move for the next gradient."""
        parabola, move = measured.outcome.parabola, self._line.take_move()
        if slope is not None and parabola is not None and move is not None:
            bend = parabola.curvature * self._multiple**2 * measured.share
            self._fresh.begin(self.steps, active, move, slope, bend)

    def _probe_parts(self, probes: Probes, active: list[Tensor], scale: float) -> GroupLine | None:
        """The loss where a random half of the groups stayed behind."""
        if not parts(self.settings, self.rate) or self.rate.in_use is None:
            return None
        places = self.groups.places(active)
        multiples = self.groups.multiples()
        slopes = self._line.slopes_of(places)
        moving = [k for k, slope in enumerate(slopes) if places[k] and multiples[k] > 0.0]
        if len(moving) < 2:
            return None
        chosen = drawn(self.steps, len(moving))
        moved = [False] * len(places)
        for k, moves in zip(moving, chosen, strict=True):
            moved[k] = moves
        stay = [i for k in moving if not moved[k] for i in places[k]]
        with self._line.staying(stay):
            value = probes.evaluate()
        sloped = [s / scale for s in slopes]
        tangent = math.fsum(s for s, moves in zip(sloped, moved, strict=True) if moves)
        return GroupLine(
            self.steps,
            tuple(s / m if m > 0.0 else 0.0 for s, m in zip(sloped, multiples, strict=True)),
            multiples,
            tuple(moved),
            math.nan,
            2.0 * (value - probes.value0 - tangent),
        )

    def _learn_ratios(self, line: GroupLine, outcome: StepOutcome) -> None:
        """Take note of what the groups' own lines say."""
        parabola = outcome.parabola
        if parabola is None or not parabola.is_finite or not math.isfinite(line.bend_some):
            return
        multiple = max(m / r for m, r in zip(line.multiples, self.groups.ratios, strict=True))
        line = line._replace(bend=parabola.curvature * multiple**2)
        self.ratios = self.ratios.learned(line)
        self.groups.ratios = self.ratios.applied

    def _repeat(self, probes: Probes, moved: bool) -> None:
        """Evaluate the loss where the step begins once more."""
        first, again = probes.value0, probes.evaluate()
        tolerance, graphless = probes.loss.tolerance, self._graphless
        if not moved and not agree(again, first, tolerance) and not graphless.needs_graph:
            graphless.needs_graph = True  # a loss may ask by itself whether there is a graph
            with_graph = probes.evaluate()
            graphless.needs_graph = agree(with_graph, first, tolerance)
            again = with_graph if graphless.needs_graph else again
        if not moved and not agree(again, first, tolerance):
            message = notices.NOT_REPEATABLE.format(first=first, second=again)
            if self.rate.in_use is None:
                self.plan()
                raise NotRepeatableError(message)
            self._tell("repeat", message)
        probes.value0 = again

    def _see(self, value0: float) -> bool:
        """Take note of a loss and of the weights' norm; whether the loss is out of its range."""
        rate, size = self.rate, self._line.start_size()
        seen = rate.saw(value0)
        self.rate = dataclasses.replace(seen, norm=min(rate.norm, size), size=size)
        return rate.in_use is not None and seen.in_use != rate.in_use

    def _describe(self, loss: Loss, active: list[Tensor], status: Status, foreign: bool) -> Step:
        scheduled = self.groups.scheduled
        return Step(
            number=self.steps,
            multiple=self._multiple,
            alpha=self._reach.alpha * self.rate.ebb,
            left=self.settings.left(self.steps),
            scheduled=scheduled,
            filling=self._reach.filling(self.steps),
            limit=self._reach.limit(self.rate, self.steps, scheduled),
            total_steps=self.settings.total_steps,
            frozen=self.settings.frozen,
            shortened=status is Status.CAPPED,
            checks=checks(self.rate),
            share=0.0 if self._averages is None else 1.0 - self._averages.share,
            foreign=foreign,
            rounding=loss.rounding,
            eps=roughest(active),
        )

    def _learn(self, measured: Measured, step: Step, factor: float, loss: Loss, cost: Cost) -> None:
        """Book a measurement."""
        if measured.share != 1.0:
            self._publish(factor * measured.share)
        if not self.settings.frozen and self.rate.in_use is not None:
            self._note_bound(measured.limited)
        spent = measured.rate.spent + cost.forward_equivalents / self._passes
        price = (3.0 if loss.calls_backward else 1.0) / self._passes
        self.rate = dataclasses.replace(measured.rate, spent=spent, price=price)
        self._last = dataclasses.replace(
            measured.outcome,
            effective_lr=self.groups.effective_lr,
            cost=cost + Cost(self._passes, self._passes),
            **self._beyond(),
        )
        self._trouble.refused = self._trouble.failed = 0
        if self.settings.advice:
            self._losses = [*self._losses, (self.steps, measured.outcome.value0)][-_LOSSES:]
        self._cost = self._cost + cost
        self._book()
        remember(self.history, self._point(step, self._last))

    def _beyond(self) -> dict[str, Any]:
        """What an outcome tells beside the common rate, of what was asked for."""
        told: dict[str, Any] = {}
        if self.settings.groups == "measured":
            told["ratios"] = self.groups.ratios
        if self._decay is not None:
            told["weight_decay"] = self.groups.effective_decays
        if self.settings.advice:
            told["noise_scale"] = noise_scale(self._fresh.pairs, self._share).value
        return told

    def _point(self, step: Step, outcome: StepOutcome) -> RatePoint:
        """What the history keeps of a measurement."""
        unit, found, rate = max(self.groups.units), self.rate.interval, outcome.effective_lr
        has_bound = math.isfinite(self._reach.bound.share) and outcome.length > 0.0
        return RatePoint(
            step=self.steps,
            effective_lr=rate,
            measured=None if found.value is None else found.value * unit,
            low=found.low * unit,
            high=found.high * unit,
            bound=rate * step.limit / outcome.length if has_bound else math.inf,
            decay=step.left * step.scheduled,
        )

    # A step that is none

    @torch.no_grad()
    def _refuse(self, value0: float) -> None:
        """No step on a loss or a gradient that is not finite; the rate stays."""
        self._hold(rejected(value0))
        if self._trouble.refuse() and self._averages is not None:
            # on from the average, which left the range of finite losses last
            self._averages.go_home(self.groups.params())
            in_use = None if self.rate.in_use is None else 0.25 * self.rate.in_use
            self.rate = dataclasses.replace(self.rate, in_use=in_use, next=self.steps + 1)
        self._trouble.give_up(self.groups.params())
        if self._on_measure is not None and self._last is not None:
            self._on_measure(self._last)

    def _hold(self, outcome: StepOutcome) -> None:
        """A step that does not move the weights."""
        self._publish(0.0)
        self._last = dataclasses.replace(outcome, cost=Cost(self._passes, self._passes))
        self._book()

    def _cannot_measure(self, loss: Loss | None, problem: str) -> None:
        """Say that nothing is measured, and how it could be; step at the rate in use, if any."""
        following = self._trouble.cannot_measure(self.steps)
        self.rate = dataclasses.replace(self.rate, next=following)
        overwritten = isinstance(loss, Tape) and loss.was_overwritten  # the next one keeps it
        retries = overwritten or self._was_mistaken or self._recorder.looks_again()
        retries = retries and self._trouble.may_pass
        message = self._trouble.explain(problem, self.model)
        if self.rate.in_use is not None or self.settings.frozen:
            if not retries:
                self._tell("cannot", message)
            self._plain_step()
        elif retries:
            self._hold(StepOutcome(0.0, 0.0, Status.COLLECTING, math.nan))
        else:
            self.plan()
            raise ReplayError(message)
