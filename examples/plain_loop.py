"""An ordinary training loop: AdamW's default, the same with a schedule, and measured.

python examples/plain_loop.py
"""

from __future__ import annotations

import argparse

import torch
from _digits import accuracy, load, network

import surefoot


def train(kind: str, steps: int) -> tuple[float, float]:
    """Test accuracy, and the learning rate that was applied last."""
    x, y, test_x, test_y = load()
    model = network()
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters())
    scheduler = None
    if kind == "measured":
        optimizer = surefoot.MeasuredLR(optimizer, model)  # nothing else changes
    elif kind == "1cycle to 0.01":
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)
    batches = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(0, len(x), (64,), generator=batches)
        loss = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if scheduler is not None:
            scheduler.step()
    group = optimizer.param_groups[0]
    return accuracy(model, test_x, test_y), group.get("effective_lr", group["lr"])


def main(steps: int = 300) -> dict[str, float]:
    """Train three times, and print what was reached."""
    found = {}
    for kind in ("measured", "default", "1cycle to 0.01"):
        found[kind], rate = train(kind, steps)
        print(f"AdamW, {kind:<15} {found[kind]:.1%} right, last rate {rate:.2g}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    main(**vars(parser.parse_args()))
