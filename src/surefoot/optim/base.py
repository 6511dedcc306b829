"""What all line-search optimizers share: the closure, the groups, the counters, the callbacks."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from surefoot import _params, _reduce
from surefoot._closure import Closure, checked_closure
from surefoot._networks import MAX_CHANGE, check_belongs, has_batch_norm, is_deep, weights_norm
from surefoot._numbers import check_callable, check_count, check_number, check_rates, kind_of, plain
from surefoot._params import Copies
from surefoot._plain import from_plain, to_plain
from surefoot._quiet import QuietRoom, devices_of, undisturbed
from surefoot.bound import longest
from surefoot.directions import Direction
from surefoot.line import Line
from surefoot.optim._active import Active
from surefoot.optim._keywords import DEFAULTS, Keyword, Shared, show_keywords
from surefoot.optim._memory import STATE, Memory, check_kind
from surefoot.optim._version_0_1 import from_version_0_1
from surefoot.optim._watch import PAST_THE_END, Watch
from surefoot.outcome import Cost, Status, StepOutcome

if TYPE_CHECKING:
    from typing_extensions import Unpack

ParamsLike: TypeAlias = (
    nn.Module | Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
)

PUBLISHED_MAX_LENGTH = 3.16
"""s_max of PAL's released code."""
_NORM_EVERY = 32
"""Steps after which the norm of the weights is computed anew."""


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

    last: StepOutcome | None
    memory: Memory

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        show_keywords(cls, cls._keywords())

    @classmethod
    def _keywords(cls) -> dict[str, Keyword]:
        """Keywords beside those that the constructor names and those that all share."""
        return {}

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
        model, grad_scaler = given.pop("model"), given.pop("grad_scaler")
        group, on_measure = given.pop("process_group"), given.pop("on_measure")
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
        if given["total_steps"] is not None:
            check_count("total_steps", given["total_steps"])
        if given["loss_precision"] is not None:
            check_number("loss_precision", given["loss_precision"], at_least=0.0)
        defaults = {"lr": step_multiplier, **settings, **given}
        defaults = {name: plain(value, tensors=name != "lr") for name, value in defaults.items()}
        self.memory = memory
        super().__init__(params, {**defaults, "effective_lr": 0.0})
        check_belongs(self, model)
        check_callable("on_measure", on_measure)
        self._attach(model, group, grad_scaler, on_measure)

    def _attach(self, model: Any, group: Any, scaler: Any, on_measure: Any) -> None:
        """Everything that is not state: absent from ``state_dict``, rebuilt on unpickling."""
        self._model, self._process_group = model, group
        self._grad_scaler, self._on_measure = scaler, on_measure
        # asked once: a walk through all modules is no part of a step
        self._has_layers = model is not None and is_deep(model)
        self._has_batch_norm = model is not None and has_batch_norm(model)
        self._copies = Copies()
        self.last = None
        self._watch = Watch(model)

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
        """Load as torch does, checkpoints of version 0.1 as well; what one lacks stays as it is.

        Raises:
            ValueError: it is another optimizer's.
        """
        check_kind(type(self).__name__, state_dict, STATE, self.memory)
        state_dict = from_version_0_1(state_dict, STATE, self._settings)
        super().load_state_dict(state_dict)
        kept = self._settings.pop(STATE, None)
        if kept is not None:
            self.memory = from_plain(self.memory, kept)
        self.last = None

    @property
    def _settings(self) -> dict[str, Any]:
        """The first group: those settings that are the same in all."""
        return self.param_groups[0]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; refuses settings that cannot differ between groups of one line."""
        own = {"params", "lr", "weight_decay", "effective_lr", "initial_lr", "param_names"}
        # a checkpoint may have brought other settings than the defaults, and torch keys of its own
        line = self.param_groups[0] if self.param_groups else self.defaults
        shared = (self.defaults.keys() & line.keys()) - own
        super().add_param_group({**{key: line[key] for key in shared}, **param_group})
        added = self.param_groups[-1]
        try:
            for key in added.keys() - {"params", "param_names"}:
                added[key] = plain(added[key])
            check_number("lr", added["lr"], at_least=0.0)
            check_number("weight_decay", added["weight_decay"], at_least=0.0)
            for key in shared:
                if added[key] != self.param_groups[0][key]:
                    raise ValueError(
                        f"{key} belongs to the whole line; it cannot differ between groups"
                    )
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

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
        check_rates(self.param_groups)
        memory = self.memory
        self._follow_the_weights()
        params = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        self._watch.begins(params, memory.steps == 0)
        self._watch.schedules(self.param_groups, self.defaults["lr"])
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
            self._watch.ends(params)
        outcome = dataclasses.replace(outcome, cost=call.cost)
        self._book(call, outcome)
        self._watch.made(params, outcome, call.heads, call.has_own_gradient)
        if self._on_measure is not None and outcome.status.measured:
            self._on_measure(outcome)
        return loss

    def _follow_the_weights(self) -> None:
        """What is remembered goes where the weights went: ``model.double()``, another device."""
        for p, state in self.state.items():
            for key, value in state.items():
                if isinstance(value, Tensor) and (value.dtype, value.device) != (p.dtype, p.device):
                    state[key] = value.to(p.device, p.dtype)

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
        for group, ratio in self._ratios():
            group["effective_lr"] = outcome.effective_lr * ratio
        self.last = outcome

    def _ratios(self) -> list[tuple[dict[str, Any], float]]:
        """Each group, and how fast it moves on the line: its ``lr`` over the largest one."""
        top = self.step_multiplier
        return [(g, float(g["lr"]) / top if top > 0.0 else 1.0) for g in self.param_groups]

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

    def _gradient(
        self, call: Closure, takes_slope0: bool = True, probes_differentiate: bool = False
    ) -> tuple[Tensor, Active]:
        """Forward and backward at the present weights.

        Args:
            call: the closure.
            takes_slope0: whether the slope is read from the gradient, which must be the loss's own.
            probes_differentiate: whether one that leaves ``backward()`` to the optimizer sees it on
                the line.
        """
        steps = self.memory.steps
        call.watches = takes_slope0 and steps & (steps - 1) == 0  # ever more rarely
        loss = call.gradient()
        differentiates = call.calls_backward or probes_differentiate
        if differentiates and _reduce.is_distributed(self._process_group):
            # with gradient_as_bucket_view a backward pass in a probe writes into these very tensors
            for p in call.params:
                p.grad = None if p.grad is None else p.grad.clone()
        active = self._active()
        if self._grad_scaler is not None:
            self._grad_scaler.unscale_(self)
            self._grad_scaler.update()
        return loss, active

    def _active(self) -> Active:
        active = self._all_with(lambda p: p.grad)
        for p, grad in zip(active.params, active.grads, strict=True):
            if grad.is_sparse:
                raise RuntimeError(
                    f"{type(self).__name__} does not support sparse gradients: build the "
                    "embedding with sparse=False"
                )
            if p.is_complex():
                raise RuntimeError(f"{type(self).__name__} does not support complex parameters")
        return active

    def _all_with(self, tensor_of: Callable[[Tensor], Tensor | None]) -> Active:
        """The parameters for which there is a tensor, and those tensors."""
        active = Active([], [], [])
        for group, ratio in self._ratios():
            for p in group["params"]:
                # a frozen one may keep an old gradient
                if p.requires_grad and (tensor := tensor_of(p)) is not None:
                    active.params.append(p)
                    active.grads.append(tensor)
                    active.ratios.append(ratio)
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
            self._watch.tell(f"end at {total}", PAST_THE_END.format(total))
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
        memory = self.memory
        if not self._has_layers or self._has_batch_norm:
            return PUBLISHED_MAX_LENGTH
        if memory.weights_norm is None or memory.steps % _NORM_EVERY == 0:
            norm = weights_norm(params)
            memory.weights_norm = min(norm, memory.weights_norm or norm)
        bound = longest(MAX_CHANGE, memory.weights_norm)
        return min(PUBLISHED_MAX_LENGTH, bound / (multiple or 1.0))

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
        moved = set(map(id, params))
        for group, ratio in self._ratios():
            shrink = effective_lr * ratio * group["weight_decay"]
            # a tiny gradient makes the effective rate huge; never let decay flip a sign
            _params.shrink([p for p in group["params"] if id(p) in moved], 1.0 - min(shrink, 1.0))


def rejected(value0: float) -> StepOutcome:
    """The outcome of a step that met NaN or infinity and did not move."""
    return StepOutcome(0.0, 0.0, Status.NON_FINITE, value0)


def _check_params(name: str, params: Any) -> None:
    """Refuse what is neither a model nor parameters, in a line that says what was meant."""
    if isinstance(params, Optimizer):
        inner = type(params).__name__
        raise TypeError(
            f"{name} is an optimizer itself and takes the model, {name}(model), not an {inner}. To "
            f"keep {inner} and have its rate measured: surefoot.MeasuredLR(optimizer, model)"
        )
    # torch has its own words for a tensor
    if isinstance(params, type) or not isinstance(params, (nn.Module, Tensor, Iterable)):
        raise TypeError(f"{name} takes the model, its parameters or groups, got {kind_of(params)}")
