"""Every example runs, short, and learns; the notebook runs as it stands, its outputs are small."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of the folder, as a script there would import it."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module
    for module in [m for m in sys.modules.values() if getattr(m, "__file__", None)]:
        if Path(str(module.__file__)).parent == EXAMPLES:
            del sys.modules[module.__name__]


def test_a_plain_loop(example: Any) -> None:
    assert example("plain_loop").main(steps=80)["measured"] > 0.85


def test_a_range_test_then_1cycle(example: Any) -> None:
    assert example("range_test_then_1cycle").main(epochs=3) > 0.9


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the trainer's own
def test_hugging_face(example: Any) -> None:
    pytest.importorskip("transformers")
    assert example("huggingface_trainer").main(steps=60) < 2.0  # guessing has 3.47


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the trainer's own
def test_lightning(example: Any) -> None:
    pytest.importorskip("lightning")
    assert example("lightning_module").main(epochs=4) > 0.9


@pytest.mark.slow
def test_nanogpt(example: Any) -> None:
    assert example("nanogpt").main(steps=40, windows=64) < 3.2  # begins at 4.7


@pytest.mark.slow
def test_the_notebook() -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    path = EXAMPLES / "measured_run.ipynb"
    assert path.stat().st_size < 200_000
    notebook = nbformat.read(path, as_version=4)
    assert all(c.outputs for c in notebook.cells[3:] if c.cell_type == "code")  # stored
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()


def test_every_example_is_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in [*EXAMPLES.glob("[!_]*.py"), *EXAMPLES.glob("*.ipynb")]:
        assert f"({path.name})" in listed
