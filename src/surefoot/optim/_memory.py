"""What a line search remembers from step to step, and how a checkpoint tells whose it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from surefoot._plain import first_group_of, unknown_in
from surefoot.outcome import Cost

STATE = "line_search"
"""The key in the first group of a checkpoint under which :class:`Memory` lies."""


@dataclass
class Memory:
    """What a line search remembers from step to step; every checkpoint keeps it.

    Args:
        steps: ``step`` calls so far.
        cost: passes spent.
        closure_calls_backward: whether the closure computes gradients; None until it was seen.
        closure_needs_graph: whether its loss differentiates inside.
        is_repeatable: whether the closure was seen to give the same loss twice.
        weights_norm: the smallest norm so far of the weights that move.
    """

    steps: int = 0
    cost: Cost = field(default_factory=Cost)
    closure_calls_backward: bool | None = None
    closure_needs_graph: bool = False
    is_repeatable: bool = False
    weights_norm: float | None = None


def check_kind(name: str, state_dict: dict[str, Any], key: str, memory: Memory) -> None:
    """Refuse a checkpoint of another optimizer, which would be noticed at a later step only."""
    first = first_group_of(state_dict)
    if key not in first and "loss_precision" not in first:
        raise ValueError(f"the checkpoint is no line search's, so {name} cannot go on from it")
    if strange := unknown_in(first.get(key) or {}, memory):
        raise ValueError(
            f"the checkpoint is of another line search than {name}, which knows no "
            f"{', '.join(strange)}"
        )
