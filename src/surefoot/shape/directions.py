"""Directions to look along: a gradient, the next update of any optimizer, a random one, a chord."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from surefoot import _params
from surefoot._no_trace import no_trace
from surefoot._quiet import devices_of, undisturbed
from surefoot.directions import Direction, steepest
from surefoot.shape._evaluate import BatchLoss, LossFn
from surefoot.taken_step import TakenStep


def gradient_direction(model: nn.Module, loss_fn: LossFn, batch: Any) -> Direction:
    """The negated gradient of a batch's loss. Leaves no trace, not even in ``.grad``.

    Args:
        model: in the mode that the loss is wanted in.
        loss_fn: ``loss_fn(model(inputs), targets)``, the mean or one loss per sample.
        batch: a pair of inputs and targets.

    Returns:
        The direction over the model's trainable parameters; its norm is the gradient's.
    """
    evaluate = BatchLoss(model, loss_fn)
    devices = devices_of(model.parameters())
    with torch.enable_grad(), undisturbed(model, devices):
        loss = evaluate(evaluate.prepare(batch))
        grads = torch.autograd.grad(loss, evaluate.params, materialize_grads=True)
    return steepest(grads, [1.0] * len(grads))


def next_update(model: nn.Module, loss_fn: LossFn, batch: Any, optimizer: Optimizer) -> Direction:
    """Where any torch optimizer would go with this batch: θ after its step minus θ before.

    A step along the direction with ``t = 1`` is the optimizer's own. Weights, buffers, ``.grad``,
    random state and the optimizer's state are as before afterwards.

    Args:
        model: in the mode that it is trained in.
        loss_fn: ``loss_fn(model(inputs), targets)``, the mean or one loss per sample.
        batch: a pair of inputs and targets.
        optimizer: of ``model``; its ``step`` is called with a closure.
    """
    evaluate = BatchLoss(model, loss_fn)
    params = evaluate.params
    evaluated = evaluate.closure(optimizer, batch)
    grads: list[Tensor] = []

    def closure() -> Tensor:
        loss = evaluated()
        if not grads:  # the first evaluation is the one at the start
            grads.extend(torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in params)
        return loss

    with no_trace(model, optimizer), torch.enable_grad():
        for p in params:
            p.grad = None
        line = TakenStep()
        line.begin(params)
        optimizer.step(closure)  # type: ignore[arg-type]
        slope0, length = line.slope_and_length(grads)
        moves = line.moves()
    return Direction(moves, [1.0] * len(moves), length, slope0)


def random_direction(model: nn.Module, generator: torch.Generator | None = None) -> Direction:
    """A direction drawn uniformly from the unit sphere over all trainable parameters.

    Args:
        model: whose parameters.
        generator: on the CPU; None for torch's global one.
    """
    tensors = [
        torch.randn(p.shape, generator=generator, dtype=torch.float32).to(p.device, p.dtype)
        for p in model.parameters()
        if p.requires_grad
    ]
    return _direction(tensors).unit()


def between(model: nn.Module, start: Mapping[str, Tensor], end: Mapping[str, Tensor]) -> Direction:
    """From one checkpoint's weights to another's; ``t = 1`` is the whole way.

    The line starts where the model is: load ``start`` into it before sampling.

    Args:
        model: whose trainable parameters the two ``state_dict``s hold.
        start: state dict of the start.
        end: state dict of the end.

    Raises:
        ValueError: if a parameter is missing or has another shape.
    """
    moves = []
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        for side, state in (("start", start), ("end", end)):
            if name not in state or state[name].shape != p.shape:
                raise ValueError(
                    f"the checkpoint at the {side} has no {name} of shape {tuple(p.shape)}"
                )
        moves.append(end[name].detach().to(p) - start[name].detach().to(p))
    return _direction(moves)


def _direction(tensors: list[Tensor]) -> Direction:
    ones = [1.0] * len(tensors)
    return Direction(tensors, ones, math.sqrt(_params.norm_sq(tensors, ones)))
