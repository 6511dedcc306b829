"""LABPAL: a parabola through the loss of a large batch, measured rarely, its rate reused."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from surefoot import _params
from surefoot._closure import Closure
from surefoot._networks import norm_along, weights_norm
from surefoot._numbers import check_choice, check_count, check_number, check_share
from surefoot._quiet import QuietRoom
from surefoot.bound import longest
from surefoot.directions import Direction, steepest
from surefoot.optim._active import Active
from surefoot.optim._keywords import Shared, formerly
from surefoot.optim._labpal_memory import BATCHES, LABPALMemory, Phase
from surefoot.optim.base import LineSearchOptimizer, ParamsLike, rejected
from surefoot.optim.batch_growth import check_growth, noise_factor
from surefoot.outcome import Status, StepOutcome
from surefoot.searches.large_batch import LargeBatchSearch

if TYPE_CHECKING:
    from typing_extensions import Unpack

_CHANGE = 0.04
"""Share of their norms by which an update may change the layers' weights ..."""
_FIRST_CHANGE = 0.002
"""... and the first update; the second twice that."""
_FIRST_PROBE = 0.01
"""The first measuring length, as a share of the weights' norm."""
_PATIENCE = 50
"""Steps without a measured minimum after which it is told."""

_NO_MINIMUM = (
    "LABPAL has found no minimum in {} steps; the last measurement ended with {}. It happens on "
    "plateaus and saddles, and where losses are constant or overflow: look at the loss, or use "
    "surefoot.MeasuredLR"
)
_LENGTH = partial(check_number, at_least=0.0, above=True)
_CHECKS: dict[str, Callable[[str, Any], object]] = {
    "measuring_batches": check_count,
    "reuse": check_count,
    "total_steps": check_count,
    "burn_in": partial(check_count, at_least=0),
    "measuring_length": _LENGTH,
    "max_length": _LENGTH,
    "momentum": check_share,
}


