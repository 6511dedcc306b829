"""What the tests with other people's trainers share: a net, its data, and two comparisons."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from surefoot import MeasuredLR

STEPS = 40
FEATURES = torch.randn(320, 8, generator=torch.Generator().manual_seed(0))
TARGETS = FEATURES[:, :1].sin()


def net(seed: int = 1, dropout: float = 0.0) -> nn.Sequential:
    """A small network, always the same."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Dropout(dropout), nn.Linear(32, 1))


def dataset() -> TensorDataset:
    return TensorDataset(FEATURES, TARGETS)


def batch(k: int, size: int = 32) -> tuple[Tensor, Tensor]:
    """The k-th batch of an endless pass over the data."""
    start = k * size % len(FEATURES)
    return FEATURES[start : start + size], TARGETS[start : start + size]


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters())


def frozen(model: nn.Module) -> MeasuredLR:
    """Measures often, and must train as AdamW does."""
    return MeasuredLR(adamw(model), model, frozen=True, overhead=0.5)


def measured(model: nn.Module, **options: Any) -> MeasuredLR:
    """Measures often within a short run."""
    return MeasuredLR(adamw(model), model, **{"total_steps": STEPS, "overhead": 0.5, **options})


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def assert_same(first: nn.Module, second: nn.Module) -> None:
    """Equal to the bit."""
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.isfinite(p).all()
        assert torch.equal(p, q)


def assert_measured(optimizer: MeasuredLR, at_least: int = 4) -> None:
    """It was not idle: several parabolas, and a minimum."""
    assert optimizer.rate.n >= at_least
    assert optimizer.rate.value is not None
