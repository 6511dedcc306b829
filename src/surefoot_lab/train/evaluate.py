"""Loss and accuracy on images that are not trained on; training is left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from surefoot_lab.data import ImageSet, Normalizer, TrainLoader, in_order

RECALIBRATION_BATCHES = 50
RECALIBRATION_SEED = 20  # any fixed number: the same batches at every evaluation


@dataclass(frozen=True)
class Score:
    """Mean loss and share of right answers."""

    loss: float
    accuracy: float


@torch.no_grad()
def score(model: nn.Module, images: ImageSet, normalizer: Normalizer, batch_size: int) -> Score:
    """Mean cross-entropy and accuracy; the model must be in evaluation mode."""
    loss = 0.0
    right = 0
    for inputs, labels in in_order(images, normalizer, batch_size):
        outputs = model(inputs)
        loss += nn.functional.cross_entropy(outputs, labels, reduction="sum").item()
        right += int((outputs.argmax(dim=1) == labels).sum())
    return Score(loss / len(images), right / len(images))


def averages_weights(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer trains one set of weights and evaluates another, as schedule-free."""
    return all(callable(getattr(optimizer, name, None)) for name in ("eval", "train"))


@contextmanager
def evaluation_mode(
    model: nn.Module, optimizer: torch.optim.Optimizer, loader: TrainLoader
) -> Iterator[None]:
    """Switch to evaluation, and back.

    Optimizers that average the weights have `eval()` and `train()`: they are switched too. The
    BatchNorm statistics belong to the weights that were trained on, so they are measured again at
    the averaged weights, for the evaluation only.
    """
    averages = averages_weights(optimizer)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    saved = [
        {name: buffer.clone() for name, buffer in norm.named_buffers()}
        for norm in (norms if averages else [])
    ]
    model.eval()
    try:
        if averages:
            optimizer.eval()  # type: ignore[attr-defined]
            _recalibrate(model, norms, loader)
        yield
    finally:
        for norm, buffers in zip(norms, saved, strict=False):
            for name, buffer in buffers.items():
                norm.get_buffer(name).copy_(buffer)
        if averages:
            optimizer.train()  # type: ignore[attr-defined]
        model.train()


@torch.no_grad()
def _recalibrate(model: nn.Module, norms: list[_BatchNorm], loader: TrainLoader) -> None:
    """Average the statistics of training batches; all but BatchNorm stays in evaluation mode."""
    tracking = [norm for norm in norms if norm.track_running_stats]
    if not tracking:
        return
    momenta = [norm.momentum for norm in tracking]
    for norm in tracking:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of all batches
        norm.train()
    for inputs, _ in loader.sample(RECALIBRATION_BATCHES, RECALIBRATION_SEED):
        model(inputs)
    for norm, momentum in zip(tracking, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
