"""State survives the post: save, load in a fresh process, go on; identical to the bit."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from _problems import assert_same, batches, closure_for, noisy, snapshot
from torch import nn

from surefoot import LABPAL, PAL, LineSearchOptimizer

MAKERS: dict[str, Callable[[nn.Module], LineSearchOptimizer]] = {
    "pal": lambda model: PAL(model, total_steps=12),
    "pal-rarely": lambda model: PAL(model, measure_every=3),
    "labpal": lambda model: LABPAL(model, measuring_batches=3, reuse=4, untrusted=1),
    "labpal-momentum": lambda model: LABPAL(
        model, mode="sgd", measuring_batches=4, reuse=3, momentum=0.5, weight_decay=0.01
    ),
    "labpal-grown": lambda model: LABPAL(
        model, measuring_batches=2, reuse=2, batch_growth=((0, 3),), momentum=0.2
    ),
}


def run(
    model: nn.Module, optimizer: LineSearchOptimizer, start: int, stop: int, dtype: torch.dtype
) -> None:
    data = batches(10)
    for i in range(start, stop):
        x, y = data[i]
        optimizer.step(closure_for(model, (x.to(dtype), y)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("k", [1, 2, 5])  # in a measurement, after one, in an accumulation
def test_resumed_equals_uninterrupted(name: str, dtype: torch.dtype, k: int) -> None:
    make = MAKERS[name]
    model = noisy().to(dtype)
    optimizer = make(model)
    run(model, optimizer, 0, k, dtype)
    file = io.BytesIO()
    torch.save(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "rng": torch.get_rng_state(),
        },
        file,
    )
    run(model, optimizer, k, 10, dtype)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    fresh = noisy(seed=99).to(dtype)
    resumed = make(fresh)
    fresh.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["rng"])
    run(fresh, resumed, k, 10, dtype)
    assert_same(snapshot(fresh), snapshot(model))
    assert plain(resumed) == plain(optimizer)
    assert resumed.cost == optimizer.cost


def plain(optimizer: LineSearchOptimizer) -> list[dict[str, Any]]:
    return [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]


SCRIPT = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from test_state import MAKERS, noisy, run
folder, threads, *names = sys.argv[2:]
torch.set_num_threads(int(threads))  # as many as its parent: reductions depend on it
for name in names:
    saved = torch.load(f"{folder}/{name}.pt", weights_only=True)
    model = noisy(seed=7)
    optimizer = MAKERS[name](model)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["rng"])
    run(model, optimizer, 5, 10, torch.float32)
    torch.save(model.state_dict(), f"{folder}/{name}-end.pt")
"""


def test_resumed_in_a_new_process(tmp_path: Path) -> None:
    ends = {name: saved_on_the_way(name, tmp_path) for name in ("pal", "labpal")}
    arguments = [Path(__file__).parent, tmp_path, torch.get_num_threads(), *ends]
    subprocess.run([sys.executable, "-c", SCRIPT, *map(str, arguments)], check=True, timeout=300)
    for name, end in ends.items():
        assert_same(torch.load(tmp_path / f"{name}-end.pt", weights_only=True), end)


def saved_on_the_way(name: str, folder: Path) -> dict[str, torch.Tensor]:
    """A checkpoint after half of the steps; the weights after all of them."""
    model = noisy()
    optimizer = MAKERS[name](model)
    run(model, optimizer, 0, 5, torch.float32)
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
    }
    torch.save(checkpoint, folder / f"{name}.pt")
    run(model, optimizer, 5, 10, torch.float32)
    return snapshot(model)


@pytest.mark.parametrize("name", MAKERS)
def test_scalars_of_the_state_are_plain_python(name: str) -> None:
    model = noisy()
    optimizer = MAKERS[name](model)
    run(model, optimizer, 0, 7, torch.float32)

    def check(value: object) -> None:
        if isinstance(value, list):
            for item in value:
                check(item)
        else:
            assert value is None or type(value) in (int, float, bool, str), value

    for group in optimizer.param_groups:
        for key, value in group.items():
            if key != "params":
                check(value)
        assert not {"max_lr", "min_lr", "momentum", "max_momentum", "base_momentum"} & group.keys()
    for state in optimizer.state.values():
        assert all(isinstance(v, torch.Tensor) for v in state.values())


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_go_their_own_way(name: str, how: str) -> None:
    model = noisy()
    optimizer = MAKERS[name](model)
    run(model, optimizer, 0, 5, torch.float32)
    both = (model, optimizer)
    twin, twin_optimizer = (
        copy.deepcopy(both) if how == "deepcopy" else pickle.loads(pickle.dumps(both))
    )
    state = torch.get_rng_state()
    run(model, optimizer, 5, 10, torch.float32)
    torch.set_rng_state(state)
    run(twin, twin_optimizer, 5, 10, torch.float32)
    assert_same(snapshot(twin), snapshot(model))


def test_counters_missing_in_an_old_checkpoint_start_at_zero() -> None:
    model = noisy()
    optimizer = LABPAL(model)
    old = optimizer.state_dict()
    for key in ("steps", "forwards", "recent", "checked"):
        del old["param_groups"][0][key]
    optimizer.load_state_dict(old)
    run(model, optimizer, 0, 3, torch.float32)
    assert optimizer.cost.forwards == 10


def test_accelerate_round_trip_before_the_first_step() -> None:
    """What Accelerate's prepare does: state out, moved, in again."""
    model = noisy()
    optimizer = LABPAL(model, measuring_batches=2)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(model, optimizer, 0, 4, torch.float32)
    assert optimizer.param_groups[0]["updates"] == 3


def test_distributed_checkpoint_finds_every_key() -> None:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model = noisy()
    optimizer = LABPAL(model, measuring_batches=2, momentum=0.5)
    run(model, optimizer, 0, 4, torch.float32)
    state = get_optimizer_state_dict(model, optimizer)
    assert state["param_groups"][0]["updates"] == 3
