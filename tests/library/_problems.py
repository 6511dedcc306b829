"""Small problems with known answers, and small nets with everything that is hard to put back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

import surefoot


@dataclass
class Quadratic:
    """L(θ) = ½ θᵀAθ − bᵀθ in float64, θ split over two parameters, start away from the origin."""

    condition: float = 100.0
    sizes: tuple[int, int] = (4, 6)
    A: Tensor = field(init=False)
    b: Tensor = field(init=False)
    parts: list[nn.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        n = sum(self.sizes)
        generator = torch.Generator().manual_seed(3)
        eigenvalues = torch.logspace(0, torch.tensor(self.condition).log10(), n).double()
        basis, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
        self.A = basis @ torch.diag(eigenvalues) @ basis.T
        self.b = torch.randn(n, generator=generator, dtype=torch.float64)
        start = 3.0 + torch.randn(n, generator=generator, dtype=torch.float64)
        self.parts = [nn.Parameter(part.clone()) for part in start.split(self.sizes)]

    @property
    def theta(self) -> Tensor:
        return torch.cat([part.detach() for part in self.parts])

    def loss(self) -> Tensor:
        theta = torch.cat(list(self.parts))
        return 0.5 * theta @ self.A @ theta - self.b @ theta

    def gradient(self, theta: Tensor) -> Tensor:
        return self.A @ theta - self.b

    def exact_multiple(self, before: Tensor, after: Tensor) -> float:
        """How many times the exact minimum of its own line a move went."""
        d = after - before
        minimum = -(self.gradient(before) @ d) / (d @ self.A @ d)
        return float(1.0 / minimum)


LINE_SEARCHES: dict[str, Callable[..., surefoot.LineSearchOptimizer]] = {
    "pal": surefoot.PAL,
    "labpal": partial(surefoot.LABPAL, measuring_batches=2, reuse=3),
    "sls": surefoot.SLS,
    "gols": surefoot.GOLS,
    "pls": surefoot.PLS,
    "exact": surefoot.ExactLineSearch,
    "fbpal": surefoot.FullBatchPAL,
}


class Noisy(nn.Module):
    """Convolution, BatchNorm, dropout: random numbers and buffers in one small net."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(8 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(torch.relu(self.norm(self.conv(x))))
        out: Tensor = self.head(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))
        return out


def noisy(seed: int = 0) -> Noisy:
    torch.manual_seed(seed)
    return Noisy()


def batches(n: int, size: int = 16, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, 3, 8, 8, generator=generator),
            torch.randint(0, 5, (size,), generator=generator),
        )
        for _ in range(n)
    ]


def closure_for(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Callable[[], Tensor]:
    x, y = batch

    def closure() -> Tensor:
        loss: Tensor = nn.functional.cross_entropy(model(x), y)
        return loss

    return closure


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
