"""LABPAL: a parabola through the loss of a large batch, measured rarely, its rate reused."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from surefoot import _params
from surefoot._closure import Closure
from surefoot._numbers import check_count, check_number, check_share
from surefoot._quiet import QuietRoom
from surefoot.directions import Direction, steepest
from surefoot.optim._active import Active
from surefoot.optim._keywords import Shared, formerly
from surefoot.optim.base import LineSearchOptimizer, Memory, ParamsLike, rejected
from surefoot.outcome import Status, StepOutcome
from surefoot.searches.large_batch import LargeBatchSearch

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["LABPAL", "noise_factor"]

_BATCHES = 10
"""k of the papers."""
_LENGTH = 0.1
"""The measuring length to begin with."""
_SHARE = 1.0 / 3.0
"""Of the steps so far that may be spent on collecting."""
_SHARE_OF_REPEATS = 0.25
"""The same for measurements that are repeated, because the last found no minimum."""
_PATIENCE = 50
"""Steps without a measured minimum after which it is told."""


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
        own_values: the same of the direction's own batch.
        rate: what is reused: a learning rate ("sgd") or a length ("nsgd").
        recent: trusted measurements, the latest last.
        collected: steps spent on collecting, since the start of training.
        measured_for: batches per update at the last measurement.
        is_rough: the rate is no minimum, or of few batches: measure again soon.
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
    own_values: tuple[float, ...] = (0.0, 0.0, 0.0)
    rate: float | None = None
    recent: tuple[float, ...] = ()
    collected: int = 0
    measured_for: int = 0
    is_rough: bool = False
    probe_length: float | None = None
    edge: float | None = None
    failures: int = 0
    minimum_at: int = 0


class LABPAL(LineSearchOptimizer):
    r"""Large-batch parabolic approximation line search (LABPAL).

    Rarely, the loss of ``measuring_batches`` mini-batches is measured at three places along the
    direction of the first of them; the minimum of the parabola gives a learning rate (``"sgd"``)
    or a step length (``"nsgd"``) that the next ``reuse`` updates use. In between an update is one
    of plain (normalized) SGD: one forward and one backward pass, no second copy of anything.

    .. math:: \theta \leftarrow \theta - \alpha\, h\, \eta\, g \;\;(\text{"sgd"}), \qquad
              \theta \leftarrow \theta - \alpha\, h\, s\, g/\lVert g\rVert \;\;(\text{"nsgd"})

    with η or *s* measured, α = ``step_multiplier`` and *h* the horizon (1 without ``total_steps``).

    Beyond the papers, the measured minimum is stretched by up to a factor of 2 where the batches
    are noisy (``stretch``). The batches of a measurement are those of successive ``step`` calls,
    each seen once and none kept: the weights wait until the last has been measured, then move. A
    batch whose loss is not finite takes no part. At most a share of the steps so far is spent
    waiting (``max_collecting``), and the measuring length follows the measured minimum. The papers'
    own setting: ``measuring_batches=10,
    measuring_length=0.01, stretch=1``.

    Args:
        params: the model.
        step_multiplier: α, multiple of the measured minimum. Torch's schedulers act on
            it. More than 2 walks uphill on the measured loss and diverges where there is no noise.
        mode: ``"nsgd"`` reuses the step length, ``"sgd"`` the learning rate.
        measuring_batches: k, mini-batches in a measurement. None for the papers' 10, bounded by
            ``max_collecting``.
        reuse: n, updates until the next measurement. None for the papers' 1000, or a thirtieth of
            ``total_steps`` where that is less.
        fit: ``"parabola"``, or ``"released"`` for the authors' code, whose step is twice the
            minimum; see :class:`surefoot.searches.LargeBatchSearch`.
        measuring_length: μ, distance of the farthest probe, in units of the weights. None begins
            with 0.1 and follows the minimum where that lies beyond or far nearer. A given one is
            kept, and shortened only where losses are not finite there.
        max_length: largest measured step, before α. In ``"sgd"`` mode also the largest update,
            in multiples of α, so that a sudden gradient cannot throw the weights away. None: 3.16,
            but where the model is known and has several layers and no BatchNorm, at most 3 % of the
            norm of the weights.
        stretch: how many times the minimum of the large batch a measurement may be, where the
            minimum of the direction's own batch lies farther; 1 for the papers' rule. Along a
            gradient that is mostly noise the large batch's minimum is short, because it rises
            where the one batch still falls; but the noise of many steps averages out, and the
            longer step trains better. Without noise the two agree and nothing is stretched.
        momentum: β of a heavy-ball buffer that takes the gradient's place as direction.
        batch_growth: pairs (start, factor): from ``start`` on, an update averages ``factor`` times
            as many batches (iterative sampling). ``start`` counts ``step`` calls; below 1 it is
            a share of ``total_steps``. The papers' schedule is ``((0, 1), (0.5, 2), (0.75, 4))``.
        dataset_size, batch_size: given both, the factors are multiplied by :func:`noise_factor`.
        average_over: former trusted measurements that are averaged.
        burn_in: first updates whose measurements are used but enter no average; after them the
            rate is measured anew. None for the papers' 400, or a 75th of ``total_steps``
            where that is less.
        max_collecting: largest share of the ``step`` calls so far that may be spent collecting;
            a measurement for which there is no room waits, or has fewer batches where there is no
            rate yet; only the first
            has all in any case. None for a third, or 1 (no limit) where
            ``measuring_batches`` is given. Measurements that are repeated because they found no
            minimum never get more than a quarter.
        **shared: keywords of every line search.

    References: Mutschler, Laube and Zell, "Using a one dimensional parabolic model of the
    full-batch loss to estimate learning rates during training", 2108.13880; its released code where
    the paper is silent.

    Departures: α multiplies the step and nothing else (in the released code it inflates the cap,
    too); gradients of any finite norm are measured; with grown batches only the last of the
    direction's own batches is measured, with the weight of all of them, so that none must be kept.

    *When it fails*: where no minimum is found in 50 steps, a warning says so. The
    measured minimum is greedy, see the comparison in the documentation; with
    several loss heads added up it fails, as the authors report: a warning says so.
    """

    memory: LABPALMemory

    @formerly(lr="step_multiplier", untrusted="burn_in")
    def __init__(
        self,
        params: ParamsLike,
        step_multiplier: float = 1.8,
        *,
        mode: Literal["sgd", "nsgd"] = "nsgd",
        measuring_batches: int | None = None,
        reuse: int | None = None,
        fit: Literal["parabola", "released"] = "parabola",
        measuring_length: float | None = None,
        max_length: float | None = None,
        stretch: float = 2.0,
        momentum: float = 0.0,
        batch_growth: Sequence[tuple[float, int]] = (),
        dataset_size: int | None = None,
        batch_size: int | None = None,
        average_over: int = 25,
        burn_in: int | None = None,
        max_collecting: float | None = None,
        **shared: Unpack[Shared],
    ) -> None:
        total_steps = shared.get("total_steps")
        if mode not in ("sgd", "nsgd"):
            raise ValueError(f'mode must be "sgd" or "nsgd", got {mode!r}')
        if fit not in ("parabola", "released"):
            raise ValueError(f'fit must be "parabola" or "released", got {fit!r}')
        if max_collecting is None:
            max_collecting = _SHARE if measuring_batches is None else 1.0
        if check_number("max_collecting", max_collecting, at_least=0.0) > 1.0:
            raise ValueError(f"max_collecting must be 1 or less, got {max_collecting!r}")
        measuring_batches = _BATCHES if measuring_batches is None else measuring_batches
        check_count("measuring_batches", measuring_batches)
        if total_steps is not None:
            check_count("total_steps", total_steps)
        if reuse is None:
            reuse = 1000 if total_steps is None else max(1, min(1000, total_steps // 30))
        check_count("reuse", reuse)
        if burn_in is None:
            burn_in = 400 if total_steps is None else min(400, total_steps // 75)
        check_count("average_over", average_over)
        check_count("burn_in", burn_in, at_least=0)
        if measuring_length is not None:
            check_number("measuring_length", measuring_length, at_least=0.0, above=True)
        if max_length is not None:
            check_number("max_length", max_length, at_least=0.0, above=True)
        check_number("stretch", stretch, at_least=1.0)
        check_share("momentum", momentum)
        noise = 1.0
        if dataset_size is not None and batch_size is not None:
            noise = noise_factor(dataset_size, batch_size)
        settings = {
            "mode": mode,
            "measuring_batches": measuring_batches,
            "reuse": reuse,
            "fit": fit,
            "measuring_length": measuring_length,
            "max_length": max_length,
            "stretch": stretch,
            # not "momentum": torch's OneCycleLR and CyclicLR would switch it on unasked
            "heavy_ball": momentum,
            "batch_growth": _check_growth(batch_growth, total_steps),
            "noise_factor": noise,
            "average_over": average_over,
            "burn_in": burn_in,
            "max_collecting": max_collecting,
        }
        super().__init__(params, step_multiplier, settings, LABPALMemory(), **shared)

    _told_of_failures = False

    def _advance(self, call: Closure) -> tuple[Tensor, StepOutcome]:
        memory = self.memory
        if memory.gathered == 0:
            self._plan()
        if memory.gathered < memory.batches_per_update:
            return self._gather(call)
        return self._measure_further(call)

    def _plan(self) -> None:
        """Decide, between updates, how large the next batch is and whether to measure with it."""
        memory, settings = self.memory, self._settings
        batches = _batches_at(
            memory.steps, settings["batch_growth"], settings["noise_factor"], self.total_steps
        )
        ends_burn_in = not memory.recent and memory.updates > settings["burn_in"]
        planned = (
            memory.since_measurement >= settings["reuse"]
            or ends_burn_in
            or batches != memory.measured_for
        )
        wanted: int = settings["measuring_batches"]
        fails = memory.failures > 0
        room = self._room_for(batches, planned=planned and not fails and not memory.is_rough)
        # after a failure soon, with what there is room for, and ever more rarely
        again = memory.is_rough and memory.since_measurement >= 2**memory.failures
        if memory.rate is None or (again and fails):
            memory.measuring = max(1, min(wanted, room))
        elif (planned or again) and room >= wanted:
            memory.measuring = wanted
        else:
            memory.measuring = 0
        memory.batches_per_update = batches

    def _room_for(self, batches: int, *, planned: bool) -> int:
        """How many batches a measurement may have, such that collecting keeps to its share."""
        memory, settings = self.memory, self._settings
        share: float = settings["max_collecting"]
        wanted: int = settings["measuring_batches"]
        if memory.measured_for == 0 and memory.failures == 0:
            return wanted  # the first one
        if not planned:
            share = min(share, _SHARE_OF_REPEATS)
        if share >= 1.0:
            return wanted
        # collected + (k − 1) m <= share · (steps + k m), for k batches of m each
        left = share * memory.steps + batches - memory.collected
        return int(left / (batches * (1.0 - share)) + 1e-9)

    def _gather(self, call: Closure) -> tuple[Tensor, StepOutcome]:
        """A batch whose gradient goes into the direction."""
        memory = self.memory
        last = memory.gathered + 1 == memory.batches_per_update
        if last and memory.measuring:
            with self._quiet_room() as room:
                loss, active = self._gradient(call)
                value0 = self._mean(loss)
                if not (math.isfinite(value0) and active.is_finite):
                    return loss, rejected(value0)
                active.grads = self._kept_direction(active)
                weight = memory.batches_per_update
                return loss, self._measure(call, room, loss, active, weight)
        loss, active = self._gradient(call)
        if not last:
            return loss, self._accumulate(active, float(loss))
        direction = self._direction(active)
        if direction is None:
            return loss, rejected(float(loss))
        return loss, self._move(active.params, direction, Status.REUSED, float(loss))

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
        if memory.measured == 0:
            memory.own_values = tuple(values)
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
        return LargeBatchSearch(
            measuring_length=memory.probe_length or settings["measuring_length"] or _LENGTH,
            max_length=self._max_length(params),
            fit=settings["fit"],
            rounding=self._rounding(loss),
        )

    def _finish(self, search: LargeBatchSearch, kept: Active) -> StepOutcome:
        """Fit the parabola to the mean losses, keep what it says, move."""
        memory, settings, params = self.memory, self._settings, kept.params
        direction = steepest(kept.grads, kept.ratios)
        means = [s / memory.measured for s in memory.value_sums]
        found, own = (
            search(_MeanLine(dict(zip((0.0, *search.lengths), values, strict=True))))
            for values in (means, memory.own_values)
        )
        near_edge = memory.edge
        self._learn(search, found, own, direction)
        self._adapt(search, found)
        if settings["heavy_ball"] > 0.0:
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

    def _stretched(self, found: StepOutcome, own: StepOutcome) -> float:
        """The length that counts: the minimum, or up to ``stretch`` times it where there is noise.

        Not in the papers; ``stretch=1`` leaves it off.
        """
        limit: float = self._settings["stretch"]
        if own.status is Status.NOT_CONVEX:
            return limit * found.length  # the own batch falls as far as was seen
        return min(max(found.length, own.length), limit * found.length)

    def _learn(
        self, search: LargeBatchSearch, found: StepOutcome, own: StepOutcome, direction: Direction
    ) -> None:
        """Take a measurement into what is reused."""
        memory, settings = self.memory, self._settings
        memory.since_measurement, memory.measured_for = 0, memory.batches_per_update
        few = memory.measured < settings["measuring_batches"] * memory.batches_per_update
        per_length = 1.0 if settings["mode"] == "nsgd" else 1.0 / direction.norm
        if found.status in (Status.MINIMUM, Status.CAPPED):
            rate = self._stretched(found, own) * per_length
            if memory.updates > settings["burn_in"] or settings["burn_in"] == 0:
                memory.recent = (*memory.recent, rate)[-settings["average_over"] :]
                rate = math.fsum(memory.recent) / len(memory.recent)
            memory.rate, memory.is_rough, memory.failures = rate, few, 0
            memory.minimum_at = memory.steps
            return
        nothing = memory.rate is None or (memory.is_rough and memory.failures > 0)
        if nothing and found.status is Status.NOT_CONVEX:
            # Nothing to keep yet: as far as the loss was seen to fall, as PAL does, and measure
            # again as soon as there is room.
            length = min(search.measuring_length, search.max_length)
            memory.rate, memory.is_rough = length * per_length, True
        self._note_failure(found.status)

    def _note_failure(self, status: Status) -> None:
        """Count a measurement without a minimum; tell, once, of a run that finds none."""
        memory = self.memory
        memory.failures += 1
        since = memory.steps - memory.minimum_at
        idle = memory.rate is None or memory.is_rough
        if idle and since >= _PATIENCE and not self._told_of_failures:
            self._told_of_failures = True
            warnings.warn(
                f"LABPAL has found no minimum in {since} steps; the last measurement ended with "
                f"{status}. It happens on plateaus and saddles, and where losses are constant or "
                "overflow: look at the loss, or use surefoot.MeasuredLR",
                stacklevel=7,
            )

    def _adapt(self, search: LargeBatchSearch, found: StepOutcome) -> None:
        """Measure the next time about as far away as the minimum was found this time."""
        memory, settings = self.memory, self._settings
        reach, longest = search.measuring_length, search.max_length
        if settings["measuring_length"] is None:
            if found.status in (Status.MINIMUM, Status.CAPPED):
                if found.length > reach:
                    reach = min(2.0 * found.length, 4.0 * reach)
                elif found.length < reach / 8.0:
                    reach = max(2.0 * found.length, reach / 4.0)
            elif found.status is Status.NOT_DESCENT:
                reach /= 4.0
            else:  # it falls as far as was seen, or too little to see
                reach *= 2.0 if found.status is Status.NOT_CONVEX else 4.0
            memory.probe_length = min(reach, max(longest, search.measuring_length))
        if memory.edge is not None:
            memory.edge *= 2.0
            given = settings["measuring_length"] or math.inf
            memory.probe_length = min(2.0 * reach, 0.5 * memory.edge, given)
            if memory.edge > 2.0 * (settings["measuring_length"] or _LENGTH):
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
        longest = self._max_length(params)
        assert memory.rate is not None
        minimum = min(memory.rate * per_length, longest)
        rate = self.step_multiplier * self._horizon() * minimum / direction.norm
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
