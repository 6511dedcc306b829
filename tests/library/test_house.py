"""The house itself: what the library imports, what it exports, what its files say."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import surefoot

ROOT = Path(__file__).parents[2]

ONLY_TORCH = """
import sys
import torch

class Refuse:
    # torch imports packages of its own when it needs them; what the library asks for is judged
    def find_spec(self, name, path=None, target=None):
        frame = sys._getframe(1)
        while frame.f_globals.get("__name__", "").startswith(("importlib", "_frozen")):
            frame = frame.f_back
        asks = frame.f_globals.get("__name__", "").split(".")[0]
        allowed = sys.stdlib_module_names | {"torch", "surefoot"}
        if asks == "surefoot" and name.split(".")[0] not in allowed:
            raise ImportError(f"the library imported {name}")

sys.meta_path.insert(0, Refuse())
import surefoot
model = torch.nn.Linear(2, 1)
for optimizer in (surefoot.PAL(model), surefoot.LABPAL(model)):
    optimizer.step(lambda: model(torch.ones(4, 2)).square().mean())
"""


@pytest.fixture(scope="module")
def guarded() -> subprocess.CompletedProcess[str]:
    """Everything with torch alone; then, in the same process, an import that is forbidden."""
    guilty = "\nprint('works')\nexec('import yaml', {'__name__': 'surefoot.guilty'})\n"
    return subprocess.run(
        [sys.executable, "-c", ONLY_TORCH + guilty], capture_output=True, text=True, timeout=300
    )


def test_the_library_works_where_only_torch_is_installed(guarded: Any) -> None:
    assert guarded.stdout == "works\n", guarded.stderr


@pytest.mark.parametrize("name", surefoot.__all__)
def test_public_names_are_documented(name: str) -> None:
    assert (inspect.getdoc(getattr(surefoot, name)) or "").strip()


def modules() -> list[str]:
    return [m.name for m in pkgutil.walk_packages(surefoot.__path__, "surefoot.")]


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings_print_what_they_say(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_version_is_the_same_everywhere() -> None:
    citation = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    changes = re.search(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert citation is not None
    assert project is not None
    assert changes is not None
    assert surefoot.__version__ == citation[1] == project[1] == changes[1]


def test_only_params_writes_parameters() -> None:
    """One file moves weights: in-place arithmetic on tensors appears nowhere else in the core."""
    writers = re.compile(r"_foreach_(?!norm)\w+_\(|\.(add|sub|mul|copy|lerp)_\(|(?<!utils)\.data\b")
    allowed = {"_params.py", "_quiet.py", "_no_trace.py"}
    core = [p for p in (ROOT / "src/surefoot").rglob("*.py") if p.name not in allowed]
    found = [str(p.relative_to(ROOT)) for p in core if writers.search(p.read_text())]
    assert found == []


def test_the_guard_of_imports_would_notice(guarded: Any) -> None:
    assert "the library imported yaml" in guarded.stderr
