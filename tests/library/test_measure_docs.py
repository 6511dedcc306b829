"""The code in the pages on line searches and line analysis runs, and says what it says it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

DOCS = Path(__file__).parents[2] / "docs"


def run(page: str, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) >= 2
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    return names, capsys.readouterr().out


def test_line_searches(capsys: pytest.CaptureFixture[str]) -> None:
    names, out = run("line-searches.md", capsys)
    assert names["optimizer"].cost.forwards == 1 + 1 + 4 * 3
    assert "14" in out.splitlines()[-1]


def test_line_analysis(capsys: pytest.CaptureFixture[str]) -> None:
    names, out = run("line-analysis.md", capsys)
    assert len(names["records"].read()) == 4
    assert "LineMinimum" in out


@pytest.mark.parametrize("page", ["line-searches.md", "line-analysis.md"])
def test_pictures_exist(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    for image in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        assert (DOCS / image).is_file(), image


def test_every_optimizer_and_search_has_its_row() -> None:
    import surefoot.searches

    text = (DOCS / "line-searches.md").read_text(encoding="utf-8")
    for name in surefoot.searches.__all__:
        assert name in text, name
