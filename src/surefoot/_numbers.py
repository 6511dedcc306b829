"""Numbers that come from outside: Python's, NumPy's or a tensor's, checked in one place."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor


def plain(value: Any, *, tensors: bool = False) -> Any:
    """A NumPy scalar as the Python number it is, inside lists and tuples as well.

    Args:
        value: of any type; what is no scalar comes back as it is.
        tensors: whether those of one number are taken for scalars, too.
    """
    if isinstance(value, (list, tuple)):
        return type(value)(plain(v, tensors=tensors) for v in value)
    is_scalar = hasattr(value, "item") and getattr(value, "ndim", 1) == 0
    return value.item() if is_scalar and (tensors or not isinstance(value, Tensor)) else value


def whole(value: Any) -> int | None:
    """The whole number ``value``, of whatever type; None where it is none."""
    if isinstance(plain(value), bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def sequence(value: Any) -> list[Any] | None:
    """The entries of a list, a tuple or a one-dimensional array; None for anything else."""
    if isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 1:
        return list(value)
    return None


def kind_of(value: Any) -> str:
    """What somebody gave, for an error message."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def check_number(name: str, value: Any, *, at_least: float, above: bool = False) -> float:
    """The number ``value``, of whatever type; else a one-line error that names the culprit."""
    value = float(value) if isinstance(value, Tensor) else plain(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value) or value < at_least or (above and value == at_least):
        bound = f"greater than {at_least:g}" if above else f"{at_least:g} or more"
        raise ValueError(f"{name} must be finite and {bound}, got {value!r}")
    return float(value)


def check_positive(owner: Any, *names: str) -> None:
    """Raise unless these attributes are finite numbers above 0."""
    for name in names:
        check_number(name, getattr(owner, name), at_least=0.0, above=True)


def check_rates(groups: Iterable[Mapping[str, Any]]) -> None:
    """Raise where a schedule, or somebody, left an ``lr`` that no step can be made with.

    Tensors are taken as they are: looking at one waits for its device. A schedule that ends at 0
    may end a rounding error below it.
    """
    for group in groups:
        lr = group["lr"]
        if isinstance(lr, Tensor) or (isinstance(lr, float) and -1e-9 < lr < math.inf):
            continue
        check_number("lr of a group", lr, at_least=0.0)


def check_flag(name: str, value: Any) -> None:
    """Raise unless ``value`` is True or False: any text would count as true."""
    if not isinstance(plain(value, tensors=True), bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise unless ``value`` is one of several words."""
    if value not in choices:
        *others, last = (f'"{choice}"' for choice in choices)
        raise ValueError(f"{name} must be {', '.join(others)} or {last}, got {value!r}")


def check_callable(name: str, value: Any) -> None:
    """Raise unless ``value`` is None or can be called; a class is most often one to be made."""
    if isinstance(value, type):
        raise TypeError(f"{name} is the class {value.__name__}: make one, {value.__name__}(...)")
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a function, got {type(value).__name__}")


def check_share(name: str, value: Any) -> None:
    """Raise unless ``value`` is at least 0 and below 1."""
    check_number(name, value, at_least=0.0)
    if value >= 1.0:
        raise ValueError(f"{name} must be below 1, got {value!r}")


def check_count(name: str, value: Any, *, at_least: int = 1) -> int:
    """The whole number ``value``, of whatever type; raise unless it is ``at_least`` so large."""
    count = whole(value)
    if count is None:
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if count < at_least:
        raise ValueError(f"{name} must be {at_least} or more, got {count!r}")
    return count
