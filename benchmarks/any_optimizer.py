"""Every optimizer of a package at a measured rate, beside the best of four fixed ones.

    python -m pip install pytorch_optimizer && python benchmarks/any_optimizer.py [NAME ...]

A net of 1,400 weights, a noiseless function of ten inputs, 250 steps of 32 examples, one seed; the loss over all
examples at the end. Those that want more than parameters and an `lr` are left out.
"""

from __future__ import annotations

import argparse
import math
import statistics
import warnings
from collections.abc import Callable

import torch
from torch import nn

from surefoot import MeasuredLR

STEPS, BATCH = 250, 32
RATES = (1e-4, 1e-3, 1e-2, 1e-1)


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """256 examples."""
    x = torch.randn(256, 10, generator=torch.Generator().manual_seed(0))
    return x, 2.0 * x[:, :1] - x[:, 1:2] ** 2 + 0.3 * x[:, 2:3] * x[:, 3:4]


def net() -> nn.Module:
    """Two hidden layers of 32."""
    torch.manual_seed(0)
    hidden = nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh()
    return nn.Sequential(*hidden, nn.Linear(32, 1))


def trained(make: Callable[[nn.Module], torch.optim.Optimizer], steps: int) -> float:
    """The loss at the end."""
    model, (x, y) = net(), data()
    optimizer, draw = make(model), torch.Generator().manual_seed(1)
    for _ in range(steps):
        some = torch.randint(0, len(x), (BATCH,), generator=draw)
        nn.functional.mse_loss(model(x[some]), y[some]).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        return float(nn.functional.mse_loss(model(x), y))


def compared(kind: type[torch.optim.Optimizer], steps: int = STEPS) -> tuple[float, float | str]:
    """The best of the fixed rates, and with nothing given, or why it is refused.

    Raises:
        ArithmeticError: every fixed rate diverges.
    """
    fixed = [trained(lambda model, lr=lr: kind(model.parameters(), lr=lr), steps) for lr in RATES]
    best = min((loss for loss in fixed if math.isfinite(loss)), default=math.inf)
    if not best < math.inf:
        raise ArithmeticError("every fixed rate diverges")
    try:
        return best, trained(
            lambda model: MeasuredLR(kind(model.parameters(), lr=1e-3), model), steps
        )
    except TypeError as refused:
        return best, str(refused)


def main() -> None:
    from pytorch_optimizer import get_supported_optimizers, load_optimizer

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    ratios, refused = [], 0
    for name in options.names or sorted(get_supported_optimizers()):
        try:
            best, measured = compared(load_optimizer(name), options.steps)
        except Exception as error:
            print(f"{name:20s} left out: {str(error).splitlines()[0][:80]}", flush=True)
            continue
        if isinstance(measured, str):
            refused += 1
            print(f"{name:20s} {best:8.4f} refused: {measured[:80]}", flush=True)
        else:
            ratios.append(measured / best)
            print(f"{name:20s} {best:8.4f} {measured:10.4f} {ratios[-1]:8.2f}", flush=True)
    if ratios:
        print(
            f"{len(ratios)} measured, {refused} refused; measured over best: median "
            f"{statistics.median(ratios):.2f}, below 1: {sum(r < 1.0 for r in ratios)}, "
            f"at most 1.5: {sum(r <= 1.5 for r in ratios)}, above 3: {sum(r > 3.0 for r in ratios)}"
        )


if __name__ == "__main__":
    main()
