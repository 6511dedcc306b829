"""torch's own surroundings: scaler, schedulers, hooks, copies, several optimizers."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from _clients import (
    STEPS,
    adamw,
    assert_measured,
    assert_same,
    batch,
    frozen,
    measured,
    net,
    weights,
)
from torch import Tensor, nn
from torch.optim import lr_scheduler as schedulers
from torch.optim.optimizer import register_optimizer_step_post_hook

from surefoot import MeasuredLR, Status, is_measuring

# short runs with large steps: the bound's advice, and that of the accumulated gradients
pytestmark = [
    pytest.mark.filterwarnings("ignore:most of the last"),
    pytest.mark.filterwarnings("ignore:the gradients at step"),
]


def train(
    model: nn.Module, optimizer: Any, start: int = 0, end: int = STEPS, **options: Any
) -> None:
    clip, micro = options.get("clip"), options.get("micro", 1)
    for k in range(start, end):
        for j in range(micro):
            x, y = batch(micro * k + j)
            (F.mse_loss(model(x), y) / micro).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("options", [{}, {"clip": 0.1}, {"micro": 4}, {"clip": 0.1, "micro": 4}])
def test_frozen_trains_as_the_plain_optimizer(options: dict[str, Any]) -> None:
    first, second = net(dropout=0.1), net(dropout=0.1)
    torch.manual_seed(3)
    train(first, adamw(first), **options)
    torch.manual_seed(3)
    train(second, optimizer := frozen(second), **options)
    assert_same(first, second)
    assert_measured(optimizer)


# A scaler


def scaled(model: nn.Module, optimizer: Any, scaler: Any, unscales: bool, bad: int = -1) -> None:
    for k in range(STEPS):
        x, y = batch(k)
        loss = F.mse_loss(model(x), y)
        scaler.scale(loss * float("inf") if k == bad else loss).backward()
        if unscales:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()


@pytest.mark.parametrize("unscales", [True, False])
@pytest.mark.parametrize("enabled", [True, False])
def test_a_scaler_changes_nothing(enabled: bool, unscales: bool) -> None:
    first, second = net(), net()
    train(first, measured(first), clip=1.0 if unscales else None)
    # a power of two: what is scaled and unscaled is the same to the bit
    scaler = torch.amp.GradScaler("cpu", enabled=enabled, init_scale=2.0**10)
    scaled(second, optimizer := measured(second), scaler, unscales)
    assert_same(first, second)
    assert_measured(optimizer)


def test_a_scaler_leaves_a_step_out() -> None:
    model, plain = net(), net()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaled(model, optimizer := frozen(model), scaler, True, bad=7)
    scaled(plain, adamw(plain), torch.amp.GradScaler("cpu", init_scale=2.0**10), True, bad=7)
    assert_same(plain, model)
    assert_measured(optimizer)
    assert scaler.get_scale() == 2.0**9


# Schedulers

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, max_lr=1e-3, total_steps=STEPS + 1),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, STEPS),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 25),
    "LinearLR": lambda o: schedulers.LinearLR(o, 0.01, 1.0, 20),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.01, 1.0, 20), schedulers.CosineAnnealingLR(o, 20)], [20]
    ),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, 0.1, 20), schedulers.ExponentialLR(o, 0.97)], optimizer=o
    ),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 1e-4, 1e-3, 20, cycle_momentum=False),
    "LambdaLR from zero": lambda o: schedulers.LambdaLR(o, lambda t: min(1.0, t / 20)),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda t: 0.97),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, STEPS),
    "StepLR": lambda o: schedulers.StepLR(o, 10),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [20, 30]),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=2),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=5e-4, anneal_epochs=20),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_multiplies_the_measured_rate(name: str) -> None:
    make, model, plain = SCHEDULERS[name], net(), net()
    optimizer, other = measured(model, horizon="none", max_change=float("inf")), adamw(plain)
    scheduler, same = make(optimizer), make(other)
    for _ in range(STEPS):
        x, y = batch(0)
        for m, o in ((model, optimizer), (plain, other)):
            F.mse_loss(m(x), y).backward()
            o.step()
            o.zero_grad()
        group = optimizer.param_groups[0]
        assert group["lr"] == other.param_groups[0]["lr"]
        if group["lr"] == 0.0:
            assert group["effective_lr"] == 0.0
        elif optimizer.last.status is Status.REUSED:
            rate = optimizer._stepper.rate
            share = rate.in_use * rate.approach(optimizer._stepper.steps - 1) * rate.ebb
            assert group["effective_lr"] == pytest.approx(group["lr"] * share)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SequentialLR's own, about epochs
            for s in (scheduler, same):
                s.step(*([1.0] if name == "ReduceLROnPlateau" else []))
    assert_measured(optimizer)


# Hooks


def test_hooks_on_all_optimizers_fire_once_a_step() -> None:
    heard: Counter[str] = Counter()
    handle = register_optimizer_step_post_hook(lambda o, *_: heard.update([type(o).__name__]))
    try:
        model = net()
        optimizer = measured(model)
        own: list[int] = []
        optimizer.register_step_post_hook(lambda *_: own.append(1))
        train(model, optimizer)
    finally:
        handle.remove()
    assert heard == {"AdamW": STEPS}
    assert len(own) == STEPS
    assert_measured(optimizer)


def test_a_forward_hook_can_tell_a_replay() -> None:
    model = net()
    heard: list[bool] = []
    model[0].register_forward_hook(lambda *_: heard.append(is_measuring()))
    train(model, optimizer := measured(model))
    assert heard.count(False) == STEPS
    assert heard.count(True) == optimizer.cost.probes


# Copies and checkpoints

COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda pair: pickle.loads(pickle.dumps(pair)),
}


def saved(pair: Any) -> Any:
    file = io.BytesIO()
    torch.save(pair, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def stated(pair: Any) -> Any:
    file = io.BytesIO()
    torch.save([thing.state_dict() for thing in pair], file)
    file.seek(0)
    model = net(seed=2)
    optimizer = measured(model)
    for thing, state in zip((model, optimizer), torch.load(file, weights_only=True), strict=True):
        thing.load_state_dict(state)
    return model, optimizer


@pytest.mark.parametrize("at", [0, 1, 17])
@pytest.mark.parametrize("way", [*COPIES.values(), saved, stated])
def test_a_copy_goes_on_to_the_bit(way: Callable[[Any], Any], at: int) -> None:
    model = net()
    optimizer = measured(model)
    train(model, optimizer, 0, at)
    twin, other = way((model, optimizer))
    for m, o in ((model, optimizer), (twin, other)):
        train(m, o, at)
    assert_same(model, twin)
    assert other.rate == optimizer.rate


@pytest.mark.parametrize("way", COPIES.values())
def test_the_model_is_copied_while_its_loss_is_recorded(way: Callable[[Any], Any]) -> None:
    import torch._dynamo  # hooks are kept out of graphs from then on

    model = net()
    optimizer = measured(model)
    x, y = batch(0)
    loss = F.mse_loss(model(x), y)
    twin = way(model)
    with torch.no_grad():
        assert F.mse_loss(twin(x), y) == loss
    loss.backward()
    optimizer.step()
    assert optimizer.last is not None
    assert optimizer.last.status.measured
    assert not all(torch.equal(p, q) for p, q in zip(weights(model), weights(twin), strict=True))


# Several optimizers


def test_two_optimizers_share_a_loss() -> None:
    model = net()
    body = MeasuredLR(
        torch.optim.AdamW(model[0].parameters()), model, total_steps=STEPS, overhead=0.5
    )
    head = MeasuredLR(
        torch.optim.SGD(model[3].parameters(), lr=0.1), model, total_steps=STEPS, overhead=0.5
    )
    for k in range(STEPS):
        x, y = batch(k)
        F.mse_loss(model(x), y).backward()
        body.step(), head.step()
        model.zero_grad()
    assert_measured(body), assert_measured(head)


def test_two_networks_against_each_other() -> None:
    maker, critic = nn.Linear(8, 8), net()
    makes, judges = measured(maker), measured(critic)
    ones, zeros = torch.ones(32, 1), torch.zeros(32, 1)
    loss_of = F.binary_cross_entropy_with_logits
    for k in range(STEPS):
        x, _ = batch(k)
        made = maker(torch.flip(x, (1,)))
        judges.zero_grad()
        (loss_of(critic(x), ones) + loss_of(critic(made.detach()), zeros)).backward()
        judges.step()
        makes.zero_grad()
        loss_of(critic(made), ones).backward()
        makes.step()
    assert_measured(makes), assert_measured(judges)
    assert judges._stepper.rate.slopes == "gradient"


class Tagged(torch.Tensor):
    """A subclass, as fastai's batches are."""


@pytest.mark.parametrize("what", ["inputs", "targets", "both"])
def test_tensor_subclasses(what: str) -> None:
    plain, model = net(), net()
    train(plain, measured(plain))
    optimizer = measured(model)
    for k in range(STEPS):
        x, y = batch(k)
        x = x if what == "targets" else x.as_subclass(Tagged)
        y = y if what == "inputs" else y.as_subclass(Tagged)
        loss: Tensor = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert_same(plain, model)
