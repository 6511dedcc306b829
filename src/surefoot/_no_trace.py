"""Leave no trace: everything a trial run touches comes back as it was, bit for bit."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from surefoot._params import Copies, put_unnoticed
from surefoot._quiet import Buffers, RngState, devices_of


class Restorable(Protocol):
    """Something that was remembered when it was made."""

    def restore(self) -> None:
        """Put it back."""


@contextlib.contextmanager
def no_trace(
    model: nn.Module | None,
    optimizer: Optimizer,
    *,
    scaler: Any = None,
    others: Iterable[Restorable] = (),
) -> Iterator[None]:
    """A block in which a model may be trained, and after which nobody can tell.

    Put back, also on an exception and on Ctrl-C: parameters, buffers, gradients, training modes,
    the optimizer's state and groups (keys that were added go), the gradient scaler, random states,
    and further optimizers that step inside, with their parameters. Tensors are restored in place by
    copying, so that whoever holds one of them still holds the right one.

    Args:
        model: what is trained; None where the optimizer's parameters are all there is.
        optimizer: what trains it, wrapped or not.
        scaler: a gradient scaler.
        others: what is to be put back besides.
    """
    params = all_parameters(model, optimizer)
    *wrappers, innermost = unwrapped(optimizer)
    borrowed: list[Any] = [
        _Parameters(params),
        _Module(model),
        _OptimizerState(innermost, params),
        *(_WrapperState(wrapper, params) for wrapper in wrappers),
        *([_Attributes(scaler)] if scaler is not None else []),
        *others,
        RngState.capture(devices_of(params)),
    ]
    with contextlib.ExitStack() as returning:  # one failure must not keep the rest from returning
        for item in borrowed:
            returning.callback(item.restore)
        meeting = _Meeting(params, unwrapped(optimizer), returning)
        returning.callback(register_optimizer_step_pre_hook(meeting).remove)
        yield


class _Meeting:
    """Puts back what a further optimizer touches that the training step uses, as a GAN's does.

    It is met at its first step. What its parameters had in ``.grad`` before is not known then:
    nothing is left there.
    """

    def __init__(
        self, params: list[Tensor], known: list[Any], returning: contextlib.ExitStack
    ) -> None:
        self._params, self._returning = params, returning
        self._known = {id(optimizer) for optimizer in known}

    def __call__(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        for other in unwrapped(optimizer):
            if id(other) in self._known:
                continue
            self._known.add(id(other))
            ours = {id(p) for p in self._params}
            theirs = [p for p in all_parameters(None, other) if id(p) not in ours]
            self._returning.callback(_forget_gradients, theirs)
            self._returning.callback(_Parameters(theirs).restore)
            self._returning.callback(_OptimizerState(other, [*self._params, *theirs]).restore)


def _forget_gradients(params: list[Tensor]) -> None:
    for p in params:
        p.grad = None


def all_parameters(model: nn.Module | None, optimizer: Optimizer) -> list[Tensor]:
    """The parameters of the model and of the optimizer, each once."""
    found: dict[int, Tensor] = {}
    for p in model.parameters() if model is not None else ():
        found[id(p)] = p
    for group in optimizer.param_groups:
        for p in group["params"]:
            found[id(p)] = p
    return list(found.values())


def unwrapped(optimizer: Any) -> list[Any]:
    """The optimizer and the one it wraps (``.optimizer``, as accelerate does), innermost last."""
    chain = [optimizer]
    while isinstance(getattr(chain[-1], "optimizer", None), Optimizer):
        chain.append(chain[-1].optimizer)
    return chain


class _Parameters:
    """Values, gradients and ``requires_grad`` of parameters."""

    def __init__(self, params: list[Tensor]) -> None:
        self._params = params
        self._values = Copies()
        self._values.take([p.detach() for p in params])
        # the gradient's contents too: DDP's buckets are written again by the next backward
        self._grads = [(p.grad, _clone(p.grad)) for p in params]
        self._requires = [p.requires_grad for p in params]

    @torch.no_grad()
    def restore(self) -> None:
        self._values.put_back()
        for p, (grad, content), requires in zip(
            self._params, self._grads, self._requires, strict=True
        ):
            p.requires_grad_(requires)
            if grad is not None and content is not None:
                put_unnoticed(grad, content)
            p.grad = grad


class _Module:
    """Buffers, their names, and the training mode and extra state of every submodule."""

    def __init__(self, model: nn.Module | None) -> None:
        modules = list(model.modules()) if model is not None else []
        self._buffers = Buffers(model).snapshot()
        self._names = [(m, dict(m._buffers)) for m in modules]
        self._modes = [(m, m.training) for m in modules]
        self._extra = [
            (m, copy.deepcopy(m.get_extra_state()))
            for m in modules
            if type(m).get_extra_state is not nn.Module.get_extra_state
        ]

    def restore(self) -> None:
        for module, buffers in self._names:
            module._buffers.clear()
            module._buffers.update(buffers)
        self._buffers.restore()
        for module, training in self._modes:
            module.training = training
        for module, extra in self._extra:
            module.set_extra_state(extra)


class _OptimizerState:
    """State, param groups and plain attributes of an optimizer."""

    def __init__(self, optimizer: Any, params: list[Tensor]) -> None:
        self._optimizer = optimizer
        self._state = [(key, value, _Dict(value)) for key, value in optimizer.state.items()]
        self._groups = [(g, _Dict(g, skip=("params",))) for g in optimizer.param_groups]
        self._members = [(g, list(g["params"])) for g in optimizer.param_groups]
        # third-party optimizers count in attributes; torch itself leaves `_opt_called`
        self._attributes = _Attributes(optimizer, params)

    def restore(self) -> None:
        state, groups = self._optimizer.state, self._optimizer.param_groups
        state.clear()
        for key, value, content in self._state:
            state[key] = content.restore() if isinstance(value, dict) else content.value()
        groups[:] = [g for g, _ in self._groups]
        for _, content in self._groups:
            content.restore()
        for group, members in self._members:
            group["params"][:] = members
        self._attributes.restore()


class _Dict:
    """The content of a dict: tensors are put back in place, everything else as a copy.

    Given something else than a dict it remembers that value.
    """

    def __init__(self, target: Any, skip: tuple[str, ...] = ()) -> None:
        self._target = target
        self._skip = skip
        self._items: list[tuple[Any, Any, Any]] = []
        self._value = None if isinstance(target, dict) else copy.deepcopy(target)
        if isinstance(target, dict):
            self._items = [(k, v, _copy_of(v)) for k, v in target.items() if k not in skip]

    @torch.no_grad()
    def restore(self) -> Any:
        kept = {k: self._target[k] for k in self._skip if k in self._target}
        self._target.clear()
        self._target.update(kept)
        for key, value, content in self._items:
            if isinstance(value, Tensor):
                value.copy_(content)
                self._target[key] = value
            else:
                self._target[key] = content
        return self._target

    def value(self) -> Any:
        return self._value


class _Attributes:
    """An object's own attributes, as far as they are plain values, tensors or containers of them.

    Hooks, functions and references to other objects are left alone; attributes that appeared in
    between are taken away again.
    """

    _SKIP = ("state", "param_groups", "defaults", "optimizer", "scaler")

    def __init__(self, target: Any, params: Iterable[Tensor] = ()) -> None:
        self._target = target
        self._names = set(vars(target))
        known = {id(p): p for p in params}  # deepcopy's memo: parameters stay themselves
        self._values = {
            name: copy.deepcopy(value, dict(known))
            for name, value in vars(target).items()
            if name not in self._SKIP and _is_plain(value)
        }

    def restore(self) -> None:
        attributes = vars(self._target)
        for name in set(attributes) - self._names:
            del attributes[name]
        attributes.update(self._values)


class _WrapperState:
    """What a wrapper keeps beside the optimizer's state, by its own account, and its attributes."""

    def __init__(self, wrapper: Any, params: list[Tensor]) -> None:
        self._wrapper, self._attributes = wrapper, _Attributes(wrapper, params)
        self._state = copy.deepcopy(wrapper.state_dict())

    def restore(self) -> None:
        # what it wraps gets its own tensors back afterwards
        self._wrapper.load_state_dict(self._state)
        self._attributes.restore()


def _clone(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone()


def _copy_of(value: Any) -> Any:
    return _clone(value) if isinstance(value, Tensor) else copy.deepcopy(value)


_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def _is_plain(value: Any) -> bool:
    """Whether a deep copy of the value can stand for it: plain data and free tensors."""
    if isinstance(value, Tensor):
        return not value.requires_grad
    if isinstance(value, _PLAIN):
        return True
    if isinstance(value, dict):
        return all(_is_plain(v) for v in value.values())
    if isinstance(value, (list, tuple, set)):
        return all(_is_plain(v) for v in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return all(_is_plain(getattr(value, f.name)) for f in dataclasses.fields(value))
    return False
