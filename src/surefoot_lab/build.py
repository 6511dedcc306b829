"""Make objects from a class path and arguments, with errors of one line."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, cast

from surefoot_lab.errors import UserError, did_you_mean, named, one_line
from surefoot_lab.values import shown


def find(
    class_path: str, modules: Sequence[str], what: str, base: type = object
) -> Callable[..., Any]:
    """Find a class or function.

    Args:
        class_path: an import path (`torch.optim.SGD`), or a bare name that is looked up in
            `modules`.
        modules: import paths of the modules that bare names are looked up in, in order.
        what: the setting, for the error message.
        base: only its subclasses are proposed instead of a name that is not there.

    Returns:
        The class or function.

    Raises:
        UserError: there is no such module or name.
    """
    module_path, _, name = class_path.rpartition(".")
    if module_path:
        return _from_module(module_path, name, what, base)
    known: list[str] = []
    for path in modules:
        module = importlib.import_module(path)
        found = getattr(module, name, None)
        if callable(found):
            return cast(Callable[..., Any], found)
        known += _public_classes(module, base)
    raise UserError(f"{what}: no {name!r} in {' or '.join(modules)}; {did_you_mean(name, known)}")


def call(
    function: Callable[..., Any], positional: Sequence[Any], init_args: Mapping[str, Any], what: str
) -> Any:
    """Call a class or function; what it says about its arguments becomes one line.

    Raises:
        UserError: an argument is unknown, missing, of the wrong type or out of range.
    """
    check_arguments(function, init_args, what, len(positional))
    for name in argument_names(function, required=True)[len(positional) :]:
        if name not in init_args:
            raise UserError(f"{what}.init_args.{name}: {_name(function)} needs it; give it a value")
    try:
        return function(*positional, **init_args)
    except UserError:
        raise
    except Exception as error:  # whoever wrote it may raise anything
        doubtful = [f"{k} is {_kind(v)}" for k, v in init_args.items() if _is_doubtful(v, error)]
        hint = f" ({', '.join(doubtful)})" if doubtful else ""
        raise UserError(f"{what}: {_name(function)}: {one_line(error)}{hint}") from error


def check_arguments(
    function: Callable[..., Any], init_args: Mapping[str, Any], what: str, positional: int
) -> None:
    """Refuse arguments that a class or function does not take after so many positional ones.

    Raises:
        UserError: names the first, and what was probably meant.
    """
    names = argument_names(function)
    former = getattr(getattr(function, "__init__", None), "former_names", ())
    takes_any = any(p.kind is p.VAR_KEYWORD for p in _parameters(function))
    for name in init_args:
        if name not in names and name not in former and not takes_any:
            raise UserError(
                f"{what}.init_args.{name}: {_name(function)} has no such argument; "
                f"{did_you_mean(name, names[positional:])}"
            )
    defaults = {p.name: p.default for p in _parameters(function)}
    for name, value in init_args.items():
        if isinstance(value, bool) and type(defaults.get(name)) in (int, float):
            raise UserError(
                f"{what}.init_args.{name}: {_name(function)} takes a number, not {shown(value)}"
            )


def argument_names(function: Callable[..., Any], *, required: bool = False) -> list[str]:
    """Names of the arguments a class or function takes by keyword, or must be given."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = [p for p in _parameters(function) if p.kind in kinds]
    return [p.name for p in named if not (required and p.default is not p.empty)]


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except ValueError:  # some built-in classes tell nothing about themselves
        return [inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)]


def _from_module(module_path: str, name: str, what: str, base: type) -> Callable[..., Any]:
    importlib.invalidate_caches()  # a file may have been written a moment ago
    try:
        module = importlib.import_module(module_path)
    except ImportError as error:
        raise UserError(
            f"{what}: cannot import {module_path} ({error}); "
            "is the package installed, and is the path spelled right?"
        ) from None
    except Exception as error:  # a module of one's own may raise anything
        raise UserError(f"{what}: cannot import {module_path} ({named(error)})") from error
    found = getattr(module, name, None)
    if not callable(found):
        known = _public_classes(module, base)
        raise UserError(f"{what}: {module_path} has no {name!r}; {did_you_mean(name, known)}")
    return cast(Callable[..., Any], found)


def _is_doubtful(value: Any, error: Exception) -> bool:
    """Whether an argument may be to blame: its type is complained of, or it is a text of digits."""
    if isinstance(error, TypeError | AttributeError):
        kind = type(value).__name__
        if kind in ("NoneType", "str", "list", "int", "float") and re.search(
            rf"\b{kind}\b", str(error)
        ):
            return True
    return isinstance(value, str) and any(letter.isdigit() for letter in value)


def _kind(value: Any) -> str:
    return f"the text {value!r}" if isinstance(value, str) else shown(value)


def _public_classes(module: ModuleType, base: type) -> list[str]:
    return [
        name
        for name, value in inspect.getmembers(module, inspect.isclass)
        if not name.startswith("_") and issubclass(value, base) and value is not base
    ]


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", str(function))
