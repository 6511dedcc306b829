"""Who sees the average while the optimizer is there and after, and what it leaves in the model."""

from __future__ import annotations

import copy
import gc
import io
import math
import pickle
import sys
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surefoot import MeasuredLR

X = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
Y = X[:, :1].sin()


def net(norm: bool = False) -> nn.Sequential:
    torch.manual_seed(1)
    middle = [nn.BatchNorm1d(16)] if norm else []
    return nn.Sequential(nn.Linear(8, 16), *middle, nn.Tanh(), nn.Linear(16, 1))


def wrap(model: nn.Module, **options: Any) -> MeasuredLR:
    return MeasuredLR(torch.optim.AdamW(model.parameters(), 1e-2), model, **options)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        rows = torch.randint(256, (32,), generator=generator)
        optimizer.zero_grad()
        F.mse_loss(model(X[rows]), Y[rows]).backward()
        optimizer.step()


@torch.no_grad()
def answer(model: nn.Module) -> Tensor:
    training = model.training
    out = model.eval()(X)
    model.train(training)
    return out


def averages_of(model: nn.Module, optimizer: MeasuredLR) -> list[Tensor]:
    with optimizer.averaged():
        return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("in_a_cycle", [False, True])
def test_the_average_is_what_a_function_that_trains_leaves_behind(
    norm: bool, in_a_cycle: bool
) -> None:
    def fit(model: nn.Module) -> Tensor:
        optimizer = wrap(model)
        if in_a_cycle:
            optimizer.trainer = {"optimizer": optimizer}  # type: ignore[attr-defined]
        train(model, optimizer, 30)
        return answer(model)

    model = net(norm)
    seen = fit(model)
    assert torch.equal(answer(model), seen)  # whether or not the optimizer was collected
    gc.collect()
    assert torch.equal(answer(model), seen)
    plain = net(norm)
    assert vars(model).keys() - {"__reduce_ex__"} == vars(plain).keys()
    assert not [*model._forward_pre_hooks, *model._forward_hooks]
    plain.load_state_dict({k: v.detach() for k, v in model.named_parameters()}, strict=False)
    if not norm:
        assert torch.equal(answer(plain), seen)
    train(model, torch.optim.SGD(model.parameters(), 0.1), 1)
    assert not torch.equal(answer(model), seen)


def test_whoever_trains_on_is_seen_and_so_is_the_average_after_its_next_step() -> None:
    model = net()
    optimizer = wrap(model)
    train(model, optimizer, 30)
    train(model, torch.optim.SGD(model.parameters(), 0.1), 30)
    plain = copy.deepcopy(model)
    assert torch.equal(answer(model), answer(plain))
    assert torch.equal(model.state_dict()["0.weight"], plain[0].weight)
    train(model, optimizer, 1)
    for p, x in zip(plain.parameters(), averages_of(model, optimizer), strict=True):
        torch.testing.assert_close(x, p, rtol=0.05, atol=0.05)  # and no old average


def test_a_second_optimizer_of_a_model_shows_its_own_average() -> None:
    model = net()
    first = wrap(model)
    train(model, first, 20)
    second = wrap(model)
    train(model, second, 60)
    with second.averaged(), torch.no_grad():
        seen = model(X)
    assert torch.equal(answer(model), seen)
    own = [p.detach().clone() for p in model.parameters()]
    del first
    gc.collect()
    assert torch.equal(answer(model), seen)
    for p, was in zip(model.parameters(), own, strict=True):
        assert torch.equal(p, was)


def test_in_evaluation_mode_the_parameters_are_the_average() -> None:
    model = net(norm=True)
    optimizer = wrap(model)
    train(model, optimizer, 30)
    mine, averages = [p.detach().clone() for p in model.parameters()], averages_of(model, optimizer)
    model.eval()
    with torch.no_grad():
        parts = model[3](model[2](model[1](model[0](X))))
    for m in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(answer(m), parts)
        for p, x in zip(m.parameters(), averages, strict=True):
            assert torch.equal(p, x)
    exported = torch.export.export(model, (X,)).module()
    torch.testing.assert_close(exported(X), parts)
    model.train()
    for p, own in zip(model.parameters(), mine, strict=True):
        assert torch.equal(p, own)
    optimizer.zero_grad()
    train(model, optimizer, 5)


@pytest.mark.parametrize("options", [{}, {"total_steps": 60}])
def test_a_file_of_the_whole_model_needs_nothing_of_this_library(options: Any) -> None:
    model = net()
    optimizer = wrap(model, **options)
    train(model, optimizer, 30)
    model.eval()
    file = io.BytesIO()
    torch.save(model, file)
    assert b"surefoot" not in file.getvalue()
    file.seek(0)
    with torch.serialization.safe_globals([nn.Sequential, nn.Linear, nn.Tanh]):
        assert torch.equal(answer(torch.load(file, weights_only=True)), answer(model))


def test_a_loop_that_never_calls_train_again_trains_and_measures_on() -> None:
    """``eval()`` for the first evaluation; without dropout nothing tells the difference."""
    ends = []
    for returns in (True, False):
        model = net()
        optimizer = wrap(model)
        for _ in range(4):
            train(model, optimizer, 25)
            model.eval()
            with torch.no_grad():
                ends.append(F.mse_loss(model(X), Y).item())
            model.train(returns)
        assert optimizer.cost.probes > 20
    assert ends[7] < min(2.0 * ends[3], 0.5 * ends[4])


