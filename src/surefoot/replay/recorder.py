"""Watches the model's forward passes on the steps that measure, and is gone on all others."""

from __future__ import annotations

import functools
import gc
import sys
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from surefoot.replay._guests import Hook, hide_guests
from surefoot.replay._state import Modes, is_measuring
from surefoot.replay.tape import Tape, stop_abandoned


class Recorder:
    """Hooks on a model, from :meth:`arm` to :meth:`finish`, that record the loss of a loop.

    What is recorded are the outermost calls: of the model itself, or, where that is never called
    (a container, a trainer's module), of those of its parts that the loop calls.

    Args:
        model: the model; None where it is yet to be found: the first module called that owns a
            parameter.
        modes: what is known of the modes that the model is trained in.
    """

    def __init__(self, model: nn.Module | None, modes: Modes | None = None) -> None:
        self.model = model
        self._hooked: list[nn.Module] = []
        self._hooks: list[tuple[nn.Module | None, Callable[[], None]]] = []  # what removes them
        self.outermost: list[nn.Module] = []
        """The modules that the loop was seen to call."""
        self._tape: Tape | None = None
        self._params: Sequence[Tensor] = ()
        self._depth, self._call = 0, -1
        self._keeps_inputs = self._has_looked = False
        self._around = _weak(self._before), _weak(self._after)
        self._modes = Modes() if modes is None else modes
        # a loop that breaks off between forward and step leaves its tape on
        weakref.finalize(self, stop_abandoned).atexit = False
        self._removable: list[Callable[[], None]] = []  # knows no module: it is held until then
        weakref.finalize(self, _call_all, self._removable).atexit = False
        self.backwards = 0
        """Backward passes since :meth:`arm`."""

    def looks_again(self) -> bool:
        """Whether the model was compiled since its hooks were set; if so, they move there."""
        if self.model is None or "torch._dynamo" not in sys.modules:
            return False
        before, self.model = self.model, _compiled_form_of(self.model)
        # one that was compiled in place drew its hooks into the graph
        in_place = any(m._compiled_call_impl is not None for m in self._hooked)
        return self.model is not before or in_place

    def arm(self, params: Sequence[Tensor]) -> None:
        """Record the next forward passes.

        Args:
            params: the parameters that are trained.
        """
        self.disarm()
        stop_abandoned()
        self._params = params
        if self.model is None:
            self._search()
            return
        if not self._has_looked and "torch._dynamo" in sys.modules:
            self._has_looked = True
            self.model = _compiled_form_of(self.model)
            self._around = _weak(self._before), _weak(self._after)
        self._hooked = []
        for module in self.outermost or [self.model, *_parts(self.model)]:
            self._hook(module)

    def _hook(self, module: nn.Module) -> None:
        if module._compiled_call_impl is not None:
            self._hooks.append((module, _around_compiled(module, self._before, self._after)))
            return
        self._hooked.append(module)
        hide_guests(module)
        before, after = self._around
        removable = [
            module.register_forward_pre_hook(before, prepend=True, with_kwargs=True).remove,
            module.register_forward_hook(after, with_kwargs=True, always_call=True).remove,
        ]
        self._hooks += [(module, remove) for remove in removable]
        self._removable += removable

    def _search(self) -> None:
        """Find the outermost module that owns a parameter, by a hook on all modules."""
        own = {id(p) for p in self._params}
        searching = weakref.ref(self)  # the hook is torch's: it would keep us for good

        def before(module: nn.Module, args: Any) -> None:
            recorder = searching()
            if recorder is None or not torch.is_grad_enabled():
                return
            if any(id(p) in own for p in module.parameters()):
                recorder.model = module
                recorder.arm(recorder._params)
                # torch has begun this call: it sees later hooks only
                recorder._before(module, args, {})

        remove = nn.modules.module.register_module_forward_pre_hook(before).remove
        self._hooks.append((None, remove))
        self._removable.append(remove)

    def disarm(self) -> None:
        """Take all hooks away and forget what was recorded."""
        _call_all(remove for _, remove in self._hooks)
        self._hooks, self._depth = [], 0
        self._removable.clear()
        if self._tape is not None:
            self._tape.close()
            self._tape = None
        self.backwards = 0

    def finish(self) -> Tape | None:
        """Record no more; what was recorded since :meth:`arm`, of the last backward pass."""
        if not self._hooks:
            return None
        tape, self._tape = self._tape, None
        if tape is not None:
            tape.close()
            tape.backwards = self.backwards + bool(tape.values)
            self._keeps_inputs = self._keeps_inputs or tape.was_overwritten
        if tape is None or tape.problem() is not None:
            self.outermost = []  # look again at all that the loop may call
        self.disarm()
        return tape

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if _is_no_training_pass():
            return
        whole = module if self.model is None else self.model
        if self._depth == 0 and self._modes.is_evaluation(whole):
            return  # and not trained in that mode: no step follows
        self._depth += 1
        if self._depth > 1:
            return
        stop_abandoned()
        if module not in self.outermost:
            self.outermost.append(module)
            self._leave_parts(module)
        if self._tape is not None and self._tape.values:  # the next micro-batch
            self._tape.close()
            kept = any(p.grad is not None for p in self._params)
            self._tape, self.backwards = None, self.backwards + 1 if kept else 0
        if self._tape is None:
            self._tape = Tape(self._params, self.model, keeps_inputs=self._keeps_inputs)
            self._tape.owner = weakref.ref(self)
        self._tape.stop()
        self._call = self._tape.call(module, args, kwargs)

    def _after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if _is_no_training_pass() or self._depth == 0:
            return
        self._depth -= 1
        if self._depth == 0 and self._tape is not None and output is not None:
            self._tape.returned(self._call, output)
            self._tape.start()

    def _leave_parts(self, outer: nn.Module) -> None:
        """No hooks below the module that is called: nothing there is asked, and graphs break."""
        below = {id(m) for m in outer.modules()} - {id(outer)}
        _call_all(remove for module, remove in self._hooks if id(module) in below)
        self._hooks = [hook for hook in self._hooks if id(hook[0]) not in below]


