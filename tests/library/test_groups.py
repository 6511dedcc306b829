"""Groups, frozen parameters, layouts, precisions and torch's schedulers, on both optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from _problems import batches, closure_for, noisy
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
        kw = {"rule": "published", "burn_in": 400} if make is MAKERS["labpal"] else {}
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
