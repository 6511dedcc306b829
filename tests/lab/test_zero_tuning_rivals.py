"""What benchmarks/zero_tuning writes itself: rivals from papers, and a grid trained at once."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

PLACE = Path(__file__).parents[2] / "benchmarks" / "zero_tuning"
MODULES = ("rivals", "suite", "many", "kept_back", "every_task")


@pytest.fixture
def rivals(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(PLACE))
    yield importlib.import_module("rivals")
    for name in MODULES:
        sys.modules.pop(name, None)


def hessian_and_start() -> tuple[torch.Tensor, torch.Tensor]:
    root = torch.randn(4, 4, dtype=torch.float64)
    return root @ root.T + torch.eye(4), torch.randn(4, dtype=torch.float64) + 3.0


def no_clip() -> None:
    """Nothing is clipped."""


def test_cdat_without_averages_goes_sigma_times_to_the_minimum_along_adam(rivals: Any) -> None:
    torch.manual_seed(0)
    hessian, start = hessian_and_start()
    for sigma in (1.0, 2.0):
        p = nn.Parameter(start.clone())
        method = rivals.CDAT([p], sigma=sigma, ema=0.0)
        adam = torch.optim.Adam([twin := nn.Parameter(start.clone())], lr=1.0)
        for _ in range(3):
            before = p.detach().clone()
            twin.data.copy_(before)
            twin.grad = hessian @ before
            adam.step()
            u = twin.detach() - before
            minimum = -(u @ hessian @ before) / (u @ hessian @ u)
            method.step(lambda p=p: 0.5 * p @ hessian @ p, no_clip)
            moved = p.detach() - before
            assert method.rate == pytest.approx(max(sigma * float(minimum), 0.0), rel=1e-6)
            torch.testing.assert_close(moved, method.rate * u, rtol=1e-6, atol=1e-9)


def test_cdat_averages_numerator_and_denominator_and_never_goes_uphill(rivals: Any) -> None:
    p = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    method = rivals.CDAT([p], sigma=2.0, ema=0.9, betas=(0.0, 0.999))
    method.step(lambda: (p**2).sum(), no_clip)  # g 4, u -1: n 4, d 2, averages a tenth of them
    assert method.rate == pytest.approx(2 * 0.4 / 0.2, rel=1e-6)
    assert float(p.detach()) == pytest.approx(-2.0, rel=1e-6)
    method.step(lambda: 3 * (p**2).sum(), no_clip)  # g -12
    v = 0.999 * 0.016 + 0.001 * 144
    u = 12 / math.sqrt(v / (1 - 0.999**2))
    n, d = 0.36 + 0.1 * 12 * u, 0.18 + 0.1 * 6 * u**2
    assert method.rate == pytest.approx(2 * n / d, rel=1e-6)
    uphill = rivals.CDAT([q := nn.Parameter(torch.ones(1))], betas=(0.99, 0.999))
    uphill.step(lambda: q.sum() ** 2, no_clip)
    rate, held = uphill.rate, uphill.n
    uphill.step(lambda: q.sum() ** 2 * 1e-3, no_clip)  # past the minimum: momentum still ahead
    assert rate > 0.0
    assert uphill.n == pytest.approx(0.9 * held)


def test_schedule_free_plus_in_one_dimension_by_hand(rivals: Any) -> None:
    p = nn.Parameter(torch.tensor([3.0], dtype=torch.float64))
    method = rivals.ScheduleFreePlus([p], weight_decay=0.5, r=2.0)
    k = math.sqrt(math.pi / 2)
    x = y = z = 3.0
    m = v = largest = weights = 0.0
    for t in range(1, 6):
        f, g = y**2, 2 * y
        rate = max(0.0, f + 0.9 * g * (z - x)) / (k * abs(g))
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
        z -= rate**2 * 0.5 * y
        z -= rate * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.95**t)) + 1e-8)
        largest = max(largest, rate)
        weight = t**2 * largest**2
        weights += weight
        x += weight / weights * (z - x)
        y = 0.1 * z + 0.9 * x
        loss = (p**2).sum()
        p.grad = torch.autograd.grad(loss, p)[0]
        method.step(loss.detach())
        assert float(p.detach()) == pytest.approx(y, rel=1e-9)
        method.eval()
        assert float(p.detach()) == pytest.approx(x, rel=1e-9)
        method.train()
        assert float(p.detach()) == pytest.approx(y, rel=1e-9)


def test_orthogonalized_keeps_the_singular_vectors_and_levels_the_values(rivals: Any) -> None:
    torch.manual_seed(0)
    for shape in ((6, 4), (4, 6)):
        matrix = torch.randn(*shape, dtype=torch.float64)
        u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
        inside = u.T @ rivals.orthogonalized(matrix) @ vt.T
        values = inside.diagonal()
        torch.testing.assert_close(inside, torch.diag(values), rtol=0, atol=1e-9)
        assert 0.65 < float(values.min()) <= float(values.max()) < 1.25


def test_amuse_moves_matrices_by_momentum_and_weighs_the_average_by_warmth(rivals: Any) -> None:
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(3, 5, dtype=torch.float64))
    q = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    method = rivals.AMUSE([p], [q], warmup=4)
    start, m = p.detach().clone(), torch.zeros(3, 5, dtype=torch.float64)
    zs, ws, other = [start], [], 1.0
    for t in range(1, 9):
        p.grad = torch.randn(3, 5, dtype=torch.float64)
        q.grad = torch.full_like(q, -2.0)
        method.step()
        m = 0.95 * m + p.grad
        warm = min(1.0, t / 4)
        move = 0.2 * 5**0.5 * rivals.orthogonalized(m)
        zs.append(zs[-1] - 0.02 * warm * move)
        ws.append(warm**2)
        other += warm * 2e-3  # a constant gradient over its own size
        x = sum(w * z for w, z in zip(ws, zs[1:], strict=True)) / sum(ws)
        beta = 0.9 if t <= 4 else 1 - 3 / (t - 1) * 0.1
        torch.testing.assert_close(p.detach(), (1 - beta) * zs[-1] + beta * x)
        assert float(method.state[q]["z"]) == pytest.approx(other, rel=1e-9)
    method.eval()
    torch.testing.assert_close(p.detach(), x)
    steeper = rivals.AMUSE([], [q], warmup=11, rho=2.0)
    assert steeper.beta_at(11) == 0.9
    assert steeper.beta_at(21) == pytest.approx(1 - 0.25 * 0.1)


@pytest.mark.parametrize("name", ["noisy-table", "control", "adding", "flow", "sets"])
def test_a_grid_trained_at_once_is_the_ordinary_loop(rivals: Any, name: str) -> None:
    modules = ("suite", "many", "every_task")
    suite, many, every_task = (importlib.import_module(module) for module in modules)
    task = every_task.load(name, Path())
    task.steps = 8
    cells = {"a": 0.003, "b": 0.03}
    grid = {
        label: {"kind": "adamw", "lr": rate, "schedule": "constant"}
        for label, rate in cells.items()
    }
    found = many.run_many(task, 1, grid, "cpu")
    for label, rate in cells.items():

        def method(model: nn.Module, steps: int, rate: float = rate) -> Any:
            settings = {"lr": rate, "betas": task.betas, "weight_decay": task.decay}
            return suite.Plain(torch.optim.AdamW(model.parameters(), **settings))

        figures = suite.run(task, 1, method)
        assert len(figures) == 4
        assert found[label]["figures"] == pytest.approx(figures, rel=2e-3)