def _published(total_steps: int | None) -> dict[str, float]:
    """The papers' settings; intervals shrink with the run."""
    whole = 75 * 400 if total_steps is None else total_steps
    return {
        "measuring_batches": BATCHES,
        "reuse": max(1, min(1000, whole // 30)),
        "measuring_length": 0.01,
        "max_length": 1.0,
        "momentum": 0.0,
        "burn_in": min(400, whole // 75),
    }


class LABPAL(LineSearchOptimizer):
    r"""Large-batch parabolic approximation line search (LABPAL).

    Rarely, the loss of several mini-batches is measured at three places along the direction of the
    first of them; the minimum of the parabola gives a step length (``"nsgd"``) or a learning rate
    (``"sgd"``) that the following updates use, each of one forward and one backward pass.

    .. math:: \theta \leftarrow \theta - \alpha\, h\, s\, v/\lVert v\rVert
              \;\;(\text{"nsgd"}), \qquad
              \theta \leftarrow \theta - \alpha\, h\, \eta\, v \;\;(\text{"sgd"})

    with *s* or η measured, *v* the gradient with ``momentum``, α = ``step_multiplier`` and *h* the
    horizon (1 without ``total_steps``). The weights wait while a batch is measured, none is kept:

    ========= ================================================= ====================================
    phase     the batch of this ``step`` call                   then
    ========= ================================================= ====================================
    gathering its gradient goes into *v*; its loss is measured  measuring, or the update if k = 1
    measuring its loss is measured along the same line          the update, after k batches
    reusing   its gradient moves the weights                    gathering, if a measurement is due
    ========= ================================================= ====================================

    A batch whose loss is not finite takes no part.

    With ``rule="pooled"``, nothing has to be chosen. Slopes and curvatures of the lines measured
    so far are added up, an older line counting 0.8 of the next; their minimum is the rate, which
    one measurement at most doubles or halves. The first measurement is of one batch; later ones
    have as many, up to ten, as keep collecting under a tenth of the steps so far. They come after
    a quarter of the updates so far, from the 30th on after a 30th. The probes follow the minimum.
    An update changes the layers by no more than 4 % of their norms, in the root mean square over
    all, as seen at the last measurement, and without BatchNorm by 1 / √``total_steps`` in a longer
    run; the first by 0.2 %, the second by 0.4 %, and so on.

    ``rule="published"`` is the papers': ten batches every 1000 updates, probes 0.005 and 0.01
    away, the mean of the last 25 minima, those of the first 400 updates used but not averaged, no
    momentum, steps up to 1 before α. ``rule="released"`` the same with the formulas of the
    authors' code, whose step is twice the minimum; see
    :class:`surefoot.searches.LargeBatchSearch`.

    Args:
        params: the model.
        step_multiplier: α, multiple of the measured minimum. Torch's schedulers act on
            it. More than 2 walks uphill on the measured loss and diverges where there is no noise.
        rule: ``"pooled"``, ``"published"`` or ``"released"``: what the settings that are None are.
        mode: ``"nsgd"`` reuses the step length, ``"sgd"`` the learning rate.
        measuring_batches: k, mini-batches in a measurement, the first one included.
        reuse: n, updates until the next measurement.
        measuring_length: μ, distance of the farthest probe, in units of the weights. A given one is
            kept, and shortened only where losses are not finite there.
        max_length: largest measured step, before α. In ``"sgd"`` mode also the largest update,
            in multiples of α, so that a sudden gradient cannot throw the weights away.
        momentum: β of a heavy-ball buffer that takes the gradient's place as direction; None for
            0.8 where the rate is pooled, else 0.
        burn_in: of the published rules, first updates whose measurements enter no average; after
            them the rate is measured anew.
        batch_growth: pairs (start, factor): from ``start`` on, an update averages ``factor`` times
            as many batches (iterative sampling). ``start`` counts ``step`` calls; below 1 it is
            a share of ``total_steps``. The papers' schedule is ``((0, 1), (0.5, 2), (0.75, 4))``.
        dataset_size, batch_size: given both, the factors are multiplied by :func:`noise_factor`.
        **shared: keywords of every line search.

    Example:
        >>> import torch, surefoot
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(256, 3)
        >>> y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = surefoot.LABPAL(model, total_steps=100)
        >>> for step in range(100):
        ...     rows = torch.randint(256, (32,))
        ...     loss = optimizer.step(lambda: torch.nn.functional.mse_loss(model(x[rows]), y[rows]))
        >>> bool(loss < 1e-3)
        True

    The paper's algorithm, plainly, for losses ``fs`` of the k batches of one measurement and the
    gradient ``g`` of the first at the weights ``x``, all in one vector:

        >>> def plain_step(fs, g, x, mu=0.01, alpha=1.8, s_max=1.0):
        ...     unit = -g / g.norm()
        ...     l0, l1, l2 = (
        ...         sum(f(x + s * unit) for f in fs) / len(fs) for s in (0.0, 0.5 * mu, mu)
        ...     )
        ...     a = 2 * (l0 - 2 * l1 + l2) / mu**2
        ...     b = (4 * l1 - 3 * l0 - l2) / mu
        ...     s = min(-b / (2 * a), s_max) if a > 0 > b else 0.0
        ...     return x + alpha * s * unit
        >>> bowls = [lambda x, c=c: (x**2 * torch.tensor([c, 4.0])).sum() for c in (1.0, 2.0)]
        >>> p = torch.nn.Parameter(torch.tensor([0.3, 0.1], dtype=torch.float64))
        >>> optimizer = surefoot.LABPAL([p], rule="published", measuring_batches=2)
        >>> g = torch.autograd.grad(bowls[0](p), p)[0]
        >>> x = plain_step(bowls, g, p.detach())
        >>> for bowl in bowls:
        ...     _ = optimizer.step(lambda: bowl(p))
        >>> torch.allclose(x, p.detach(), atol=1e-6)
        True

    References: Mutschler, Laube and Zell, "Using a one dimensional parabolic model of the
    full-batch loss to estimate learning rates during training", 2108.13880; its released code where
    the paper is silent.

    Departures of the published rules: α multiplies the step and nothing else (in the released code
    it inflates the cap, too); gradients of any finite norm are measured; with grown batches only
    the last of the direction's own batches is measured, with the weight of all of them, so that
    none must be kept; intervals shrink with ``total_steps``, to a 30th (``reuse``) and a 75th
    (``burn_in``) of it.

    *When it fails*: where no minimum is found in 50 steps, a warning says so. Where the bound
    decides the step and weights must grow it is slow, and where every weight needs a rate of its
    own (a small graph network, docs/what-did-not-work.md) it stays behind Adam; with
    several loss heads added up it fails, as the authors report: a warning says so.
    """

    memory: LABPALMemory

    @formerly(lr="step_multiplier", untrusted="burn_in")
    def __init__(
        self,
        params: ParamsLike,
        step_multiplier: float = 1.8,
        *,
        rule: Literal["pooled", "published", "released"] = "pooled",
        mode: Literal["sgd", "nsgd"] = "nsgd",
        measuring_batches: int | None = None,
        reuse: int | None = None,
        measuring_length: float | None = None,
        max_length: float | None = None,
        momentum: float | None = None,
        burn_in: int | None = None,
        batch_growth: Sequence[tuple[float, int]] = (),
        dataset_size: int | None = None,
        batch_size: int | None = None,
        **shared: Unpack[Shared],
    ) -> None:
        total_steps = shared.get("total_steps")
        check_choice("rule", rule, ("pooled", "published", "released"))
        check_choice("mode", mode, ("sgd", "nsgd"))
        given: dict[str, Any] = {
            "measuring_batches": measuring_batches,
            "reuse": reuse,
            "measuring_length": measuring_length,
            "max_length": max_length,
            "momentum": momentum,
            "burn_in": burn_in,
            "total_steps": total_steps,
        }
        for name, check in _CHECKS.items():
            if given[name] is not None:
                check(name, given[name])
        noise = 1.0
        if dataset_size is not None and batch_size is not None:
            noise = noise_factor(dataset_size, batch_size)
        usual = {"momentum": 0.8} if rule == "pooled" else _published(total_steps)
        settings = {**given, **{n: v for n, v in usual.items() if given[n] is None}}
        # not "momentum": torch's OneCycleLR and CyclicLR would switch it on unasked
        settings["heavy_ball"] = settings.pop("momentum")
        settings |= {"rule": rule, "mode": mode, "noise_factor": noise}
        settings["batch_growth"] = check_growth(batch_growth, total_steps)
        super().__init__(params, step_multiplier, settings, LABPALMemory(), **shared)

    @property
    def _is_pooled(self) -> bool:
        return bool(self._settings["rule"] == "pooled")

    def _advance(self, call: Closure) -> tuple[Tensor, StepOutcome]:
        memory = self.memory
        if memory.gathered == 0:
            memory.plan(self._settings)
        if memory.phase is Phase.MEASURING:
            return self._measure_further(call)
        if memory.gathered + 1 < memory.batches_per_update:
            return self._accumulate(call)
        if memory.phase is Phase.GATHERING:
            return self._begin_to_measure(call)
        return self._reuse(call)

    def _accumulate(self, call: Closure) -> tuple[Tensor, StepOutcome]:
        """A batch of a larger one (iterative sampling): its gradient is added up."""
        loss, active = self._gradient(call, takes_slope0=False)
        if not active.is_finite:
            return loss, rejected(float(loss))
        sums = active.memory(self.state, "gradient_sum")
        _params.add_scaled(sums, active.grads, active.ones, 1.0)
        self.memory.gathered += 1
        return loss, StepOutcome(0.0, 0.0, Status.ACCUMULATING, float(loss))

    def _reuse(self, call: Closure) -> tuple[Tensor, StepOutcome]:
        """The batch, or the last one of a larger batch, that moves the weights unmeasured."""
        loss, active = self._gradient(call, takes_slope0=False)
        direction = self._direction(active)
        if direction is None:
            return loss, rejected(float(loss))
        start = StepOutcome(0.0, 0.0, Status.REUSED, float(loss), direction_norm=1.0)
        return loss, self._move(active.params, direction, start)

    def _direction(self, active: Active) -> Direction | None:
        """The direction of an update that is not measured; None if the gradient is not finite."""
        memory, settings = self.memory, self._settings
        beta, batches = settings["heavy_ball"], memory.batches_per_update
        if beta == 0.0 and batches == 1:  # plain SGD: one pass over the gradient, no copy
            direction = steepest(active.grads, active.ratios)
            return direction if math.isfinite(direction.norm) else None
        if not active.is_finite:
            return None
        tensors, share = active.grads, 1.0
        if batches > 1:
            tensors, share = active.memory(self.state, "gradient_sum"), 1.0 / batches
            _params.add_scaled(tensors, active.grads, active.ones, 1.0)
        if beta > 0.0:
            buffers = active.memory(self.state, "momentum")
            _params.momentum_update(buffers, tensors, beta, share)
            tensors, share = buffers, 1.0
        return steepest(tensors, [r * share for r in active.ratios])

    def _begin_to_measure(self, call: Closure) -> tuple[Tensor, StepOutcome]:
        """The batch that completes the direction to be measured is measured first."""
        with self._quiet_room() as room:
            loss, active = self._gradient(call, takes_slope0=False)
            value0 = self._mean(loss)
            if not (math.isfinite(value0) and active.is_finite):
                return loss, rejected(value0)
            active.grads = self._kept_direction(active)
            return loss, self._measure(call, room, loss, active, self.memory.batches_per_update)

    def _kept_direction(self, active: Active) -> list[Tensor]:
        """The (negated) direction as a copy that outlives this call and its ``.grad``.

        Nothing else changes, so that an exception in a probe leaves the optimizer as it was.
        """
        beta, batches = self._settings["heavy_ball"], self.memory.batches_per_update
        parts = [(active.grads, 1.0 / batches)]
        if batches > 1:
            parts.append((active.memory(self.state, "gradient_sum"), 1.0 / batches))
        if beta > 0.0:
            parts.append((active.memory(self.state, "momentum"), beta))
        for p in active.params:
            self.state[p].pop("direction", None)
        kept = active.memory(self.state, "direction")
        for tensors, share in parts:
            _params.add_scaled(kept, tensors, active.ones, share)
        return kept

    def _measure_further(self, call: Closure) -> tuple[Tensor, StepOutcome]:
        """A batch that only measures: three forward passes along the kept direction."""
        with self._quiet_room() as room:
            loss = call.value(rewind=room.rewind)
            # in place of gradients
            kept = self._all_with(lambda p: self.state.get(p, {}).get("direction"))
            if math.isfinite(value0 := self._mean(loss)):
                return loss, self._measure(call, room, loss, kept, weight=1)
        if not self.memory.skip():
            return loss, rejected(value0)
        # as many bad batches as were to be measured: conclude from the good ones
        return loss, self._finish(self._search(loss, kept.params), kept)

    def _measure(
        self, call: Closure, room: QuietRoom, loss: Tensor, kept: Active, weight: int
    ) -> StepOutcome:
        """Losses of this batch at the three places; the fit, once all batches are in."""
        memory = self.memory
        value0 = self._mean(loss)
        direction = steepest(kept.grads, kept.ratios)
        if not direction.is_usable:
            self._reset()
            return StepOutcome(0.0, 0.0, Status.FLAT, value0)
        search = self._search(loss, kept.params)
        with self._line(kept.params, direction.unit(), call, room, value0) as line:
            if not memory.is_repeatable:
                line.check_repeatable()
            values = [line.value(length) for length in search.lengths]
        memory.is_repeatable = True
        edges = [s for s, v in zip(search.lengths, values, strict=True) if not math.isfinite(v)]
        if edges:
            memory.shy_away(min(edges))
            self._failed(Status.NON_FINITE)
            self._reset()
            return rejected(value0)
        if not memory.add([value0, *values], weight):
            return StepOutcome(0.0, 0.0, Status.COLLECTING, value0)
        return self._finish(search, kept)

    def _search(self, loss: Tensor, params: list[Tensor]) -> LargeBatchSearch:
        memory, settings = self.memory, self._settings
        if memory.probe_length is None and settings["measuring_length"] is None:
            memory.probe_length = _FIRST_PROBE * weights_norm(params)
        return LargeBatchSearch(
            measuring_length=memory.probe_length or settings["measuring_length"],
            # where lines are pooled, what is walked is bounded, not what is measured
            max_length=math.inf if self._is_pooled else self._max_length(params),
            fit="released" if settings["rule"] == "released" else "parabola",
            rounding=self._rounding(loss),
        )

    def _finish(self, search: LargeBatchSearch, kept: Active) -> StepOutcome:
        """Fit the parabola to the mean losses, keep what it says, move."""
        memory, params, settings = self.memory, kept.params, self._settings
        direction = steepest(kept.grads, kept.ratios)
        means = [s / memory.measured for s in memory.value_sums]
        found = search.conclude(means)
        near_edge = memory.edge is not None
        memory.since_measurement, memory.measured_for = 0, memory.batches_per_update
        per_length = 1.0 if settings["mode"] == "nsgd" else 1.0 / direction.norm
        if self._is_pooled:
            memory.pool(search, found, per_length)
        else:
            memory.average(search, found, per_length, settings["burn_in"])
        if found.status in (Status.MINIMUM, Status.CAPPED):
            memory.failures, memory.minimum_at = 0, memory.steps
        else:
            self._failed(found.status)
        given = settings["measuring_length"]
        if given is None:
            memory.probe_length = memory.aim(search.measuring_length, found, per_length)
        if near_edge:
            usual = given or _FIRST_PROBE * weights_norm(params)
            memory.leave_edge(search.measuring_length, given or math.inf, usual)
        if self._is_pooled:
            memory.weights_norm = norm_along(params, direction.tensors)
        if settings["heavy_ball"] > 0.0:
            for p in params:
                self.state[p]["momentum"] = self.state[p].pop("direction")
        if memory.rate is None:
            self._reset()
            return found
        seen = search.measuring_length if near_edge else math.inf
        moved = self._move(params, direction, found, seen)
        if memory.edge is not None:
            memory.rate = None  # so near to losses that are not finite, every step is measured
        return moved

    def _failed(self, status: Status) -> None:
        """Count a measurement without a minimum; tell, once, of a run that finds none."""
        memory = self.memory
        memory.failures += 1
        since = memory.steps - memory.minimum_at
        if since >= _PATIENCE and memory.failures > 1:
            self._watch.tell("no minimum", _NO_MINIMUM.format(since, status))

    def _move(
        self, params: list[Tensor], direction: Direction, found: StepOutcome, seen: float = math.inf
    ) -> StepOutcome:
        """Walk along the direction with the rate in use, no further than was ``seen``."""
        memory, settings = self.memory, self._settings
        if not direction.is_usable:
            self._reset()
            status = Status.FLAT if math.isfinite(found.value0) else Status.NON_FINITE
            return StepOutcome(0.0, 0.0, status, found.value0)
        per_length = 1.0 if settings["mode"] == "nsgd" else direction.norm
        assert memory.rate is not None
        length = min(self.step_multiplier * memory.rate * per_length, self._longest(params))
        rate = min(self._horizon() * length, seen) / direction.norm
        _params.add_scaled(params, direction.tensors, direction.weights, rate)
        self._decay(params, rate)
        memory.updates += 1
        memory.since_measurement += 1
        self._reset()
        length = rate * direction.norm
        return dataclasses.replace(found, t=length, length=length, effective_lr=rate)

    def _longest(self, params: list[Tensor]) -> float:
        """The longest update before the horizon: the cap times α, or a share of the weights."""
        if not self._is_pooled or self._settings["max_length"] is not None:
            return self.step_multiplier * self._max_length(params)
        if not self._has_layers:
            return math.inf
        total = self._settings["total_steps"]
        share = min(_CHANGE, _FIRST_CHANGE * (self.memory.updates + 1))
        if total is not None and not self._has_batch_norm:
            # so many, each in a random direction, lead as far as the norm
            share = min(share, 1.0 / math.sqrt(total))
        return longest(share, self.memory.weights_norm or math.inf)

    def _reset(self) -> None:
        """Between updates: nothing gathered, nothing kept, by no parameter frozen meanwhile."""
        self.memory.clear()
        for state in self.state.values():
            state.pop("direction", None)
            state.pop("gradient_sum", None)
