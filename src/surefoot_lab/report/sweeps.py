"""The sections of the page that look across seeds, grids and experiments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surefoot_lab.compare.milestones import common_target, milestones
from surefoot_lab.compare.robustness import Robustness, robustness
from surefoot_lab.compare.summary import MethodSummary
from surefoot_lab.compare.text import short

if TYPE_CHECKING:
    from surefoot_lab.records import RunRecord


@dataclass(frozen=True)
class Map:
    """A heat map: the accuracy of each pair of settings, which decides how dark its place is."""

    method: str
    across: str
    down: str | None
    values: Any
    best_of: bool

    def heat(self, value: float) -> int:
        """How dark, in percent."""
        low, high = float(self.values.min(axis=None)), float(self.values.max(axis=None))
        return round(8 + 62 * (value - low) / ((high - low) or 1.0))


def across(runs: Sequence[RunRecord], methods: Sequence[MethodSummary]) -> dict[str, Any]:
    """What `across.html` shows of the runs of one task, besides their methods; all may be empty."""
    target = common_target(methods)
    grids = [grid for grid in robustness(runs) if len(grid.cells) > 1]
    return {
        "target": target,
        "milestones": [] if target is None else milestones(runs, methods, target),
        "grids": grids,
        "maps": [_map(grid) for grid in grids if grid.keys],
    }


def _map(grid: Robustness) -> Map:
    """The first two settings that vary; over the others, the best."""
    across, *others = grid.keys
    down = others[0] if others else None
    values = grid.heat_map(across, down or "")
    return Map(grid.method, short(across), down and short(down), values, len(others) > 1)
