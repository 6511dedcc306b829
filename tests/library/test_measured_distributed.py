"""MeasuredLR in two processes with different data: the same rate, the same weights, to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _measured import WAYS
from _problems import batches, noisy
from _two_ranks import TwoRanks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from surefoot import MeasuredLR, Status

# dtype, how the loop steps, the step at which rank 1 sees NaN
CASES: dict[str, tuple[torch.dtype, str, int]] = {
    "loop": (torch.float64, "loop", -1),
    "closure": (torch.float64, "closure", -1),
    "closure with backward": (torch.float64, "closure with backward", -1),
    "float32": (torch.float32, "loop", -1),
    "NaN": (torch.float32, "loop", 7),
}


def walk(rank: int, dtype: torch.dtype, way: str, nan_at: int) -> dict[str, Any]:
    model = noisy(seed=rank).to(dtype)  # DDP makes them equal
    ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = MeasuredLR(torch.optim.AdamW(ddp.parameters()), ddp, overhead=0.5)
    torch.manual_seed(100 + rank)
    trace = []
    for i, (x, y) in enumerate(batches(40, seed=10 + rank)):

        def loss() -> Tensor:
            value = nn.functional.cross_entropy(ddp(x.to(dtype)), y)  # noqa: B023
            return value * float("nan") if rank == 1 and i == nan_at else value  # noqa: B023

        WAYS[way](optimizer, loss)
        assert optimizer.last is not None
        rate = optimizer.rate
        trace.append(
            [str(optimizer.last.status), optimizer.last.t, rate.value, rate.low, rate.high]
        )
    return {"params": [p.detach().clone() for p in model.parameters()], "trace": trace}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> TwoRanks:
    return TwoRanks(walk, CASES, tmp_path_factory.mktemp("both"))


def assert_agree(first: Any, second: Any) -> None:
    assert first["trace"] == second["trace"]
    for p, q in zip(first["params"], second["params"], strict=True):
        assert torch.isfinite(p).all()
        assert torch.equal(p, q)


@pytest.mark.parametrize("name", ["loop", "float32"])
def test_all_ranks_measure_the_same_rate(name: str, both: TwoRanks) -> None:
    first, second = both[name]
    assert_agree(first, second)
    measured = [s for s, *_ in first["trace"] if s not in ("reused", "fixed")]
    assert len(measured) >= 8


@pytest.mark.parametrize("way", ["closure", "closure with backward"])
def test_a_closure_takes_the_same_steps(way: str, both: TwoRanks) -> None:
    assert_agree(*both[way])
    plain, closure = both["loop"][0], both[way][0]
    assert [status for status, *_ in plain["trace"]] == [s for s, *_ in closure["trace"]]
    # a probe that records a graph may use other kernels, so they agree to rounding, not to the bit
    for p, q in zip(plain["params"], closure["params"], strict=True):
        assert torch.allclose(p, q, rtol=1e-6, atol=1e-9)


def test_nan_on_one_rank_is_rejected_by_both(both: TwoRanks) -> None:
    first, second = both["NaN"]
    assert_agree(first, second)
    assert first["trace"][7][0] == Status.NON_FINITE.value
