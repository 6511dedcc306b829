"""Groups, frozen parameters, layouts, precisions and torch's schedulers, on both optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from _problems import batches, closure_for, noisy, snapshot
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from surefoot import LABPAL, PAL, LineSearchOptimizer, Status

MAKERS: dict[str, Callable[..., LineSearchOptimizer]] = {
    "pal": PAL,
    "labpal": lambda params, **kw: LABPAL(params, measuring_batches=2, reuse=3, **kw),
}
both = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


def train(
    model: nn.Module, optimizer: LineSearchOptimizer, steps: int = 8, **to: Any
) -> list[float]:
    losses = []
    for x, y in batches(steps):
        losses.append(float(optimizer.step(closure_for(model, (x.to(**to), y)))))
    return losses


@both
def test_two_groups_with_different_lr_both_move_by_their_ratio(make: Any) -> None:
    model = noisy()
    groups = [
        {"params": model.conv.parameters(), "lr": 1.0},
        {"params": model.head.parameters(), "lr": 0.1},
    ]
    optimizer = make(groups, model=model)
    optimizer.step(closure_for(model, batches(1)[0]))
    before = snapshot(model)
    grads = {}
    while True:
        optimizer.step(closure_for(model, batches(1)[0]))
        if optimizer.last.length > 0.0:
            break
    for name, p in model.named_parameters():
        grads[name] = p.grad
    after = snapshot(model)
    assert torch.equal(before["norm.weight"], after["norm.weight"])  # in no group
    assert not torch.equal(before["conv.weight"], after["conv.weight"])
    assert not torch.equal(before["head.weight"], after["head.weight"])
    first, second = (g["effective_lr"] for g in optimizer.param_groups)
    assert second == pytest.approx(0.1 * first)


@both
def test_frozen_and_grad_less_parameters_stay(make: Any) -> None:
    model = noisy()
    model.conv.weight.requires_grad_(False)
    model.extra = nn.Parameter(torch.ones(3))  # never used by the loss
    optimizer = make(model.parameters(), model=model)
    before = snapshot(model)
    train(model, optimizer)
    after = snapshot(model)
    for name in ("conv.weight", "extra"):
        assert torch.equal(before[name], after[name])
    assert not torch.equal(before["head.weight"], after["head.weight"])


@both
def test_a_group_can_be_added_and_moves(make: Any) -> None:
    model = noisy()
    optimizer = make(model.conv.parameters(), model=model)
    train(model, optimizer, steps=3)
    optimizer.add_param_group({"params": model.head.parameters(), "lr": 0.5})
    before = snapshot(model)
    train(model, optimizer)
    assert not torch.equal(before["head.weight"], snapshot(model)["head.weight"])


@both
def test_channels_last_and_non_contiguous_take_the_same_steps(make: Any) -> None:
    """Layout is not arithmetic: in float64 the walks agree far below any step."""
    walks = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model = noisy().double().to(memory_format=layout)
        model.drop.p = 0.0  # random numbers fall in the order of memory
        model.head.weight = nn.Parameter(model.head.weight.detach().t().contiguous().t())
        optimizer = make(model)
        torch.manual_seed(4)
        train(model, optimizer, dtype=torch.float64, memory_format=layout)
        walks.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
        assert model.conv.weight.is_contiguous(memory_format=layout)
    assert torch.allclose(*walks, rtol=1e-6, atol=1e-8)  # curvatures are differences of losses


@both
def test_bf16_autocast_trains(make: Any) -> None:
    model = noisy()
    model.drop.p = 0.0
    optimizer = make(model)
    batch = batches(1, size=64)[0]

    def closure() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return closure_for(model, batch)()

    losses = [float(optimizer.step(closure)) for _ in range(30)]
    assert all(p.dtype is torch.float32 for p in model.parameters())
    assert losses[-1] < 0.7 * losses[0]
    assert optimizer.last.status in (
        Status.MINIMUM,
        Status.REUSED,
        Status.CAPPED,
        Status.COLLECTING,
    )


@both
def test_bf16_parameters_and_mixed_dtypes(make: Any) -> None:
    model = noisy()
    model.head.to(torch.float64)
    model.conv.to(torch.bfloat16)
    x, y = batches(1, size=64)[0]

    def closure() -> Tensor:
        h = model.norm(model.conv(x.bfloat16()).float())
        h = nn.functional.adaptive_avg_pool2d(torch.relu(h), 4).flatten(1)
        loss: Tensor = nn.functional.cross_entropy(model.head(h.double()), y)
        return loss

    optimizer = make(model)
    losses = [float(optimizer.step(closure)) for _ in range(40)]
    assert losses[-1] < 0.9 * losses[0]
    assert model.conv.weight.dtype is torch.bfloat16


@both
def test_fp16_with_its_own_grad_scaler(make: Any) -> None:
    model = noisy()
    model.drop.p = 0.0
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)  # overflows at first
    optimizer = make(model, grad_scaler=scaler)
    batch = batches(1, size=32)[0]

    def closure() -> Tensor:
        with torch.autocast("cpu", torch.float16):
            return closure_for(model, batch)()

    statuses, losses = [], []
    for _ in range(40):
        losses.append(float(optimizer.step(closure)))
        statuses.append(optimizer.last.status)
    assert statuses[0] is Status.NON_FINITE
    assert scaler.get_scale() < 2.0**24
    assert losses[-1] < 0.8 * losses[0]


@both
def test_a_scaler_that_calls_step_is_refused(make: Any) -> None:
    model = noisy()
    scaler = torch.amp.GradScaler("cpu")
    optimizer = make(model)
    closure = closure_for(model, batches(1)[0])
    scaler.scale(closure()).backward()
    with pytest.raises(RuntimeError, match="grad_scaler=scaler"):
        scaler.step(optimizer, closure)


@both
def test_torch_schedulers_act_on_alpha(make: Any, quadratic: Any) -> None:
    """One LambdaLR and one OneCycleLR: the step is the scheduled α times the exact minimum."""
    for schedule in (
        lambda opt: LambdaLR(opt, lambda i: 1.0 / (1 + i)),
        lambda opt: OneCycleLR(opt, max_lr=1.2, total_steps=60, cycle_momentum=False),
    ):
        kw = {"burn_in": 400} if make is MAKERS["labpal"] else {}
        optimizer = make(quadratic.parts, max_length=1e6, measuring_length=0.1, **kw)
        scheduler = schedule(optimizer)
        checked = 0
        for _ in range(50):
            before, alpha = quadratic.theta, optimizer.param_groups[0]["lr"]
            optimizer.step(quadratic.loss)
            scheduler.step()
            if optimizer.last.status is Status.MINIMUM:
                multiple = quadratic.exact_multiple(before, quadratic.theta)
                assert multiple == pytest.approx(alpha, rel=1e-5)
                checked += 1
        assert checked >= 10


@both
def test_one_cycle_cannot_switch_momentum_on(make: Any) -> None:
    with pytest.raises(ValueError, match="momentum"):
        OneCycleLR(make(noisy()), max_lr=1.0, total_steps=10)


@both
def test_an_lr_of_zero_stands_still(make: Any) -> None:
    model = noisy()
    optimizer = make(model, step_multiplier=0.0)
    before = [p.clone() for p in model.parameters()]
    train(model, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@both
def test_weight_decay_is_decoupled(make: Any, quadratic: Any) -> None:
    twin = type(quadratic)()
    plain, decayed = make(quadratic.parts), make(twin.parts, weight_decay=0.1)
    while plain.last is None or plain.last.length == 0.0:
        plain.step(quadratic.loss)
        decayed.step(twin.loss)
    assert plain.last.parabola == decayed.last.parabola  # the measured loss stays the loss
    shrunk = 1.0 - 0.1 * decayed.last.effective_lr
    assert torch.allclose(twin.theta, shrunk * quadratic.theta, rtol=1e-12)
