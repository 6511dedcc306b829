"""Measured optimizers from parameters alone: the model is found at its first forward pass."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import surefoot

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
Y = X[:, :1].sin()


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 1))


pytestmark = pytest.mark.filterwarnings("ignore:most of the last 50 steps")


def train(model: nn.Module, optimizer: Any, steps: int) -> None:
    for _ in range(steps):
        F.mse_loss(model(X), Y).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize(
    ("name", "base"), [("MeasuredAdamW", torch.optim.AdamW), ("MeasuredSGD", torch.optim.SGD)]
)
def test_it_is_the_wrapped_optimizer_to_the_bit(name: str, base: Any) -> None:
    ours, others = net(), net()
    short = getattr(surefoot, name)(ours.parameters(), lr=0.01, weight_decay=0.1, total_steps=40)
    long = surefoot.MeasuredLR(
        base(others.parameters(), lr=0.01, weight_decay=0.1), others, total_steps=40
    )
    torch.manual_seed(2)
    train(ours, short, 40)
    torch.manual_seed(2)
    train(others, long, 40)
    for p, q in zip(ours.parameters(), others.parameters(), strict=True):
        assert torch.equal(p, q)
    assert short.rate == long.rate


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize("grouped", [False, True])
def test_muon_takes_the_matrices_and_adamw_the_rest(grouped: bool) -> None:
    model = net()
    params: Any = model.parameters()
    if grouped:
        params = [
            {"params": list(model[0].parameters()), "lr": 2e-3},
            {"params": list(model[3].parameters())},
        ]
    optimizer = surefoot.MeasuredMuon(params, total_steps=60)
    train(model, optimizer, 30)
    assert all(
        ("momentum_buffer" in optimizer.state[p]) == (p.dim() == 2) for p in model.parameters()
    )
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    random = torch.get_rng_state()
    train(model, optimizer, 30)
    other = net()
    if grouped:
        params = [
            {"params": list(other[0].parameters()), "lr": 2e-3},
            {"params": list(other[3].parameters())},
        ]
    else:
        params = other.parameters()
    resumed = surefoot.MeasuredMuon(params, total_steps=60)
    weights, state = torch.load(file, weights_only=True)
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    torch.set_rng_state(random)
    train(other, resumed, 30)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
