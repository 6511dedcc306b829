"""The keywords that all line searches share: declared once, documented once, shown everywhere."""

from __future__ import annotations

import functools
import inspect
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict, TypeVar, get_type_hints

from torch import nn

from surefoot.outcome import StepOutcome

Init = TypeVar("Init", bound=Callable[..., None])


class Shared(TypedDict, total=False):
    """What every line search takes besides its own settings.

    Args:
        weight_decay: decoupled, per unit of the effective learning rate.
        total_steps: number of ``step`` calls of the whole run. The measured step is multiplied by a
            factor that falls linearly from 1 to 0 over them; None for no such factor. Strongly
            recommended: see the comparison in the documentation.
        model: the model, where ``params`` are groups: only its buffers are looked at.
        loss_precision: relative rounding error of a loss; differences below it are not measured.
            None takes it from the loss's dtype. Reduced precision inside the forward pass does not
            show there: with bf16 autocast and measuring lengths under 0.1, pass 0.004.
        process_group: processes to agree with; None for torch's default group, if there is one.
        grad_scaler: ``torch.amp.GradScaler`` for fp16 autocast. The optimizer scales, unscales and
            updates it; do not call ``scaler.step``.
        on_measure: called with the :class:`StepOutcome` of every step that ended a measurement.
    """

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


class Keyword(NamedTuple):
    """A keyword of a constructor, where it was declared."""

    default: Any
    annotation: Any
    doc: str


def _docs_of(cls: type) -> dict[str, str]:
    """What a class's docstring says of its arguments."""
    docs: dict[str, str] = {}
    lines = (inspect.getdoc(cls) or "").splitlines(keepends=True)
    # without docstrings, as python -OO leaves it, there is nothing to say
    after = lines[lines.index("Args:\n") + 1 :] if "Args:\n" in lines else []
    for line in itertools.takewhile(str.strip, after):
        if line[4] != " ":
            name = line.strip().partition(":")[0]
        docs[name] = docs.get(name, "") + line[4:]
    return docs


def keywords_of(cls: type, hidden: Sequence[str] = ()) -> dict[str, Keyword]:
    """The keywords of a constructor that are its own, with what its docstring says of them."""
    docs = _docs_of(cls)
    return {
        p.name: Keyword(p.default, p.annotation, docs.get(p.name, ""))
        for p in inspect.signature(cls).parameters.values()
        if p.name not in ("params", "step_multiplier", *hidden, *DEFAULTS)
    }


_DOCS = _docs_of(Shared)
_SHARED = {
    name: Keyword(DEFAULTS[name], getattr(hint, "__forward_arg__", hint), _DOCS.get(name, ""))
    for name, hint in Shared.__annotations__.items()
}


def show_keywords(cls: type, own: Mapping[str, Keyword]) -> None:
    """Put the keywords that ``**`` stands for into a class's signature, hints and docstring.

    Args:
        cls: whose constructor ends with ``**shared`` or ``**settings``.
        own: those of its search, which stand before the shared ones.
    """
    init = cls.__init__  # type: ignore[misc]
    parameters = list(inspect.signature(init).parameters.values())[1:]
    given = {p.name for p in parameters}
    own = {name: keyword for name, keyword in own.items() if name not in given}
    if parameters and parameters[-1].name in ("shared", "settings"):
        parameters[-1:] = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=d, annotation=a)
            for name, (d, a, _) in {**own, **_SHARED}.items()
        ]
        init.__annotations__ = {**init.__annotations__, **get_type_hints(Shared)}
        init.__annotations__.pop("shared", None)
    cls.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    texts = {"params": PARAMS}
    for name, keywords in (("**settings", own), ("**shared", _SHARED)):
        texts[name] = "".join(keyword.doc for keyword in keywords.values())
    lines = (cls.__doc__ or "").splitlines(keepends=True)
    cls.__doc__ = "".join(_expanded(line, texts) for line in lines) or None


def _expanded(line: str, texts: Mapping[str, str]) -> str:
    text = texts.get(line.strip().partition(": ")[0])
    if text is None:
        return line
    indent = line[: len(line) - len(line.lstrip())]
    return "".join(indent + part for part in text.splitlines(keepends=True))


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
