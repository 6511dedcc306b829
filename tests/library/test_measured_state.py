"""MeasuredLR survives the post: checkpoints and copies, those of plain optimizers and of 0.1."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _measured import BASES, assert_equal, build, build_plain, loop_step, plain, walk
from _problems import assert_same, batches, noisy, snapshot
from torch import Tensor, nn

from surefoot import MeasuredLR
from surefoot.outcome import Cost

# some optimizers write into the gradients
pytestmark = pytest.mark.filterwarnings("ignore:.*so slopes are measured from losses")


def post(model: nn.Module, optimizer: MeasuredLR) -> Any:
    file = io.BytesIO()
    parts = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
    }
    torch.save(parts, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["momentum", "adamw", "schedulefree"])
def test_resumes_to_the_bit(name: str, dtype: torch.dtype) -> None:
    data = [(x.to(dtype), y) for x, y in batches(20, size=8)]
    options = {"total_steps": 40, "overhead": 0.4}
    model, _, optimizer = build(name, dtype, **options)
    saved = {}
    for k, batch in enumerate(data):
        if k in (1, 2, 3, 10):
            saved[k] = post(model, optimizer)
        walk(model, optimizer, [batch])
    assert optimizer.cost.probes > 10
    for k, parts in saved.items():
        other, _, resumed = build(name, dtype, **options)
        other.load_state_dict(parts["model"])
        resumed.load_state_dict(parts["optimizer"])
        torch.set_rng_state(parts["random"])
        walk(other, resumed, data[k:])
        assert_same(snapshot(model), snapshot(other))
        assert_equal(optimizer.state_dict(), resumed.state_dict())
        assert optimizer.cost == resumed.cost
        assert optimizer.rate == resumed.rate


def test_the_norm_that_bounds_steps_is_in_the_checkpoint() -> None:
    def far() -> tuple[nn.Module, MeasuredLR, Callable[[], Tensor]]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        optimizer = MeasuredLR(
            torch.optim.AdamW(model.parameters()), model, averaging=False, max_change=0.05
        )
        x = torch.ones(1, 4)
        return model, optimizer, lambda: (model(x) - 100.0).abs().sum()

    model, optimizer, loss = far()
    for _ in range(40):
        loop_step(optimizer, loss)
    first_norm = optimizer._stepper.rate.norm
    size = optimizer._stepper.rate.size
    assert size > 1.5 * first_norm
    other, resumed, loss = far()
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(optimizer.state_dict())
    before = torch.cat([p.detach().flatten() for p in other.parameters()])
    loop_step(resumed, loss)
    after = torch.cat([p.detach().flatten() for p in other.parameters()])
    assert float((after - before).norm()) == pytest.approx(
        0.05 * math.sqrt(first_norm * size), rel=0.05
    )


def test_a_checkpoint_of_the_plain_optimizer_can_be_loaded() -> None:
    model, base = build_plain("adamw")
    walk(model, base, batches(3))
    saved = copy.deepcopy(base.state_dict())
    other, wrapped, optimizer = build("adamw")
    walk(other, optimizer, batches(3))
    optimizer.load_state_dict(saved)
    assert_equal(plain(saved), plain(wrapped.state_dict()))
    assert optimizer.rate.value is None
    walk(other, optimizer, batches(2))
    assert optimizer.rate.value is not None


def test_its_checkpoint_is_the_plain_optimizers_with_more_in_the_first_group() -> None:
    model, base, optimizer = build("adamw")
    walk(model, optimizer, batches(3))
    other = BASES["adamw"](noisy())
    other.load_state_dict(optimizer.state_dict())
    assert_equal(plain(base.state_dict()), plain(other.state_dict()))
    assert base.param_groups[0]["measured"] is None


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on_as_the_original(duplicate: Callable[[Any], Any]) -> None:
    model, _, optimizer = build("adamw", overhead=0.5)
    walk(model, optimizer, batches(5))
    twin, copied = duplicate((model, optimizer))
    state = torch.get_rng_state()
    walk(model, optimizer, batches(5))
    torch.set_rng_state(state)
    walk(twin, copied, batches(5))
    assert_same(snapshot(model), snapshot(twin))
    assert copied.cost == optimizer.cost
    assert copied.rate == optimizer.rate


def of_0_1(base: torch.optim.Optimizer) -> dict[str, Any]:
    """A checkpoint as version 0.1.0 wrote it, after 40 steps at a rate of 7 units."""
    gauge = {
        "step": 40,
        "reference": [1e-3],
        "scale": 7.0,
        "applied": 6.5,
        "attempts": 12,
        "measurements": [[k, -3.0 - 0.1 * (k % 2), 0.4] for k in range(12)],
        "next": 44,
        "spent": 14.0,
        "price": 1.0,
        "reach": 6.9,
        "misfits": [0.01, 0.02],
        "losses": [12, 1.5, 0.1],
        "size": 5.0,
        "filling": 1.0,
    }
    counts = {
        "steps": 40,
        "forwards": 54,
        "backwards": 40,
        "probes": 14,
        "closure_calls_backward": False,
    }
    own = {"counts": counts, "gauge": gauge, "pending": []}
    return {**base.state_dict(), "measured": own}


def test_a_checkpoint_of_version_0_1_goes_on_at_its_rate() -> None:
    model, base = build_plain("adamw")
    walk(model, base, batches(2))
    saved = of_0_1(base)
    other, wrapped, optimizer = build("adamw", total_steps=1000, step_adaptation=1.0)
    optimizer.load_state_dict(saved)
    assert_equal(plain(base.state_dict()), plain(wrapped.state_dict()))
    assert optimizer.cost == Cost(54, 40, 14)
    assert optimizer.rate.value == pytest.approx(7.625)
    assert optimizer.rate.n == 12
    walk(other, optimizer, batches(1))
    applied = wrapped.param_groups[0]["effective_lr"]
    assert applied == pytest.approx(7e-3 * (1 - 40 / 1000))
    walk(other, optimizer, batches(8))
    assert optimizer.cost.probes > 14
    assert math.isfinite(optimizer.rate.high)
    again, _, resumed = build("adamw", total_steps=1000)
    resumed.load_state_dict(post(other, optimizer)["optimizer"])
    assert resumed.rate == optimizer.rate
    walk(again, resumed, batches(1))
