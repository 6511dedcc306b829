"""What a network is made of, as far as it decides how long a step may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from surefoot import _params
from surefoot._numbers import kind_of

MAX_CHANGE = 0.03
"""Share of their norm by which a step may change weights: measured, docs/measured-lr.md."""

_NO_TOY = 1000


def has_batch_norm(model: nn.Module) -> bool:
    """Whether any layer is a BatchNorm, of torch or of anybody who derives from it."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


def is_deep(model: nn.Module) -> bool:
    """Whether there are layers on top of each other, so that a long step can undo them."""
    found = (
        not name.endswith("bias") if nn.parameter.is_lazy(p) else p.dim() >= 2
        for name, p in model.named_parameters()
    )
    return sum(found) >= 2


def can_be_ruined(model: nn.Module | None) -> bool:
    """Whether it is worth a warning: a network of several layers, and no toy."""
    if model is None or not is_deep(model):
        return False
    return sum(p.numel() for p in model.parameters()) >= _NO_TOY


def largest_change(model: nn.Module | None) -> float:
    """The share of their norm by which a step may change the weights.

    Infinite where BatchNorm takes a layer's change of scale back, and where there is one layer.
    """
    if model is not None and (has_batch_norm(model) or not is_deep(model)):
        return math.inf
    return MAX_CHANGE


def weights_norm(params: Sequence[Tensor]) -> float:
    """The norm of the weights; see :func:`at_least_initial`."""
    square = _params.norm_sq(params, [1.0] * len(params))
    return at_least_initial(square, [tuple(p.shape) for p in params])


def norm_along(params: Sequence[Tensor], tensors: Sequence[Tensor]) -> float:
    """The length of the step that changes the layers by as much as their norms.

    In the root mean square over all matrices, each by its own norm (see :func:`at_least_initial`),
    so that a large embedding does not let a small layer be overrun. All vectors count as one more.

    Args:
        params: the weights.
        tensors: the direction, one tensor a parameter, not all zero; its length does not matter.
    """
    layers: list[list[float]] = []
    vectors = [0.0, 0.0, 0.0]
    squares = _params.norms_sq(tensors)
    for p, change, square in zip(params, squares, _params.norms_sq(params), strict=True):
        shape = tuple(p.shape)
        if len(shape) >= 2:
            layers.append([change, at_least_initial(square, [shape]) ** 2])
        else:
            numbers = change, square, (shape[0] if shape else 1) / 3.0
            vectors = [a + b for a, b in zip(vectors, numbers, strict=True)]
    if vectors[2] > 0.0:
        layers.append([vectors[0], max(vectors[1:])])
    mean = math.fsum(change / size for change, size in layers) / len(layers)
    return math.sqrt(math.fsum(squares) / mean)


def at_least_initial(square: float, shapes: Sequence[tuple[int, ...]]) -> float:
    """The norm of weights, but at least that of weights uniform in ±1/√fan_in.

    So are those of Linear and Conv2d; weights that begin near zero count as large as these. Vectors
    count only where there is nothing else.

    Args:
        square: their squared norm.
        shapes: theirs.
    """
    matrices = [shape for shape in shapes if len(shape) >= 2]
    initial = sum(shape[0] if shape else 1 for shape in matrices or shapes) / 3.0
    return math.sqrt(max(square, initial))


def check_belongs(optimizer: Optimizer, model: Any) -> None:
    """Raise where a model is given and none of its parameters is the optimizer's."""
    if model is None:
        return
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {kind_of(model)}")
    own = {id(p) for p in model.parameters()}
    if own and not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise ValueError(
            "none of the optimizer's parameters belongs to the model: was the optimizer built for "
            "another model, or before this one was copied?"
        )
