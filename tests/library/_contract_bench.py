"""What the optimizer contract is checked on: a small net with everything that is hard to keep."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from surefoot.optim import LineSearchOptimizer

Batch = tuple[Tensor, Tensor]
Factory = Callable[..., LineSearchOptimizer]


class Net(nn.Module):
    """Convolution, BatchNorm, dropout, a linear layer."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(6 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of a batch of 4 by 4 images with two channels."""
        hidden = self.drop(torch.relu(self.norm(self.conv(x))))
        scores: Tensor = self.head(hidden.flatten(1))
        return scores


def batches(n: int, dtype: torch.dtype = torch.float32) -> list[Batch]:
    """``n`` batches of 12 images with labels that can be learned."""
    generator = torch.Generator().manual_seed(7)
    out = []
    for _ in range(n):
        y = torch.randint(0, 4, (12,), generator=generator)
        x = torch.randn(12, 2, 4, 4, generator=generator, dtype=torch.float64)
        out.append(((x + 0.7 * y.reshape(-1, 1, 1, 1)).to(dtype), y))
    return out


def loss_of(model: nn.Module, batch: Batch) -> Callable[[], Tensor]:
    """A closure that returns the loss."""
    x, y = batch

    def closure() -> Tensor:
        return nn.functional.cross_entropy(model(x), y)

    return closure


def plain_forward(model: nn.Module, batch: Batch) -> Tensor:
    """One ordinary forward pass of a training step."""
    return loss_of(model, batch)()


class Snapshot:
    """Weights, buffers and the CPU's random state, to compare bit for bit."""

    def __init__(self, model: nn.Module) -> None:
        self.tensors = {name: value.clone() for name, value in model.state_dict().items()}
        self.random = torch.get_rng_state()

    def differs_from(self, other: Snapshot) -> list[str]:
        """Names of what is not the same to the bit."""
        names = [n for n in self.tensors if not torch.equal(self.tensors[n], other.tensors[n])]
        if not torch.equal(self.random, other.random):
            names.append("the random state")
        return names


@dataclass
class Bench:
    """Makes fresh nets and optimizers, always the same ones.

    Args:
        factory: makes the optimizer.
        repeatable: whether the optimizer must refuse a closure that is not repeatable.
    """

    factory: Factory
    repeatable: bool = True

    def fresh(
        self, *, dtype: torch.dtype = torch.float32, dropout: float = 0.3, **options: Any
    ) -> tuple[Net, LineSearchOptimizer]:
        """A net and its optimizer; the random state is the same each time."""
        model = self.net(dtype=dtype, dropout=dropout)
        optimizer = self.factory(model, **options)
        torch.manual_seed(21)
        return model, optimizer

    def net(self, *, dtype: torch.dtype = torch.float32, dropout: float = 0.3) -> Net:
        """The net alone."""
        torch.manual_seed(20)
        return Net(dropout).to(dtype)

    def walk(
        self, model: nn.Module, optimizer: LineSearchOptimizer, data: list[Batch]
    ) -> list[float]:
        """A step on each batch; the losses returned."""
        return [float(optimizer.step(loss_of(model, batch))) for batch in data]

    def first_move(
        self, model: nn.Module, optimizer: LineSearchOptimizer, batch: Batch
    ) -> dict[str, Tensor]:
        """Step on one batch until the weights move; the weights before that step.

        Raises:
            AssertionError: if they do not move in 60 steps.
        """
        for _ in range(60):
            before = {name: p.detach().clone() for name, p in model.named_parameters()}
            optimizer.step(loss_of(model, batch))
            assert optimizer.last is not None
            if optimizer.last.length > 0.0:
                return before
        raise AssertionError(f"no move in 60 steps; the last: {optimizer.last}")


def gradient(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The gradient at the model's weights, by plain autograd on a copy."""
    twin = copy.deepcopy(model)
    plain_forward(twin, batch).backward()
    return {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}


@contextmanager
def global_random_state_kept() -> Iterator[None]:
    """Whoever checks leaves no trace either."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)
