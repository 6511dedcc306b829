"""Measures the rate: when to look, where to look, what to conclude."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from surefoot import _params, _reduce
from surefoot._closure import Closure
from surefoot._params import Copies
from surefoot.directions import Direction
from surefoot.line import Line, QuietRoom
from surefoot.measured._hessian import curvature_along
from surefoot.measured._settings import Settings
from surefoot.measured._trial import growth_to_come, memory_factor, next_move
from surefoot.measured.estimate import Measurement, RateInterval, pool
from surefoot.measured.pace import Budget, next_measurement
from surefoot.outcome import Status, StepOutcome
from surefoot.parabola import Parabola
from surefoot.searches.least_squares import LeastSquaresSearch

__all__ = ["Gauge", "Visit"]

_KEPT = 64
"""Measurements remembered."""
_CHECKS = (0.5, 1.0, 2.0)
"""Places that tell whether the losses lie on a parabola."""
_MISFIT = 0.12
"""Distance from the parabola, as a share of the largest bend, from which on it is no parabola."""
_FIRST_REACH = 0.01
"""Where the first probe goes, as a share of the weights' norm; the next follow the minimum."""
_MAX_TRIES = 6
_FILLED = 32
"""Steps after which an optimizer's memory counts as filled."""
_CALM = 8
"""Losses to have seen before one can be out of range."""
_ALARM = 8.0
"""Mean distances above the mean loss that are out of range."""
_BEYOND = 4.0
"""How many times the farthest probe a minimum may be."""
_FITS = (Status.MINIMUM, Status.CAPPED, Status.NOT_CONVEX, Status.NOT_DESCENT)


@dataclass
class Visit:
    """What one step has at hand."""

    call: Closure
    closure: Callable[[], Any]
    room: QuietRoom
    loss: Tensor
    value0: float
    params: list[Tensor]
    """Those with a gradient."""

    @property
    def grads(self) -> list[Tensor]:
        """Their gradients."""
        return [p.grad for p in self.params if p.grad is not None]


