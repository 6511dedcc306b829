"""LABPAL: a parabola through the loss of a large batch, measured rarely, its rate reused."""

from __future__ import annotations

import dataclasses
import enum
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from surefoot import _params
from surefoot._closure import Closure
from surefoot._networks import is_deep, norm_along, weights_norm
from surefoot._numbers import check_count, check_number, check_share
from surefoot._quiet import QuietRoom
from surefoot.bound import longest
from surefoot.directions import Direction, steepest
from surefoot.optim._active import Active
from surefoot.optim._keywords import Shared, formerly
from surefoot.optim.base import LineSearchOptimizer, Memory, ParamsLike, rejected
from surefoot.outcome import Status, StepOutcome
from surefoot.reuse import Pooled, mean_of, within_growth
from surefoot.searches.large_batch import LargeBatchSearch

if TYPE_CHECKING:
    from typing_extensions import Unpack

_BATCHES = 10
"""k of the papers: the most batches in a measurement."""
_SHARE = 0.1
"""Of the steps so far that may be spent on collecting, where the rate is pooled."""
_OFTEN, _LATER, _RARELY = 4, 30, 1000
"""Measured after a quarter of the updates so far, from 30 on after a 30th, at last every 1000."""
_CHANGE = 0.04
"""Share of their norms by which an update may change the layers' weights ..."""
_FIRST_CHANGE = 0.002
"""... and the first update; the second twice that."""
_FIRST_PROBE = 0.01
"""The first measuring length, as a share of the weights' norm."""
_NEWEST = 25
"""Trusted measurements of which the published rule takes the mean."""
_PATIENCE = 50
"""Steps without a measured minimum after which it is told."""


class Phase(str, enum.Enum):
    """What the batch of the next ``step`` call is for."""

    REUSING = "reusing"
    """Its gradient moves the weights, alone or with those of a grown batch."""
    GATHERING = "gathering"
    """Its gradient goes into the direction that is going to be measured."""
    MEASURING = "measuring"
    """Its loss alone, at three places along that direction; the weights wait."""


def noise_factor(dataset_size: int, batch_size: int) -> float:
    r"""How many batches make the gradient noise of the papers' setting.

    .. math:: \frac{128}{\mathrm{batch\_size}} \cdot \frac{\mathrm{dataset\_size}}{40\,000}

    Source: LABPAL (2108.13880): the noise of SGD grows with data set size over batch size
    (1711.00489), and the schedule was found with 40,000 images in batches of 128.

    Example:
        >>> noise_factor(dataset_size=40_000, batch_size=32)
        4.0
    """
    check_count("dataset_size", dataset_size)
    check_count("batch_size", batch_size)
    return 128 / batch_size * dataset_size / 40_000


