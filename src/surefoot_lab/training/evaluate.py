"""Loss and accuracy on images that are not trained on; training is left as it was."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from surefoot._evaluation import Graphless
from surefoot._quiet import undisturbed
from surefoot_lab.data.examples import Examples
from surefoot_lab.data.loader import InOrder, Normalizer, TrainLoader
from surefoot_lab.data.task import Classification, Task
from surefoot_lab.training.processes import Team

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
                batches = loader.sample(RECALIBRATION_BATCHES, RECALIBRATION_SEED)
                update_bn((inputs for inputs, _ in batches), model)
            yield
    finally:
        if averages:
            optimizer.train()  # type: ignore[attr-defined]
        model.train()
