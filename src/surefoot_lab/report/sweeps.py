"""The sections of the page that look across seeds, grids and experiments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surefoot_lab.compare.milestones import common_target, milestones
from surefoot_lab.compare.robustness import Robustness, heat_map, robustness
from surefoot_lab.compare.summary import MethodSummary
from surefoot_lab.compare.text import short

if TYPE_CHECKING:
    from surefoot_lab.records import RunRecord


@dataclass(frozen=True)
class Map:
    """A heat map: the accuracy of each pair of settings, and how dark its place is."""

    method: str
    across: str
    down: str | None
    columns: list[str]
    rows: list[tuple[str, list[tuple[str, int] | None]]]
    best_of: bool


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
    places = heat_map(grid, "test_accuracy", across, down or "")
    values = [place["value"] for place in places]
    low, span = min(values), (max(values) - min(values)) or 1.0
    columns = list(dict.fromkeys(place["column"] for place in places))
    found = {(p["row"], p["column"]): p["value"] for p in places}
    rows: list[tuple[str, list[tuple[str, int] | None]]] = []
    for row in _in_order(dict.fromkeys(place["row"] for place in places)):
        cells = [found.get((row, column)) for column in _in_order(columns)]
        shown = [
            None if v is None else (f"{100 * v:.1f}", round(8 + 62 * (v - low) / span))
            for v in cells
        ]
        rows.append((row if down else "", shown))
    heads = short(across), down and short(down)
    return Map(grid.method, *heads, _in_order(columns), rows, len(others) > 1)


def _in_order(words: Any) -> list[str]:
    """Numbers by size, anything else as it came."""
    as_they_came = [str(word) for word in words]
    try:
        return sorted(as_they_came, key=float)
    except ValueError:
        return as_they_came