@dataclass
class LABPALMemory(Memory):
    """What LABPAL remembers.

    Args:
        updates: updates made.
        since_measurement: of them, those since the last measurement.
        batches_per_update: m, of the update or measurement under way.
        gathered: of them, batches whose gradient is already in the direction.
        measuring: batches of the measurement under way, 0 for none.
        measured: of them, those in the sums below.
        skipped: batches without a finite loss, left out of it.
        value_sums: losses at 0 and at the two probes.
        rate: what is reused: a learning rate ("sgd") or a length ("nsgd").
        pooled: slope and curvature of the lines measured so far, per unit of the rate.
        recent: trusted measurements of the published rule, the latest last.
        collected: steps spent on collecting, since the start of training.
        measured_for: batches per update at the last measurement.
        probe_length: distance of the farthest probe now.
        edge: distance at which a loss was not finite; doubled by each measurement.
        failures: measurements in a row without a minimum.
        minimum_at: step of the last one that found one.
    """

    updates: int = 0
    since_measurement: int = 0
    batches_per_update: int = 0
    gathered: int = 0
    measuring: int = 0
    measured: int = 0
    skipped: int = 0
    value_sums: tuple[float, ...] = (0.0, 0.0, 0.0)
    rate: float | None = None
    pooled: tuple[float, float] = (0.0, 0.0)
    recent: tuple[float, ...] = ()
    collected: int = 0
    measured_for: int = 0
    probe_length: float | None = None
    edge: float | None = None
    failures: int = 0
    minimum_at: int = 0

    @property
    def phase(self) -> Phase:
        """What the next batch is for."""
        if not self.measuring:
            return Phase.REUSING
        return Phase.GATHERING if self.gathered < self.batches_per_update else Phase.MEASURING


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
    all, as seen at the last measurement; the first by 0.2 %, the second by 0.4 %, and so on.

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
        if rule not in ("pooled", "published", "released"):
            raise ValueError(f'rule must be "pooled", "published" or "released", got {rule!r}')
        if mode not in ("sgd", "nsgd"):
            raise ValueError(f'mode must be "sgd" or "nsgd", got {mode!r}')
        if measuring_batches is not None:
            check_count("measuring_batches", measuring_batches)
        if reuse is not None:
            check_count("reuse", reuse)
        if total_steps is not None:
            check_count("total_steps", total_steps)
        if burn_in is not None:
            check_count("burn_in", burn_in, at_least=0)
        for name, length in (("measuring_length", measuring_length), ("max_length", max_length)):
            if length is not None:
                check_number(name, length, at_least=0.0, above=True)
        if momentum is not None:
            check_share("momentum", momentum)
        noise = 1.0
        if dataset_size is not None and batch_size is not None:
            noise = noise_factor(dataset_size, batch_size)
        settings = {
            "rule": rule,
            "mode": mode,
            "measuring_batches": measuring_batches,
            "reuse": reuse,
            "measuring_length": measuring_length,
            "max_length": max_length,
            # not "momentum": torch's OneCycleLR and CyclicLR would switch it on unasked
            "heavy_ball": momentum,
            "burn_in": burn_in,
            "batch_growth": _check_growth(batch_growth, total_steps),
            "noise_factor": noise,
        }
        if rule == "pooled":
            settings["heavy_ball"] = 0.8 if momentum is None else momentum
        else:
            whole = 75 * 400 if total_steps is None else total_steps
            published = {
                "measuring_batches": _BATCHES,
                "reuse": max(1, min(1000, whole // 30)),
                "measuring_length": 0.01,
                "max_length": 1.0,
                "heavy_ball": 0.0,
                "burn_in": min(400, whole // 75),
            }
            settings.update({k: v for k, v in published.items() if settings[k] is None})
        super().__init__(params, step_multiplier, settings, LABPALMemory(), **shared)

    def _attach(self, *given: Any) -> None:
        super()._attach(*given)
        # asked once: a walk through all modules is no part of a step
        self._has_layers = self._model is not None and is_deep(self._model)

    _told_of_failures = False

    def _advance(self, call: Closure) -> tuple[Tensor, StepOutcome]:
        if self.memory.gathered == 0:
            self._plan()
        by_phase = {
            Phase.REUSING: self._follow,
            Phase.GATHERING: self._gather,
            Phase.MEASURING: self._measure_further,
        }
        return by_phase[self.memory.phase](call)

    @property
    def _is_pooled(self) -> bool:
        return bool(self._settings["rule"] == "pooled")

    def _plan(self) -> None:
        """Decide, between updates, how large the next batch is and whether to measure with it."""
        memory, settings = self.memory, self._settings
        m = memory.batches_per_update = _batches_at(
            memory.steps, settings["batch_growth"], settings["noise_factor"], self.total_steps
        )
        due = (
            memory.rate is None
            or memory.since_measurement >= self._interval()
            or m != memory.measured_for
            # after a failure soon, and ever more rarely
            or (memory.failures > 0 and memory.since_measurement >= 2**memory.failures)
        )
        if not self._is_pooled:
            due |= not memory.recent and memory.updates > settings["burn_in"]
        memory.measuring = self._room_for(m) if due else 0

    def _interval(self) -> int:
        """Updates from one measurement to the next."""
        given: int | None = self._settings["reuse"]
        if given is not None:
            return given
        updates = self.memory.updates
        return max(1, min(updates // _OFTEN, max(_LATER, updates // _LATER), _RARELY))

    def _room_for(self, m: int) -> int:
        """How many batches a measurement may have: as given, or what collecting may cost."""
        given: int | None = self._settings["measuring_batches"]
        if given is not None:
            return given
        room = _SHARE * (self.memory.steps + 1) - self.memory.collected
        return max(1, min(_BATCHES, 1 + int(room / m)))

    def _follow(self, call: Closure) -> tuple[Tensor, StepOutcome]:
        """A batch whose gradient moves the weights, with those before it of a grown batch."""
        memory = self.memory
        loss, active = self._gradient(call)
        if memory.gathered + 1 < memory.batches_per_update:
            return loss, self._accumulate(active, float(loss))
        direction = self._direction(active)
        if direction is None:
            return loss, rejected(float(loss))
        return loss, self._move(active.params, direction, Status.REUSED, float(loss))

    def _gather(self, call: Closure) -> tuple[Tensor, StepOutcome]:
        """A batch whose gradient goes into the direction; the last of them is measured, too."""
        memory = self.memory
        if memory.gathered + 1 < memory.batches_per_update:
            loss, active = self._gradient(call)
            return loss, self._accumulate(active, float(loss))
        with self._quiet_room() as room:
            loss, active = self._gradient(call)
            value0 = self._mean(loss)
            if not (math.isfinite(value0) and active.is_finite):
                return loss, rejected(value0)
            active.grads = self._kept_direction(active)
            return loss, self._measure(call, room, loss, active, memory.batches_per_update)

    def _accumulate(self, active: Active, value0: float) -> StepOutcome:
        """Add a batch's gradient to the larger batch (iterative sampling)."""
        if not active.is_finite:
            return rejected(value0)
        _params.add_scaled(
            active.memory(self.state, "gradient_sum"), active.grads, active.ones, 1.0
        )
        self.memory.gathered += 1
        return StepOutcome(0.0, 0.0, Status.ACCUMULATING, value0)

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

    def _kept_direction(self, active: Active) -> list[Tensor]:
        """The (negated) direction as a copy that outlives this call and its ``.grad``.

        Nothing else changes, so that an exception in a probe leaves the optimizer as it was.
        """
        memory, settings = self.memory, self._settings
        share = 1.0 / memory.batches_per_update
        for p in active.params:
            self.state[p].pop("direction", None)
        kept = active.memory(self.state, "direction")
        _params.add_scaled(kept, active.grads, active.ones, share)
        if memory.batches_per_update > 1:
            sums = active.memory(self.state, "gradient_sum")
            _params.add_scaled(kept, sums, active.ones, share)
        if settings["heavy_ball"] > 0.0:
            buffers = active.memory(self.state, "momentum")
            _params.add_scaled(kept, buffers, active.ones, settings["heavy_ball"])
        return kept

    def _measure_further(self, call: Closure) -> tuple[Tensor, StepOutcome]:
        """A batch that only measures: three forward passes along the kept direction."""
        with self._quiet_room() as room:
            loss = call.value(rewind=room.rewind)
            kept = self._keepers()
            if math.isfinite(value0 := self._mean(loss)):
                return loss, self._measure(call, room, loss, kept, weight=1)
        memory = self.memory
        memory.skipped += 1
        if memory.skipped < memory.measuring * memory.batches_per_update:
            return loss, rejected(value0)
        # as many bad batches as were to be measured: conclude from the good ones
        return loss, self._finish(self._search(loss, kept.params), kept)

    def _keepers(self) -> Active:
        """The parameters that a direction is kept for, that direction in place of gradients."""

        def kept(p: Tensor) -> Tensor | None:
            return self.state.get(p, {}).get("direction") if p.requires_grad else None

        return self._all_with(kept)

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
            values = [value0, *(line.value(length) for length in search.lengths)]
        memory.is_repeatable = True
        if not all(map(math.isfinite, values)):
            return self._shy_away(search, values)
        sums = memory.value_sums
        memory.value_sums = tuple(s + weight * v for s, v in zip(sums, values, strict=True))
        memory.measured += weight
        memory.gathered = memory.batches_per_update
        if memory.measured < memory.measuring * memory.batches_per_update:
            memory.collected += 1
            return StepOutcome(0.0, 0.0, Status.COLLECTING, value0)
        return self._finish(search, kept)

    def _shy_away(self, search: LargeBatchSearch, values: list[float]) -> StepOutcome:
        """A loss is finite at the start and not at a probe: measure anew, much nearer."""
        memory = self.memory
        places = zip(search.lengths, values[1:], strict=True)
        memory.edge = min(length for length, value in places if not math.isfinite(value))
        memory.probe_length = 0.1 * memory.edge
        self._note_failure(Status.NON_FINITE)
        self._reset()
        return rejected(values[0])

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
        memory, params = self.memory, kept.params
        direction = steepest(kept.grads, kept.ratios)
        means = [s / memory.measured for s in memory.value_sums]
        found = search(_MeanLine(dict(zip((0.0, *search.lengths), means, strict=True))))
        near_edge = memory.edge
        memory.since_measurement, memory.measured_for = 0, memory.batches_per_update
        per_length = 1.0 if self._settings["mode"] == "nsgd" else 1.0 / direction.norm
        learn = self._pool if self._is_pooled else self._average
        learn(search, found, per_length)
        if found.status in (Status.MINIMUM, Status.CAPPED):
            memory.failures, memory.minimum_at = 0, memory.steps
        else:
            self._note_failure(found.status)
        self._adapt(search, found, per_length, params)
        if self._is_pooled:
            memory.weights_norm = norm_along(params, direction.tensors)
        if self._settings["heavy_ball"] > 0.0:
            for p in params:
                self.state[p]["momentum"] = self.state[p].pop("direction")
        if memory.rate is None:
            self._reset()
            return found
        seen = None if near_edge is None else search.measuring_length
        moved = self._move(params, direction, found.status, found.value0, seen)
        if memory.edge is not None:
            memory.rate = None  # so near to losses that are not finite, every step is measured
        return dataclasses.replace(moved, slope0=found.slope0, parabola=found.parabola)

    def _pool(self, search: LargeBatchSearch, found: StepOutcome, per_length: float) -> None:
        """The minimum of all lines so far; see :class:`surefoot.reuse.Pooled`."""
        memory = self.memory
        if found.parabola is None or found.status is Status.FLAT:
            return
        slope, bend = found.parabola.slope0, found.parabola.curvature
        lines = Pooled(*memory.pooled).and_of(
            slope / per_length, bend / per_length**2, weight=memory.measured
        )
        memory.pooled = (lines.slope, lines.curvature)
        if memory.rate is not None:
            memory.rate = within_growth(lines.minimum, memory.rate)
        elif lines.minimum > 0.0:
            # no farther than seen where the loss only falls, where it bends not much farther
            times = 1.0 if found.status is Status.NOT_CONVEX else 4.0
            memory.rate = min(lines.minimum, times * search.measuring_length * per_length)

    def _average(self, search: LargeBatchSearch, found: StepOutcome, per_length: float) -> None:
        """The mean of the newest minima, once the burn-in is over: the papers' rule."""
        memory, burn_in = self.memory, self._settings["burn_in"]
        if found.status in (Status.MINIMUM, Status.CAPPED):
            memory.rate = found.length * per_length
            if memory.updates > burn_in or burn_in == 0:
                memory.recent = (*memory.recent, memory.rate)[-_NEWEST:]
                memory.rate = mean_of(memory.recent)
        elif memory.rate is None and found.status is Status.NOT_CONVEX:
            # nothing to keep yet: as far as the loss was seen to fall, as PAL does
            memory.rate = min(search.measuring_length, search.max_length) * per_length

    def _note_failure(self, status: Status) -> None:
        """Count a measurement without a minimum; tell, once, of a run that finds none."""
        memory = self.memory
        memory.failures += 1
        since = memory.steps - memory.minimum_at
        if since >= _PATIENCE and memory.failures > 1 and not self._told_of_failures:
            self._told_of_failures = True
            warnings.warn(
                f"LABPAL has found no minimum in {since} steps; the last measurement ended with "
                f"{status}. It happens on plateaus and saddles, and where losses are constant or "
                "overflow: look at the loss, or use surefoot.MeasuredLR",
                stacklevel=7,
            )

    def _adapt(
        self, search: LargeBatchSearch, found: StepOutcome, per_length: float, params: list[Tensor]
    ) -> None:
        """Measure the next time about twice as far away as the minimum now is."""
        memory, given = self.memory, self._settings["measuring_length"]
        reach = search.measuring_length
        if given is None:
            if found.status is Status.FLAT:
                wanted = math.inf  # differences that drown in rounding
            elif memory.rate is None:
                wanted = 0.0
            else:
                wanted = 2.0 * memory.rate / per_length
            reach = min(max(wanted, reach / 4.0), 4.0 * reach)
            memory.probe_length = reach
        if memory.edge is not None:
            memory.edge *= 2.0
            farthest = math.inf if given is None else given
            memory.probe_length = min(2.0 * search.measuring_length, 0.5 * memory.edge, farthest)
            if memory.edge > 2.0 * (given or _FIRST_PROBE * weights_norm(params)):
                memory.edge = None

    def _move(
        self,
        params: list[Tensor],
        direction: Direction,
        status: Status,
        value0: float,
        seen: float | None = None,
    ) -> StepOutcome:
        """Walk along the direction with the rate in use, no further than was ``seen``."""
        memory, settings = self.memory, self._settings
        if not direction.is_usable:
            self._reset()
            status = Status.FLAT if math.isfinite(value0) else Status.NON_FINITE
            return StepOutcome(0.0, 0.0, status, value0)
        per_length = 1.0 if settings["mode"] == "nsgd" else direction.norm
        assert memory.rate is not None
        alpha, horizon = self.step_multiplier, self._horizon()
        length = min(alpha * memory.rate * per_length, self._longest(params))
        rate = horizon * length / direction.norm
        if seen is not None:
            rate = min(rate, seen / direction.norm)
        _params.add_scaled(params, direction.tensors, direction.weights, rate)
        self._decay(params, rate)
        memory.updates += 1
        memory.since_measurement += 1
        self._reset()
        length = rate * direction.norm
        return StepOutcome(
            t=length,
            length=length,
            status=status,
            value0=value0,
            direction_norm=1.0,
            effective_lr=rate,
        )

    def _longest(self, params: list[Tensor]) -> float:
        """The longest update before the horizon: the cap times α, or a share of the weights."""
        if not self._is_pooled or self._settings["max_length"] is not None:
            return self.step_multiplier * self._max_length(params)
        if not self._has_layers:
            return math.inf
        share = min(_CHANGE, _FIRST_CHANGE * (self.memory.updates + 1))
        return longest(share, self.memory.weights_norm or math.inf)

    def _reset(self) -> None:
        """Between updates: nothing gathered, nothing kept, by no parameter frozen meanwhile."""
        memory = self.memory
        memory.gathered = memory.measured = memory.skipped = 0
        memory.value_sums = (0.0, 0.0, 0.0)
        for state in self.state.values():
            state.pop("direction", None)
            state.pop("gradient_sum", None)


@dataclasses.dataclass(frozen=True)
class _MeanLine:
    """A line that has been measured: the mean losses of all batches, by length."""

    values: dict[float, float]
    direction_norm: float = 1.0
    slope0: float | None = None

    @property
    def value0(self) -> float:
        return self.values[0.0]

    def value(self, t: float) -> float:
        return self.values[t]

    def value_and_slope(self, t: float) -> tuple[float, float]:
        raise NotImplementedError("only losses were measured")


def _check_growth(growth: Any, total_steps: int | None) -> list[list[float]]:
    """The schedule as plain lists, in order, or an error that says what is wrong with it."""
    pairs: list[list[float]] = []
    if not isinstance(growth, Iterable):
        raise TypeError(f"batch_growth must be a list of pairs (start, factor), got {growth!r}")
    for pair in growth:
        if len(pair) != 2:
            raise ValueError(f"batch_growth needs pairs (start, factor), got {pair!r}")
        start, factor = pair
        check_number("a start in batch_growth", start, at_least=0.0)
        check_number("a factor in batch_growth", factor, at_least=0.0, above=True)
        if 0.0 < start < 1.0 and total_steps is None:
            raise ValueError(f"batch_growth starts at {start:g} of the run: pass total_steps, too")
        pairs.append([start, factor])
    return sorted(pairs)


def _batches_at(step: int, growth: list[list[float]], noise: float, total_steps: int | None) -> int:
    """Batches per update at a step: the schedule's factor times the noise factor, rounded."""
    batches = 1
    for start, factor in growth:
        if step >= (start * (total_steps or 1) if start < 1 else start):
            batches = max(1, round(factor * noise))
    return batches
