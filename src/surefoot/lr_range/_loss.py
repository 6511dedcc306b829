"""From a batch to a loss, whatever the training step looks like."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from surefoot._batches import pair_in, samples_in, to_device

_REMEDY = "; pass step_fn=lambda batch: ... that returns the loss of such a batch"


class Evaluation(NamedTuple):
    """One forward pass: the loss, the number of correct answers (or None), the samples."""

    loss: Tensor
    correct: Tensor | None
    samples: int


@dataclass
class LossOf:
    """Evaluates the loss of a batch in one of three ways.

    - ``step_fn(batch)``: the user's own; the batch comes as the loader gave it. It returns the
      loss, or a mapping with ``"loss"`` and, if there is one, ``"accuracy"`` (0 to 1).
    - ``loss_fn(model(inputs), targets)``: a batch is a pair; it is moved to the model's device.
    - neither: the model returns the loss itself, or an output that has one, as Hugging Face models
      do; mappings are passed as keyword arguments.
    """

    model: Any  # a torch.nn.Module, or None where there is a step_fn
    loss_fn: Callable[[Any, Any], Any] | None
    step_fn: Callable[[Any], Any] | None
    autocast: Callable[[], AbstractContextManager[Any]]
    device: torch.device

    def __call__(self, batch: Any) -> Evaluation:
        with self.autocast():
            if self.step_fn is not None:
                return _own_step(self.step_fn(batch), samples_in(batch))
            batch = to_device(batch, self.device)
            if self.loss_fn is None:
                return self._own_loss(batch)
            inputs, targets = pair_in(batch, _REMEDY)
            output = self.model(inputs)
            loss = _loss_in(self.loss_fn(output, targets))
        return Evaluation(loss, _correct(output, targets), samples_in(targets))

    def _own_loss(self, batch: Any) -> Evaluation:
        try:
            if isinstance(batch, Mapping):
                output = self.model(**batch)
            else:
                output = self.model(*(batch if isinstance(batch, (list, tuple)) else [batch]))
        except TypeError as error:
            raise TypeError(
                "without loss_fn or step_fn the model is called with all of a batch and returns "
                f"the loss, but: {error}"
            ) from error
        return Evaluation(_loss_in(output), None, samples_in(batch))


def _own_step(output: Any, samples: int) -> Evaluation:
    accuracy = output.get("accuracy") if isinstance(output, Mapping) else None
    correct = None if accuracy is None else torch.as_tensor(accuracy).detach() * samples
    return Evaluation(_loss_in(output), correct, samples)


def autocast_factory(
    autocast: Any, device: torch.device
) -> Callable[[], AbstractContextManager[Any]]:
    """What makes the context manager of a forward pass, from what the user gave."""
    if autocast is None:
        return contextlib.nullcontext
    if isinstance(autocast, torch.dtype):
        return lambda: torch.autocast(device.type, dtype=autocast)
    if isinstance(autocast, torch.autocast):
        # torch.autocast may be entered again and again
        return lambda: autocast
    if callable(autocast):
        return autocast  # type: ignore[no-any-return]
    raise TypeError(
        "autocast must be a dtype such as torch.bfloat16, a torch.autocast(...) or a function that "
        f"returns a context manager, got {autocast!r}"
    )


def _loss_in(output: Any) -> Tensor:
    """The loss in what a model or a step function returned."""
    loss = output
    if isinstance(output, Mapping):
        loss = output.get("loss")
    elif not isinstance(output, Tensor) and getattr(output, "loss", None) is not None:
        loss = output.loss
    elif isinstance(output, tuple) and output:
        loss = output[0]
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shape = f" of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else ""
        raise TypeError(
            f"the loss must be a tensor with one element, got {type(loss).__name__}{shape}; "
            "return the mean over the batch"
        )
    return loss.reshape(())


def _correct(output: Any, targets: Any) -> Tensor | None:
    """How many samples of a classification batch are right, or None where it is none."""
    if not (isinstance(output, Tensor) and isinstance(targets, Tensor)):
        return None
    if targets.is_floating_point() or targets.dtype == torch.bool:
        return None
    if targets.ndim != 1 or output.ndim != 2 or len(output) != len(targets):
        return None
    return (output.detach().argmax(dim=1) == targets).sum()