class Gauge:
    """The measuring half of :class:`surefoot.MeasuredLR`: a multiple of the base's rates.

    Args:
        base: the wrapped optimizer.
        settings: see there.

    Attributes:
        memory: plain Python values, which every checkpoint keeps.
        pending: the update that the next batch is to judge, per unit of the multiple.
    """

    def __init__(self, base: Optimizer, settings: Settings) -> None:
        self.base, self.settings = base, settings
        rates = [group.get("initial_lr", group["lr"]) for group in base.param_groups]
        self.memory: dict[str, Any] = {
            "step": 0,
            "reference": [float(lr) for lr in rates],  # the multiple's unit, group by group
            "scale": None,  # the multiple in use; None until measured
            "applied": 0.0,  # the last step's multiple, α and horizon and schedulers included
            "attempts": 0,
            "measurements": [],
            "next": 0,
            "spent": 0.0,  # forward-equivalents
            "price": 1.0,
            "reach": None,  # where the last probe was, as a multiple
            "misfits": [],
            "losses": [0, 0.0, 0.0],  # how many, their mean, their mean distance from it
            "size": math.inf,  # the smallest norm of the weights so far
            "filling": 1.0,  # how much longer updates will become as the base's memory fills
        }
        self.pending: list[Tensor] = []
        self.attach(None)

    def attach(self, process_group: Any) -> None:
        """What copies and checkpoints do not keep."""
        self._group = process_group
        self._copies = Copies()
        self._has_warned = False

    def __getstate__(self) -> dict[str, Any]:
        names = ("base", "settings", "memory", "pending")
        return {name: vars(self)[name] for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.attach(None)

    @property
    def rate(self) -> RateInterval:
        """What is known of the multiple."""
        return pool(self.memory["measurements"], self.settings.confidence)

    @property
    def is_misfit(self) -> bool:
        """Whether most of the last checks found no parabola."""
        recent = self.memory["misfits"][-4:]
        return sum(1 for m in recent if m > _MISFIT) >= 3

    def look(self, visit: Visit) -> StepOutcome | None:
        """Measure, if it is time to, and conclude; None where nothing was measured."""
        memory, pending = dict(self.memory), self.pending
        try:
            return self._look(visit)
        except BaseException:
            self.memory, self.pending = memory, pending  # a step that did not happen
            raise

    def _look(self, visit: Visit) -> StepOutcome | None:
        memory = self.memory
        before = visit.call.cost.forward_equivalents
        self._watch(visit.value0)
        if self.pending:
            found = self._look_back(visit)
        elif self._is_due():
            heading = self._heading(visit)
            if not heading.is_usable:
                memory["next"] = memory["step"] + 1
                return None
            if self.settings.line == "update" and memory["step"] < 2 * _FILLED:
                full = memory["step"] >= _FILLED
                reference = memory["reference"]
                memory["filling"] = (
                    1.0 if full else growth_to_come(self.base, visit.params, reference)
                )
            if self.settings.batch == "fresh" and memory["scale"] is not None:
                self._keep(heading)
                return None
            found = self._look_ahead(visit, heading)
        else:
            return None
        spent = float(visit.call.cost.forward_equivalents - before)
        memory["spent"] += spent
        memory["price"] = 3.0 if visit.call.calls_backward else 1.0  # of one probe
        self._learn(found)
        memory["attempts"] += 1
        if self.is_misfit and self.rate.value is not None and found.status in _FITS:
            return dataclasses.replace(found, status=Status.MISFIT)
        return found

    def _watch(self, value0: float) -> None:
        """Halve the rate and measure anew when the loss leaves the range it was in."""
        memory = self.memory
        seen, mean, spread = memory["losses"]
        if seen >= _CALM and value0 > mean + _ALARM * spread:
            if memory["scale"] is not None:
                memory["scale"] *= 0.5
            memory["next"] = memory["step"]
            memory["measurements"] = memory["measurements"][-2:]
            memory["losses"] = [0, value0, 0.0]
            return
        share = max(1.0 / (seen + 1), 0.05)
        mean += share * (value0 - mean)
        spread += share * (abs(value0 - mean) - spread)
        memory["losses"] = [seen + 1, mean, spread]

    def _is_due(self) -> bool:
        memory, settings = self.memory, self.settings
        if memory["step"] < memory["next"]:
            return False
        budget = Budget(settings.overhead, settings.total_steps)
        return budget.allows(memory["step"], memory["spent"], self._price())

    def _price(self) -> float:
        """Forward-equivalents of the next measurement."""
        settings = self.settings
        if settings.curvature == "hessian":
            return 5.0
        probes = len(_CHECKS) if self._checks_fit() else len(settings.places)
        each: float = self.memory["price"]
        return each * probes

    def _checks_fit(self) -> bool:
        every = self.settings.check_every
        return every > 0 and self.memory["attempts"] % every == every - 1

    def _heading(self, visit: Visit) -> Direction:
        """Where the base would go next, or this batch's share of it, per unit of the multiple."""
        factor: float = self.memory["scale"] or 1.0
        size = math.sqrt(_params.norm_sq(visit.params, [1.0] * len(visit.params)))
        heading = self._move_at(visit, factor)
        # a difference of weights is as sharp as their rounding: ask again with a larger rate
        sharp = math.sqrt(max(torch.finfo(p.dtype).eps for p in visit.params))
        length = heading.norm * factor
        if heading.is_usable and length < 0.03 * sharp * size:
            heading = self._move_at(visit, factor * sharp * size / length)
        return heading

    def _move_at(self, visit: Visit, factor: float) -> Direction:
        reference = self.memory["reference"]
        moves = next_move(self.base, visit.params, reference, factor)
        unit = 1.0 / factor
        if self.settings.line == "share":
            rest = next_move(self.base, visit.params, reference, factor, with_gradient=False)
            moves = list(torch._foreach_sub(moves, rest))
            unit /= memory_factor(self.base)
        weights = [unit] * len(moves)
        slope, norm_sq = _params.dot_and_norm_sq(visit.grads, moves, weights)
        slope = _reduce.mean(slope, self._group, visit.loss.device)
        return Direction(moves, weights, math.sqrt(max(0.0, norm_sq)), slope)

    def _line(self, visit: Visit, direction: Direction) -> Line:
        return Line(
            visit.params,
            direction,
            visit.call,
            visit.room,
            visit.value0,
            copies=self._copies,
            process_group=self._group,
        )

    def _reach(self, visit: Visit, norm: float) -> float:
        """Where the farthest probe goes, as a multiple."""
        share = self.settings.measuring_length
        if share is None:
            value, last, scale = self.rate.value, self.memory["reach"], self.memory["scale"]
            if last is not None and value is None:
                return self.settings.growth * float(scale)  # as far as the rate may grow
            if last is not None:
                return float(min(max(value, last / 4), last * 4))
            share = _FIRST_REACH
        size = math.sqrt(_params.norm_sq(visit.params, [1.0] * len(visit.params)))
        return share * size / norm if size > 0.0 else 1.0

    def _look_ahead(self, visit: Visit, heading: Direction) -> StepOutcome:
        """Probe along the update, on the batch that made it."""
        settings, memory = self.settings, self.memory
        reach = self._reach(visit, heading.norm)
        adapts = memory["scale"] is None and settings.measuring_length is None
        shares = settings.places
        if self._checks_fit() and settings.curvature == "probe" and not adapts:
            shares = _CHECKS
        with self._line(visit, heading) as line:
            if settings.curvature == "hessian":
                found = self._exact(visit, heading, reach)
            else:
                for _ in range(_MAX_TRIES if memory["scale"] is None else 1):
                    memory["reach"] = reach
                    found = self._search(visit, tuple(reach * s for s in shares))(line)
                    following = _follow(found, reach)
                    settled = not adapts and found.status is not Status.NON_FINITE
                    if following is None or settled:
                        break
                    reach = following
        if shares is _CHECKS and found.parabola is not None:
            self._check(found.parabola, reach)
        return found

    def _search(self, visit: Visit, places: tuple[float, ...]) -> LeastSquaresSearch:
        rounding = self.settings.loss_precision
        if rounding is None:
            rounding = 4.0 * torch.finfo(visit.loss.dtype).eps
        return LeastSquaresSearch(places, _BEYOND * max(places), rounding)

    def _exact(self, visit: Visit, heading: Direction, reach: float) -> StepOutcome:
        """Slope and curvature at the start, without a probe away from it."""
        visit.room.hush()
        bend = curvature_along(visit.closure, visit.params, heading, visit.call)
        bend = _reduce.mean(bend, self._group, visit.loss.device)
        assert heading.slope0 is not None
        parabola = Parabola(visit.value0, heading.slope0, bend)
        if not parabola.is_finite:
            t, status = 0.0, Status.NON_FINITE
        else:
            t, status = LeastSquaresSearch((reach,)).decide(parabola, (0.0,))
        return StepOutcome(
            t=t,
            length=t * heading.norm,
            status=status,
            value0=visit.value0,
            slope0=heading.slope0,
            direction_norm=heading.norm,
            parabola=parabola,
        )

    def _keep(self, heading: Direction) -> None:
        """For the next batch to judge; its own tensors, since the trial's belong to nobody."""
        unit = heading.weights[0]
        self.pending = [unit * d for d in heading.tensors]

    def _look_back(self, visit: Visit) -> StepOutcome:
        """Judge the last update on a batch that had no part in it, from where it ended."""
        moves, self.pending = self.pending, []
        weights = [1.0] * len(moves)
        if len(moves) != len(visit.params):  # other parameters have a gradient than before
            return StepOutcome(0.0, 0.0, Status.FLAT, visit.value0)
        slope, norm_sq = _params.dot_and_norm_sq(visit.grads, moves, weights)
        slope = _reduce.mean(slope, self._group, visit.loss.device)
        heading = Direction(moves, weights, math.sqrt(norm_sq), slope)
        here: float = self.memory["applied"]
        reach = max(self._reach(visit, heading.norm), 0.5 * here)
        self.memory["reach"] = reach
        search = self._search(visit, tuple(reach * s for s in self.settings.places))
        with self._line(visit, heading) as line:
            found = search(line)
        if found.parabola is None:
            return found
        # the same parabola, counted from where the update started
        p = found.parabola
        start = Parabola(p.value(-here), p.slope(-here), p.curvature, p.residual)
        t, status = search.decide(start, (p.value0,))
        return dataclasses.replace(
            found, t=t, length=t * heading.norm, status=status, slope0=start.slope0, parabola=start
        )

    def _check(self, parabola: Parabola, reach: float) -> None:
        """Note how far the losses lie from a parabola; tell it once."""
        far = max(_CHECKS) * reach
        bend = abs(0.5 * parabola.curvature * far * far)
        size = max(bend, 0.5 * abs(parabola.slope0 * far))  # a straight line has no bend to miss
        share = parabola.residual / size if size > 0.0 else 0.0
        self.memory["misfits"] = [*self.memory["misfits"], share][-8:]
        if self.is_misfit and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                "the loss along the updates is no parabola, so the measured learning rate is "
                "taken from the cautious end of its interval; see optimizer.rate",
                stacklevel=6,
            )

    def _learn(self, found: StepOutcome) -> None:
        """Take a measurement into the rate, and decide when to measure again."""
        memory, settings = self.memory, self.settings
        step: int = memory["step"]
        parabola = found.parabola
        if found.status in _FITS and parabola is not None and parabola.is_finite:
            new = Measurement(step, parabola.slope0, parabola.curvature)
            memory["measurements"] = [*memory["measurements"], new][-_KEPT:]
        rate = self.rate
        memory["next"] = next_measurement(step, rate, settings.precision, settings.total_steps)
        wanted = self._wanted(rate, found)
        scale = memory["scale"]
        memory["scale"] = wanted if scale is None else min(wanted, settings.growth * scale)

    def _wanted(self, rate: RateInterval, found: StepOutcome) -> float:
        """The multiple that the measurements ask for."""
        memory = self.memory
        reach: float = memory["reach"] or 1.0
        scale: float | None = memory["scale"]
        if found.status is Status.NON_FINITE:
            memory["reach"] = 0.5 * reach
            return 0.01 * reach if scale is None else 0.5 * min(reach, scale)
        if rate.n == 0:
            return 1.0 if scale is None else scale  # nothing known: the base's own rate
        if rate.value is None:
            if scale is None:
                return 0.5 * reach / float(memory["filling"])
            falls = math.fsum(m.slope for m in memory["measurements"][-rate.n :]) < 0.0
            growth = self.settings.growth
            return min(growth * scale, reach) if falls else scale / growth
        if self.is_misfit:
            return max(rate.low, 0.1 * rate.value)
        # warm-up: as long as the rate is unsure, less of it, at worst half
        sure = 1.0 + min(1.0, rate.relative_error)
        return min(rate.value, _BEYOND * reach) / sure / float(memory["filling"])


def _follow(found: StepOutcome, reach: float) -> float | None:
    """Where to probe instead, if the place was far from the minimum; None if it was not."""
    if found.status is Status.NON_FINITE:
        return reach / 10.0
    if found.status is Status.FLAT:
        return reach * 10.0
    if found.status is Status.NOT_CONVEX:
        return reach * 4.0
    if found.status is Status.NOT_DESCENT or reach / 3.0 <= found.t <= reach * 3.0:
        return None
    return min(max(found.t, reach / 10.0), reach * 10.0)
