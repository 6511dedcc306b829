"""Averaged weights: gradients are taken near the average, which is what everybody else sees.

Three sequences (Defazio et al., 2405.15682): steps move z, x is an average of the z's, and
gradients are taken between them,

.. math:: y_t = (1 - \\beta) z_t + \\beta x_t, \\qquad
          x_{t+1} = (1 - c_t) x_t + c_t z_{t+1}, \\qquad c_t = \\frac{w_t}{\\sum_{i \\le t} w_i}

The parameters hold y while the model trains, one copy holds x, and z follows from both. Decoupled
weight decay shrinks y, as there. In evaluation mode, and when the optimizer is gone, they hold x.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from surefoot import _params, _reduce
from surefoot._fresh_gradient import version_of
from surefoot.measured.fresh_statistics import AT_ONCE, SOON, FreshStatistics
from surefoot.replay import is_measuring
from surefoot.replay._guests import Hook, ModeSwitch, hide_guests
from surefoot.replay._state import Modes

__all__ = ["Averages", "take_averages"]

_GRADIENT, _AVERAGE = "measured_gradient_at", "measured_average"
_OTHERS = 8
"""Writes to a weight since the last step, from which on somebody else trains it: what loops do to
weights after a step (clamp them, normalize them) are fewer."""
_LOOKS = 16
"""Steps at whose start it is seen whether the loop does so."""
_WITNESSED = 1 << 14
"""Values of one parameter that tell whether another hand wrote to it."""
_averages_of: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""By parameter, all that average it."""

Places = dict[int, tuple[Tensor, Tensor]]
"""What :meth:`Averages.write` keeps: y and x, by the parameter's place in the groups."""


def take_averages(state_dict: dict[str, Any]) -> tuple[dict[str, Any], Places]:
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


def _as(average: Tensor, p: Tensor) -> Tensor:
    """The average on the device and in the dtype of its parameter, which may have moved."""
    is_same = average.dtype == p.dtype and average.device == p.device
    return average if is_same else average.to(p.device, p.dtype)


def _local(p: Tensor) -> Tensor:
    """Its values, of this process's shard."""
    return getattr(p, "_local_tensor", p).detach()


