"""LABPAL: a parabola through the loss of a large batch, measured rarely, its rate reused."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from surefoot import _params
from surefoot._closure import Closure
from surefoot.directions import Direction, steepest
from surefoot.line import QuietRoom
from surefoot.optim.base import (
    Active,
    LineSearchOptimizer,
    ParamsLike,
    check_count,
    check_number,
    check_share,
    rejected,
)
from surefoot.outcome import Status, StepOutcome
from surefoot.searches.large_batch import LargeBatchSearch

__all__ = ["LABPAL", "noise_factor"]


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


class LABPAL(LineSearchOptimizer):
    r"""Large-batch parabolic approximation line search (LABPAL).

    Rarely, the loss of ``measuring_batches`` mini-batches is measured at three places along the
    direction of the first of them; the minimum of the parabola gives a learning rate (``"sgd"``)
    or a step length (``"nsgd"``) that the next ``reuse`` updates use. In between an update is one
    of plain (normalized) SGD: one forward and one backward pass, no second copy of anything.

    .. math:: \theta \leftarrow \theta - \alpha\, h\, \eta\, g \;\;(\text{"sgd"}), \qquad
              \theta \leftarrow \theta - \alpha\, h\, s\, g/\lVert g\rVert \;\;(\text{"nsgd"})

    with η or *s* measured, α = ``lr`` and *h* the horizon (1 without ``total_steps``).

    Beyond the papers, the measured minimum is stretched by up to a factor of 2 where the batches
    are noisy (``stretch``). The batches of a measurement are those of successive ``step`` calls,
    each seen once and none kept: the weights wait until the last has been measured, then move.

    Args:
        params: the model (recommended), or parameters, or dicts of groups, as for ``torch.optim``.
        lr: α, multiple of the measured minimum. Torch's schedulers act on it. More than 2 walks
            uphill on the measured loss and diverges where there is no noise.
        mode: ``"nsgd"`` reuses the step length, ``"sgd"`` the learning rate.
        measuring_batches: k, mini-batches in a measurement.
        reuse: n, updates until the next measurement. None for the papers' 1000, or a thirtieth of
            ``total_steps`` where that is less.
        fit: ``"parabola"``, or ``"released"`` for the authors' code, whose step is twice the
            minimum; see :class:`surefoot.searches.LargeBatchSearch`.
        measuring_length: μ, distance of the farthest probe, in units of the weights.
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
        weight_decay: decoupled, per unit of the effective learning rate.
        batch_growth: pairs (start, factor): from ``start`` on, an update averages ``factor`` times
            as many batches (iterative sampling). ``start`` counts ``step`` calls; below 1 it is
            a share of ``total_steps``. The papers' schedule is ``((0, 1), (0.5, 2), (0.75, 4))``.
        dataset_size, batch_size: given both, the factors are multiplied by :func:`noise_factor`.
        average_over: former trusted measurements that are averaged.
        untrusted: first updates whose measurements are used but enter no average; after them the
            rate is measured anew. None for the papers' 400, or a 75th of ``total_steps``
            where that is less.
        total_steps: length of the run in steps; the step then falls linearly to 0 over it. Strongly
            recommended: see the comparison in the documentation.
        model, loss_precision, process_group, grad_scaler, on_measure: see
            :class:`LineSearchOptimizer`.

    References: Mutschler, Laube and Zell, "Using a one dimensional parabolic model of the
    full-batch loss to estimate learning rates during training", 2108.13880; its released code where
    the paper is silent.

    Departures: α multiplies the step and nothing else (in the released code it inflates the cap,
    too); gradients of any finite norm are measured; with grown batches only the last of the
    direction's own batches is measured, with the weight of all of them, so that none must be kept.

    *When it fails*: the measured minimum is greedy, see the comparison in the documentation; with
    several loss heads added up it fails, as the authors report: a warning says so.
    """

    def __init__(
        self,
        params: ParamsLike,
        lr: float = 1.8,
        *,
        mode: Literal["sgd", "nsgd"] = "nsgd",
        measuring_batches: int = 10,
        reuse: int | None = None,
        fit: Literal["parabola", "released"] = "parabola",
        measuring_length: float = 0.1,
        max_length: float | None = None,
        stretch: float = 2.0,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        batch_growth: Sequence[tuple[float, int]] = (),
        dataset_size: int | None = None,
        batch_size: int | None = None,
        average_over: int = 25,
        untrusted: int | None = None,
        total_steps: int | None = None,
        model: nn.Module | None = None,
        loss_precision: float | None = None,
        process_group: Any = None,
        grad_scaler: Any = None,
        on_measure: Callable[[StepOutcome], None] | None = None,
    ) -> None:
        if mode not in ("sgd", "nsgd"):
            raise ValueError(f'mode must be "sgd" or "nsgd", got {mode!r}')
        if fit not in ("parabola", "released"):
            raise ValueError(f'fit must be "parabola" or "released", got {fit!r}')
        check_count("measuring_batches", measuring_batches)
        if total_steps is not None:
            check_count("total_steps", total_steps)
        if reuse is None:
            reuse = 1000 if total_steps is None else max(1, min(1000, total_steps // 30))
        check_count("reuse", reuse)
        if untrusted is None:
            untrusted = 400 if total_steps is None else min(400, total_steps // 75)
        check_count("average_over", average_over)
        check_count("untrusted", untrusted, at_least=0)
        check_number("measuring_length", measuring_length, at_least=0.0, above=True)
        if max_length is not None:
            check_number("max_length", max_length, at_least=0.0, above=True)
        check_number("stretch", stretch, at_least=1.0)
        check_share("momentum", momentum)
        noise = 1.0
        if dataset_size is not None and batch_size is not None:
            noise = noise_factor(dataset_size, batch_size)
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
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
            "untrusted": untrusted,
        }
        super().__init__(
            params,
            defaults,
            model=model,
            total_steps=total_steps,
            loss_precision=loss_precision,
            process_group=process_group,
            grad_scaler=grad_scaler,
            on_measure=on_measure,
        )

    def _fresh_memory(self) -> dict[str, Any]:
        return {
            **super()._fresh_memory(),
            "updates": 0,
            "since_measurement": 0,
            "checked": False,  # that the closure is repeatable
            "batches_per_update": 0,  # m, of the update or measurement under way
            "gathered": 0,  # of them, batches whose gradient is already in the direction
            "measuring": False,
            "measured": 0,  # batches in the sums below
            "value_sums": [0.0, 0.0, 0.0],  # losses at 0 and at the two probes
            "own_values": [0.0, 0.0, 0.0],  # the same of the direction's own batch
            "rate": None,  # what is reused: a learning rate ("sgd") or a length ("nsgd")
            "recent": [],  # trusted measurements, the latest last
        }

    def _advance(self, call: Closure) -> tuple[Tensor, StepOutcome]:
        memory = self._memory
        if memory["gathered"] == 0:
            self._plan()
        if memory["gathered"] < memory["batches_per_update"]:
            return self._gather(call)
        return self._measure_further(call)

    def _plan(self) -> None:
        """Decide, between updates, how large the next batch is and whether to measure with it."""
        memory = self._memory
        batches = _batches_at(
            memory["steps"], memory["batch_growth"], memory["noise_factor"], self.total_steps
        )
        leaves_untrusted = not memory["recent"] and memory["updates"] > memory["untrusted"]
        memory["measuring"] = (
            memory["rate"] is None
            or memory["since_measurement"] >= memory["reuse"]
            or leaves_untrusted
            or batches != memory["batches_per_update"]
        )
        memory["batches_per_update"] = batches

    def _gather(self, call: Closure) -> tuple[Tensor, StepOutcome]:
        """A batch whose gradient goes into the direction."""
        memory = self._memory
        last = memory["gathered"] + 1 == memory["batches_per_update"]
        if last and memory["measuring"]:
            with self._quiet_room() as room:
                loss, active = self._gradient(call)
                if not active.is_finite:
                    return loss, rejected(self._mean(loss))
                active.grads = self._kept_direction(active)
                weight = memory["batches_per_update"]
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
        self._memory["gathered"] += 1
        return StepOutcome(0.0, 0.0, Status.ACCUMULATING, value0)

    def _direction(self, active: Active) -> Direction | None:
        """The direction of an update that is not measured; None if the gradient is not finite."""
        memory = self._memory
        beta, batches = memory["heavy_ball"], memory["batches_per_update"]
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
        memory = self._memory
        share = 1.0 / memory["batches_per_update"]
        for p in active.params:
            self.state[p].pop("direction", None)
        kept = active.memory(self.state, "direction")
        _params.add_scaled(kept, active.grads, active.ones, share)
        if memory["batches_per_update"] > 1:
            sums = active.memory(self.state, "gradient_sum")
            _params.add_scaled(kept, sums, active.ones, share)
        if memory["heavy_ball"] > 0.0:
            buffers = active.memory(self.state, "momentum")
            _params.add_scaled(kept, buffers, active.ones, memory["heavy_ball"])
        return kept

    def _measure_further(self, call: Closure) -> tuple[Tensor, StepOutcome]:
        """A batch that only measures: three forward passes along the kept direction."""
        with self._quiet_room() as room:
            loss = call.value()
            return loss, self._measure(call, room, loss, self._keepers(), weight=1)

    def _keepers(self) -> Active:
        """The parameters that a direction is kept for, that direction in place of gradients."""
        top = self._top_lr()
        active = Active([], [], [], [])
        for group in self.param_groups:
            for place, p in enumerate(group["params"]):
                if "direction" in self.state.get(p, {}):
                    active.add(group, place, self.state[p]["direction"], top)
        return active

    def _measure(
        self, call: Closure, room: QuietRoom, loss: Tensor, kept: Active, weight: int
    ) -> StepOutcome:
        """Losses of this batch at the three places; the fit, once all batches are in."""
        memory = self._memory
        value0 = self._mean(loss)
        direction = steepest(kept.grads, kept.ratios)
        if not direction.is_usable:
            self._reset(kept.params)
            return StepOutcome(0.0, 0.0, Status.FLAT, value0)
        search = self._search(loss, kept.params)
        with self._line(kept.params, direction.unit(), call, room, value0) as line:
            if not memory["checked"]:
                line.check_repeatable()
            values = [value0, *(line.value(length) for length in search.lengths)]
        memory["checked"] = True
        sums = memory["value_sums"]
        if memory["measured"] == 0:
            memory["own_values"] = values
        memory["value_sums"] = [s + weight * v for s, v in zip(sums, values, strict=True)]
        memory["measured"] += weight
        memory["gathered"] = memory["batches_per_update"]
        if memory["measured"] < memory["measuring_batches"] * memory["batches_per_update"]:
            return StepOutcome(0.0, 0.0, Status.COLLECTING, value0)
        return self._finish(search, kept.params, direction)

    def _search(self, loss: Tensor, params: list[Tensor]) -> LargeBatchSearch:
        memory = self._memory
        return LargeBatchSearch(
            measuring_length=memory["measuring_length"],
            max_length=self._max_length(params),
            fit=memory["fit"],
            rounding=self._rounding(loss),
        )

    def _finish(
        self, search: LargeBatchSearch, params: list[Tensor], direction: Direction
    ) -> StepOutcome:
        """Fit the parabola to the mean losses, keep what it says, move."""
        memory = self._memory
        means = [s / memory["measured"] for s in memory["value_sums"]]
        found, own = (
            search(_MeanLine(dict(zip((0.0, *search.lengths), values, strict=True))))
            for values in (means, memory["own_values"])
        )
        self._learn(search, found, own, direction)
        if memory["heavy_ball"] > 0.0:
            for p in params:
                self.state[p]["momentum"] = self.state[p].pop("direction")
        if memory["rate"] is None:
            self._reset(params)
            return found
        moved = self._move(params, direction, found.status, found.value0)
        return dataclasses.replace(moved, slope0=found.slope0, parabola=found.parabola)

    def _stretched(self, found: StepOutcome, own: StepOutcome) -> float:
        """The length that counts: the minimum, or up to ``stretch`` times it where there is noise.

        Not in the papers; ``stretch=1`` leaves it off.
        """
        limit: float = self._memory["stretch"]
        if own.status is Status.NOT_CONVEX:
            return limit * found.length  # the own batch falls as far as was seen
        return min(max(found.length, own.length), limit * found.length)

    def _learn(
        self, search: LargeBatchSearch, found: StepOutcome, own: StepOutcome, direction: Direction
    ) -> None:
        """Take a measurement into what is reused."""
        memory = self._memory
        memory["since_measurement"] = 0
        per_length = 1.0 if memory["mode"] == "nsgd" else 1.0 / direction.norm
        if found.status in (Status.MINIMUM, Status.CAPPED):
            rate = self._stretched(found, own) * per_length
            if memory["updates"] > memory["untrusted"] or memory["untrusted"] == 0:
                memory["recent"] = [*memory["recent"], rate][-memory["average_over"] :]
                rate = math.fsum(memory["recent"]) / len(memory["recent"])
            memory["rate"] = rate
        elif memory["rate"] is None and found.status is Status.NOT_CONVEX:
            # Nothing to keep yet: as far as the loss was seen to fall, as PAL does, and measure
            # again at once.
            length = min(memory["measuring_length"], search.max_length)
            memory["rate"] = length * per_length
            memory["since_measurement"] = memory["reuse"]

    def _move(
        self, params: list[Tensor], direction: Direction, status: Status, value0: float
    ) -> StepOutcome:
        """Walk along the direction with the rate in use."""
        memory = self._memory
        if not direction.is_usable:
            self._reset(params)
            return StepOutcome(0.0, 0.0, Status.FLAT, value0)
        per_length = 1.0 if memory["mode"] == "nsgd" else direction.norm
        longest = self._max_length(params)
        minimum = min(memory["rate"] * per_length, longest)
        rate = self._top_lr() * self._horizon() * minimum / direction.norm
        _params.add_scaled(params, direction.tensors, direction.weights, rate)
        self._decay(params, rate)
        memory["updates"] += 1
        memory["since_measurement"] += 1
        self._reset(params)
        length = rate * direction.norm
        return StepOutcome(
            t=length,
            length=length,
            status=status,
            value0=value0,
            direction_norm=1.0,
            effective_lr=rate,
        )

    def _reset(self, params: list[Tensor]) -> None:
        """Between updates: nothing gathered, nothing kept."""
        memory = self._memory
        memory["gathered"] = memory["measured"] = 0
        memory["value_sums"] = [0.0, 0.0, 0.0]
        for p in params:
            self.state[p].pop("direction", None)
            self.state[p].pop("gradient_sum", None)


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
