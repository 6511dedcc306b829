"""Two processes with different data take the same steps; one that sees NaN hangs nobody."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from _problems import batches, noisy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from surefoot import LABPAL, PAL, Status

SETTINGS: dict[str, dict[str, Any]] = {
    "pal": {},
    "pal-rarely": {"measure_every": 5},
    "pal-steepest": {"direction_adaptation": 0.0},
    "labpal": {"measuring_batches": 4, "reuse": 12, "untrusted": 10},
    "labpal-sgd": {"measuring_batches": 3, "reuse": 9, "mode": "sgd", "batch_growth": ((20, 2),)},
}


def worker(rank: int, name: str, calls_backward: bool, nan_at: int | None, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1")
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", rank=rank, world_size=2, store=store)
    model = noisy(seed=rank)  # DDP makes them equal
    ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
    make = PAL if name.startswith("pal") else LABPAL
    optimizer = make(ddp, **SETTINGS[name])
    torch.manual_seed(100 + rank)
    trace: list[tuple[str, float]] = []
    for i, (x, y) in enumerate(batches(50, seed=10 + rank)):

        def closure() -> Tensor:
            loss = nn.functional.cross_entropy(ddp(x), y)  # noqa: B023
            if nan_at == i and rank == 1:  # noqa: B023
                loss = loss * float("nan")
            if calls_backward:
                optimizer.zero_grad()
                loss.backward()
            return loss

        optimizer.step(closure)
        assert optimizer.last is not None
        trace.append((str(optimizer.last.status), optimizer.last.length))
    result = {"params": [p.detach().clone() for p in model.parameters()], "trace": trace}
    torch.save(result, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def both(tmp_path: Path, name: str, calls_backward: bool = False, nan_at: int | None = None) -> Any:
    # the workers import this file, and it imports its neighbours
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    mp.spawn(worker, (name, calls_backward, nan_at, str(tmp_path)), nprocs=2)
    return [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def assert_agree(first: Any, second: Any) -> None:
    assert first["trace"] == second["trace"]
    for p, q in zip(first["params"], second["params"], strict=True):
        assert torch.isfinite(p).all()
        assert torch.equal(p, q)


@pytest.mark.parametrize("name", SETTINGS)
def test_parameters_are_equal_to_the_bit_after_50_steps(name: str, tmp_path: Path) -> None:
    first, second = both(tmp_path, name)
    assert_agree(first, second)
    moved = [length for _, length in first["trace"] if length > 0.0]
    assert len(moved) >= 25
    if name.startswith("labpal"):
        assert [status for status, _ in first["trace"]].count("collecting") >= 6


@pytest.mark.parametrize("name", ["pal-steepest", "labpal"])
def test_a_closure_that_calls_backward_takes_the_same_steps(name: str, tmp_path: Path) -> None:
    """Although DDP's buckets, which the gradients are views of, are written again in each probe."""
    ends = []
    for calls_backward in (False, True):
        folder = tmp_path / str(calls_backward)
        folder.mkdir()
        first, second = both(folder, name, calls_backward=calls_backward)
        assert_agree(first, second)
        ends.append(first)
    assert_agree(*ends)


@pytest.mark.parametrize("name", ["pal", "labpal"])
@pytest.mark.parametrize("nan_at", [0, 2, 30])
def test_nan_on_one_rank_is_rejected_by_both(name: str, nan_at: int, tmp_path: Path) -> None:
    first, second = both(tmp_path, name, nan_at=nan_at)
    assert_agree(first, second)
    assert Status.NON_FINITE.value in {status for status, _ in first["trace"]} or name == "labpal"
