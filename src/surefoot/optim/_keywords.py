"""The keywords that all line searches share: declared once, documented once, shown everywhere."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, TypedDict, TypeVar, get_type_hints

from torch import nn

from surefoot.outcome import StepOutcome

Init = TypeVar("Init", bound=Callable[..., None])


class Shared(TypedDict, total=False):
    """What every line search takes besides its own settings; see :data:`SHARED`."""

    weight_decay: float
    total_steps: int | None
    model: nn.Module | None
    loss_precision: float | None
    process_group: Any
    grad_scaler: Any
    on_measure: Callable[[StepOutcome], None] | None


DEFAULTS: dict[str, Any] = {**dict.fromkeys(Shared.__annotations__), "weight_decay": 0.0}

PARAMS = """\
params: the model (recommended), or parameters, or dicts of groups, as for ``torch.optim``. Given
    the model, its buffers (BatchNorm statistics and the like) change exactly once a step.
"""

SHARED = """\
weight_decay: decoupled, per unit of the effective learning rate.
total_steps: number of ``step`` calls of the whole run. The measured step is multiplied by a
    factor that falls linearly from 1 to 0 over them; None for no such factor. Strongly
    recommended: see the comparison in the documentation.
model: the model, where ``params`` are groups: only its buffers are looked at.
loss_precision: relative rounding error of a loss; differences below it are not measured. None
    takes it from the loss's dtype. Reduced precision inside the forward pass does not show
    there: with bf16 autocast and measuring lengths under 0.1, pass 0.004.
process_group: processes to agree with; None for torch's default group, if there is one.
grad_scaler: ``torch.amp.GradScaler`` for fp16 autocast. The optimizer scales, unscales and
    updates it; do not call ``scaler.step``.
on_measure: called with the :class:`StepOutcome` of every step that ended a measurement.
"""


def show_shared(cls: type) -> None:
    """Put the shared keywords into a class's signature, hints and docstring."""
    init = cls.__dict__.get("__init__")
    if init is not None:
        own = inspect.signature(init)
        parameters = list(own.parameters.values())
        if parameters[-1].name == "shared":
            hints = get_type_hints(Shared)
            parameters[-1:] = [
                inspect.Parameter(
                    name, inspect.Parameter.KEYWORD_ONLY, default=d, annotation=_as_written(name)
                )
                for name, d in DEFAULTS.items()
            ]
            init.__signature__ = own.replace(parameters=parameters)
            init.__annotations__ = {**init.__annotations__, **hints}
            del init.__annotations__["shared"]
    if cls.__doc__:
        lines = cls.__doc__.splitlines(keepends=True)
        cls.__doc__ = "".join(map(_expanded, lines))


def _as_written(name: str) -> Any:
    hint = Shared.__annotations__[name]
    return getattr(hint, "__forward_arg__", hint)


def _expanded(line: str) -> str:
    for marker, text in (("params: ", PARAMS), ("**shared: ", SHARED)):
        if line.lstrip().startswith(marker):
            indent = line[: len(line) - len(line.lstrip())]
            return "".join(indent + part for part in text.splitlines(keepends=True))
    return line


def formerly(**names: str) -> Callable[[Init], Init]:
    """Take keywords by their former names, too, with a warning: ``formerly(old="new")``."""

    def decorate(init: Init) -> Init:
        @functools.wraps(init)
        def renamed(self: Any, *args: Any, **kwargs: Any) -> None:
            for old in names.keys() & kwargs.keys():
                new = names[old]
                if new in kwargs:
                    raise TypeError(f"{old} is the former name of {new}: pass the latter alone")
                warnings.warn(
                    f"{type(self).__name__}({old}=...) is called {new} since version 0.2; the "
                    "former name goes with the next one",
                    DeprecationWarning,
                    stacklevel=2,
                )
                kwargs[new] = kwargs.pop(old)
            init(self, *args, **kwargs)

        renamed.former_names = names  # type: ignore[attr-defined]
        return renamed  # type: ignore[return-value]

    return decorate
