"""A LightningModule whose learning rate is measured: one line in configure_optimizers.

python examples/lightning_module.py
"""

from __future__ import annotations

import argparse
from typing import Any

import lightning
import torch
from _digits import load, network
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import surefoot


class Digits(lightning.LightningModule):
    """A small conv net."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        x, y = batch
        return cross_entropy(self.net(x), y)

    def on_train_epoch_end(self) -> None:
        group: dict[str, Any] = self.optimizers().param_groups[0]  # type: ignore[union-attr]
        self.log("effective_lr", group["effective_lr"])  # "lr" is only the unit

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        x, y = batch
        self.log("accuracy", (self.net(x).argmax(1) == y).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return surefoot.MeasuredLR(torch.optim.AdamW(self.parameters()), self)


def main(epochs: int = 10) -> float:
    """Train, and return the validation accuracy."""
    x, y, test_x, test_y = load()
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="auto",
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(
        Digits(),
        DataLoader(TensorDataset(x, y), 64, shuffle=True, drop_last=True),
        DataLoader(TensorDataset(test_x, test_y), 397),
    )
    figures = trainer.callback_metrics
    print(f"{figures['accuracy']:.1%} right, last rate {figures['effective_lr']:.2g}")
    return float(figures["accuracy"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    main(**vars(parser.parse_args()))
