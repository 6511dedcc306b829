"""Every Python block of the docs runs, page by page, but for those that other tests look at."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

pytest.importorskip("pandas")

ROOT = Path(__file__).parents[2]
ELSEWHERE = {"measured-lr.md", "line-searches.md", "line-analysis.md"}
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")]
    if page.name not in ELSEWHERE and "```python" in page.read_text(encoding="utf-8")
)
_BLOCK = re.compile(r"(?:<!-- run first\n(.*?)-->)|(?:^```python\n(.*?)^```)", re.S | re.M)


@pytest.mark.filterwarnings("ignore:most of the last", "ignore:the run goes on")  # toys
@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {"__name__": "page"}
    for hidden, block in _BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        exec(compile(hidden or block, page, "exec"), scope)
    if page == "docs/tutorial.md":
        assert scope["accuracy"] > 0.9
    pyplot.close("all")
    os.chdir(ROOT)


def test_pages_with_blocks_were_found() -> None:
    assert {"docs/tutorial.md", "docs/range-test.md", "docs/index.md", "docs/lab.md"} <= set(PAGES)
