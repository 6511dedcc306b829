"""One batch's loss at the present weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from surefoot._batches import pair_in, to_device
from surefoot._numbers import check_callable, kind_of

LossFn = Callable[[Any, Any], Tensor]


class BatchLoss:
    """``loss_fn(model(inputs), targets)`` of a batch: its mean, whatever the samples' losses."""

    def __init__(self, model: nn.Module, loss_fn: LossFn) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {kind_of(model)}")
        check_callable("loss_fn", loss_fn)
        self.model = model
        self._loss_fn = loss_fn
        self.params = [p for p in model.parameters() if p.requires_grad]
        if not self.params:
            raise ValueError("the model has no parameter that requires a gradient")
        self._device = self.params[0].device

    def prepare(self, batch: Any) -> Any:
        """The batch on the model's device."""
        return to_device(pair_in(batch), self._device)

    def __call__(self, batch: Any) -> Tensor:
        """The mean loss of a prepared batch, in float32 or better."""
        inputs, targets = batch
        loss = self._loss_fn(self.model(inputs), targets)
        if not isinstance(loss, Tensor) or loss.ndim > 1 or loss.numel() == 0:
            came = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
            raise TypeError(f"loss_fn must return the mean loss or one loss per sample, got {came}")
        return (loss if loss.dtype is torch.float64 else loss.float()).mean()

    def closure(self, optimizer: Optimizer, batch: Any) -> Callable[[], Tensor]:
        """What ``optimizer.step`` takes: the batch's loss, with its gradient."""
        prepared = self.prepare(batch)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self(prepared)
            loss.backward()
            return loss

        return closure
