"""A run of lines that a test kills: in a file of its own, since every process imports it."""

from __future__ import annotations

from multiprocessing.connection import Connection

import torch
import torch._dynamo  # which torch's optimizers import at their first use
from _problems import batches, noisy

from surefoot.shape import sample_run


def run(folder: str, seed: int, told: Connection) -> None:
    """Sample every second of 40 steps; each line is told, and the end."""
    torch.set_num_threads(1)
    data = batches(6)
    model = noisy(seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    sample_run(
        model,
        optimizer,
        torch.nn.functional.cross_entropy,
        lambda step: data[step % 6],
        data[:3],
        steps=40,
        every=2,
        folder=folder,
        along="update",
        lengths=(-0.1, 0.2),
        scheduler=torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99),
        checkpoint_every=3,
        on_line=lambda line: told.send(line.step),
    )
    told.send("done")
