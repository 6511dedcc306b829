"""MeasuredLR in two processes with different data: the same rate, the same weights, to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _problems import batches, noisy
from _two_ranks import TwoRanks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from surefoot import MeasuredLR, Status

OPTIONS: dict[str, dict[str, Any]] = {
    "own": {},
    "fresh": {"batch": "fresh"},
    "hessian": {"curvature": "hessian"},
}
OFTEN = {"overhead": 9.0, "check_every": 0}
# options, dtype, whether the closure calls backward, the step at which rank 1 sees NaN
CASES: dict[str, tuple[dict[str, Any], torch.dtype, bool, int]] = {
    **{
        name: ({**options, "overhead": 0.5}, torch.float32, False, -1)
        for name, options in OPTIONS.items()
    },
    "without backward": (OFTEN, torch.float64, False, -1),
    "with backward": (OFTEN, torch.float64, True, -1),
    "NaN": ({}, torch.float32, False, 7),
}


def walk(
    rank: int, options: dict[str, Any], dtype: torch.dtype, backward: bool, nan_at: int
) -> dict[str, Any]:
    model = noisy(seed=rank).to(dtype)  # DDP makes them equal
    ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = MeasuredLR(torch.optim.AdamW(ddp.parameters()), ddp, **options)
    torch.manual_seed(100 + rank)
    trace = []
    for i, (x, y) in enumerate(batches(40, seed=10 + rank)):

        def closure() -> Tensor:
            loss = nn.functional.cross_entropy(ddp(x.to(dtype)), y)  # noqa: B023
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
    return {"params": [p.detach().clone() for p in model.parameters()], "trace": trace}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> TwoRanks:
    return TwoRanks(walk, CASES, tmp_path_factory.mktemp("both"))


def assert_agree(first: Any, second: Any) -> None:
    assert first["trace"] == second["trace"]
    for p, q in zip(first["params"], second["params"], strict=True):
        assert torch.isfinite(p).all()
        assert torch.equal(p, q)


@pytest.mark.parametrize("name", OPTIONS)
def test_all_ranks_measure_the_same_rate(name: str, both: TwoRanks) -> None:
    first, second = both[name]
    assert_agree(first, second)
    measured = [s for s, *_ in first["trace"] if s not in ("reused", "fixed")]
    assert len(measured) >= 8


def test_a_closure_that_calls_backward_takes_the_same_steps(both: TwoRanks) -> None:
    for key in ("without backward", "with backward"):
        assert_agree(*both[key])
    plain, backward = both["without backward"][0], both["with backward"][0]
    assert [status for status, *_ in plain["trace"]] == [s for s, *_ in backward["trace"]]
    # a probe that records a graph may use other kernels, so they agree to rounding, not to the bit
    for p, q in zip(plain["params"], backward["params"], strict=True):
        assert torch.allclose(p, q, rtol=1e-6, atol=1e-9)


def test_nan_on_one_rank_is_rejected_by_both(both: TwoRanks) -> None:
    first, second = both["NaN"]
    assert_agree(first, second)
    assert first["trace"][7][0] == Status.NON_FINITE.value
