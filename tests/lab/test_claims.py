"""The page of the papers' claims says what was measured."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    """The command that makes the tables."""
    spec = importlib.util.spec_from_file_location(
        "claims_figures", ROOT / "benchmarks" / "claims" / "figures.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_results(figures: ModuleType) -> None:
    _, _, tables = PAGE.partition(f"{figures.HEADING}\n")
    assert tables == figures.text_of(figures.read(figures.RESULTS))


def test_every_recipe_of_the_results_is_there_and_has_three_seeds(figures: ModuleType) -> None:
    for recipe, rows in figures.read(figures.RESULTS).items():
        assert (ROOT / "experiments" / f"{recipe}.yaml").is_file()
        cells: dict[str, set[int]] = {}
        for row in rows:
            cells.setdefault(row.get("cell", ""), set()).add(row["seed"])
        assert set(map(frozenset, cells.values())) == {frozenset({0, 1, 2})}, recipe


def test_each_of_the_fourteen_claims_has_a_verdict() -> None:
    verdicts = PAGE.partition("## Verdicts\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d+) .*\| (?:\*\*)?(holds|in part|not)\b", verdicts, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 15))
