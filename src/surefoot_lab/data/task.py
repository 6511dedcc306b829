"""What a network is asked for: the loss it is trained by, and how its answers are counted."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F


class Task(ABC):
    """A kind of answer. Its loss is a mean, so that it does not depend on the batch's size."""

    @abstractmethod
    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of a batch, differentiable."""

    @abstractmethod
    def totals(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Three float64 sums over a batch: losses, right answers (NaN if there is no such thing),
        answers. Sums over batches, or over processes, add up to the exact mean.
        """

    def flat(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and labels as a loss of torch.nn takes them, one row an answer."""
        return outputs, labels

    @abstractmethod
    def output_shape(self, labels: Tensor, num_classes: int) -> tuple[int, ...]:
        """The shape that outputs must have for these labels."""


class Classification(Task):
    """Choose one class, for every input (an image) or every place of it (a character).

    Outputs are scores of shape (..., classes), labels class numbers of shape (...); the loss is the
    cross-entropy in nats.
    """

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy."""
        return F.cross_entropy(*self.flat(outputs, labels))

    def flat(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of shape (answers, classes), class numbers of shape (answers,)."""
        if isinstance(outputs, Tensor) and outputs.dim() == labels.dim() + 1:
            return outputs.flatten(0, -2), labels.flatten()
        return outputs, labels  # of several heads, say

    def totals(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Sums of cross-entropy, right answers and answers."""
        losses = F.cross_entropy(outputs.flatten(0, -2), labels.flatten(), reduction="sum")
        right = (outputs.argmax(dim=-1) == labels).sum()
        return torch.stack([losses.double(), right.double(), _count(labels)])

    def output_shape(self, labels: Tensor, num_classes: int) -> tuple[int, ...]:
        """One score per class for every label."""
        return (*labels.shape, num_classes)


class Regression(Task):
    """Give numbers. Outputs and labels have shape (count, numbers); the loss is the mean square.

    Where labels are standardized, 1 minus the loss is about the coefficient of determination R².
    """

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean squared difference, in float32 or better."""
        return F.mse_loss(outputs.to(labels.dtype), labels)

    def totals(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Sum of squares, NaN, and how many numbers were given."""
        squares = (outputs.double() - labels.double()).square().sum()
        return torch.stack([squares, torch.full_like(squares, torch.nan), _count(labels)])

    def output_shape(self, labels: Tensor, num_classes: int) -> tuple[int, ...]:
        """As the labels."""
        return tuple(labels.shape)


def _count(labels: Tensor) -> Tensor:
    return torch.tensor(labels.numel(), dtype=torch.float64, device=labels.device)
