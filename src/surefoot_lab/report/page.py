"""Put the page together: figures, curves, specifications and scripts into one file."""

from __future__ import annotations

import base64
import functools
import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vl_convert

from surefoot_lab.compare import advise, summarize
from surefoot_lab.compare.columns import method_columns, run_columns
from surefoot_lab.compare.curves import curve, mean_band
from surefoot_lab.compare.milestones import common_target, milestones
from surefoot_lab.compare.robustness import Robustness, robustness
from surefoot_lab.compare.settings import environments, settings
from surefoot_lab.compare.summary import MethodSummary, State
from surefoot_lab.compare.text import NOTHING, short
from surefoot_lab.report.charts import COLOURS, CROWDED, CURVE_CHARTS, DASHES, curve_spec
from surefoot_lab.report.files import asset, render
from surefoot_lab.text_files import write_whole

if TYPE_CHECKING:
    from surefoot_lab.records import RunRecord

POINTS_PER_PAGE = 12_000  # of one chart's curves together: keeps 50 runs far below 5 MB
POINTS_PER_CURVE = 200
NODE_LETTERS = 8  # of the 56 that name a node of a cluster
BROKEN = (State.NON_FINITE, State.INTERRUPTED, State.FAILED, State.STOPPED)


def write_report(runs: Sequence[RunRecord], path: str | Path, *, title: str | None = None) -> Path:
    """Write one HTML file that holds the whole comparison and needs no network.

    Args:
        runs: the records to compare; runs with the same label are seeds of one method.
        path: the file to write; it appears whole or not at all.
        title: heading of the page; by default the names of the experiments.

    Returns:
        The path written.

    Raises:
        ValueError: there is no run.
        OSError: the file cannot be written.
    """
    return write_whole(Path(path), render_report(runs, title=title))


def render_report(runs: Sequence[RunRecord], *, title: str | None = None) -> str:
    """The page as a string."""
    if not runs:
        raise ValueError("a report needs at least one run")
    groups = apart(runs)
    named = len(groups) > 1
    tasks = [_task(own, f"-{i}" if i else "", named) for i, own in enumerate(groups)]
    every = [run for task in tasks for method in task["methods"] for run in method.runs]
    scripts = {"vega": _vega(), "page": "\n".join(map(asset, ("table.js", "embed.js")))}
    problems = [(run.path.name, str(run.path), text) for run in runs for text in run.problems]
    return render(
        "template.html",
        title=title or " · ".join(list(dict.fromkeys(r.name for r in runs if r.name))[:3]),
        hashes=_hashes(scripts.values()),
        scripts=scripts,
        specs={key: spec for task in tasks for key, spec in task["specs"].items()},
        tasks=tasks,
        mixed=named,
        broken=any(method.failures for task in tasks for method in task["methods"]),
        crowded=any(len(task["methods"]) > CROWDED for task in tasks),
        runs=every,
        swatches=[_swatch(i) for i in range(max(len(task["methods"]) for task in tasks))],
        run_columns=run_columns(every),
        where=environments(runs),
        nodes=_nodes(runs),
        problems=problems,
        warned=_warned(runs),
    )


