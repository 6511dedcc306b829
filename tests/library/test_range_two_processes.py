"""Two processes with different data agree on every decision of a range test."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from _ranks import leave, spawn
from surefoot.lr_range import RangeCurve, range_test


def rank_data(rank: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(100 + rank)
    x = torch.randn(4, 16, 6, generator=generator)
    return [(batch, (batch[:, 0] > 0).long()) for batch in x]


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))


def agree(rank: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> RangeCurve:
    data = rank_data(rank)
    return range_test(
        model,
        optimizer,
        data,
        nn.functional.cross_entropy,
        start_lr=1e-3,
        num_iter=40,
        accumulation_steps=2,
        val_loader=data,
        val_share=1.0,
        val_every=4,
    )


def one_rank_diverges(rank: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> RangeCurve:
    calls = 0

    def loss_fn(output: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        loss = nn.functional.cross_entropy(output, y)
        return loss * math.nan if rank == 1 and calls >= 6 else loss

    return range_test(model, optimizer, rank_data(rank), loss_fn, start_lr=1e-3, num_iter=40)


def one_rank_rises(rank: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> RangeCurve:
    calls = 0

    def loss_fn(output: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        loss = nn.functional.cross_entropy(output, y)
        return loss + (2.0 ** (calls - 8) if rank == 1 and calls > 8 else 0.0)

    return range_test(model, optimizer, rank_data(rank), loss_fn, start_lr=1e-3, num_iter=40)


SCENES = {"agree": agree, "nan": one_rank_diverges, "rise": one_rank_rises}


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    result: dict[str, Any] = {}
    for name, scene in SCENES.items():
        model = DistributedDataParallel(make_model())
        before = {k: v.clone() for k, v in model.state_dict().items()}
        curve = scene(rank, model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
        result[name] = json.loads(curve.to_json())
        result[name]["untouched"] = all(
            torch.equal(v, before[k]) for k, v in model.state_dict().items()
        )
    Path(folder, f"{rank}.json").write_text(json.dumps(result))
    leave()


def test_two_ranks_see_the_same_curve_and_stop_together(tmp_path: Path) -> None:
    spawn(work, (str(tmp_path),))
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for name in SCENES:
        assert all(ranks[name].pop("untouched") for ranks in found)
        curves = [RangeCurve.from_json(json.dumps(ranks[name])) for ranks in found]
        assert repr(curves[0].loss) == repr(curves[1].loss)
        assert curves[0].stop == curves[1].stop
        assert [s.rate for s in curves[0].suggestions().values()] == [
            s.rate for s in curves[1].suggestions().values()
        ]
    agreed = RangeCurve.from_json(json.dumps(found[0]["agree"]))
    # the mean of both ranks' batches, not one rank's own
    model = make_model()
    own = [
        sum(nn.functional.cross_entropy(model(x), y).item() for x, y in rank_data(rank)[:2]) / 2
        for rank in range(2)
    ]
    assert agreed.loss[0] == pytest.approx(sum(own) / 2, rel=1e-5)
    assert agreed.accuracy
    assert agreed.validation == RangeCurve.from_json(json.dumps(found[1]["agree"])).validation
    assert found[0]["nan"]["stop"] == "non_finite"
    assert len(found[0]["nan"]["lr"]) == 10
    assert found[0]["rise"]["stop"] == "diverged"
