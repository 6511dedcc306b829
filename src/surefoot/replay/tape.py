"""From the model's outputs to the loss: what the loop did with them, recorded and played again.

A :class:`TorchDispatchMode` sees every operation below autograd, so mixed precision's casts and a
scaler's factor are among them, a ``torch.func`` transform is seen through, and a compiled criterion
runs as it is written. A mode for torch functions sees none of the three; hooks on the graph see the
backward pass only, which cannot be played at other weights.
"""

from __future__ import annotations

import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _get_current_dispatch_mode,
    _pop_mode,
    _push_mode,
)
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from surefoot._fresh_gradient import have_changed, marks
from surefoot.replay._state import Surroundings
from surefoot.replay.backward import Listener
from surefoot.replay.loss import Loss, total

_on: list[Tape] = []
"""Tapes that record now. A loop that breaks off between forward and step leaves its own on."""
_stopping: list[Tape] = []
"""The one that is being stopped: the end of a recorder may fall into this."""


def stop_abandoned() -> None:
    """Stop this thread's tapes that are at their end, or whose recorder is gone.

    Called when a recorder is gone, too, that is, at any moment and in any thread: what is left for
    this reason is stopped by the next call.
    """
    for tape in list(_on):
        gone = tape.is_closed or (tape.owner is not None and tape.owner() is None)
        if gone and tape.thread == threading.get_ident():
            tape.close()


def _is_inside_compiled() -> bool:
    """Whether a compiled function calls us: torch would restore a mode that was left in it."""
    callers = traceback.walk_stack(sys._getframe(1)) if "torch._dynamo" in sys.modules else ()
    return any(frame.f_code.co_name == "compile_wrapper" for frame, _ in callers)


class Name(NamedTuple):
    """A value on the tape: which entry made it, and which of its tensors it is."""

    entry: int
    slot: int


_LOST = Name(-1, -1)
"""What was written by an operation of the tape that did not hand it out."""
_LONGEST = 20_000
"""Entries of a tape: more than a loss takes, less than fill a memory."""
_GRAPH = 20_000
"""Nodes of a foreign graph that are looked at."""


@dataclass(frozen=True)
class _Copy:
    """A tensor of the loop that the operation overwrites, as it was before."""

    content: Tensor


@dataclass
class _Entry:
    """A call of a module, or an operation: with what; a name stands for what is on the tape."""

    run: Callable[..., Any]
    flat: list[Any]
    spec: TreeSpec
    surroundings: Surroundings | None
    module: nn.Module | None = None
    training: bool = False
    writes: bool = False

    def play(self, values: dict[Name, Tensor]) -> Any:
        """What it gives where these are the values on the tape."""
        flat = [values[x] if isinstance(x, Name) else x for x in self.flat]
        flat = [x.content.clone() if isinstance(x, _Copy) else x for x in flat]
        args, kwargs = tree_unflatten(flat, self.spec)
        around: Any = torch._C._DisableAutocast()  # an operation's casts are on the tape already
        if self.surroundings is not None:
            if self.module is not None:
                around = self.surroundings.again()
            else:
                self.surroundings.random.restore()
        with around:
            return self.run(*args, **kwargs)


