"""Averaged weights: gradients are taken near the average, which is what everybody else sees.

Three sequences (Defazio et al., 2405.15682): steps move z, x is an average of the z's, and
gradients are taken between them,

.. math:: y_t = (1 - \\beta) z_t + \\beta x_t, \\qquad
          x_{t+1} = (1 - c_t) x_t + c_t z_{t+1}, \\qquad c_t = \\frac{w_t}{\\sum_{i \\le t} w_i}

The parameters hold y while the model trains, one copy holds x, and z follows from both. Decoupled
weight decay shrinks y, as there.
"""

from __future__ import annotations

import contextlib
import operator
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from surefoot import _params, _reduce
from surefoot.measured.fresh_statistics import FreshStatistics
from surefoot.replay import is_measuring
from surefoot.replay._state import Modes

__all__ = ["Averages", "take_averages", "without_momentum"]

_GRADIENT, _AVERAGE = "measured_gradient_at", "measured_average"
_ADAMS = ("Adam", "AdamW", "NAdam", "RAdam", "Adamax")


def without_momentum(optimizer: Optimizer) -> None:
    """Leave torch's own Adam kinds and SGD without momentum: the average takes its place."""
    for group in optimizer.param_groups:
        if type(optimizer).__name__ in _ADAMS and "betas" in group:
            group["betas"] = (0.0, *group["betas"][1:])
        elif type(optimizer).__name__ == "SGD" and "momentum" in group:
            group.update(momentum=0.0, nesterov=False, dampening=0.0)


def take_averages(
    state_dict: dict[str, Any],
) -> tuple[dict[str, Any], dict[int, tuple[Tensor, Tensor]]]:
    """An optimizer's state_dict without averages, and those, by parameter."""
    rest, places = {}, {}
    # keys may be names: what counts is their order in the groups
    order = [key for group in state_dict["param_groups"] for key in group["params"]]
    for i, entries in state_dict["state"].items():
        if _AVERAGE in entries:
            places[order.index(i)] = (entries[_GRADIENT], entries[_AVERAGE])
        kept = {k: v for k, v in entries.items() if k not in (_AVERAGE, _GRADIENT)}
        if kept or _AVERAGE not in entries:
            rest[i] = kept
    return {**state_dict, "state": rest}, places


