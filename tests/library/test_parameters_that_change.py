"""Parameters frozen, unfrozen or added while training goes on; gradients that others left."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from _measured import loop_step
from _problems import LINE_SEARCHES, batches, closure_for, noisy, snapshot
from torch import nn

from surefoot import (
    LABPAL,
    PAL,
    LineSearchOptimizer,
    MeasuredLR,
)

MAKERS: dict[str, Callable[..., LineSearchOptimizer]] = {
    **LINE_SEARCHES,
    "labpal": partial(LABPAL, measuring_batches=3, reuse=2),
    "pal-rarely": partial(PAL, measure_every=3),
    "labpal-momentum": partial(LABPAL, momentum=0.5, measuring_batches=2, reuse=2),
}
every = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


def walk(model: nn.Module, optimizer: LineSearchOptimizer, steps: int, seed: int = 1) -> None:
    for batch in batches(steps, seed=seed):
        optimizer.step(closure_for(model, batch))


@every
def test_a_layer_frozen_at_the_start_trains_once_unfrozen(make: Any) -> None:
    model = noisy()
    model.conv.requires_grad_(False)
    optimizer = make(model)
    start = model.conv.weight.clone()
    walk(model, optimizer, 4)
    assert torch.equal(model.conv.weight, start)
    model.conv.requires_grad_(True)
    walk(model, optimizer, 10, seed=2)
    assert not torch.equal(model.conv.weight, start)


@every
@pytest.mark.parametrize("after", [1, 2, 4])  # LABPAL's are in the middle of a measurement
def test_a_layer_frozen_later_stands_still_and_so_does_its_old_gradient(
    make: Any, after: int
) -> None:
    model = noisy()
    optimizer = make(model, weight_decay=0.1)
    walk(model, optimizer, after)
    model.conv.requires_grad_(False)
    frozen, other = model.conv.weight.clone(), model.head.weight.clone()
    walk(model, optimizer, 10, seed=2)
    assert torch.equal(model.conv.weight, frozen)
    assert not torch.equal(model.head.weight, other)
    model.conv.requires_grad_(True)
    walk(model, optimizer, 10, seed=3)
    assert not torch.equal(model.conv.weight, frozen)


def lazy() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.Tanh(), nn.LazyLinear(1))


def falls(model: nn.Module, step: Callable[[Callable[[], torch.Tensor]], Any]) -> None:
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(2))
    losses = [float(step(lambda: (model(x) - x[:, :1]).square().mean())) for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]


@every
def test_layers_whose_shape_the_first_batch_tells(make: Any) -> None:
    model = lazy()
    falls(model, make(model).step)


@pytest.mark.filterwarnings("ignore:most of the last 50 steps were shortened")
@pytest.mark.parametrize(
    "options",
    [{}, {"total_steps": 30}, {"total_steps": 30, "groups": "measured"}, {"advice": True}],
    ids=str,
)
def test_layers_whose_shape_the_first_batch_tells_at_a_measured_rate(options: Any) -> None:
    model = lazy()
    optimizer = MeasuredLR(torch.optim.AdamW(model.parameters()), model, **options)
    falls(model, partial(loop_step, optimizer))


@every
def test_a_group_takes_the_lines_settings_that_a_checkpoint_brought(make: Any) -> None:
    model = noisy()
    optimizer = make(model.conv.parameters(), model=model)
    saved = make(model.conv.parameters(), model=model, total_steps=77).state_dict()
    optimizer.load_state_dict(saved)
    optimizer.add_param_group({"params": model.head.parameters()})
    assert [group["total_steps"] for group in optimizer.param_groups] == [77, 77]


@every
def test_gradients_that_others_left_are_told_once_and_not_used(make: Any) -> None:
    ends = []
    for foreign in (False, True):
        model = noisy()
        optimizer = make(model)
        torch.manual_seed(2)
        told = []
        for batch in batches(4):
            if foreign:
                state, buffers = torch.get_rng_state(), snapshot(model)
                (3.0 * closure_for(model, batch)()).backward()
                torch.set_rng_state(state)
                model.load_state_dict(buffers)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                optimizer.step(closure_for(model, batch))
            told += [str(w.message) for w in caught]
        assert len(told) == int(foreign)
        assert not foreign or "outside of step(closure)" in told[0]
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*ends)


@every
def test_own_gradients_are_not_taken_for_others(make: Any) -> None:
    """Left in place, cleared either way, after an exception, and of a group added later."""
    model = noisy()
    optimizer = make([*model.conv.parameters()], model=model)
    for i, batch in enumerate(batches(8)):  # warnings are errors here
        optimizer.step(closure_for(model, batch))
        if i in (2, 4):
            optimizer.zero_grad(set_to_none=i == 2)
        if i == 5:
            optimizer.add_param_group({"params": [*model.head.parameters()]})


def test_gradients_that_another_line_search_sent_are_no_reason_to_warn() -> None:
    """A GAN: the generator's loss goes through the critic."""
    generator, critic = nn.Linear(4, 4), nn.Linear(4, 1)
    ours, theirs = PAL(generator), PAL(critic)
    x = torch.randn(8, 4)
    for _ in range(3):  # warnings are errors here
        theirs.step(lambda: (critic(x) - critic(generator(x).detach()) - 1.0).square().mean())
        ours.step(lambda: critic(generator(x)).square().mean())


@every
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_what_is_remembered_follows_the_weights_to_another_type(
    make: Any, dtype: torch.dtype
) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = make(model)
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))

    def closure() -> torch.Tensor:
        loss: torch.Tensor = (model(x) - x.sum(1, keepdim=True)).square().mean()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    model.to(dtype)
    x = x.to(dtype)
    losses = [float(optimizer.step(closure)) for _ in range(12)]
    assert losses[-1] < losses[0]
    for state in optimizer.state.values():
        assert all(t.dtype == dtype for t in state.values() if isinstance(t, torch.Tensor))