class Tape(Loss, Listener, TorchDispatchMode):
    """One loss, from its forward passes to the scalar that was differentiated.

    On, it records what depends on the outputs of the model, or on parameters directly. Off while
    the model itself runs: that is one entry.

    Args:
        params: the parameters that are trained.
        model: whose buffers must be as before each time.
        keeps_inputs: copy what comes from outside, because the loop overwrites it.
    """

    def __init__(
        self, params: Sequence[Tensor], model: nn.Module | None, *, keeps_inputs: bool = False
    ) -> None:
        TorchDispatchMode.__init__(self)
        Loss.__init__(self, model, params)
        self._devices, self._keeps = self._surroundings.devices, keeps_inputs
        self._own = {id(p) for p in params}
        memories = [p.untyped_storage() for p in params if _place(p) is not None]
        self._memories = {each._cdata: each for each in memories}
        self._entries: list[_Entry] = []
        self._differentiated = 0  # of these, when something was the last time
        self._names: dict[int, tuple[weakref.ref[Tensor], Name | None]] = {}
        self._places: dict[Any, tuple[StorageWeakRef, Name | None]] = {}
        self._outside: dict[int, tuple[Tensor, int]] = {}
        self._refused: dict[int, str] = {}
        self._seen: set[Any] = set()  # nodes: their Python objects must live, to be the same ones
        self._drawn: set[int] = set()
        self._is_too_long = self._have_moved = False
        self.thread = threading.get_ident()
        self.is_closed = False
        """Whether it records no more, for good."""
        self.owner: weakref.ref[Any] | None = None
        """Who started it."""

    # On and off

    def start(self) -> None:
        """Record from here on."""
        if self not in _on:
            self.thread = threading.get_ident()
            self.listen()
            _on.append(self)
            self.__enter__()

    def stop(self) -> None:
        """Record no more for now."""
        if self not in _on or _stopping or _is_inside_compiled():
            return
        _stopping.append(self)
        try:
            above = []  # modes that were entered since and are still on
            while _get_current_dispatch_mode() not in (self, None):
                above.append(_pop_mode())
            if _get_current_dispatch_mode() is self:
                self.__exit__(None, None, None)
            for mode in reversed(above):
                _push_mode(mode)
            _on.remove(self)
        finally:
            _stopping.remove(self)

    def close(self) -> None:
        """Record no more, for good."""
        self.is_closed = True
        self.turn_away()
        self.stop()

    # Recording

    def call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """A forward pass of ``module`` begins; its number."""
        flat, spec = tree_flatten((args, kwargs))
        if any(p.grad_fn is not None for p in module.parameters()):
            self._refuse("the model was called with other weights than its own (functional_call)")
        first = not self._entries  # nothing was drawn since
        surroundings = self._surroundings if first else Surroundings.capture(self._devices)
        taken = [self._taken(x) for x in flat]
        entry = _Entry(module, taken, spec, surroundings, module, module.training)
        self._entries.append(entry)
        return len(self._entries) - 1

    def returned(self, number: int, output: Any) -> None:
        """That forward pass has answered."""
        for slot, x in enumerate(tensors_in(output)):
            self._call_it(x, Name(number, slot))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Record an operation that depends on what is known."""
        kwargs = kwargs or {}
        if self.is_closed or torch._C._current_graph_task_id() != -1:  # a backward pass runs
            return func(*args, **kwargs)
        written = _written(func, args, kwargs)
        if any(self._is_weight(x) for x in written):  # a move, which a replay does not make again
            self._have_moved = True  # many at once or unnoticed: no version counts it
            return func(*args, **kwargs)
        flat, spec = tree_flatten((args, kwargs))
        given = [x for x in flat if isinstance(x, Tensor)]
        if not any(id(x) in self._own or self._follows(x) is not None for x in given):
            return func(*args, **kwargs)
        if len(self._entries) >= _LONGEST:
            self._is_too_long = not self.values
            self.is_closed = True
            return func(*args, **kwargs)
        random = torch.Tag.nondeterministic_seeded in func.tags
        surroundings = Surroundings.capture(self._devices) if random else None
        overwritten = {id(x) for x in written}
        taken = [self._taken(x, overwritten) for x in flat]
        entry = _Entry(func, taken, spec, surroundings, writes=func._schema.is_mutable)
        if random:
            self._drawn.add(len(self._entries))
        out = func(*args, **kwargs)
        self._entries.append(entry)
        self.returned(len(self._entries) - 1, out)
        for x in written:
            if self._name_of(x) is None:  # an operation that does not return what it wrote into
                self._call_it(x, _LOST)
        return out

    def begins(self, loss: Tensor) -> Callable[[], None]:
        """What is differentiated; the operations of the backward pass go unseen."""
        name, value = self._name_of(loss), loss.detach()
        self._call_it(value, name)
        self.values.append(value)
        self._differentiated = len(self._entries)
        self._seen.clear()
        before, was_on = marks(self._params), self in _on
        self.stop()

        def end() -> None:
            if have_changed(before, self._params):
                self.gradient.look()
            else:  # another optimizer's loss, of what this model made
                self.values = [x for x in self.values if x is not value]
            if was_on and not self.is_closed:
                self.start()

        return end

    def _is_weight(self, x: Tensor) -> bool:
        """Whether it is a parameter, or shows a part of one's memory."""
        place = _place(x)
        return id(x) in self._own or (place is not None and place[0] in self._memories)

    def _call_it(self, x: Tensor, name: Name | None) -> None:
        self._names[id(x)] = (weakref.ref(x), name)
        if (place := _place(x)) is not None:
            self._places[place] = (StorageWeakRef(x.untyped_storage()), name)

    def _name_of(self, x: Tensor) -> Name | None:
        found = self._names.get(id(x))
        if found is not None and found[0]() is x:
            return found[1]
        # as_subclass() and the like make their aliases where no mode sees it
        at = self._places.get(_place(x)) if self._places else None
        return at[1] if at is not None and not at[0].expired() else None

    def _follows(self, x: Tensor) -> Name | None:
        """Its name, unless the gradient takes it for a constant: if detached, or drawn."""
        name = self._name_of(x)
        if name is None or x.requires_grad or not torch.is_grad_enabled():
            return name
        return None if x.is_floating_point() or name.entry in self._drawn else name

    def _taken(self, x: Any, overwritten: Container[int] = ()) -> Any:
        """An argument as it is kept: by name where the tape made it."""
        if not isinstance(x, Tensor):
            for inner in tensors_in(x):
                self._come_from_outside(inner)
            return x
        name = self._follows(x)
        if name == _LOST:
            self._refuse("several tensors were overwritten at once by what follows from the model")
        if name is not None:
            return name
        if id(x) in self._own:
            return x  # a weight: its value at the time of the replay is wanted
        self._come_from_outside(x)
        if id(x) in overwritten or self._keeps:
            # a copy asks for gradients as the original does: some losses differentiate by it
            return _Copy(x.detach().clone().requires_grad_(x.requires_grad))
        self._outside[id(x)] = (x, _version(x))
        return x

    def _come_from_outside(self, x: Tensor) -> None:
        if self._follows(x) is not None:
            self._refuse(
                "an output of the model is handed on inside an object that is no list or dict"
            )
        elif x.grad_fn is not None and self._leads_to_weights(x.grad_fn):
            self._refuse(
                "a part of it was computed from the weights out of sight: by a custom kernel, a "
                "differentiation inside the loop, or inside the model without being returned, as "
                "by a call of model.forward() instead of model()"
            )

    def _leads_to_weights(self, node: Any) -> bool:
        waiting = [node]
        while waiting and len(self._seen) < _GRAPH:
            node = waiting.pop()
            if node is None or node in self._seen:
                continue
            self._seen.add(node)
            if id(getattr(node, "variable", None)) in self._own:
                self._seen.clear()  # another one may lead here, too
                return True
            waiting.extend(following for following, _ in node.next_functions)
        return False

    def _refuse(self, reason: str) -> None:
        """The entry that is being made cannot be played; nobody may need it."""
        self._refused.setdefault(len(self._entries), reason)

    # Replaying

    @property
    def weights_have_moved(self) -> bool:
        """Whether anybody but a model moved weights since the forward pass."""
        return self._have_moved or super().weights_have_moved

    @property
    def was_overwritten(self) -> bool:
        """Whether the loop has written into its batch since."""
        return any(_version(x) != version for x, version in self._outside.values())

    def problem(self) -> str | None:
        """Why it cannot be replayed, in one clause; None where it can."""
        if not any(entry.module is not None for entry in self._entries):
            return "no forward pass of the model was seen before backward()"
        if self._is_too_long:
            return f"more than {_LONGEST} operations lead from the model to the loss"
        if not self.values:
            return "no scalar that depends on the model's outputs was differentiated by backward()"
        if None in self._roots:
            return (
                "what was differentiated does not follow from the model's outputs: it left torch "
                "and came back (NumPy, a custom kernel), another model made it, or the model runs "
                "inside a compiled function"
            )
        needed = self._needed()
        for i in needed:
            if i in self._refused:
                return self._refused[i]
        if self.was_overwritten:
            return "the batch was overwritten before the step"
        entries = [self._entries[i] for i in needed]
        if any(e.module is not None and e.module.training != e.training for e in entries):
            return "train() or eval() was called between the forward pass and the step"
        return None

    @property
    def _modules(self) -> list[nn.Module | None]:
        return [self._model, *{entry.module for entry in self._entries}]

    @property
    def _roots(self) -> list[Name | None]:
        """What was differentiated; None where it does not follow from the model's outputs."""
        return [self._name_of(x) for x in self.values]

    def _needed(self) -> list[int]:
        """The entries that what was differentiated depends on."""
        wanted = {root.entry for root in self._roots if root is not None}
        for i, entry in reversed(list(enumerate(self._entries[: self._differentiated]))):
            if i in wanted or entry.writes:  # perhaps through a view of what is wanted
                wanted |= {i, *(x.entry for x in entry.flat if isinstance(x, Name))}
        return sorted(wanted)

    def _evaluate(self) -> Tensor:
        return self._without_graph(self._play)

    def _play(self) -> Tensor:
        values: dict[Name, Tensor] = {}
        for i in self._needed():
            out = self._entries[i].play(values)
            values.update((Name(i, slot), x) for slot, x in enumerate(tensors_in(out)))
        return total([values[root] for root in self._roots if root is not None])


def tensors_in(tree: Any, depth: int = 6) -> list[Tensor]:
    """All tensors of nested lists, dictionaries and objects, in a stable order."""
    if isinstance(tree, Tensor):
        return [tree]
    if depth == 0 or tree is None or isinstance(tree, str | bytes | int | float | nn.Module):
        return []
    if not isinstance(tree, list | tuple | set | frozenset):
        tree = (tree if isinstance(tree, dict) else getattr(tree, "__dict__", {})).values()
    return [x for part in tree for x in tensors_in(part, depth - 1)]


def _place(x: Tensor) -> Any:
    """Which part of which memory a tensor shows; None where that is no one part."""
    if nn.parameter.is_lazy(x) or x.layout is not torch.strided or hasattr(x, "_local_tensor"):
        return None
    try:
        memory = x.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return None
    return (memory, x.storage_offset(), tuple(x.shape), x.stride(), x.dtype)


def _version(x: Tensor) -> int:
    return -1 if x.is_inference() else x._version


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that an operation writes into."""
    if not func._schema.is_mutable:
        return []
    arguments = func._schema.arguments
    given = {a.name: x for a, x in zip(arguments, args, strict=False)} | kwargs
    written = [a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write]
    return tensors_in([given.get(name) for name in written])
