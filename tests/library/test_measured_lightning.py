"""The recipe for Lightning, manual optimization, as the documentation shows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOC = Path(__file__).parents[2] / "docs" / "measured-lr.md"


@pytest.mark.filterwarnings("ignore")  # Lightning's own, about loggers, workers and torch's ways
def test_the_recipe_in_the_documentation_trains() -> None:
    pytest.importorskip("lightning")
    (recipe,) = re.findall(r"```python\n(import lightning.*?)```", DOC.read_text(), re.DOTALL)
    scope: dict[str, object] = {}
    exec(recipe, scope)
    module = scope["module"]
    wrapped = module.optimizers().optimizer  # type: ignore[attr-defined]
    assert wrapped.cost.probes >= 1
    assert wrapped.cost.forward_equivalents <= 1.03 * 3 * 100
    assert scope["last_loss"] < 0.1 * scope["first_loss"]  # type: ignore[operator]
