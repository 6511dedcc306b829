"""Leave no trace: everything a trial run touches comes back as it was, bit for bit.

What is kept is a function that puts it back; such a function is named after what it keeps.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from surefoot._params import Copies, put_unnoticed
from surefoot._quiet import Buffers, RngState, devices_of

Restore = Callable[[], object]


@contextlib.contextmanager
def no_trace(
    model: nn.Module | None,
    optimizer: Optimizer,
    *,
    scaler: Any = None,
    others: Iterable[Restore] = (),
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
        others: what puts back something besides.
    """
    params = all_parameters(model, optimizer)
    *wrappers, innermost = unwrapped(optimizer)
    kept: list[Restore] = [
        _parameters(params),
        _module(model),
        _optimizer(innermost, params),
        *(restore for wrapper in wrappers for restore in _wrapper(wrapper, params)),
        *([_attributes(scaler)] if scaler is not None else []),
        *others,
        RngState.capture(devices_of(params)).restore,
    ]
    known = {id(part) for part in unwrapped(optimizer)}
    with contextlib.ExitStack() as returning:  # one failure must not keep the rest from returning
        for restore in kept:
            returning.callback(restore)

        def meet(met: Any, args: Any, kwargs: Any) -> None:
            """Keep what a further optimizer touches that the training step uses, as a GAN's does.

            At its first step. What its parameters had in ``.grad`` before is not known then:
            nothing is left there.
            """
            for other in unwrapped(met):
                if id(other) in known:
                    continue
                known.add(id(other))
                ours = {id(p) for p in params}
                theirs = [p for p in all_parameters(None, other) if id(p) not in ours]
                returning.callback(_forget_gradients, theirs)
                returning.callback(_parameters(theirs))
                returning.callback(_optimizer(other, [*params, *theirs]))

        returning.callback(register_optimizer_step_pre_hook(meet).remove)
        yield


def _forget_gradients(params: list[Tensor]) -> None:
    for p in params:
        p.grad = None


def all_parameters(model: nn.Module | None, optimizer: Optimizer) -> list[Tensor]:
    """The parameters of the model and of the optimizer, each once."""
    of_model = () if model is None else model.parameters()
    of_optimizer = (p for group in optimizer.param_groups for p in group["params"])
    return list({id(p): p for p in (*of_model, *of_optimizer)}.values())


def unwrapped(optimizer: Any) -> list[Any]:
    """The optimizer and the one it wraps (``.optimizer``, as accelerate does), innermost last."""
    chain = [optimizer]
    while isinstance(getattr(chain[-1], "optimizer", None), Optimizer):
        chain.append(chain[-1].optimizer)
    return chain


def _parameters(params: list[Tensor]) -> Restore:
    """Values, gradients and ``requires_grad`` of parameters."""
    values = Copies()
    values.take([p.detach() for p in params])
    # the gradient's contents too: DDP's buckets are written again by the next backward
    kept = [(p, p.requires_grad, p.grad, _copy_of(p.grad)) for p in params]

    def restore() -> None:
        values.put_back()
        for p, requires, grad, content in kept:
            p.requires_grad_(requires)
            if grad is not None:
                put_unnoticed(grad, content)
            p.grad = grad

    return restore


def _module(model: nn.Module | None) -> Restore:
    """Buffers, their names, and the training mode and extra state of every submodule."""
    modules = list(model.modules()) if model is not None else []
    buffers = Buffers(model).snapshot()
    kept = [(m, dict(m._buffers), m.training) for m in modules]
    extra = [
        (m, copy.deepcopy(m.get_extra_state()))
        for m in modules
        if type(m).get_extra_state is not nn.Module.get_extra_state
    ]

    def restore() -> None:
        for module, names, training in kept:
            module._buffers.clear()
            module._buffers.update(names)
            module.training = training
        buffers.restore()
        for module, state in extra:
            module.set_extra_state(state)

    return restore


def _optimizer(optimizer: Any, params: list[Tensor]) -> Restore:
    """State, param groups and plain attributes of an optimizer."""
    state = [(key, _value(value)) for key, value in optimizer.state.items()]
    groups = [(g, _value(g, skip="params"), list(g["params"])) for g in optimizer.param_groups]
    # third-party optimizers count in attributes; torch itself leaves `_opt_called`
    attributes = _attributes(optimizer, params)

    def restore() -> None:
        optimizer.state.clear()
        for key, value in state:
            optimizer.state[key] = value()
        optimizer.param_groups[:] = [group for group, _, _ in groups]
        for group, content, members in groups:
            content()
            group["params"][:] = members
        attributes()

    return restore


def _value(target: Any, skip: str = "") -> Callable[[], Any]:
    """A value; of a dict the content, tensors in place, everything else as a copy."""
    if not isinstance(target, dict):
        whole = copy.deepcopy(target)
        return lambda: whole
    items = [(key, value, _copy_of(value)) for key, value in target.items() if key != skip]

    @torch.no_grad()
    def restore() -> Any:
        skipped = {key: value for key, value in target.items() if key == skip}
        target.clear()
        target.update(skipped)
        for key, value, content in items:
            target[key] = value.copy_(content) if isinstance(value, Tensor) else content
        return target

    return restore


_ELSEWHERE = ("state", "param_groups", "defaults", "optimizer", "scaler")


def _attributes(target: Any, params: Iterable[Tensor] = ()) -> Restore:
    """An object's own attributes, as far as they are plain values, tensors or containers of them.

    Hooks, functions and references to other objects are left alone; attributes that appeared in
    between are taken away again.
    """
    names = set(vars(target))
    known = {id(p): p for p in params}  # deepcopy's memo: parameters stay themselves
    values = {
        name: copy.deepcopy(value, dict(known))
        for name, value in vars(target).items()
        if name not in _ELSEWHERE and _is_plain(value)
    }

    def restore() -> None:
        attributes = vars(target)
        for name in set(attributes) - names:
            del attributes[name]
        attributes.update(values)

    return restore


def _wrapper(wrapper: Any, params: list[Tensor]) -> tuple[Restore, Restore]:
    """A wrapper's attributes, and what it keeps beside the optimizer's state, by its own account.

    The latter returns first; what is wrapped gets its own tensors back afterwards.
    """
    state = copy.deepcopy(wrapper.state_dict())
    return _attributes(wrapper, params), lambda: wrapper.load_state_dict(state)


def _copy_of(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def _is_plain(value: Any) -> bool:
    """Whether a deep copy of the value can stand for it: plain data and free tensors."""
    if isinstance(value, Tensor):
        return not value.requires_grad
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, f.name) for f in dataclasses.fields(value)]
    if isinstance(value, (dict, list, tuple, set)):
        return all(map(_is_plain, value.values() if isinstance(value, dict) else value))
    return isinstance(value, (bool, int, float, complex, str, bytes, type(None)))
