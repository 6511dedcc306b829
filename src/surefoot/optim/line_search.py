"""Any search along any direction, at every step: the optimizer that the named pairs are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from surefoot import _params, _reduce
from surefoot._closure import Closure
from surefoot._numbers import check_callable, plain
from surefoot.directions import Direction, DirectionRule, Steepest
from surefoot.line import Line
from surefoot.optim._active import Active
from surefoot.optim._keywords import Shared
from surefoot.optim._memory import Memory
from surefoot.optim.base import LineSearchOptimizer, ParamsLike, rejected
from surefoot.outcome import Cost, Status, StepOutcome
from surefoot.searches import Search
from surefoot.searches._noise import Noise, NoisyLine, SampleLosses

if TYPE_CHECKING:
    from typing_extensions import Unpack

FullLoss = Callable[[], Any]
"""Returns the mean loss over all the data at the present weights, as a number."""

T = TypeVar("T")


@dataclass(kw_only=True)
class LineSearchMemory(Memory):
    """What any line search remembers.

    Args:
        search: as the next step will use it.
        direction: the rule.
        has_full_loss: whether the loss of all the data was searched.
        left_behind: the last batch's loss where the step ended, and its slope there per unit of
            length; None unless the search compares batches.
    """

    search: Search
    direction: DirectionRule = field(default_factory=Steepest)
    has_full_loss: bool = False
    left_behind: tuple[float, float] | None = None


class LineSearch(LineSearchOptimizer):
    r"""A search along a direction, at every step.

    .. math:: \theta \leftarrow \theta + \alpha\, h\, t\, d, \qquad t = \mathrm{search}(L, d)

    with α = ``step_multiplier`` (the groups' ``lr``) and *h* the horizon, 1 without
    ``total_steps``. The direction is not normalized, so along a negated gradient *t* is a learning
    rate. An exception leaves weights, buffers, random state and everything that is remembered as
    they were.

    Args:
        params: the model.
        step_multiplier: α, multiple of the place found that is taken. Torch's schedulers act on it,
            as ``lr`` of the groups.
        search: how far; one of :mod:`surefoot.searches`, or one's own. Where it compares batches,
            the closure may return one loss per sample.
        direction: where to; one of :mod:`surefoot.directions`. None for the negated gradient.
        full_loss: a callable that returns the mean loss over all the data at the present
            weights; then that loss is searched, along the batch's direction. Where it has an
            attribute ``batches``, each call counts as so many passes. With several processes, each
            passes the loss of its share. None for the loss of the step's own batch.
        **shared: keywords of every line search.

    Attributes:
        search: as the next step will use it.
        full_loss: as above. Copies and checkpoints do not keep it: it belongs to one model and one
            data set.

    Example:
        >>> import torch, surefoot
        >>> from surefoot.directions import HeavyBall
        >>> from surefoot.searches import ArmijoSearch
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(64, 3)
        >>> y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = surefoot.LineSearch(model, search=ArmijoSearch(), direction=HeavyBall(0.5))
        >>> for _ in range(60):
        ...     loss = optimizer.step(lambda: torch.nn.functional.mse_loss(model(x), y))
        >>> bool(loss < 1e-3)
        True

    *When it fails*: as the search does; see there.
    """

    memory: LineSearchMemory
    full_loss: FullLoss | None = None
    _full_loss_needs_graph = False

    def __init__(
        self,
        params: ParamsLike,
        step_multiplier: float = 1.0,
        *,
        search: Search,
        direction: DirectionRule | None = None,
        full_loss: FullLoss | None = None,
        **shared: Unpack[Shared],
    ) -> None:
        if not isinstance(search, Search):
            raise TypeError(f"search must be a surefoot.searches.Search, got {search!r}")
        rule = Steepest() if direction is None else direction
        if not isinstance(rule, DirectionRule):
            raise TypeError(f"direction must be of surefoot.directions, got {rule!r}")
        check_callable("full_loss", full_loss)
        memory = LineSearchMemory(
            search=_plain(search), direction=_plain(rule), has_full_loss=full_loss is not None
        )
        super().__init__(params, step_multiplier, {}, memory, **shared)
        self.full_loss = full_loss

    @property
    def search(self) -> Search:
        """The search, as the next step will use it."""
        return self.memory.search

    def __repr__(self) -> str:
        memory, groups = self.memory, super().__repr__()
        pair = f"    search: {memory.search}\n    direction: {memory.direction}\n"
        return groups[:-1].rstrip("\n") + f"\n\nOf all groups\n{pair})"

    def _advance(self, call: Closure) -> tuple[Tensor, StepOutcome]:
        memory, samples = self.memory, None
        if memory.search.compares_batches:
            call.closure = samples = SampleLosses(call.closure)
        with self._quiet_room() as room:
            loss, active = self._gradient(
                call, memory.search.takes_slope0, probes_differentiate=memory.search.takes_slopes
            )
            value0 = self._mean(loss)
            if not (math.isfinite(value0) and active.is_finite):
                return loss, rejected(value0)
            direction, kept = self._direction(active)
            if not direction.is_usable:
                return loss, StepOutcome(0.0, 0.0, Status.FLAT, value0)
            given, left = getattr(memory.search, "rounding", 0.0), None
            search = _rounded(memory.search, given or self._rounding(loss))
            with self._line(active.params, direction, call, room, value0) as line:
                if search.compares_losses and not memory.is_repeatable:
                    line.check_repeatable()
                if samples is not None:
                    noisy = self._noisy(line, samples, active, loss)
                    search = search.knowing(noisy)
                    found = search(noisy)
                else:
                    found = self._search_with(search, line)
                outcome = self._scaled(found)
                if samples is not None and samples.losses is None:
                    # a further pass where α or the horizon lead to a place that was not tried
                    value, slope = noisy.value_and_slope(outcome.t)
                    left = value, slope / line.direction_norm
                line.commit(outcome.t)
        for p, buffer in zip(active.params, kept, strict=False):
            self.state[p]["direction"] = buffer
        memory.is_repeatable, memory.left_behind = True, left
        if left is not None:
            unit, walked = direction.unit(), active.memory(self.state, "walked")
            _params.shrink(walked, 0.0)
            _params.add_scaled(walked, unit.tensors, unit.weights, 1.0)
        memory.search = _rounded(search.after(found), given)
        self._decay(active.params, outcome.effective_lr)
        return loss, outcome

    def _direction(self, active: Active) -> tuple[Direction, list[Tensor]]:
        """The direction, and what its memory will be once the step has happened."""
        rule, kept = self.memory.direction, []
        if rule.remembers:
            kept = [m.clone() for m in active.memory(self.state, "direction")]
        return rule(active.grads, kept, active.ratios), kept

    def _scaled(self, found: StepOutcome) -> StepOutcome:
        """From the place found to the place taken: α and the horizon."""
        t = found.t * self.step_multiplier * self._horizon()
        rate = t * self.memory.direction.gradient_share
        return dataclasses.replace(found, t=t, length=t * found.direction_norm, effective_lr=rate)

    # Noise

    def _noisy(self, line: Line, samples: SampleLosses, active: Active, loss: Tensor) -> NoisyLine:
        """The line, told of the last batch's loss and slope at the present weights."""
        group, between = self._process_group, None
        if samples.losses is None and self.memory.left_behind is not None:
            value, slope = self.memory.left_behind
            walked = Direction(active.memory(self.state, "walked"), active.ones, norm=1.0)
            here = _reduce.mean(walked.slope_for(active.grads), group, loss.device)
            between = Noise.between((line.value0, value), (here, slope))
        return NoisyLine(line, samples, between, group)

    # All the data

    def _search_with(self, search: Search, line: Line) -> StepOutcome:
        """Search the batch's line, or that through the loss of all the data in its direction.

        The passes are counted: as many a call as ``full_loss.batches`` says, or one.
        """
        full_loss, room = self.full_loss, line.room
        if full_loss is None:
            if self.memory.has_full_loss:
                raise RuntimeError(
                    "this run searched the loss of all the data, and copies and checkpoints do "
                    "not keep the function that computes it: set optimizer.full_loss again"
                )
            return search(line)
        passes = int(getattr(full_loss, "batches", 1))
        known = self._full_loss_needs_graph
        call = Closure(full_loss, line.params, calls_backward=False, needs_graph=known)
        try:
            room.repeat()
            value0 = self._mean(call.value(rewind=room.rewind))
            self._full_loss_needs_graph = call.needs_graph
            # the batch's slope is not the slope of all the data
            free, group = dataclasses.replace(line.direction, slope0=None), self._process_group
            with Line(line.params, free, call, room, value0, process_group=group) as whole:
                return dataclasses.replace(search(whole), value0=line.value0)
        finally:
            cost = Cost(call.cost.forwards * passes, 0, call.cost.probes * passes)
            line.closure.cost += cost


def _plain(rule: T) -> T:
    """A dataclass with Python's numbers in place of NumPy's and tensors."""
    if not dataclasses.is_dataclass(rule):
        raise TypeError(f"searches and directions are dataclasses, got {rule!r}")
    values = {f.name: plain(getattr(rule, f.name), tensors=True) for f in dataclasses.fields(rule)}
    return dataclasses.replace(rule, **values)  # type: ignore[type-var]


def _rounded(search: Search, rounding: float) -> Search:
    """The search, told of the losses' precision."""
    if not hasattr(search, "rounding"):
        return search
    return dataclasses.replace(search, rounding=rounding)  # type: ignore[type-var]