def _some_of(p: Tensor) -> Tensor:
    """A few of its values: where it is large, its first rows."""
    local = _local(p)
    if local.numel() <= _WITNESSED:
        return local
    return local[: max(1, _WITNESSED * len(local) // local.numel())]


def _a_small_one(params: Sequence[Tensor]) -> Tensor | None:
    return min(params, key=lambda p: p.numel() if p.numel() > 7 else 1 << 60, default=None)


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
        self._is_shown = self._stays = self._in_flight = self._has_ended = False
        self._mark: tuple[Tensor, int, Tensor] | None = None
        self._witness: Tensor | None = None
        self._looks, self._loop_writes, self._has_doubts = _LOOKS, False, False
        self._steps, self._turns, self.has_given_up = 0, 0, False
        self._others: WeakKeyDictionary[Averages, int] = WeakKeyDictionary()
        self.modes = Modes()
        self._waiting: list[Any] = []
        self._model = model
        self._statistics = FreshStatistics(model)
        self._open: list[contextlib.AbstractContextManager[None] | None] = []
        self._handles: dict[nn.Module, list[Any]] = {}
        if model is not None:
            self.watch(model)

    def __getstate__(self) -> dict[str, Any]:
        names = ("share", "power", "total", "_averages", "_pending", "_model", "_statistics")
        more = ("modes", "_is_shown", "_stays", "_looks", "_loop_writes")
        return {name: vars(self)[name] for name in (*names, *more)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_model"], state["share"], state["power"])  # type: ignore[misc]
        vars(self).update(state)

    def watch(self, module: nn.Module) -> None:
        """Show the average to this module's forward passes in evaluation mode, and to its files."""
        if module not in self._handles:
            before = Hook(self._before)
            handles: list[Any] = [
                module.register_forward_pre_hook(before, prepend=True, with_kwargs=True),
                module.register_forward_hook(Hook(self._after), with_kwargs=True, always_call=True),
                module.register_state_dict_post_hook(Hook(self._save)),
                module.register_load_state_dict_post_hook(Hook(self._loaded)),
            ]
            if self._model is None or module is self._model:
                handles.append(ModeSwitch(module, self.switched))
            self._handles[module] = handles
            hide_guests(module)

    # A step

    def before_step(self) -> float:
        """The share of a step of z that y sees at once, before x follows: 1 − β, at first all.

        So the wrapped optimizer steps from y, with this share of the rate, and z moves by the rest
        without being written anywhere.
        """
        if self._pending:
            self._settle()
        if self._looks > 0:
            self._looks -= 1
            self._loop_writes = self._loop_writes or self._holds_others()
        if self._is_others() or (self._has_doubts and self._holds_others()):
            self.restart()
        self._has_doubts = False
        if self._others:
            self._take_turns()
        return 1.0 - self.share if self.total > 0.0 else 1.0

    def absorb(self, params: Sequence[Tensor], step: int) -> None:
        """Take the moved z into the average; the parameters end at the next y.

        Args:
            params: those that have moved; they hold (1 − β) z + β x.
            step: how many were made before.
        """
        if self.has_given_up:
            return
        self._steps += 1
        weight = float(step + 1) ** self.power
        before, self.total = self.total, self.total + weight
        own, averages = self._pairs(params)
        self._in_flight = False
        if before == 0.0:
            _params.assign(averages, own)
        else:
            # x' = x + c (z − x) = x + g (y − x) with g = c / (1 − β), and y' = y + β (x' − x)
            g = weight / self.total / (1.0 - self.share)
            _params.follow(own, averages, -self.share * g, g / (1.0 + self.share * g))
            self._statistics.age()
        self._mark_as_own()

    def _take_turns(self) -> None:
        """Give up averaging where another one steps some of these weights in turns with this one.

        Where the other moves y towards its x, this one would take that for its own step, which z
        makes 1 / (1 − β) times as long; and so would the other.
        """
        stepped = [each for each, steps in self._others.items() if each._steps > steps]
        self._turns = self._turns + 1 if stepped else 0
        self._others.update((each, each._steps) for each in [*self._others])
        if self._turns > 1:
            for each in (self, *stepped):
                each.share, each.total, each.has_given_up = 0.0, 0.0, True
                each._averages, each._last = {}, ([], [], False)

    def _mark_as_own(self) -> None:
        """Remember what a weight is, and how often it was written to, when the step is over."""
        if (p := self._witness) is not None:
            self._mark = p, version_of(p), _some_of(p).clone()

    def _is_others(self) -> bool:
        """Whether others have trained the weights since the last step: then it shows nothing."""
        return self._mark is not None and version_of(self._mark[0]) > self._mark[1] + _OTHERS

    def _holds_others(self) -> bool:
        """Whether the parameters hold what the last step did not leave: an EMA's weights, say."""
        if self._mark is None or self._loop_writes or self._is_shown:
            return False
        p, _, left = self._mark
        held = _some_of(p)
        return not torch.equal(held, _as(left, held))

    def restart(self) -> None:
        """From here on y, x and z are the weights as they are; steps go on being as short."""
        self._pending = {}
        own, averages = self._pairs([*self._averages])
        _params.assign(averages, own)
        self._statistics.loaded()
        self._mark_as_own()

    def go_home(self, params: Sequence[Tensor]) -> None:
        """Put y, and with it z, where the average is: the way back from a place that is no good."""
        if not self.has_given_up:
            own, averages = self._pairs(params)
            _params.assign(own, averages)
            self._mark_as_own()

    def _pairs(self, params: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """What parameters and averages hold, of this process's shards."""
        before, averages, are_sharded = self._last
        if len(before) != len(params) or not all(map(operator.is_, before, params)):
            for p in params:
                known = self._averages.get(p)
                self._averages[p] = p.detach().clone() if known is None else _as(known, p)
                for other in _averages_of.setdefault(p, WeakSet()) - {self}:
                    self._others[other], other._others[self] = other._steps, self._steps
                _averages_of[p].add(self)
            self._witness = _a_small_one(params)
            averages = _reduce.local([self._averages[p] for p in params])
            are_sharded = _reduce.is_sharded(params)
            self._last = list(params), averages, are_sharded
        own = [p.detach() for p in params]
        return _reduce.local(own) if are_sharded else own, averages

    # Who sees it

    @contextlib.contextmanager
    def shown(self, holds: float = AT_ONCE) -> Iterator[None]:
        """Inside, the parameters hold the average, and BatchNorm its statistics.

        The tensors change places, so nothing is copied, and a graph that was built before lives on.

        Args:
            holds: share of the steps so far for which statistics hold that were measured.
        """
        if not self._can_show():
            yield
            return
        try:
            self._show(holds)
            yield
        finally:
            self._hide()

    def _can_show(self) -> bool:
        is_there = bool(self._averages) and self.total > 0.0 and not self._is_shown
        if not is_there or self.has_given_up or self._is_others():
            return False
        foreign = self._holds_others()
        self._has_doubts = self._has_doubts or foreign
        return not foreign

    def _show(self, holds: float = AT_ONCE) -> None:
        self._settle()
        self._exchange()
        self._statistics.show(holds)

    def _hide(self) -> None:
        self._statistics.hide()
        if self._is_shown:
            self._exchange()

    def _exchange(self) -> None:
        self._is_shown, self._last = not self._is_shown, ([], [], False)
        for p, average in self._averages.items():
            if hasattr(p, "_local_tensor"):  # a shard's memory is known to others by its address
                _params.swap(_reduce.local([p.detach()]), _reduce.local([average]))
            else:
                self._averages[p] = _params.exchange(p, _as(average, p))

    def switched(self, module: nn.Module) -> None:
        """The model's mode was set: in evaluation mode it holds the average until it trains on.

        So do its copies and its files then, what is exported, and methods that are no forward pass.
        Not where a loss was computed whose gradient is yet to come.
        """
        if is_measuring():
            return
        if module.training:
            self.leave()
        elif self._can_show() and not self._in_flight:
            self._stays = True
            self._show()

    def leave(self) -> None:
        """Training goes on: put y back."""
        if self._stays:
            self._stays = False
            self._hide()

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A forward pass begins, of the whole model or of a part of it."""
        if _is_tracing():
            return
        context = None
        if not self._open and not is_measuring():  # else a part of what was called already
            records, trains = torch.is_grad_enabled(), module.training
            if records:
                whole = self._model  # a part may be in evaluation mode because it is frozen
                trains = not self.modes.is_evaluation(
                    module if whole is None or not whole.training else whole
                )
            if not trains:
                context = self.shown()
                context.__enter__()
            else:
                self.leave()
                if not self._is_shown:
                    self._settle()
                    self._in_flight = self._in_flight or records
                    if module.training:
                        self._statistics.saw(module, args, kwargs)
        self._open.append(context)

    def _after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not _is_tracing() and self._open:
            if (context := self._open.pop()) is not None:
                context.__exit__(None, None, None)
            if self._has_ended:
                self.end()

    def end(self) -> None:
        """The optimizer is gone: the average is what it leaves behind."""
        self._has_ended = True
        if not self._open:  # else when that forward pass ends
            if self._can_show():
                self._show()
            self.forget()

    def _save(self, module: nn.Module, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
        """Put the averages, and their statistics, into a model's state_dict."""
        if not self._can_show():
            return
        for name, p in module.named_parameters(remove_duplicate=False):
            if p in self._averages and prefix + name in state_dict:
                state_dict[prefix + name] = _as(self._averages[p].detach(), p)
        if self._statistics.has_any:
            with self.shown(SOON):
                for name, buffer in module.named_buffers():
                    if prefix + name in state_dict:
                        state_dict[prefix + name] = buffer.detach().clone()

    # Checkpoints

    def write(self, state_dict: dict[str, Any], params: Sequence[Tensor]) -> dict[str, Any]:
        """An optimizer's state_dict with y and x of each parameter."""
        self._settle()
        state = dict(state_dict["state"])
        own, other = (_AVERAGE, _GRADIENT) if self._is_shown else (_GRADIENT, _AVERAGE)
        for i, p in enumerate(params):
            if p in self._averages:
                state[i] = {**state.get(i, {}), own: p.detach(), other: self._averages[p]}
        return {**state_dict, "state": state}

    def load(self, params: Sequence[Tensor], places: Places, total: float) -> None:
        """Back from :meth:`write`, by way of :func:`take_averages`.

        The parameters get their values when the training goes on: whoever loads the model's own
        state after the optimizer's may do so.
        """
        self.total, self._averages, self._pending = total, {}, {}
        self._last, self._mark = ([], [], False), None
        self._is_shown = self._stays = False
        self.modes.has_trained = True
        self._statistics.hide()
        self._statistics.loaded()
        for i, both in places.items():
            p = params[i]
            self._pending[p], self._averages[p] = (_as(t.detach(), p).clone() for t in both)
        if self._model is not None:  # whichever part of it is called first
            self._waiting = [
                m.register_forward_pre_hook(Hook(self._settle_to_train), prepend=True)
                for m in self._model.modules()
            ]

    def _settle_to_train(self, module: nn.Module, args: Any) -> None:
        if module.training:
            self._settle()

    def _settle(self) -> None:
        """Put loaded values into the parameters."""
        while self._pending:
            _params.put_unnoticed(*self._pending.popitem())
        while self._waiting:
            self._waiting.pop().remove()

    def _loaded(self, module: nn.Module, keys: Any) -> None:
        """Other weights were loaded into the model."""
        if not self._pending and self._averages:
            self.restart()

    def forget(self) -> None:
        """Take the hooks away."""
        while self._handles:
            for handle in self._handles.popitem()[1]:
                handle.remove()


def _is_tracing() -> bool:
    """Whether what runs is the making of a graph, in which nothing may change places."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
