"""The order of events: every step of the wrapped optimizer, and a measurement of some of them."""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from surefoot import _reduce
from surefoot._evaluation import NOT_REPEATABLE, Graphless, agree
from surefoot._networks import has_batch_norm, largest_change
from surefoot._notices import Notices
from surefoot._numbers import check_rates
from surefoot._plain import from_plain, to_plain
from surefoot.bound import Bound
from surefoot.line import NotRepeatableError
from surefoot.measured import notices
from surefoot.measured.advice import Advice, Prediction, predict
from surefoot.measured.averaging import Averages, take_averages
from surefoot.measured.checkpoint import STATE, read, write
from surefoot.measured.decay import decay_gain
from surefoot.measured.due import is_due, parts, repeats
from surefoot.measured.finite import GradientGauge, are_finite
from surefoot.measured.groups import Groups
from surefoot.measured.history import RatePoint, remember
from surefoot.measured.linear import averages_itself, respond
from surefoot.measured.measuring import Measuring
from surefoot.measured.momentum import leave_out_momentum
from surefoot.measured.noise import SlopePair, Waiting, noise_scale, own_share
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
_LOSSES, _PAIRS = 256, 64
"""Losses kept for predictions, and pairs of slopes."""
_LOOK_EVERY = 8
"""Steps from one look at what schedulers do to the next."""


