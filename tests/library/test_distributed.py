"""Two processes with different data take the same steps; one that sees NaN hangs nobody."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _problems import batches, noisy
from _two_ranks import TwoRanks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from surefoot import LABPAL, PAL, Status

SETTINGS: dict[str, dict[str, Any]] = {
    "pal": {},
    "pal-rarely": {"measure_every": 5},
    "pal-steepest": {"direction_adaptation": 0.0},
    "labpal": {"measuring_batches": 4, "reuse": 12, "burn_in": 10},
    "labpal-sgd": {"measuring_batches": 3, "reuse": 9, "mode": "sgd", "batch_growth": ((20, 2),)},
}


WITH_BACKWARD = ("pal-steepest", "labpal")
# name, dtype, whether the closure calls backward, the step at which rank 1 sees NaN
CASES: dict[str, tuple[str, torch.dtype, bool, int | None]] = {
    **{name: (name, torch.float32, False, None) for name in SETTINGS},
    **{f"{name}, float64": (name, torch.float64, False, None) for name in WITH_BACKWARD},
    **{f"{name}, backward": (name, torch.float64, True, None) for name in WITH_BACKWARD},
    **{
        f"{name}, NaN at {i}": (name, torch.float32, False, i)
        for name in ("pal", "labpal")
        for i in (0, 2, 30)
    },
}


def walk(
    rank: int, name: str, dtype: torch.dtype, calls_backward: bool, nan_at: int | None
) -> dict[str, Any]:
    model = noisy(seed=rank).to(dtype)  # DDP makes them equal
    ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
    make = PAL if name.startswith("pal") else LABPAL
    optimizer = make(ddp, **SETTINGS[name])
    torch.manual_seed(100 + rank)
    trace: list[tuple[str, float]] = []
    for i, (x, y) in enumerate(batches(50, seed=10 + rank)):

        def closure() -> Tensor:
            loss = nn.functional.cross_entropy(ddp(x.to(dtype)), y)  # noqa: B023
            if nan_at == i and rank == 1:  # noqa: B023
                loss = loss * float("nan")
            if calls_backward:
                optimizer.zero_grad()
                loss.backward()
            return loss

        optimizer.step(closure)
        assert optimizer.last is not None
        trace.append((str(optimizer.last.status), optimizer.last.length))
    return {"params": [p.detach().clone() for p in model.parameters()], "trace": trace}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> TwoRanks:
    return TwoRanks(walk, CASES, tmp_path_factory.mktemp("both"))


def assert_agree(first: Any, second: Any) -> None:
    assert first["trace"] == second["trace"]
    for p, q in zip(first["params"], second["params"], strict=True):
        assert torch.isfinite(p).all()
        assert torch.equal(p, q)


@pytest.mark.parametrize("name", SETTINGS)
def test_parameters_are_equal_to_the_bit_after_50_steps(name: str, both: TwoRanks) -> None:
    first, second = both[name]
    assert_agree(first, second)
    moved = [length for _, length in first["trace"] if length > 0.0]
    assert len(moved) >= 25
    if name.startswith("labpal"):
        assert [status for status, _ in first["trace"]].count("collecting") >= 6


@pytest.mark.parametrize("name", ["pal-steepest", "labpal"])
def test_a_closure_that_calls_backward_takes_the_same_steps(name: str, both: TwoRanks) -> None:
    """Although DDP's buckets, which the gradients are views of, are written again in each probe."""
    for key in (f"{name}, float64", f"{name}, backward"):
        assert_agree(*both[key])
    plain, backward = both[f"{name}, float64"][0], both[f"{name}, backward"][0]
    assert [status for status, _ in plain["trace"]] == [s for s, _ in backward["trace"]]
    # a probe that records a graph may use other kernels, so they agree to rounding, not to the bit
    for p, q in zip(plain["params"], backward["params"], strict=True):
        assert torch.allclose(p, q, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["pal", "labpal"])
@pytest.mark.parametrize("nan_at", [0, 2, 30])
def test_nan_on_one_rank_is_rejected_by_both(name: str, nan_at: int, both: TwoRanks) -> None:
    first, second = both[f"{name}, NaN at {nan_at}"]
    assert_agree(first, second)
    assert Status.NON_FINITE.value in {status for status, _ in first["trace"]} or name == "labpal"