def _call_all(functions: Iterable[Callable[[], None]]) -> None:
    for function in functions:
        function()


def _is_no_training_pass() -> bool:
    """Whether a forward pass is a replay, without a graph, or recomputed by a backward pass."""
    return is_measuring() or not torch.is_grad_enabled() or torch._C._current_graph_task_id() != -1


def _parts(model: nn.Module) -> Iterable[nn.Module]:
    """What may have hooks, below the model."""
    scripted = torch.jit.RecursiveScriptModule  # type: ignore[attr-defined]
    return (m for m in model.modules() if m is not model and not isinstance(m, scripted))


def _compiled_form_of(model: nn.Module) -> nn.Module:
    """What ``torch.compile(model)`` made, if anybody did: inside it no mode can be entered."""
    wrapper: Any = sys.modules["torch._dynamo"].OptimizedModule
    if isinstance(model, wrapper):
        return model  # type: ignore[no-any-return]
    for x in gc.get_objects():
        if type(x) is wrapper and x._orig_mod is model:
            return x  # type: ignore[no-any-return]
    return model


def _weak(method: Callable[..., Any]) -> Hook:
    """A hook that does not keep alive whose method it is: a tape that is on holds the model.

    Kept out of the graphs of ``torch.compile``, where that is in use.
    """
    weak = weakref.WeakMethod(method)

    def run(*args: Any) -> None:
        found = weak()
        if found is not None:
            found(*args)

    return Hook(torch.compiler.disable(run) if "torch._dynamo" in sys.modules else run)


def _around_compiled(
    module: nn.Module, before: Callable[..., Any], after: Callable[..., Any]
) -> Callable[[], None]:
    """Hook a module that ``module.compile()`` made a graph of: torch reads no hooks then."""
    compiled = module._compiled_call_impl
    assert compiled is not None

    def run(*args: Any, **kwargs: Any) -> Any:
        before(module, args, kwargs)
        output = None
        try:
            output = compiled(*args, **kwargs)
        finally:
            after(module, args, kwargs, output)
        return output

    module._compiled_call_impl = run
    return functools.partial(setattr, module, "_compiled_call_impl", compiled)
