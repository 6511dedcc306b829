"""Two processes, each with half of every batch, walk as one process with all of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from _two_ranks import TwoRanks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

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


def walk(rank: int | None, name: str, calls_backward: bool) -> dict[str, Any]:
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
    batches = data()[:4] if rank is None else data()[2 * rank : 2 * rank + 2]
    sample = sample_line(net(), nn.functional.cross_entropy, batches, lengths=(-0.2, 0.1, 0.3))
    return {"losses": list(sample.losses), "rows": [list(row) for row in sample.batch_losses]}


CASES: dict[str, tuple[Any, ...]] = {
    **{name: (name, False) for name in MAKERS},
    **{f"{name}, backward": (name, True) for name in WITH_BACKWARD},
}


def one(rank: int, *case: Any) -> dict[str, Any]:
    return walk(rank, *case) if case else line(rank)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> TwoRanks:
    return TwoRanks(one, {**CASES, "line": ()}, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("case", CASES)
def test_two_halves_walk_as_the_whole(both: TwoRanks, case: str) -> None:
    first, second = both[case]
    assert first["trace"] == second["trace"]
    assert all(map(torch.equal, first["params"], second["params"]))
    alone = walk(None, *CASES[case])
    moved = [length for _, length in first["trace"] if length > 0]
    assert len(moved) >= STEPS // 2
    if "sample" in case:
        return  # the noise of two halves is estimated with one degree of freedom less
    assert [s for s, _ in alone["trace"]] == [s for s, _ in first["trace"]]
    for p, q in zip(alone["params"], first["params"], strict=True):
        # summed in another order; a search multiplies what rounding leaves
        assert torch.allclose(p, q, rtol=1e-5, atol=1e-7)


def test_a_line_is_shared_and_complete_on_both(both: TwoRanks) -> None:
    first, second = both["line"]
    assert first == second
    alone = line(None)
    for ours, theirs in zip(first["rows"], alone["rows"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-12)
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-12)
