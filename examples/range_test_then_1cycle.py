"""Find a rate with a short run in which it rises, then train with a 1cycle schedule up to it.

python examples/range_test_then_1cycle.py
"""

from __future__ import annotations

import argparse

import torch
from _digits import accuracy, load, network
from torch.utils.data import DataLoader, TensorDataset

import surefoot


def main(epochs: int = 10, picture: str | None = None) -> float:
    """Train, and return the test accuracy."""
    x, y, test_x, test_y = load()
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True, drop_last=True)
    model, loss_fn = network(), torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    curve = surefoot.range_test(model, optimizer, loader, loss_fn)  # leaves no trace
    print(f"suggested: {curve.suggestion():.2g} ({curve.message})")
    if picture is not None:
        curve.plot().figure.savefig(picture)

    scheduler = surefoot.one_cycle(optimizer, curve, total_steps=epochs * len(loader))
    for _ in range(epochs):
        for images, labels in loader:
            loss_fn(model(images), labels).backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    right = accuracy(model, test_x, test_y)
    print(f"{right:.1%} right")
    return right


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--picture", help="where to save the curve of the range test")
    main(**vars(parser.parse_args()))
