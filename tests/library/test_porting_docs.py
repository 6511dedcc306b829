"""Every diff of README and docs runs, before and after, and what is wrapped has measured."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import surefoot

DOCS = Path(__file__).parents[2] / "docs"
PAGES = (DOCS.parent / "README.md", DOCS / "porting.md")
_BLOCK = re.compile(
    r"^#+ (?P<title>.*?)$"
    r"|<!-- run first, before every block\n(?P<always>.*?)-->"
    r"|<!-- run first\n(?P<first>.*?)-->"
    r"|```diff\n(?P<diff>.*?)```",
    re.DOTALL | re.MULTILINE,
)


def blocks() -> Iterator[Any]:
    """Title, what runs before, and the lines of each diff."""
    for page in PAGES:
        always = first = title = ""
        for match in _BLOCK.finditer(page.read_text(encoding="utf-8")):
            title, always = match["title"] or title, match["always"] or always
            first = match["first"] or first
            if match["diff"]:
                yield pytest.param(always + first, match["diff"], id=title)
                first = ""


def side(diff: str, sign: str) -> str:
    """The script before (``-``) or after (``+``)."""
    lines = diff.splitlines()
    assert all(line[:1] in (" ", "+", "-") for line in lines), (
        "a line of a diff begins with its sign"
    )
    return "\n".join(line[1:] for line in lines if line[0] in (" ", sign))


@pytest.fixture
def wrapped(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[surefoot.MeasuredLR]]:
    made: list[surefoot.MeasuredLR] = []
    attach = surefoot.MeasuredLR.__init__

    def init(self: surefoot.MeasuredLR, *args: Any, **kwargs: Any) -> None:
        attach(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(surefoot.MeasuredLR, "__init__", init)
    monkeypatch.setattr(torch, "compile", torch.compile)  # what a block changes is put back
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    yield made
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("sign", ["-", "+"])
@pytest.mark.parametrize(("first", "diff"), list(blocks()))
def test_a_diff_runs(first: str, diff: str, sign: str, wrapped: list[surefoot.MeasuredLR]) -> None:
    for name in re.findall(r"\bsurefoot\.(\w+)", diff):
        if not hasattr(surefoot, name):
            pytest.skip(f"surefoot.{name} is yet to come")
    for package in ("transformers", "peft", "lightning", "accelerate"):
        if package in first + diff:
            pytest.importorskip(package)
    scope: dict[str, Any] = {"__name__": "porting"}
    exec(compile(first, "run first", "exec"), scope)
    exec(compile(side(diff, sign), "a diff of the docs", "exec"), scope)
    if sign == "-":
        assert not wrapped
    else:
        assert wrapped
        for optimizer in wrapped:
            assert optimizer.rate.n >= 1, optimizer.rate
            assert optimizer.param_groups[0]["effective_lr"] > 0.0


@pytest.mark.filterwarnings("ignore:most of the last", "ignore:the run goes on")  # a toy
def test_the_page_on_the_measured_rate(wrapped: list[surefoot.MeasuredLR]) -> None:
    text = (DOCS / "measured-lr.md").read_text(encoding="utf-8")
    scope: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "measured-lr.md", "exec"), scope)
    (optimizer,) = wrapped
    assert optimizer.rate.n >= 1
    assert optimizer.cost.forward_equivalents <= 1.03 * 3 * 301 + 24
    assert scope["loss"] < 0.1
