"""Two processes, each with half of every batch, walk as one process with all of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from _ranks import leave, spawn
from surefoot import GOLS, PAL, PLS, SLS, ExactLineSearch, FullBatchPAL, LineSearchOptimizer
from surefoot.shape import sample_line

STEPS = 12
MAKERS: dict[str, Callable[..., LineSearchOptimizer]] = {
    "sls": SLS,
    "gols": partial(GOLS, start=1e-3),
    "pls": PLS,
    "pls-sample-losses": PLS,
    "exact": ExactLineSearch,
    "fbpal": FullBatchPAL,
    "pal-steepest": partial(PAL, direction_adaptation=0.0),
}
WITH_BACKWARD = ("sls", "exact", "fbpal", "gols", "pal-steepest")


def net() -> nn.Module:
    torch.manual_seed(3)
    # tanh: two halves of a batch and the whole must agree, whatever the order of summation
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3)).double()


def data() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(16, 6, generator=generator, dtype=torch.float64),
            torch.randint(0, 3, (16,), generator=generator),
        )
        for _ in range(STEPS)
    ]


def walk(name: str, calls_backward: bool, rank: int | None) -> dict[str, Any]:
    """Train on everything, or on this rank's half of every batch."""
    model: nn.Module = net()
    if rank is not None:
        model = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = MAKERS[name](model)
    reduction = "none" if "sample" in name else "mean"
    trace = []
    for x, y in data():
        if rank is not None:
            x, y = x[8 * rank : 8 * rank + 8], y[8 * rank : 8 * rank + 8]

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            loss = nn.functional.cross_entropy(model(x), y, reduction=reduction)
            if calls_backward:
                optimizer.zero_grad()
                loss.backward()
            return loss

        optimizer.step(closure)
        assert optimizer.last is not None
        trace.append((optimizer.last.status.value, optimizer.last.length))
    return {"params": [p.detach().clone() for p in model.parameters()], "trace": trace}


def line(rank: int | None) -> dict[str, Any]:
    batches = [(x, y) for x, y in data()[:4]]
    if rank is not None:
        batches = batches[2 * rank : 2 * rank + 2]
    model = net()
    if rank == 1:
        batches = [(x, y) for x, y in batches]
    sample = sample_line(model, nn.functional.cross_entropy, batches, lengths=(-0.2, 0.1, 0.3))
    return {"losses": list(sample.losses), "rows": [list(row) for row in sample.batch_losses]}


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", rank=rank, world_size=2, store=store)
    results: dict[str, Any] = {name: walk(name, False, rank) for name in MAKERS}
    for name in WITH_BACKWARD:
        results[f"{name}, backward"] = walk(name, True, rank)
    results["line"] = line(rank)
    torch.save(results, f"{folder}/{rank}.pt")
    leave()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("two")
    # the workers import this file, and it imports its neighbours
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    spawn(worker, (str(Path(folder)),))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


CASES = [(name, False) for name in MAKERS] + [(name, True) for name in WITH_BACKWARD]


@pytest.mark.parametrize(("name", "calls_backward"), CASES)
def test_two_halves_walk_as_the_whole(both: list[Any], name: str, calls_backward: bool) -> None:
    key = f"{name}, backward" if calls_backward else name
    first, second = both[0][key], both[1][key]
    assert first["trace"] == second["trace"]
    assert all(map(torch.equal, first["params"], second["params"]))
    alone = walk(name, calls_backward, None)
    moved = [length for _, length in first["trace"] if length > 0]
    assert len(moved) >= STEPS // 2
    if "sample" in name:
        return  # the noise of two halves is estimated with one degree of freedom less
    assert [s for s, _ in alone["trace"]] == [s for s, _ in first["trace"]]
    for p, q in zip(alone["params"], first["params"], strict=True):
        # summed in another order; a search multiplies what rounding leaves
        assert torch.allclose(p, q, rtol=1e-5, atol=1e-7)


def test_a_line_is_shared_and_complete_on_both(both: list[Any]) -> None:
    assert both[0]["line"] == both[1]["line"]
    alone = line(None)
    for ours, theirs in zip(both[0]["line"]["rows"], alone["rows"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-12)
    assert both[0]["line"]["losses"] == pytest.approx(alone["losses"], rel=1e-12)
