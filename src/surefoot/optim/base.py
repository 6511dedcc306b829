"""What all line-search optimizers share: the closure, the groups, the counters, the callbacks."""

from __future__ import annotations

import dataclasses
import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from surefoot import _params, _reduce
from surefoot._closure import CLOSURE_HELP, Closure
from surefoot._networks import (
    MAX_CHANGE,
    can_be_ruined,
    check_belongs,
    largest_change,
    weights_norm,
)
from surefoot._numbers import check_count, check_number, check_share, plain
from surefoot._params import Copies
from surefoot._plain import from_plain, to_plain
from surefoot._quiet import QuietRoom, devices_of, undisturbed
from surefoot.bound import Bound
from surefoot.directions import Direction
from surefoot.line import Line
from surefoot.optim._keywords import DEFAULTS, Shared, show_shared
from surefoot.optim._version_0_1 import from_version_0_1
from surefoot.outcome import Cost, Status, StepOutcome

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "Active",
    "LineSearchOptimizer",
    "Memory",
    "ParamsLike",
    "check_count",
    "check_number",
    "check_share",
    "rejected",
]

ParamsLike: TypeAlias = (
    nn.Module | Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
)

PUBLISHED_MAX_LENGTH = 3.16
"""s_max of PAL's released code."""
_NORM_EVERY = 32
"""Steps after which the norm of the weights is computed anew."""
_FAR = 0.5
"""Length of a step, as a share of the weights' norm, from which on it is told."""
_REFUSALS = 50
"""Steps refused in a row after which it is told."""
_HEADS = (
    "the loss adds up the losses of {} heads. One step for all of them follows the one that bends "
    "most, and line searches tend to fail there (docs/line-searches.md): compare with "
    "surefoot.MeasuredLR around torch.optim.AdamW, which scales every weight by itself"
)
STATE = "line_search"
"""The key in the first group of a checkpoint under which :class:`Memory` lies."""


class _Steps:
    """How many steps all line searches of this process have made together."""

    count = 0


@dataclass
class Memory:
    """What a line search remembers from step to step; every checkpoint keeps it.

    Args:
        steps: ``step`` calls so far.
        cost: passes spent.
        closure_calls_backward: whether the closure computes gradients; None until it was seen.
        closure_needs_graph: whether its loss differentiates inside.
        is_repeatable: whether the closure was seen to give the same loss twice.
        weights_norm: the smallest norm so far of the weights that move.
    """

    steps: int = 0
    cost: Cost = field(default_factory=Cost)
    closure_calls_backward: bool | None = None
    closure_needs_graph: bool = False
    is_repeatable: bool = False
    weights_norm: float | None = None


@dataclass
class Active:
    """The parameters that have a gradient now, in the order of the groups."""

    params: list[Tensor]
    grads: list[Tensor]
    ratios: list[float]
    """Each parameter's group ``lr`` over the largest one: how fast it moves on the line."""
    places: list[tuple[int, int]]
    """The index of each parameter's group, and its place there."""

    @property
    def ones(self) -> list[float]:
        """A weight of 1 for each parameter."""
        return [1.0] * len(self.params)

    @property
    def is_finite(self) -> bool:
        """Whether the gradient is."""
        return math.isfinite(_params.norm_sq(self.grads, self.ratios))

    def memory(self, state: dict[Tensor, Any], key: str) -> list[Tensor]:
        """A tensor like each parameter from the optimizer's state, zeros where there is none."""
        for p in self.params:
            if key not in state[p]:
                state[p][key] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return [state[p][key] for p in self.params]