def _scale_of(loss: Loss | None, active: list[Tensor]) -> float | None:
    """What the loss's own gradient was multiplied by since ``backward()``; None where unknown."""
    if loss is None or loss.weights_have_moved or loss.backwards > 1:
        return None
    return loss.gradient.scale_since(active)


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
        averages: of the weights; None where none are made.
        recorder: of what the loop does on steps that measure.
        rate: what was measured, and the rate in use.
        history: the measurements.
        steps: made so far.
        is_due: whether the next step measures.
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
        given = [dict(group) for group in base.param_groups]
        averages = settings.averages and not averages_itself(base)
        self._left_out = leave_out_momentum(base) if averages else None
        try:
            response = respond(base)
        except BaseException:  # what is refused is left as it came
            for group, own in zip(base.param_groups, given, strict=True):
                group.update(own)
            raise
        if averages and self._left_out is None and not settings.averaging:
            averages = False
            Notices().tell("momentum", notices.MOMENTUM.format(optimizer=type(base).__name__))
        self.averages = Averages(model, SHARE, POWER) if averages else None
        self._decay = decay_gain(base) if settings.weight_decay == "measured" else None
        self._share = own_share(base) if settings.advice and not response.averaged else None
        share = settings.max_change
        if share is None:
            share = largest_change(model) if self.averages is None else math.inf
        norms = model is not None and has_batch_norm(model)
        self._reach = Reach(settings, response, Bound(share), self.averages is not None, norms)
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
        self._pairs: list[SlopePair] = []
        self._losses: list[tuple[int, float]] = []
        # a memory that is there counts as filled
        self._reach.filled_before = 32 if self._base.state else 0

    def _attach(self, group: Any, on_measure: Callable[[StepOutcome], None] | None) -> None:
        """What copies and checkpoints do not keep."""
        self._process_group, self._on_measure = group, on_measure
        self._modes = Modes() if self.averages is None else self.averages.modes
        if self.averages is not None:
            # if the model is gone, too, nobody asks for it
            weakref.finalize(self, _end, weakref.ref(self.averages)).atexit = False
        self.recorder, self._hearing = Recorder(self.model, self._modes), Hearing()
        self._line = TakenStep(group)
        self._trouble, self._gauge = Trouble(), GradientGauge()
        self._waiting: Waiting | None = None
        self._passes, self._louder, self._echo = 1, 1.0, 0.0
        self._last: StepOutcome | None = None
        self._applied: tuple[float, Status] | None = None
        self._base.param_groups[0].setdefault(STATE, None)
        for each in self.groups.all:
            each.setdefault("effective_lr", 0.0)  # shown from the first step on
        self.plan()

    def __getstate__(self) -> dict[str, Any]:
        given = ("_base", "model", "settings", "averages", "_left_out", "_decay", "_share")
        found = (
            "_reach",
            "groups",
            "rate",
            "ratios",
            "steps",
            "_cost",
            "_made",
            "history",
            "_pairs",
            "_losses",
        )
        about_the_loss = ("closure_differentiates", "_graphless")
        return {name: vars(self)[name] for name in (*given, *found, *about_the_loss)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._attach(None, None)

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's, with averages, and what is remembered: plain values."""
        state, decay, weight = self._base.state_dict(), self.settings.decay_from, 0.0
        if self.averages is not None:
            weight = self.averages.total
            state = self.averages.write(state, self.groups.params())
        own = {
            "units": self.groups.units,
            "cost": dataclasses.astuple(self.cost),
            "step": self.steps,
            "filled_before": self._reach.filled_before,
            "closure_differentiates": self.closure_differentiates,
            "average_weight": weight,
            "ratios": self.ratios,
            "pairs": self._pairs,
            "batch_losses": self._losses,
            "ending": None if decay is None else (self.settings.total_steps, *decay),
            "needs_graph": self._graphless.needs_graph,
        }
        return write(state, to_plain(self.rate) | {k: to_plain(v) for k, v in own.items()})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`, or anew from that of a plain optimizer."""
        state, own = read(state_dict)
        state, averages = take_averages(state)
        self._base.load_state_dict(state)
        self._base.param_groups[0][STATE] = None
        self.groups = Groups(self._base, own.get("units", ()))
        self._start_anew()
        if own:
            self.rate, self.steps = from_plain(RateState(), own), own["step"]
            self._cost = Cost(*own["cost"])
            self._reach.filled_before = own["filled_before"]
            self.closure_differentiates = own["closure_differentiates"]
            self._graphless.needs_graph = own.get("needs_graph", False)
            self.ratios = from_plain(Ratios(), own.get("ratios", {}))
            self.groups.measured_ratios = self.ratios.applied
            self._pairs = [SlopePair(*pair) for pair in own.get("pairs", ())]
            self._losses = [(step, loss) for step, loss in own.get("batch_losses", ())]
            if ending := own.get("ending"):
                total, *decay = ending
                self.change(total_steps=total, decay_from=tuple(decay))
            if self.averages is not None:
                self.averages.load(self.groups.params(), averages, own.get("average_weight", 0.0))
        self._last = self._applied = self._waiting = None
        self.plan()

    def change(self, **settings: Any) -> None:
        """Go on with other settings."""
        self.settings = self._reach.settings = dataclasses.replace(self.settings, **settings)
        self.plan()

    def extend(self, total_steps: int | None, *, decays: bool) -> None:
        """Another length of the run.

        Args:
            total_steps: of the run.
            decays: whether the rate falls to zero from here; an average is at its end at any time.
        """
        decay = (self.steps, self.settings.left(self.steps)) if decays else None
        averages = self.averages is not None  # whoever averages goes on to, and needs no decay
        self.change(total_steps=total_steps, decay_from=decay, averaging=averages)

    def advice(self, batch_size: int | None) -> Advice:
        """What the measurements say beyond the rate."""
        found = self.rate.interval
        lr = None if found.value is None else found.value * max(self.groups.units)
        return Advice(found, lr, noise_scale(self._pairs, self._share), batch_size)

    def predict(self, steps: int) -> Prediction | None:
        """The loss that a decay of so many steps would reach."""
        pairs = self._pairs[-16:]
        if not pairs or self._share is None:
            return None
        excess = 0.25 * math.fsum(p.fresh - p.own for p in pairs) / len(pairs) / self._share
        return predict(self._losses, max(excess, 0.0), self.steps, steps)

    @property
    def cost(self) -> Cost:
        """Passes spent."""
        return self._cost + Cost(self._made, self._made)

    @property
    def last(self) -> StepOutcome | None:
        """Outcome of the last step; None before the first."""
        if self._last is None and self._applied is not None:
            (t, status), lr = self._applied, self.groups.effective_lr
            cost = Cost(self._passes, self._passes)
            self._last = StepOutcome(t, math.nan, status, math.nan, effective_lr=lr, cost=cost)
        return self._last

    # Listening

    def plan(self) -> None:
        """Decide whether the next step measures, and listen if so."""
        self.is_due = is_due(self.settings, self.rate, self.steps)
        listens = self.is_due or self.rate.listens(self.steps, self._reach.often)
        self._listens = listens and not self.settings.frozen
        if self.closure_differentiates is not False:
            if self.is_due or self._waiting is not None:
                self.recorder.arm(self.groups.params())
            if self._listens:
                self._hearing.start(self.groups.params())

    def _hear(self, value: float | None) -> None:
        """Take note of the loss on the way."""
        heard = self._hearing.finish()
        value = heard if value is None else value
        value = _reduce.mean(value, self._process_group, self.groups.params()[0].device)
        most, loosest = self._reach.most, self._reach.loosest
        applied = max(self.groups.multiples(), default=0.0) if loosest > 1.0 else 0.0
        self.rate = self.rate.hears(self.steps, value, most, loosest, applied)

    def watched(self, function: Callable[[], Any]) -> Watched:
        """A loss, or a closure, to be run again."""
        return Watched(function, self.groups.params(), self.model)

    # A step

    def take(self, loss: Loss | None, value: float | None = None) -> None:
        """Step along the gradient that is there.

        Args:
            loss: what was differentiated, on steps that measure.
            value: of the loss, where it is known; else the gradient tells whether it is finite.
        """
        check_rates(self.groups.all)
        self._was_mistaken = self._modes.stepped()
        if self.averages is not None:
            self.averages.leave()
        if value is None and self.groups.are_idle:
            if not self.groups.with_gradient():  # else its rates are 0
                self._trouble.notice_idle(self.steps)
            self._base.step()
            self._multiple = self.groups.publish(0.0)
            self.plan()
            return
        if self._waiting is not None:
            self._end_move(self._waiting, loss, value)
        if self.is_due:
            self._measured_step(loss, value)
        elif self._is_bad(value):
            self._refuse(math.nan if value is None else value)
        else:
            if self._listens:
                self._hear(value)
            self._plain_step()

    @torch.no_grad()
    def _end_move(self, waiting: Waiting, loss: Loss | None, value: float | None) -> None:
        """The gradient that the last measured move waits for is there."""
        scale = 1.0 if value is not None else _scale_of(loss, self.groups.with_gradient())
        pairs, self._waiting = waiting.end(scale, self._process_group), None
        self._pairs = [*self._pairs, *pairs][-_PAIRS:]

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
            self._echo = max(loud, 0.0 if self.averages is not None else _ECHO * self._echo)
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
            self._trouble.notice_schedules(self.groups, falls=self.settings.falls)
        self._last, self._applied = None, (self._multiple, status)
        self._book()

    def _factor(self) -> tuple[float, Status]:
        """What the groups' rates are multiplied by, as far as can be told before the step."""
        if self.rate.in_use is not None and self.settings.left(self.steps) == 0.0:
            self._trouble.tell("end", notices.PAST_THE_END.format(total=self.settings.total_steps))
        louder = max(self._louder, self._echo / self.rate.loud if self.rate.loud > 0.0 else 0.0)
        return self._reach.factor(self.rate, self.steps, self.groups.scheduled, louder)

    def _apply(self, factor: float) -> None:
        decays: list[float | None] = []
        if self._decay is not None:
            known, total = self.rate.in_use is not None, self.settings.total_steps
            left = self.settings.left(self.steps) * self.groups.scheduled if known else 0.0
            decays = self.groups.decays(self._decay, factor, left, self.steps, total)
        if self._left_out is not None:
            self._left_out.keep(self._base.param_groups)
        self.groups.step(factor, self.averages, decays)
        self._multiple = self.groups.publish(factor)

    def _absorb(self) -> None:
        """Take what was moved into the average."""
        if self.averages is not None:
            self.averages.absorb(self.groups.with_gradient(), self.steps)
            if self.averages.has_given_up:
                self._trouble.tell("turns", notices.IN_TURNS)

    def _note_bound(self, shortened: bool) -> None:
        bound = self._reach.bound
        if math.isfinite(bound.share) and bound.note(shortened):
            self._trouble.tell("bound", bound.advice(self._reach.slower * self.rate.slack))

    def _book(self) -> None:
        """A step was made; plan the next."""
        self.steps += 1
        self._made += self._passes
        self.plan()

    # A step that measures

    @torch.no_grad()
    def _measured_step(self, loss: Loss | None, value: float | None) -> None:
        """The wrapped optimizer's step, and a measurement of it."""
        if (problem := self._problem(loss)) is not None:
            self._cannot_measure(loss, problem)
            return
        assert loss is not None
        loss.graphless = self._graphless
        value0 = _reduce.mean(float(loss.value), self._process_group, loss.value.device)
        self._passes = loss.backwards
        active, frozen = self.groups.with_gradient(), self.settings.frozen
        check_sparse(active)
        if not frozen:
            grads = [p.grad for p in active if p.grad is not None]
            if not (math.isfinite(value0) and are_finite(grads)):
                self._refuse(value0)
                return
            self._hear(value)
        self._trouble.notice_schedules(self.groups, falls=self.settings.falls)
        loud = 1.0 if frozen else self._listen()
        self.rate, self._echo = dataclasses.replace(self.rate, loud=loud), 0.0
        try:
            self._measure(loss, value0, active)
        finally:
            self._line.forget()

    def _problem(self, loss: Loss | None) -> str | None:
        """Why nothing can be measured, the same on every process; None where something can."""
        problem: str | None = "no forward pass of the model was seen before step()"
        if loss is not None:
            problem = loss.problem()
        device = self.groups.params()[0].device
        if _reduce.mean(float(bool(problem)), self._process_group, device) > 0.0:
            problem = problem or "another process cannot"
        return problem

    def _measure(self, loss: Loss, value0: float, active: list[Tensor]) -> None:
        moved, scale = loss.weights_have_moved, _scale_of(loss, active)
        probes = Probes(self._line, loss, value0, self.recorder.model, active, scale)
        if repeats(self.rate) or moved:
            self._repeat(probes, moved)
        factor, status = self._factor()
        if self.rate.in_use is None and not self.settings.frozen:
            factor *= self.rate.trial
        grads = [p.grad for p in active]
        self._line.begin(active)
        try:
            self._apply(factor)
            probes.look_at_step(grads)
            if not (math.isfinite(probes.direction_norm) or self.settings.frozen):
                name, dtype = type(self._base).__name__, active[0].dtype
                raise RuntimeError(notices.ENDLESS.format(optimizer=name, dtype=dtype))
            is_out = self._see(probes.value0)
            line = self._probe_parts(probes)
            measuring = Measuring(
                reach=self._reach,
                probes=probes,
                rate=self.rate,
                number=self.steps,
                multiple=self._multiple,
                scheduled=self.groups.scheduled,
                limited=status is Status.CAPPED,
                at_once=1.0 if self.averages is None else 1.0 - self.averages.share,
                foreign=scale is None and not moved,
                tell=self._trouble.tell,
            )
            outcome = measuring.conclude()
        except BaseException:
            self._line.go_to(0.0)
            raise
        if self.settings.advice:
            self._keep_move(measuring, outcome)
        self._absorb()
        if self.averages is not None:
            for module in self.recorder.outermost:
                self.averages.watch(module)
        self._learn(measuring, outcome, factor)
        if line is not None:
            self._learn_ratios(line, outcome)
        if is_out and self.averages is not None:
            self.averages.go_home(self.groups.params())
        if self._on_measure is not None and self._last is not None and self._last.status.measured:
            self._on_measure(self._last)

    def _keep_move(self, measuring: Measuring, outcome: StepOutcome) -> None:
        """Wait with this step's move for the next gradient."""
        probes, parabola, move = measuring.probes, outcome.parabola, self._line.take_move()
        if probes.slope is not None and parabola is not None:
            bend = parabola.curvature * self._multiple**2 * measuring.share
            self._waiting = Waiting(self.steps, probes.params, move, probes.slope, bend)

    def _probe_parts(self, probes: Probes) -> GroupLine | None:
        """The loss where a random half of the groups stayed behind."""
        scale, known = probes.scale or 1.0, probes.slope is not None
        if not (known and parts(self.settings, self.rate)) or self.rate.in_use is None:
            return None
        places, multiples = self.groups.places(probes.params), self.groups.multiples()
        slopes = [s / scale for s in self._line.slopes_of(places)]
        moving = [k for k, place in enumerate(places) if place and multiples[k] > 0.0]
        if len(moving) < 2:
            return None
        draw = zip(moving, drawn(self.steps, len(moving)), strict=True)
        moved = {k for k, moves in draw if moves}
        with self._line.staying([i for k in moving if k not in moved for i in places[k]]):
            value = probes.evaluate()
        bend = 2.0 * (value - probes.value0 - math.fsum(slopes[k] for k in moved))
        per_unit = tuple(s / m if m > 0.0 else 0.0 for s, m in zip(slopes, multiples, strict=True))
        which = tuple(k in moved for k in range(len(places)))
        return GroupLine(self.steps, per_unit, multiples, which, math.nan, bend)

    def _learn_ratios(self, line: GroupLine, outcome: StepOutcome) -> None:
        """Take note of what the groups' own lines say."""
        parabola = outcome.parabola
        if parabola is None or not parabola.is_finite or not math.isfinite(line.bend_some):
            return
        multiple = max(m / r for m, r in zip(line.multiples, self.groups.ratios, strict=True))
        line = line._replace(bend=parabola.curvature * multiple**2)
        self.ratios = self.ratios.learned(line)
        self.groups.measured_ratios = self.ratios.applied

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
            message = NOT_REPEATABLE.format(first=first, second=again)
            if self.rate.in_use is None:
                raise NotRepeatableError(message)
            self._trouble.tell("repeat", message)
        probes.value0 = again

    def _see(self, value0: float) -> bool:
        """Take note of a loss and of the weights' norm; whether the loss is out of its range."""
        rate, size = self.rate, self._line.start_size()
        seen = rate.saw(value0)
        self.rate = dataclasses.replace(seen, norm=min(rate.norm, size), size=size)
        return rate.in_use is not None and seen.in_use != rate.in_use

    def _learn(self, measuring: Measuring, outcome: StepOutcome, factor: float) -> None:
        """Book a measurement."""
        cost, loss = measuring.probes.cost, measuring.probes.loss
        self._multiple = self.groups.publish(factor * measuring.share)
        if not self.settings.frozen and self.rate.in_use is not None:
            self._note_bound(measuring.limited)
        decays = tuple(g.get("effective_weight_decay", 0.0) for g in self.groups.all)
        spent = measuring.rate.spent + cost.forward_equivalents / self._passes
        price = (3.0 if loss.calls_backward else 1.0) / self._passes
        self.rate = dataclasses.replace(measuring.rate, spent=spent, price=price)
        self._last = dataclasses.replace(
            outcome,
            effective_lr=self.groups.effective_lr,
            cost=cost + Cost(self._passes, self._passes),
            ratios=self.groups.ratios if self.settings.groups == "measured" else None,
            weight_decay=None if self._decay is None else decays,
            noise_scale=noise_scale(self._pairs, self._share).value,
        )
        self._trouble.refused = self._trouble.failed = 0
        if self.settings.advice:
            self._losses = [*self._losses, (self.steps, outcome.value0)][-_LOSSES:]
        self._cost = self._cost + cost
        self._book()
        remember(self.history, self._point(measuring, self._last))

    def _point(self, measuring: Measuring, outcome: StepOutcome) -> RatePoint:
        """What the history keeps of a measurement."""
        unit, found, rate = max(self.groups.units), self.rate.interval, outcome.effective_lr
        has_bound = math.isfinite(self._reach.bound.share) and outcome.length > 0.0
        bound = rate * measuring.limit / outcome.length if has_bound else math.inf
        measured = None if found.value is None else found.value * unit
        low, high, decay = found.low * unit, found.high * unit, measuring.left * measuring.scheduled
        return RatePoint(self.steps, rate, measured, low, high, bound, decay)

    # A step that is none

    @torch.no_grad()
    def _refuse(self, value0: float) -> None:
        """No step on a loss or a gradient that is not finite; the rate stays."""
        self._hold(rejected(value0))
        if self._trouble.refuse() and self.averages is not None:
            # on from the average, which left the range of finite losses last
            self.averages.go_home(self.groups.params())
            in_use = None if self.rate.in_use is None else 0.25 * self.rate.in_use
            self.rate = dataclasses.replace(self.rate, in_use=in_use, next=self.steps + 1)
        self._trouble.give_up(self.groups.params())
        if self._on_measure is not None and self._last is not None:
            self._on_measure(self._last)

    def _hold(self, outcome: StepOutcome) -> None:
        """A step that does not move the weights."""
        self._multiple = self.groups.publish(0.0)
        self._last = dataclasses.replace(outcome, cost=Cost(self._passes, self._passes))
        self._book()

    def _cannot_measure(self, loss: Loss | None, problem: str) -> None:
        """Say that nothing is measured, and how it could be; step at the rate in use, if any."""
        self.rate = dataclasses.replace(self.rate, next=self._trouble.cannot_measure(self.steps))
        overwritten = isinstance(loss, Tape) and loss.was_overwritten  # the next one keeps it
        retries = overwritten or self._was_mistaken or self.recorder.looks_again()
        retries = retries and self._trouble.may_pass
        message = self._trouble.explain(problem, self.model)
        if self.rate.in_use is not None or self.settings.frozen:
            if not retries:
                self._trouble.tell("cannot", message)
            self._plain_step()
        elif retries:
            self._hold(StepOutcome(0.0, 0.0, Status.COLLECTING, math.nan))
        else:
            raise ReplayError(message)
