"""Where an optimizer would go next, asked without leaving a trace in it."""

from __future__ import annotations

import copy
import math
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from surefoot import _params
from surefoot._params import Copies
from surefoot._quiet import RngState, devices_of

__all__ = ["growth_to_come", "memory_factor", "multiplied", "next_move"]

_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
_PLAIN = (bool, int, float, str, list, tuple, dict, Tensor, type(None))


@contextmanager
def multiplied(optimizer: Optimizer, factor: float) -> Iterator[None]:
    """Inside, every group's ``lr`` is ``factor`` times what it is; afterwards the same object."""
    rates = [group["lr"] for group in optimizer.param_groups]
    try:
        for group, lr in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = lr * factor
        yield
    finally:
        for group, lr in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = lr


@contextmanager
def _at_rates(optimizer: Optimizer, rates: Sequence[float], factor: float) -> Iterator[None]:
    present = [group["lr"] for group in optimizer.param_groups]
    for group, lr in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = lr
    try:
        with multiplied(optimizer, factor):
            yield
    finally:
        for group, was in zip(optimizer.param_groups, present, strict=True):
            group["lr"] = was


@contextmanager
def _on_copies(optimizer: Optimizer, params: Sequence[Tensor]) -> Iterator[None]:
    """Inside, the optimizer scribbles on copies of its state; the originals are never touched.

    So what comes back is not merely equal: it is the same tensors, whatever kind of state the
    optimizer keeps. Hooks of others are silent, because nothing has happened.
    """
    everything = [p for group in optimizer.param_groups for p in group["params"]]
    state: Any = optimizer.state
    memo: dict[int, Any] = {**_clones(state), **{id(p): p for p in everything}}
    attributes = dict(vars(optimizer))
    groups = [dict(group) for group in optimizer.param_groups]
    grads = [p.grad for p in params]
    random = RngState.capture(devices_of(params))
    try:
        scratch = copy.copy(state)  # its own kind of dict, with a default for new parameters
        for key, entries in state.items():
            scratch[key] = copy.deepcopy(entries, memo)
        optimizer.state = scratch
        for group in optimizer.param_groups:
            for key, value in group.items():
                if key != "params":
                    group[key] = copy.deepcopy(value, memo)
        for name, value in attributes.items():
            if name in _HOOKS:
                setattr(optimizer, name, OrderedDict())
            elif name not in ("state", "param_groups", "defaults") and type(value) in _PLAIN:
                setattr(optimizer, name, copy.deepcopy(value, memo))
        for p, grad in zip(params, grads, strict=True):
            p.grad = None if grad is None else grad.clone()  # some write into gradients
        yield
    finally:
        vars(optimizer).clear()
        vars(optimizer).update(attributes)
        for group, was in zip(optimizer.param_groups, groups, strict=True):
            group.clear()
            group.update(was)
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad
        random.restore()


def _clones(state: Any) -> dict[int, Tensor]:
    """Copies of the state's plain tensors that share memory with none other, by their ``id``.

    In the form of deepcopy's memo: deepcopy alone takes ten times as long for a tensor.
    """
    tensors = [
        value
        for entries in state.values()
        if isinstance(entries, dict)
        for value in entries.values()
        if type(value) is Tensor and value.layout is torch.strided and not value.requires_grad
    ]
    memories = [t.untyped_storage() for t in tensors]
    uses = Counter(memory.data_ptr() for memory in memories)
    return {
        id(t): t.clone()
        for t, memory in zip(tensors, memories, strict=True)
        if uses[memory.data_ptr()] == 1 and memory.nbytes() == t.nbytes
    }


def next_move(
    optimizer: Optimizer,
    params: Sequence[Tensor],
    rates: Sequence[float],
    factor: float,
    *,
    with_gradient: bool = True,
) -> list[Tensor]:
    """θ after the optimizer's step minus θ before, with ``factor`` times ``rates``.

    Weights, gradients, random numbers and the optimizer's state are as before afterwards, to the
    bit.

    Args:
        optimizer: its ``step`` is called once, without a closure.
        params: those of its parameters that have a gradient.
        rates: one learning rate a group.
        factor: multiple of them.
        with_gradient: False for the step that it would take if the gradient were zero: what its
            memory alone does.
    """
    start = Copies()
    with _on_copies(optimizer, params):
        if not with_gradient:
            for p in params:
                p.grad = torch.zeros_like(p)
        start.take(params)
        try:
            with _at_rates(optimizer, rates, factor):
                optimizer.step()
            return start.difference()
        finally:
            start.put_back()


def growth_to_come(
    optimizer: Optimizer, params: Sequence[Tensor], rates: Sequence[float], ahead: int = 24
) -> float:
    """How many times its present length an update can reach as the optimizer's memory fills.

    The optimizer is asked for the next updates as if this gradient stayed: those of a heavy-ball
    buffer grow up to 1/(1 − β) times, those of an average do not. Costs ``ahead`` steps of the
    optimizer, but no pass through the network. Leaves no trace, as :func:`next_move`.
    """
    start, ones = Copies(), [1.0] * len(params)
    lengths = []
    with _on_copies(optimizer, params), _at_rates(optimizer, rates, 1.0):
        kept = [p.grad for p in params]
        start.take(params)
        try:
            for _ in range(ahead):
                for p, grad in zip(params, kept, strict=True):
                    p.grad = None if grad is None else grad.clone()
                optimizer.step()
                lengths.append(_params.norm_sq(start.difference(), ones))
                start.put_back()
        finally:
            start.put_back()
    if not lengths[0] > 0.0:
        return 1.0
    return max(1.0, math.sqrt(max(lengths) / lengths[0]))


def memory_factor(optimizer: Optimizer) -> float:
    """How much of a gradient's whole effect its first step has: 1 − β, from the groups' settings.

    A heavy-ball buffer repeats a gradient β, β², … times as strong, an exponential average spreads
    it over the same series: either way the first step is 1 − β of the whole.
    """
    for group in optimizer.param_groups:
        beta = group.get("momentum")
        if beta is None and group.get("betas"):
            beta = group["betas"][0]
        if isinstance(beta, int | float) and 0.0 < beta < 1.0:
            return 1.0 - float(beta)
    return 1.0