class LineSearchOptimizer(Optimizer):
    r"""Base of the optimizers that measure their step. Abstract: see ``PAL`` and ``LABPAL``.

    All parameters of all groups move along one joint line. A group's ``lr`` multiplies the measured
    step (the papers' update-step adaptation α), so that any of torch's schedulers composes. Where
    groups have different ``lr``, the line itself is tilted by their ratios: what is measured is
    the line that is walked, and the largest ``lr`` multiplies the step.

    Args:
        params: the model, or parameters, or dicts of groups.
        step_multiplier: α, multiple of the measured step; ``lr`` of the groups that name none.
        settings: what the subclass needs, for all groups alike; plain Python values.
        memory: what it remembers, as at the start.
        **shared: keywords of every line search.

    Attributes:
        last: outcome of the last step; None before the first.
        cost: passes spent since the start of training, resumes included.
        memory: what is remembered from step to step, a dataclass.
    """

    # torch's GradScaler passes its scale to optimizers that claim to handle it; claiming it is the
    # only way to notice scaler.step(optimizer, closure), which would run backward unscaled
    _step_supports_amp_scaling = True

    _CHANGE = MAX_CHANGE
    """Share of their norm by which a step may change the weights: less for a longer memory."""

    last: StepOutcome | None
    memory: Memory

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        show_shared(cls)

    def __init__(
        self,
        params: ParamsLike,
        step_multiplier: float,
        settings: dict[str, Any],
        memory: Memory,
        **shared: Unpack[Shared],
    ) -> None:
        if unknown := shared.keys() - DEFAULTS.keys():
            raise TypeError(f"{type(self).__name__} takes no {', '.join(sorted(unknown))}")
        given: dict[str, Any] = {**DEFAULTS, **shared}
        model, grad_scaler = given["model"], given["grad_scaler"]
        total_steps, loss_precision = given["total_steps"], given["loss_precision"]
        _check_params(type(self).__name__, params)
        if isinstance(params, nn.Module):
            model = params if model is None else model
            params = params.parameters()  # the frozen ones, too: they may be unfrozen
        if grad_scaler is not None and not hasattr(grad_scaler, "unscale_"):
            raise TypeError(
                f"grad_scaler must be a torch.amp.GradScaler, got {type(grad_scaler).__name__}"
            )
        check_number("step_multiplier", step_multiplier, at_least=0.0)
        check_number("weight_decay", given["weight_decay"], at_least=0.0)
        if total_steps is not None:
            check_count("total_steps", total_steps)
        if loss_precision is not None:
            check_number("loss_precision", loss_precision, at_least=0.0)
        defaults = {name: given[name] for name in ("weight_decay", "total_steps", "loss_precision")}
        defaults = {"lr": step_multiplier, **settings, **defaults}
        defaults = {name: plain(value, tensors=name != "lr") for name, value in defaults.items()}
        self.memory = memory
        super().__init__(params, {**defaults, "effective_lr": 0.0})
        check_belongs(self, model)
        self._attach(model, given["process_group"], grad_scaler, given["on_measure"])

    def _attach(self, model: Any, group: Any, scaler: Any, on_measure: Any) -> None:
        """Everything that is not state: absent from ``state_dict``, rebuilt on unpickling."""
        self._model, self._process_group = model, group
        self._grad_scaler, self._on_measure = scaler, on_measure
        # asked once: a walk through all modules is no part of a step
        exempt = model is None or math.isinf(largest_change(model))
        self._largest_change = math.inf if exempt else self._CHANGE
        self._copies = Copies()
        self.last = None
        self._has_warned, self._size = False, 0.0
        self._told_of_gradients, self._refused = False, 0
        self._stepped: set[int] = set()
        self._count_before = _Steps.count

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_model": self._model, "memory": self.memory}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # also called by load_state_dict, with torch's own three entries only
        unpickled = "_model" in state
        super().__setstate__(state)
        if unpickled:
            self._attach(self._model, None, None, None)

    def state_dict(self) -> dict[str, Any]:
        """As torch's; what is remembered lies in the first group, under ``"line_search"``."""
        base = super().state_dict()
        first, *others = base["param_groups"]
        return {**base, "param_groups": [{**first, STATE: to_plain(self.memory)}, *others]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load as torch does, checkpoints of version 0.1 as well; what one lacks stays as it is."""
        state_dict = from_version_0_1(state_dict, STATE, self._settings)
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            kept = group.pop(STATE, None)
            if kept is not None:
                self.memory = from_plain(self.memory, kept)
        self.last = None

    @property
    def _settings(self) -> dict[str, Any]:
        """The first group: those settings that are the same in all."""
        first: dict[str, Any] = self.param_groups[0]
        return first

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; refuses settings that cannot differ between groups of one line."""
        own = {"params", "lr", "weight_decay", "effective_lr", "initial_lr", "param_names"}
        # a checkpoint may have brought other settings than the defaults, and torch keys of its own
        line = self.param_groups[0] if self.param_groups else self.defaults
        shared = (self.defaults.keys() & line.keys()) - own
        super().add_param_group({**{key: line[key] for key in shared}, **param_group})
        added = self.param_groups[-1]
        for key in added.keys() - {"params", "param_names"}:
            added[key] = plain(added[key])
        check_number("lr", added["lr"], at_least=0.0)
        check_number("weight_decay", added["weight_decay"], at_least=0.0)
        for key in shared:
            if added[key] != self.param_groups[0][key]:
                self.param_groups.pop()
                raise ValueError(
                    f"{key} belongs to the whole line; it cannot differ between groups"
                )

    @property
    def cost(self) -> Cost:
        """Passes spent since the start of training."""
        return self.memory.cost

    @property
    def total_steps(self) -> int | None:
        """Number of steps over which the step falls linearly to 0; None for no such factor."""
        value: int | None = self._settings["total_steps"]
        return value

    @total_steps.setter
    def total_steps(self, value: int | None) -> None:
        value = None if value is None else check_count("total_steps", value)
        for group in (self.defaults, *self.param_groups):
            group["total_steps"] = value

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Tensor:  # type: ignore[override]
        """Measure, move, and return the loss at the starting point.

        Args:
            closure: returns the loss of one batch. It need not call ``zero_grad`` or
                ``backward``; if it does, that works too and costs more.

        Returns:
            The loss before the step on this process's batch: a detached tensor without dimensions.

        Raises:
            TypeError: without a closure, or if it returns no single number.
            RuntimeError: for sparse gradients, or if the loss does not depend on the parameters.
            NotRepeatableError: if the closure gives different losses for the same weights.
        """
        scaled = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        if scaled != (None, None):  # the latter alone after scaler.unscale_(optimizer)
            raise RuntimeError(
                "scaler.step(optimizer, closure) cannot work for a line search: pass the scaler to "
                "the optimizer, grad_scaler=scaler, and call optimizer.step(closure); or use bf16"
            )
        closure = checked_closure(closure)
        memory = self.memory
        params = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        self._notice_other_gradients(params)
        call = Closure(
            closure,
            params,
            self._grad_scaler,
            memory.closure_calls_backward,
            counts_heads=memory.steps == 0,
            needs_graph=memory.closure_needs_graph,
        )
        try:
            loss, outcome = self._advance(call)
        finally:
            self._stepped = {id(p) for p in params}
            _Steps.count += 1
            self._count_before = _Steps.count
            for p in params:
                _mark(p.grad)
        outcome = dataclasses.replace(outcome, cost=call.cost)
        self._book(call, outcome)
        self._notice_far_step(params, outcome)
        self._notice_refusals(outcome)
        if call.heads > 1:
            warnings.warn(_HEADS.format(call.heads), stacklevel=4)
        if self._on_measure is not None and outcome.status.measured:
            self._on_measure(outcome)
        return loss

    def _notice_other_gradients(self, params: list[Tensor]) -> None:
        """Warn, once, of gradients that were accumulated for this step, which does not use them."""
        # the step of another line search, a GAN's, may have sent gradients through these parameters
        shared = _Steps.count != self._count_before
        if self._told_of_gradients or shared:
            return
        fresh = self.memory.steps == 0  # later, a parameter that is new here may have one
        own = [p for p in params if fresh or id(p) in self._stepped]
        others = [g for p in own if (g := p.grad) is not None and not _is_marked(g)]
        if any(bool(torch.any(g._values() if g.is_sparse else g)) for g in others):
            self._told_of_gradients = True
            warnings.warn(
                "gradients computed outside of step(closure) are not used: the line search needs "
                "the loss that belongs to them. Let the closure return all of it (several batches: "
                "the mean of their losses), and call backward() nowhere else",
                stacklevel=4,
            )

    def _notice_refusals(self, outcome: StepOutcome) -> None:
        """Warn, once, of a run in which nothing but NaN and infinity is to be had."""
        self._refused = self._refused + 1 if outcome.status is Status.NON_FINITE else 0
        if self._refused == _REFUSALS:
            warnings.warn(
                f"{_REFUSALS} steps in a row were refused, because losses or gradients are not "
                f"finite, at the start (loss {outcome.value0:.3g}) or wherever the search looked: "
                "nothing is trained",
                stacklevel=4,
            )

    def _notice_far_step(self, params: list[Tensor], outcome: StepOutcome) -> None:
        """Warn, once, of a step about as long as all weights of a network together."""
        if self._has_warned or outcome.length <= _FAR * self._size:
            return
        if not can_be_ruined(self._model):
            return
        self._size = math.sqrt(_params.norm_sq(params, [1.0] * len(params)))
        if outcome.length > _FAR * self._size:
            self._has_warned = True
            warnings.warn(
                f"a step of length {outcome.length:.2g}, where all weights together have the norm "
                f"{self._size:.2g}: little of the network is left after it. It happens where "
                "losses of several heads are added, and where a small network starts on a "
                "plateau. Bound the step (max_length; "
                f"{MAX_CHANGE:.0%} of the norm: {MAX_CHANGE * self._size:.2g}), or use "
                "surefoot.MeasuredLR, which bounds every step",
                stacklevel=4,
            )

    @torch.no_grad()
    def check_closure(self, closure: Callable[[], Any]) -> None:
        """Evaluate the closure twice in the quiet room and compare. Leaves no trace; not counted.

        Raises:
            NotRepeatableError: if the losses differ.
        """
        closure = checked_closure(closure)
        params = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        call = Closure(closure, params, calls_backward=self.memory.closure_calls_backward)
        nowhere = Direction([], [], norm=1.0)
        with undisturbed(self._model, devices_of(params)), self._quiet_room() as room:
            value0 = self._mean(call.value(rewind=room.rewind))
            Line([], nowhere, call, room, value0).check_repeatable()

    def _book(self, call: Closure, outcome: StepOutcome) -> None:
        memory = self.memory
        memory.steps += 1
        memory.cost += call.cost
        memory.closure_calls_backward = call.calls_backward
        memory.closure_needs_graph = call.needs_graph
        top = self.step_multiplier
        for group in self.param_groups:
            group["effective_lr"] = outcome.effective_lr * _ratio(group["lr"], top)
        self.last = outcome

    @abstractmethod
    def _advance(self, call: Closure) -> tuple[Tensor, StepOutcome]:
        """One step: the loss at the start, and what was done."""

    # What subclasses build their step from

    def _quiet_room(self) -> QuietRoom:
        return QuietRoom([p for group in self.param_groups for p in group["params"]], self._model)

    def _line(
        self,
        params: list[Tensor],
        direction: Direction,
        call: Closure,
        room: QuietRoom,
        value0: float,
    ) -> Line:
        return Line(
            params,
            direction,
            call,
            room,
            value0,
            copies=self._copies,
            process_group=self._process_group,
            untried=self.memory.steps == 0,
        )

    def _gradient(self, call: Closure) -> tuple[Tensor, Active]:
        """Forward and backward at the present weights."""
        loss = call.gradient()
        if call.calls_backward and _reduce.is_distributed(self._process_group):
            # with gradient_as_bucket_view a backward pass in a probe writes into these very tensors
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad = None if p.grad is None else p.grad.clone()
        active = self._active()
        if self._grad_scaler is not None:
            self._grad_scaler.unscale_(self)
            self._grad_scaler.update()
        return loss, active

    def _active(self) -> Active:
        def grad_of(p: Tensor) -> Tensor | None:
            if p.grad is not None and p.requires_grad:  # a frozen one may keep an old gradient
                if p.grad.is_sparse:
                    raise RuntimeError(
                        f"{type(self).__name__} does not support sparse gradients: build the "
                        "embedding with sparse=False"
                    )
                if p.is_complex():
                    raise RuntimeError(f"{type(self).__name__} does not support complex parameters")
                return p.grad
            return None

        return self._all_with(grad_of)

    def _all_with(self, tensor_of: Callable[[Tensor], Tensor | None]) -> Active:
        """The parameters for which there is a tensor, and those tensors."""
        top = self.step_multiplier
        active = Active([], [], [], [])
        for index, group in enumerate(self.param_groups):
            ratio = _ratio(group["lr"], top)
            for place, p in enumerate(group["params"]):
                tensor = tensor_of(p)
                if tensor is not None:
                    active.params.append(p)
                    active.grads.append(tensor)
                    active.ratios.append(ratio)
                    active.places.append((index, place))
        return active

    @property
    def step_multiplier(self) -> float:
        """α: the largest ``lr`` of all groups, as schedulers left it."""
        return max(float(group["lr"]) for group in self.param_groups)

    def _horizon(self) -> float:
        """The factor that falls from 1 to 0 over ``total_steps``."""
        total = self.total_steps
        if total is None:
            return 1.0
        done = self.memory.steps
        if done == total:
            warnings.warn(
                f"the run goes on after its total_steps={total}: steps are zero from here on; set "
                "optimizer.total_steps to the new length",
                stacklevel=4,
            )
        return max(0.0, 1.0 - done / total)

    def _max_length(self, params: list[Tensor], multiple: float = 1.0) -> float:
        """The longest step: as given, else the papers', or what changes the weights by a share.

        Args:
            params: the weights that move.
            multiple: what the length is still going to be multiplied by, α.
        """
        given: float | None = self._settings["max_length"]
        if given is not None:
            return given
        longest = self._bound(self._largest_change, params) / (multiple or 1.0)
        return min(PUBLISHED_MAX_LENGTH, longest)

    def _bound(self, share: float, params: list[Tensor], lowered: float = 1.0) -> float:
        """The longest step that changes the weights by no more than a share; see :class:`Bound`."""
        memory = self.memory
        if math.isfinite(share) and (
            memory.weights_norm is None or memory.steps % _NORM_EVERY == 0
        ):
            norm = weights_norm(params)
            memory.weights_norm = min(norm, memory.weights_norm or norm)
        return Bound(share).limit(memory.weights_norm or math.inf, lowered)

    def _rounding(self, loss: Tensor) -> float:
        """Relative error below which differences of losses mean nothing: a few ulp."""
        given: float | None = self._settings["loss_precision"]
        return 4.0 * torch.finfo(loss.dtype).eps if given is None else given

    def _mean(self, loss: Tensor) -> float:
        return _reduce.mean(float(loss), self._process_group, loss.device)

    def _decay(self, params: list[Tensor], effective_lr: float) -> None:
        """Decoupled weight decay, after the move: the measured loss stays the loss."""
        if effective_lr == 0.0 or not any(group["weight_decay"] for group in self.param_groups):
            return
        top = self.step_multiplier
        moved = set(map(id, params))
        for group in self.param_groups:
            shrink = effective_lr * _ratio(group["lr"], top) * group["weight_decay"]
            # a tiny gradient makes the effective rate huge; never let decay flip a sign
            _params.shrink([p for p in group["params"] if id(p) in moved], 1.0 - min(shrink, 1.0))


def rejected(value0: float) -> StepOutcome:
    """The outcome of a step that met NaN or infinity and did not move."""
    return StepOutcome(0.0, 0.0, Status.NON_FINITE, value0)


def _ratio(lr: float, top: float) -> float:
    return float(lr) / top if top > 0.0 else 1.0


def _check_params(name: str, params: Any) -> None:
    """Refuse what is neither a model nor parameters, in a line that says what was meant."""
    if isinstance(params, Optimizer):
        inner = type(params).__name__
        raise TypeError(
            f"{name} is an optimizer itself and takes the model, {name}(model), not an {inner}. To "
            f"keep {inner} and have its rate measured: surefoot.MeasuredLR(optimizer, model)"
        )
    if isinstance(params, (nn.Module, Tensor)):
        return  # torch has its own words for a tensor
    if not isinstance(params, Iterable):
        raise TypeError(
            f"{name} takes the model, its parameters or groups, got {type(params).__name__}"
        )


def checked_closure(closure: Any) -> Callable[[], Any]:
    """Refuse what is no closure: most often nothing, or the loss itself."""
    if callable(closure):
        return closure  # type: ignore[no-any-return]
    got = "" if closure is None else f"step() got {type(closure).__name__} instead of a closure; "
    raise TypeError(got + CLOSURE_HELP)


def _mark(grad: Tensor | None) -> None:
    """Remember, at the gradient itself, that a step computed it, and its version."""
    if grad is not None:
        grad._surefoot_version = grad._version  # type: ignore[attr-defined]


def _is_marked(grad: Tensor) -> bool:
    """Whether a gradient is as a step left it."""
    return getattr(grad, "_surefoot_version", None) == grad._version