def apart(runs: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """The runs of each task and budget: the same name, and about as many epochs.

    A tenth more or less is the same budget, as where a range test takes its share.
    """
    found: list[list[RunRecord]] = []
    for run in sorted(runs, key=lambda run: _epochs(run), reverse=True):
        for own in found:
            if own[0].name == run.name and _epochs(run) >= 0.9 * _epochs(own[0]):
                own.append(run)
                break
        else:
            found.append([run])
    order = {str(run.path): i for i, run in enumerate(runs)}
    groups = [sorted(own, key=lambda run: order[str(run.path)]) for own in found]
    return sorted(groups, key=lambda own: order[str(own[0].path)])


def _epochs(run: RunRecord) -> float:
    """What the experiment says; 0 where it says nothing that can be compared."""
    for key in ("epochs", "steps"):
        value = run.experiment.get(key)
        if isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    return 0.0


def _task(runs: Sequence[RunRecord], end: str, named: bool) -> dict[str, Any]:
    """What the page shows of runs that may be compared: of one task, and of one budget.

    Args:
        runs: all of them.
        end: what the ids of its elements end with.
        named: whether there are several, which are told apart by headings.
    """
    methods = summarize(runs)
    columns = method_columns(methods)
    points = {chart: _rows(runs, methods, chart.key) for chart in CURVE_CHARTS}
    charts = [chart for chart, rows in points.items() if rows]
    specs = {c.key + end: curve_spec(c, methods, points[c], f"c{end}") for c in charts}
    return {
        "name": f"{runs[0].name or 'unnamed'}, {_epochs(runs[0]):g} epochs" if named else "",
        "end": end,
        "methods": methods,  # the best first
        "advice": advise(runs, methods),
        "columns": columns,
        "any_level": any(cell.is_level for c in columns for cell in c.cells.values()),
        "charts": charts,
        "specs": specs,
        "settings": settings(runs),
        **_across(runs, methods),
    }


def _rows(
    runs: Sequence[RunRecord], methods: list[MethodSummary], key: str
) -> list[dict[str, Any]]:
    """Points of all runs' curves and of their means."""
    limit = max(60, min(POINTS_PER_CURVE, POINTS_PER_PAGE // len(runs)))
    broken = {r.path: r.state.value for m in methods for r in m.runs if r.state in BROKEN}
    rows: list[dict[str, Any]] = []
    for index, method in enumerate(methods):
        curves = []
        for number, run in enumerate(runs):
            if run.label != method.label or not len(found := curve(run, key, limit=limit)):
                continue
            curves.append(found)
            rows += found.assign(rank=index, run=number, seed=run.seed).to_dict("records")
            if str(run.path) in broken:
                rows[-1]["broken"] = broken[str(run.path)]
        if (band := mean_band(curves)) is not None:
            rows += band.assign(rank=index).to_dict("records")
    return rows


def _across(runs: Sequence[RunRecord], methods: Sequence[MethodSummary]) -> dict[str, Any]:
    """What `across.html` shows of the runs of one task, besides their methods; all may be empty."""
    target = common_target(methods)
    grids = [grid for grid in robustness(runs) if len(grid.cells) > 1]
    return {
        "target": target,
        "milestones": [] if target is None else milestones(runs, methods, target),
        "grids": grids,
        "maps": [_map(grid) for grid in grids if grid.keys],
    }


def _map(grid: Robustness) -> dict[str, Any]:
    """Test accuracy over the first two settings that vary, the best over the others; `heat` says
    how dark each place is, in percent.
    """
    across, *others = grid.keys
    values = grid.heat_map(across, others[0] if others else "")
    low, high = values.min(axis=None), values.max(axis=None)
    return {
        **{"method": grid.method, "across": short(across), "best_of": len(others) > 1},
        **{"down": short(others[0]) if others else "", "accuracy": values},
        "heat": 8 + 62 * (values - low) / ((high - low) or 1.0),
    }


def _nodes(runs: Sequence[RunRecord]) -> dict[str, str]:
    """Where each run was, by path; empty where all were on one machine."""
    nodes = {}
    for run in runs:
        parts = [str(run.node.get("host", "")), str(run.node.get("ray", ""))[:NODE_LETTERS]]
        nodes[str(run.path)] = " ".join(part for part in parts if part) or NOTHING
    return nodes if len(set(nodes.values())) > 1 else {}


def _warned(runs: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """Each message once, and whose runs it came from, how many, and from which step on."""
    said: dict[str, dict[Path, tuple[str, int]]] = {}
    for run in runs:
        for warning in run.warnings:
            whose = said.setdefault(warning["message"], {})
            whose.setdefault(run.path, (run.label, warning["step"] + 1))
    found = []
    for message, whose in said.items():
        labels = dict.fromkeys(label for label, _ in whose.values())
        count = "1 run" if len(whose) == 1 else f"{len(whose)} runs"
        first = min(step for _, step in whose.values())
        found.append((message, f"{count}, step {first} at the earliest: {', '.join(labels)}"))
    return found


def _swatch(index: int) -> dict[str, str]:
    dash = DASHES[(index // COLOURS) % len(DASHES)]
    return {"colour": f"c{index % COLOURS}", "dash": " ".join(map(str, dash))}


def _hashes(scripts: Iterable[str]) -> str:
    """Which scripts may run, whatever a name in a record holds: these alone."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


@functools.cache
def _vega() -> str:
    """Vega, Vega-Lite and vega-embed in one script, made without a network."""
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")).replace(
        "</script", "<\\/script"
    )