class Averages:
    """The average of the weights, and who sees it when.

    Args:
        model: the model; None where only :meth:`shown` shows the average.
        share: β, the share of the average where gradients are taken.
        power: weights of the average grow with this power of the step.
    """

    def __init__(self, model: nn.Module | None, share: float, power: float) -> None:
        self.share, self.power = share, power
        self.total = 0.0
        """Σ wᵢ so far."""
        self._averages: dict[Tensor, Tensor] = {}
        self._last: tuple[list[Tensor], list[Tensor], bool] = [], [], False
        self._pending: dict[Tensor, Tensor] = {}
        self._is_shown = False
        self._modes = Modes()
        self._waiting: list[Any] = []
        self._model = model
        self._statistics = FreshStatistics(model)
        self._hooks = _Hooks(self)
        self._handles: dict[nn.Module, list[Any]] = {}
        if model is not None:
            self.watch(model)

    def __getstate__(self) -> dict[str, Any]:
        names = ("share", "power", "total", "_averages", "_pending", "_model", "_statistics")
        return {name: vars(self)[name] for name in (*names, "_modes")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_model"], state["share"], state["power"])  # type: ignore[misc]
        vars(self).update(state)

    def watch(self, module: nn.Module) -> None:
        """Show the average to this module's forward passes in evaluation mode, and to its files."""
        if module not in self._handles:
            hooks = self._hooks
            self._handles[module] = [
                module.register_forward_pre_hook(hooks.before, prepend=True, with_kwargs=True),
                module.register_forward_hook(hooks.after, with_kwargs=True, always_call=True),
                module.register_state_dict_post_hook(_Save(hooks)),
                module.register_load_state_dict_post_hook(hooks.load),
            ]

    # A step

    def before_step(self) -> float:
        """The share of a step of z that y sees at once, before x follows: 1 − β, at first all.

        So the wrapped optimizer steps from y, with this share of the rate, and z moves by the rest
        without being written anywhere.
        """
        if self._pending:
            self._settle()
        return 1.0 - self.share if self.total > 0.0 else 1.0

    def absorb(self, params: Sequence[Tensor], step: int) -> None:
        """Take the moved z into the average; the parameters end at the next y.

        Args:
            params: those that have moved; they hold (1 − β) z + β x.
            step: how many were made before.
        """
        weight = float(step + 1) ** self.power
        before, self.total = self.total, self.total + weight
        own, averages = self._pairs(params)
        if before == 0.0:
            _params.assign(averages, own)
            return
        c = weight / self.total
        # x' = x + c (z − x) = x + g (y − x) with g = c / (1 − β), and y' = y + β (x' − x)
        g = c / (1.0 - self.share)
        _params.follow(own, averages, -self.share * g, g / (1.0 + self.share * g))
        self._statistics.age()

    def restart(self) -> None:
        """From here on the average begins anew at the weights as they are."""
        self._pending = {}
        _params.assign([*self._averages.values()], [p.detach() for p in self._averages])
        self.total = 0.0

    def go_home(self, params: Sequence[Tensor]) -> None:
        """Put y, and with it z, where the average is: the way back from a place that is no good."""
        own, averages = self._pairs(params)
        _params.assign(own, averages)

    def _pairs(self, params: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """What parameters and averages hold, of this process's shards."""
        before, averages, are_sharded = self._last
        if len(before) != len(params) or not all(map(operator.is_, before, params)):
            for p in params:
                if p not in self._averages:
                    self._averages[p] = p.detach().clone()
            averages = _reduce.local([self._averages[p] for p in params])
            are_sharded = _reduce.is_sharded(params)
            self._last = list(params), averages, are_sharded
        own = [p.detach() for p in params]
        return _reduce.local(own) if are_sharded else own, averages

    # Who sees it

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Inside, the parameters hold the average, and BatchNorm its statistics.

        The tensors change places, so nothing is copied, and a graph that was built before lives on.
        """
        if self._is_shown or not self._averages or self.total == 0.0:
            yield
            return
        self._settle()
        self._is_shown = True
        self._exchange()
        try:
            with self._statistics.shown():
                yield
        finally:
            self._exchange()
            self._is_shown = False

    def _exchange(self) -> None:
        self._last = [], [], False
        for p, average in self._averages.items():
            if hasattr(p, "_local_tensor"):  # a shard's memory is known to others by its address
                _params.swap(_reduce.local([p.detach()]), _reduce.local([average]))
            else:
                self._averages[p] = _params.exchange(p, average)

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """A forward pass begins; what has to be left when it ends."""
        if self._is_shown or is_measuring():
            return None
        if module.training:
            self._modes.has_trained = True
            self._settle()
            self._statistics.saw(module, args, kwargs)
            return None
        if torch.is_grad_enabled() and not self._modes.is_evaluation(module):
            self._settle()
            return None
        context = self.shown()
        context.__enter__()
        return context

    def of(self, module: nn.Module, state_dict: dict[str, Any], prefix: str) -> None:
        """Put the averages, and their statistics, into a model's state_dict."""
        if not self._averages or self.total == 0.0 or self._is_shown:
            return
        for name, p in module.named_parameters(remove_duplicate=False):
            if p in self._averages and prefix + name in state_dict:
                state_dict[prefix + name] = self._averages[p].detach()
        if self._statistics.has_any:
            with self.shown():
                for name, buffer in module.named_buffers():
                    if prefix + name in state_dict:
                        state_dict[prefix + name] = buffer.detach().clone()

    # Checkpoints

    def write(self, state_dict: dict[str, Any], params: Sequence[Tensor]) -> dict[str, Any]:
        """An optimizer's state_dict with y and x of each parameter."""
        self._settle()
        state = dict(state_dict["state"])
        for i, p in enumerate(params):
            if p in self._averages:
                y, x = p.detach(), self._averages[p]
                if self._is_shown:
                    y, x = x, y
                places = {_GRADIENT: y, _AVERAGE: x}
                state[i] = {**state.get(i, {}), **places}
        return {**state_dict, "state": state}

    def load(
        self, params: Sequence[Tensor], places: dict[int, tuple[Tensor, Tensor]], total: float
    ) -> None:
        """Back from :meth:`write`, by way of :func:`take_averages`.

        The parameters get their values when the training goes on: whoever loads the model's own
        state after the optimizer's may do so.
        """
        self.total, self._averages, self._pending = total, {}, {}
        self._last = [], [], False
        self._modes.has_trained = True
        self._statistics.age()
        for i, (y, x) in places.items():
            p = params[i]
            self._pending[p] = y.detach().to(p.device, p.dtype).clone()
            self._averages[p] = x.detach().to(p.device, p.dtype).clone()
        if self._model is not None:  # whichever part of it is called first
            self._waiting = [
                m.register_forward_pre_hook(self._hooks.settle, prepend=True)
                for m in self._model.modules()
            ]

    def _settle(self) -> None:
        """Put loaded values into the parameters."""
        if not self._pending:
            return
        with torch.no_grad():
            for p, y in self._pending.items():
                _params.put_unnoticed(p, y)
        self._pending = {}
        for handle in self._waiting:
            handle.remove()
        self._waiting = []

    def loaded_model(self) -> None:
        """Other weights were loaded into the model."""
        if not self._pending and self._averages:
            self.restart()

    def forget(self) -> None:
        """Take the hooks away."""
        for handles in self._handles.values():
            for handle in handles:
                handle.remove()
        self._handles = {}


class _Hooks:
    """Hooks that copies of the model, and its files, do without."""

    def __init__(self, averages: Averages | None) -> None:
        self._averages = None if averages is None else weakref.ref(averages)
        self._open: list[Any] = []

    def get(self) -> Averages | None:
        return None if self._averages is None else self._averages()

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        averages = self.get()
        if averages is not None:
            inner = bool(self._open)  # a part of what was called already
            self._open.append(None if inner else averages.before(module, args, kwargs))

    def after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self._open:
            context = self._open.pop()
            if context is not None:
                context.__exit__(None, None, None)

    def settle(self, module: nn.Module, args: Any) -> None:
        averages = self.get()
        if averages is not None and module.training:
            averages._settle()

    def load(self, module: nn.Module, keys: Any) -> None:
        averages = self.get()
        if averages is not None:
            averages.loaded_model()

    def __deepcopy__(self, memo: Any) -> _Hooks:
        return _Hooks(None)

    def __reduce__(self) -> Any:
        return (_Hooks, (None,))


class _Save:
    """The hook of ``state_dict()``; torch marks it, which a method does not bear."""

    def __init__(self, hooks: _Hooks) -> None:
        self._hooks = hooks

    def __call__(
        self, module: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: Any
    ) -> None:
        averages = self._hooks.get()
        if averages is not None:
            averages.of(module, state_dict, prefix)