@pytest.mark.parametrize("mode", [True, False])
def test_steps_are_as_short_after_the_best_weights_were_loaded(mode: bool) -> None:
    model = net(norm=True)
    optimizer = wrap(model)
    train(model, optimizer, 100)
    best, seen = copy.deepcopy(model.state_dict()), answer(model)
    train(model, optimizer, 10)
    model.train(mode)
    model.load_state_dict(best)
    assert torch.equal(answer(model), seen)
    model.train()
    for name, value in model.state_dict(keep_vars=True).items():
        assert torch.equal(value, best[name]), name
    before = F.mse_loss(answer(model), Y)
    train(model, optimizer, 3)
    with torch.no_grad():
        assert F.mse_loss(model(X), Y) < 4.0 * before + 0.01


def test_a_model_that_is_cast_or_moved_takes_its_average_along() -> None:
    model = net()
    optimizer = wrap(model)
    train(model, optimizer, 30)
    seen = answer(model)
    model.double()
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(X.double()), seen.double())
    assert model.state_dict()["0.weight"].dtype == torch.float64


def test_nothing_holds_a_model_whose_optimizer_is_gone() -> None:
    model = net()
    optimizer = wrap(model)
    train(model, optimizer, 20)
    gc.collect()
    gc.disable()
    try:
        counts = sys.getrefcount(model[0].weight)
        del optimizer
        assert sys.getrefcount(model[0].weight) < counts
        gone = weakref.ref(model)
        del model
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("mode", [True, False])
def test_weights_that_are_lent_to_an_evaluation_are_what_it_sees(mode: bool) -> None:
    """As a library of moving averages lends its own: stored, copied, evaluated, restored."""
    model, plain = net(), net()
    optimizer = wrap(model)
    train(model, optimizer, 30)
    mine, seen = [p.detach().clone() for p in model.parameters()], answer(model)
    others = [0.9 * p for p in mine]
    model.train(mode)
    stored = [p.detach().clone() for p in model.parameters()]
    for p, other in zip(model.parameters(), others, strict=True):
        p.data.copy_(other)
    plain.load_state_dict(model.state_dict())
    for p, q, other in zip(model.parameters(), plain.parameters(), others, strict=True):
        assert torch.equal(q, other)
        assert torch.equal(p, other)
    assert torch.equal(answer(model), answer(plain))
    for p, kept in zip(model.parameters(), stored, strict=True):
        p.data.copy_(kept)
    assert torch.equal(answer(model), seen)
    model.train()
    for p, own in zip(model.parameters(), mine, strict=True):
        assert torch.equal(p, own)


def test_what_the_loop_does_to_weights_after_every_step_is_part_of_it() -> None:
    model = net()
    optimizer = wrap(model)
    for _ in range(30):
        train(model, optimizer, 1)
        for p in model.parameters():
            p.data.clamp_(-0.1, 0.1)
    with optimizer.averaged(), torch.no_grad():
        average = model(X)
    assert torch.equal(answer(model), average)
    with torch.no_grad():
        assert not torch.equal(model(X), average)


def test_weights_that_were_written_by_hand_are_where_it_goes_on() -> None:
    model = net()
    optimizer = wrap(model)
    train(model, optimizer, 60)
    other = [torch.full_like(p, 0.1) for p in model.parameters()]
    for p, value in zip(model.parameters(), other, strict=True):
        p.data.copy_(value)
    answer(model)
    train(model, optimizer, 1)
    for p, value in zip(averages_of(model, optimizer), other, strict=True):
        torch.testing.assert_close(p, value, rtol=0.0, atol=0.05)


def test_a_file_at_every_step_does_not_measure_statistics_at_every_step() -> None:
    """As a moving average does that is updated from ``model.state_dict()``."""
    model = net(norm=True)
    optimizer = wrap(model)
    passes: list[int] = []
    model[1].register_forward_hook(lambda *_: passes.append(1))
    for _ in range(160):
        train(model, optimizer, 1)
        model.state_dict()
    without = optimizer.cost.forwards
    assert len(passes) - without < 16 * 80
    state = model.state_dict()
    assert torch.allclose(model.eval().state_dict()["1.running_mean"], state["1.running_mean"], 0.1)


def test_two_that_step_the_same_weights_in_turns_do_not_average_them() -> None:
    """Two tasks on one trunk, an optimizer each: their averages would drive each other away."""
    trunk, heads = net()[:2], [nn.Linear(16, 1), nn.Linear(16, 8)]
    models = [nn.Sequential(trunk, head) for head in heads]
    optimizers = [wrap(model) for model in models]
    tasks = list(zip(models, optimizers, (Y, X), strict=True))
    with pytest.warns(UserWarning, match="in turn"):
        for i in range(200):
            rows = torch.arange(32 * i, 32 * i + 32) % 256
            for model, optimizer, target in tasks:
                optimizer.zero_grad()
                F.mse_loss(model(X[rows]), target[rows]).backward()
                optimizer.step()
    assert F.mse_loss(answer(models[0]), Y) < 0.1 * Y.var()
    assert F.mse_loss(answer(models[1]), X) < 0.6 * X.var()
    assert torch.equal(models[0].state_dict()["0.0.weight"], trunk[0].weight)
    # losses that are not finite send those that average to their averages: here there are none
    with pytest.warns(UserWarning, match="not finite"):
        for _ in range(3):
            F.mse_loss(models[0](X), torch.full_like(Y, math.nan)).backward()
            optimizers[0].step()
    state = optimizers[0].state_dict()["state"]
    assert not any("measured_average" in entries for entries in state.values())
