"""scikit-learn's digits and a small conv net, for the other examples."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn


def load() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, test images and labels; pixels from 0 to 1."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None][order] / 16
    y = torch.tensor(digits.target)[order]
    return x[:1400], y[:1400], x[1400:], y[1400:]


def network(seed: int = 0) -> nn.Module:
    """20 thousand parameters, no BatchNorm."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of right answers; a model in evaluation mode shows averaged weights by itself."""
    model.eval()
    right = (model(x).argmax(1) == y).float().mean().item()
    model.train()
    return right
