"""Directions: downhill vectors over all parameters, built without copying a gradient.

A direction is a list of tensors with one weight each; the vector has the parts
``weights[i] * tensors[i]``. Signs, normalization and the ratios between param groups live in the
weights, so that most directions need no arithmetic on tensors at all.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from surefoot import _params
from surefoot._numbers import check_share

_TINY = 1e-38  # of single precision: one over less of it is infinite there


@dataclass(frozen=True)
class Direction:
    """A vector over parameters, with what is known about it.

    Args:
        tensors: one tensor a parameter, of the parameter's shape. Not copied: who changes them
            changes the direction.
        weights: one factor a tensor; the direction's parts are ``weights[i] * tensors[i]``.
        norm: Euclidean norm over all parts.
        slope0: derivative of the loss along the direction at its start, in loss per unit of
            ``t``; None where no gradient was at hand.
    """

    tensors: list[Tensor]
    weights: list[float]
    norm: float
    slope0: float | None = None

    @property
    def is_usable(self) -> bool:
        """Finite and not zero, also in single precision: something one can move along."""
        return math.isfinite(self.norm) and self.norm > _TINY

    def unit(self) -> Direction:
        """The same direction with norm 1, so that ``t`` is a length."""
        factor = 1.0 / self.norm
        slope0 = None if self.slope0 is None else self.slope0 * factor
        weights = [w * factor for w in self.weights]
        return Direction(self.tensors, weights, self.norm * factor, slope0)

    def slope_for(self, grads: Sequence[Tensor | None]) -> float:
        """Derivative along it of a loss with these gradients; None for zero."""
        pairs = [(i, g) for i, g in enumerate(grads) if g is not None]
        tensors = [self.tensors[i] for i, _ in pairs]
        weights = [self.weights[i] for i, _ in pairs]
        return _params.dot_and_norm_sq([g for _, g in pairs], tensors, weights)[0]


def steepest(grads: Sequence[Tensor], ratios: Sequence[float]) -> Direction:
    """The negated gradient, each part times its param group's ratio (see ``lr`` in the design).

    Args:
        grads: gradient of each parameter.
        ratios: factor of each parameter, between 0 and 1; all 1 for the plain negated gradient.
    """
    norm_sq = _params.norm_sq(grads, ratios)
    # ⟨g, −r g⟩ = −Σ rᵢ ‖gᵢ‖²; with equal ratios of 1 that is −‖g‖², and costs no second pass
    is_plain = all(r == 1.0 for r in ratios)
    slope = norm_sq if is_plain else _params.norm_sq(grads, [math.sqrt(r) for r in ratios])
    return Direction(list(grads), [-r for r in ratios], math.sqrt(norm_sq), -slope)


class DirectionRule(ABC):
    """Turns the gradients of a step, and what is remembered of former ones, into a direction.

    A frozen dataclass of plain values, which a checkpoint keeps.

    Attributes:
        remembers: whether it takes one more tensor a parameter.
    """

    remembers: ClassVar[bool] = True

    @abstractmethod
    def __call__(
        self, grads: Sequence[Tensor], memory: list[Tensor], ratios: Sequence[float]
    ) -> Direction:
        """The direction.

        Args:
            grads: gradient of each parameter; finite. Not changed.
            memory: what the last step left, zeros at first; changed. Empty where none is needed.
            ratios: factor of each parameter, between 0 and 1: see :class:`LineSearchOptimizer`.
        """

    @property
    def gradient_share(self) -> float:
        """What one gradient counts in the direction: ``t`` times this is a learning rate."""
        return 1.0


@dataclass(frozen=True)
class Steepest(DirectionRule):
    """The negated gradient; ``t`` on its line is a learning rate."""

    remembers: ClassVar[bool] = False

    def __call__(
        self, grads: Sequence[Tensor], memory: list[Tensor], ratios: Sequence[float]
    ) -> Direction:
        """No arithmetic on tensors, no memory."""
        return steepest(grads, ratios)


@dataclass(frozen=True)
class ConjugateLike(DirectionRule):
    """PAL's conjugate-like direction dₜ = −gₜ + β dₜ₋₁ (1903.11991), up to scale.

    The memory holds (1 − β) times the negated direction: with that scale the recursion is one
    interpolation, and PAL normalizes the direction anyway.

    Args:
        previous_share: β, share of the previous direction, at least 0 and below 1.
    """

    previous_share: float = 0.4

    def __post_init__(self) -> None:
        check_share("previous_share", self.previous_share)

    @property
    def gradient_share(self) -> float:
        """As the memory is scaled."""
        return 1.0 - self.previous_share

    def __call__(
        self, grads: Sequence[Tensor], memory: list[Tensor], ratios: Sequence[float]
    ) -> Direction:
        """One interpolation."""
        _params.lerp(memory, grads, 1.0 - self.previous_share)
        return _against(memory, grads, ratios)


@dataclass(frozen=True)
class HeavyBall(DirectionRule):
    """The negated buffer v ← β v + g, as torch's SGD has it.

    Args:
        momentum: β, at least 0 and below 1.
    """

    momentum: float = 0.9

    def __post_init__(self) -> None:
        check_share("momentum", self.momentum)

    def __call__(
        self, grads: Sequence[Tensor], memory: list[Tensor], ratios: Sequence[float]
    ) -> Direction:
        """One pass over memory."""
        _params.momentum_update(memory, grads, self.momentum)
        return _against(memory, grads, ratios)


def _against(memory: list[Tensor], grads: Sequence[Tensor], ratios: Sequence[float]) -> Direction:
    """The negated memory, each part times its param group's ratio."""
    dot, norm_sq = _params.dot_and_norm_sq(grads, memory, ratios)
    return Direction(memory, [-r for r in ratios], math.sqrt(norm_sq), -dot)
