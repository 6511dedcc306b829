"""Memory is counted: one copy of the weights on steps that measure, nothing between."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def loop_cost() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "loop_cost.py"
    spec = importlib.util.spec_from_file_location("loop_cost", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["loop_cost"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore:the loss along the updates is no parabola")
@pytest.mark.parametrize("averaged", [False, True], ids=["decayed", "averaged"])
@pytest.mark.parametrize(("base", "count"), [("SGD", 5), ("AdamW", 12)])
def test_a_measured_step_makes_one_copy_of_the_weights(
    base: str, count: int, averaged: bool, loop_cost: ModuleType
) -> None:
    """Layers without a small tensor; what tensors hold, beyond the plain optimizer's step."""
    side, steps = 1024, 24 if averaged else 8
    (found,) = loop_cost.memory(
        [base], count=count, side=side, steps=steps, averaged=averaged
    ).values()
    assert 0.9 < found.measuring <= 1.1
    assert found.between <= 0.1


def test_the_count_is_right(loop_cost: ModuleType) -> None:
    import torch

    x = torch.zeros(1000)
    with loop_cost.Counting() as counting:
        y = x + 1.0  # 4,000 bytes
        y.mul_(2.0)
        z = y.view(10, 100)
        del y
        w = torch.ones(1000)
        del w
        u = z.sum(0)  # 400 bytes
    assert counting.alive == 4400
    assert counting.most == 8000
    del z, u
    assert counting.alive == 0
