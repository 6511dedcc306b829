"""What only forwards to the wrapped optimizer."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from surefoot._numbers import check_number

__all__ = ["Wrapper"]


class Wrapper(Optimizer):
    """An optimizer whose groups, state and everything else are another one's.

    Args:
        optimizer: the other one.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        # torch's own __init__ would make groups of its own
        self._base = optimizer

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_base":
            raise AttributeError(name)
        return getattr(self._base, name)

    @property
    def optimizer(self) -> Optimizer:
        """The wrapped optimizer."""
        return self._base

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The wrapped optimizer's groups themselves."""
        return self._base.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The wrapped optimizer's state itself."""
        return self._base.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The wrapped optimizer's defaults."""
        return self._base.defaults

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As the wrapped optimizer's."""
        self._base.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As the wrapped optimizer's. The new ``lr`` is in the same unit as the others."""
        if "lr" in param_group:
            check_number("lr", param_group["lr"], at_least=0.0)
        self._base.add_param_group(param_group)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._base!r})"
