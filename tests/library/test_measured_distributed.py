"""MeasuredLR in two processes with different data: the same rate, the same weights, to the bit."""

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

from surefoot import MeasuredLR, Status


def worker(rank: int, options: dict[str, Any], backward: bool, nan_at: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", rank=rank, world_size=2, store=store)
    model = noisy(seed=rank)  # DDP makes them equal
    ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = MeasuredLR(torch.optim.AdamW(ddp.parameters()), ddp, **options)
    torch.manual_seed(100 + rank)
    trace = []
    for i, (x, y) in enumerate(batches(40, seed=10 + rank)):

        def closure() -> Tensor:
            loss = nn.functional.cross_entropy(ddp(x), y)  # noqa: B023
            if rank == 1 and i == nan_at:  # noqa: B023
                loss = loss * float("nan")
            if backward:
                optimizer.zero_grad()
                loss.backward()
            return loss

        optimizer.step(closure)
        assert optimizer.last is not None
        rate = optimizer.rate
        trace.append(
            [str(optimizer.last.status), optimizer.last.t, rate.value, rate.low, rate.high]
        )
    result = {"params": [p.detach().clone() for p in model.parameters()], "trace": trace}
    torch.save(result, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def both(folder: Path, options: dict[str, Any], backward: bool = False, nan_at: int = -1) -> Any:
    folder.mkdir(exist_ok=True)
    # the workers import this file, and it imports its neighbours
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    mp.spawn(worker, (options, backward, nan_at, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def assert_agree(first: Any, second: Any) -> None:
    assert first["trace"] == second["trace"]
    for p, q in zip(first["params"], second["params"], strict=True):
        assert torch.isfinite(p).all()
        assert torch.equal(p, q)


@pytest.mark.parametrize("options", [{}, {"batch": "fresh"}, {"curvature": "hessian"}])
def test_all_ranks_measure_the_same_rate(options: dict[str, Any], tmp_path: Path) -> None:
    first, second = both(tmp_path, {**options, "overhead": 0.5})
    assert_agree(first, second)
    measured = [s for s, *_ in first["trace"] if s not in ("reused", "fixed")]
    assert len(measured) >= 8


def test_a_closure_that_calls_backward_takes_the_same_steps(tmp_path: Path) -> None:
    options = {"overhead": 9.0, "check_every": 0}
    ends = [both(tmp_path / str(b), options, backward=b) for b in (False, True)]
    for first, second in ends:
        assert_agree(first, second)
    assert_agree(ends[0][0], ends[1][0])


def test_nan_on_one_rank_is_rejected_by_both(tmp_path: Path) -> None:
    first, second = both(tmp_path, {}, nan_at=7)
    assert_agree(first, second)
    assert first["trace"][7][0] == Status.NON_FINITE.value
