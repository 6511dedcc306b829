"""The tables of docs/claims.md, made from benchmarks/claims/results.jsonl.

python benchmarks/claims/figures.py            # print them
python benchmarks/claims/figures.py --write    # put them into docs/claims.md, behind its heading Figures
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results.jsonl")
PAGE = Path(__file__).parents[2] / "docs" / "claims.md"
HEADING = "## Figures\n"
BY_LOSS = ("regression", "text-lstm")  # folders judged by the loss on the test data
RELEASED = "LABPAL as released"
Row = dict[str, Any]


def main() -> None:
    """Print, or write into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    tables = text_of(read(RESULTS))
    if not parser.parse_args().write:
        print(tables)
        return
    before = PAGE.read_text(encoding="utf-8").partition(HEADING)[0]
    PAGE.write_text(f"{before}{HEADING}\n{tables}", encoding="utf-8")


def read(path: Path) -> dict[str, list[Row]]:
    """The lines of the results, by recipe."""
    found: dict[str, list[Row]] = defaultdict(list)
    for text in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(text)
        found[row["recipe"]].append(row)
    return found


def text_of(found: dict[str, list[Row]]) -> str:
    """All tables, in the order in which the recipes were run."""
    parts = []
    for recipe, rows in found.items():
        parts.append(f"`{recipe}`\n")
        for kind, table in (("findings", of_lines), ("suggestions", of_rates), ("cell", of_cells)):
            of_kind = sorted((r for r in rows if kind in r), key=lambda r: r["seed"])
            if of_kind:
                parts.append(table(recipe, of_kind))
    return "\n".join(parts)


def of_cells(recipe: str, rows: list[Row]) -> str:
    """A line for each cell of a grid: every seed, mean and deviation."""
    loss = recipe.startswith(BY_LOSS)
    cells: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        bad = row["end"] != "finished" or row["accuracy" if not loss else "loss"] is None
        value = math.nan if bad else row["loss"] if loss else 100.0 * row["accuracy"]
        cells[RELEASED if "fit=released" in row["cell"] else row["cell"]].append(value)
    digits = 3 if loss else 1
    lines = [
        [cell, ", ".join(shown(v, digits) for v in values), with_spread(values, digits)]
        for cell, values in cells.items()
    ]
    return table(("cell", "test loss" if loss else "test accuracy, %", "mean ± sd (n)"), lines)


def shown(value: float, digits: int) -> str:
    """A figure, or that there is none."""
    return "diverged" if math.isnan(value) else f"{value:.{digits}f}"


def with_spread(values: Sequence[float], digits: int) -> str:
    """Mean, sample deviation and number; none where a run diverged."""
    if any(map(math.isnan, values)):
        return f"none ({len(values)})"
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return f"{statistics.fmean(values):.{digits}f} ± {deviation:.{digits}f} ({len(values)})"


def of_rates(recipe: str, rows: list[Row]) -> str:
    """What each rule of the range test said with each seed."""
    said: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        for test, rules in row["suggestions"].items():
            for rule, rate in rules.items():
                said[f"{test}, {rule}"].append("none" if rate is None else f"{rate:.3g}")
    return table(("range test, rule", "rate"), [[k, ", ".join(v)] for k, v in said.items()])


def of_lines(recipe: str, rows: list[Row]) -> str:
    """The measures of the lines, one column a seed."""
    measures: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        for name, value in _measures(row["findings"]):
            measures[name].append(value)
    heads = ("measure", *(f"seed {row['seed']}" for row in rows))
    return table(heads, [[name, *values] for name, values in measures.items()])


def _measures(found: Row) -> Iterable[tuple[str, str]]:
    yield "lines (minimum inside)", f"{found['lines']} ({found['minimum_inside']})"
    yield "convex lines, %", _number(found["convex_share"], 100.0)
    for degree, error in found["fit_errors"].items():
        yield f"error of the fit, {degree}", _number(error["median"])
    yield "parabola's error over the range, %", _spread(found["parabola_error_over_range"], 100.0)
    near = found["near"]
    yield "as far as 4 minima: convex lines, %", _number(near["convex_share"], 100.0)
    yield (
        "the same: parabola's error over the range, %",
        _number(near["parabola_error_over_range"], 100.0),
    )
    yield (
        "the same: the straight line's error over the parabola's",
        _number(near["straight_over_parabola"]),
    )
    yield "distance of the minimum", _spread(found["minimum_length"])
    yield "rate nearest to all minima", _number(found["tuned_rate"])
    for name, row in found["methods"].items():
        if name != "minimum":
            yield f"{name}: share of the possible fall, %", _number(row["gain_over_possible"], 100)
    for name in ("proportionality", "proportionality_all_batch_sizes"):
        if found[name]:
            size = " (all batch sizes)" if "all" in name else ""
            one = found[name]
            yield f"distance and norm, correlation{size}", _number(one["correlation"])
            spreads = f"{_number(one['ratio_spread'])}, {_number(one['step_spread'])}"
            yield f"spread of ratio, of distance{size}", spreads
    for row in found["batch_sizes"] or []:
        yield f"optimal rate, batches of {row['batch_size']}", _number(row["optimal_rate"])


def _number(value: float | None, factor: float = 1.0) -> str:
    return "none" if value is None else f"{factor * value:.3g}"


def _spread(value: Row, factor: float = 1.0) -> str:
    low, high = _number(value["low"], factor), _number(value["high"], factor)
    return f"{_number(value['median'], factor)} ({low} to {high})"


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = [heads, ["---"] * len(heads), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    main()
