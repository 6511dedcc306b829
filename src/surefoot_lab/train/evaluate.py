"""Loss and accuracy on images that are not trained on; training is left as it was."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from surefoot._evaluation import Graphless
from surefoot._quiet import undisturbed
from surefoot_lab.data.examples import Examples
from surefoot_lab.data.loader import InOrder, Normalizer, TrainLoader
from surefoot_lab.data.task import Classification, Task
from surefoot_lab.train.processes import Team

RECALIBRATION_BATCHES = 50
CLASSIFICATION = Classification()
RECALIBRATION_SEED = 20  # any fixed number: the same batches at every evaluation


@dataclass(frozen=True)
class Score:
    """Mean loss, and the share of right answers; None where an answer is not right or wrong."""

    loss: float
    accuracy: float | None


@torch.no_grad()
def score(
    model: nn.Module,
    examples: Examples,
    normalizer: Normalizer,
    batch_size: int,
    task: Task = CLASSIFICATION,
    team: Team | None = None,
) -> Score:
    """Mean loss and accuracy; the model must be in evaluation mode.

    Several processes score a stretch each: sums are exchanged, not means, so that stretches of
    unequal length count by their examples.
    """
    team = team or Team()
    totals = torch.zeros(3, dtype=torch.float64)
    graphless = Graphless()
    for inputs, labels in InOrder(examples[team.slice_of(len(examples))], normalizer, batch_size):
        outputs = graphless(lambda: model(inputs))  # noqa: B023
        totals += task.totals(outputs, labels).detach().cpu()
    loss, right, answers = team.sum(totals.tolist())
    return Score(loss / answers, None if math.isnan(right) else right / answers)


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
    model.eval()
    try:
        with undisturbed(model, ()) if averages else nullcontext():
            if averages:
                optimizer.eval()  # type: ignore[attr-defined]
                _recalibrate(model, loader)
            yield
    finally:
        if averages:
            optimizer.train()  # type: ignore[attr-defined]
        model.train()


@torch.no_grad()
def _recalibrate(model: nn.Module, loader: TrainLoader) -> None:
    """Average the statistics of training batches; all but BatchNorm stays in evaluation mode."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    tracking = [norm for norm in norms if norm.track_running_stats]
    if not tracking:
        return
    momenta = [norm.momentum for norm in tracking]
    for norm in tracking:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of all batches
        norm.train()
    graphless = Graphless()
    for inputs, _ in loader.sample(RECALIBRATION_BATCHES, RECALIBRATION_SEED):
        graphless(lambda: model(inputs))  # noqa: B023
    for norm, momentum in zip(tracking, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
