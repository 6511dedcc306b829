"""The sections of the page that look across seeds, grids and experiments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surefoot_lab.compare.intervals import Interval
from surefoot_lab.compare.milestones import FACTORS, common_target, milestones, profiles_over_names
from surefoot_lab.compare.robustness import Robustness, heat_map, robustness
from surefoot_lab.compare.summary import MethodSummary
from surefoot_lab.compare.text import LEVEL, NOTHING, number, percent, seconds

if TYPE_CHECKING:
    from surefoot_lab.records import RunRecord

FIGURES = (("step", "Batches"), ("cost", "Forward-equivalents"))


@dataclass(frozen=True)
class Map:
    """A heat map: the accuracy of each pair of settings, and how dark its place is."""

    method: str
    across: str
    down: str | None
    columns: list[str]
    rows: list[tuple[str, list[tuple[str, int] | None]]]
    best_of: bool


def across_context(
    runs: Sequence[RunRecord], methods: Sequence[MethodSummary], *, end: str = ""
) -> dict[str, Any]:
    """What the template `across.html` shows; every part may be empty.

    Args:
        runs: of one task; of all of them where no `methods` are given.
        methods: those of the task; none for what looks across tasks.
        end: what the ids of elements end with.
    """
    if not methods:
        return {**_WORDS, "milestones": [], "grids": [], "profiles": profiles_over_names(runs)}
    target = common_target(methods)
    rows = [] if target is None else milestones(runs, methods, target)
    grids = [grid for grid in robustness(runs) if len(grid.cells) > 1]
    return {
        **_WORDS,
        "end": end,
        "target": target,
        "milestones": rows,
        "figures": FIGURES,
        "grids": grids,
        "maps": [_map(grid) for grid in grids if grid.keys],
        "profiles": {},
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
    heads = _short(across), down and _short(down)
    return Map(grid.method, *heads, _in_order(columns), rows, len(others) > 1)


def _short(key: str) -> str:
    return key.replace(".init_args", "").removesuffix(".class_path")


def _in_order(words: Any) -> list[str]:
    """Numbers by size, anything else as it came."""
    as_they_came = [str(word) for word in words]
    try:
        return sorted(as_they_came, key=float)
    except ValueError:
        return as_they_came


def _share(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f} %"


def _difference(found: Interval | None) -> str:
    """`−1.2 (−2.0 to −0.4)`, in points."""
    if found is None:
        return NOTHING
    text = f"{100 * found.mean:+.1f}"
    if found.low is not None and found.high is not None:
        low, high = f"{100 * found.low:+.1f}", f"{100 * found.high:+.1f}"
        text += f" ({low} to {high})" if low != high else ""  # an interval of no width says nothing
        text = text if found.excludes_zero else f"{LEVEL} {text}"
    return text.replace("-", "−")


_WORDS: dict[str, Any] = {
    "factors": FACTORS,
    "percent": percent,
    "number": number,
    "seconds": seconds,
    "share": _share,
    "difference": _difference,
    "nothing": NOTHING,
    "level": LEVEL,
    "end": "",
}
