"""Build all parts of a run from its experiment, before anything is written."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from surefoot._evaluation import Graphless
from surefoot_lab.config import Experiment
from surefoot_lab.data import load_data
from surefoot_lab.data.examples import Splits
from surefoot_lab.data.loader import Normalizer, TrainLoader, loader_of, normalizer_of
from surefoot_lab.errors import UserError, one_line
from surefoot_lab.models import build_loss, build_model
from surefoot_lab.training.evaluate import averages_weights
from surefoot_lab.training.optimizers import Extent, build_optimizer, build_scheduler
from surefoot_lab.training.processes import Team, form_team
from surefoot_lab.training.stepping import Stepper, closure_mode

# Apart by more than any seed a user gives, so that no rank repeats another run's dropout.
SEED_STRIDE = 1_000_003


@dataclass
class Parts:
    """Everything a run is made of.

    Attributes:
        experiment: what was asked for.
        resolved: the same as plain values, with the arguments that were filled in.
        data: the images; validation and test images are on `device`.
        loader: training batches.
        normalizer: for evaluations.
        model: the network, on `device`, with autocast if asked for; the stepper's own may be
            wrapped for several processes.
        loss_fn: of its outputs and the labels, in training.
        optimizer: of the model's parameters.
        scheduler: of the optimizer, or None.
        stepper: takes a step.
        extent: the run's length.
        device: where the run computes.
        team: the processes of the run.
    """

    experiment: Experiment
    resolved: dict[str, Any]
    data: Splits
    loader: TrainLoader
    normalizer: Normalizer
    model: nn.Module
    loss_fn: Callable[[Any, torch.Tensor], torch.Tensor]
    optimizer: Any
    scheduler: Any
    stepper: Stepper
    extent: Extent
    device: torch.device
    team: Team


def assemble(experiment: Experiment, joined: tuple[Any, Team] | None = None) -> Parts:
    """Build everything, and pass two images through the network to see that all fits.

    Args:
        experiment: what to build.
        joined: what `form_team` returned; None calls it.

    Raises:
        UserError: something in the experiment cannot be used.
    """
    experiment.check()
    accelerator, team = joined or form_team(experiment.train)
    _check_shares(experiment, team)
    device = accelerator.device
    if experiment.data.download:  # one fetches, the others find it there
        team.lead(lambda: load_data(experiment.data) and None)
    data = load_data(experiment.data)
    extent = _extent(experiment, len(data.train))
    normalizer = normalizer_of(data, device)
    drawn = {"batch_size": experiment.batch_size, "seed": experiment.seed, "device": device}
    loader = loader_of(data, experiment.data, normalizer, **drawn)
    data = data.held_on(device)

    seed_everything(experiment.seed)
    model = build_model(experiment.model, data)
    try:
        model = model.to(device)
    except (NotImplementedError, RuntimeError) as error:  # on no device, or too large for this one
        name = experiment.model.class_path
        raise UserError(f"model.class_path: {name}: {one_line(error)}") from error
    loss_fn = build_loss(experiment.loss, model, data.task)
    _try_out(model, loss_fn, data, normalizer, experiment)  # lazy layers learn their sizes
    if experiment.train.channels_last:  # convolutions pass on the layout of their filters
        model = model.to(memory_format=torch.channels_last)
    optimizer, optimizer_filled = build_optimizer(experiment.optimizer, model, extent)
    scheduler, scheduler_filled = build_scheduler(experiment.scheduler, optimizer, extent)
    length = getattr(scheduler, "total_steps", None)
    if isinstance(length, int) and length < extent.total_steps:
        raise UserError(
            f"scheduler.init_args: {experiment.scheduler.class_path} ends after {length} steps, "
            f"the run after {extent.total_steps}; leave its length out, or say auto"
        )
    resolved = experiment.to_dict()
    resolved["steps"] = extent.total_steps
    resolved["optimizer"]["init_args"].update(optimizer_filled)
    resolved["scheduler"]["init_args"].update(scheduler_filled)
    resolved["filled_in"] = {"optimizer": optimizer_filled, "scheduler": scheduler_filled}

    if averages_weights(optimizer):
        optimizer.train()
    prepared = accelerator.prepare_model(model)
    mode = closure_mode(optimizer, experiment.train.closure)
    pieces = experiment.train.accumulate
    backward = accelerator.backward
    stepper = Stepper(prepared, loss_fn, optimizer, mode, backward, team=team, accumulate=pieces)
    # dropout: the same, whatever building the parts drew, but each process its own
    seed_everything(experiment.seed + team.rank * SEED_STRIDE)
    return Parts(
        experiment=experiment,
        resolved=resolved,
        data=data,
        loader=loader,
        normalizer=normalizer,
        model=accelerator.unwrap_model(prepared, keep_fp32_wrapper=True),
        loss_fn=loss_fn,
        optimizer=optimizer,
        scheduler=scheduler,
        stepper=stepper,
        extent=extent,
        device=device,
        team=team,
    )


def _check_shares(experiment: Experiment, team: Team) -> None:
    """Refuse a batch that cannot be cut into equal shares: their mean would not be the batch's."""
    accumulate = experiment.train.accumulate
    shares = team.size * accumulate
    if experiment.batch_size % shares:
        raise UserError(
            f"batch_size: {experiment.batch_size} cannot be cut into {shares} equal parts "
            f"({team.size} processes × train.accumulate {accumulate}); choose a multiple"
        )


def _extent(experiment: Experiment, dataset_size: int) -> Extent:
    per_epoch = dataset_size // experiment.batch_size
    if per_epoch == 0:
        raise UserError(
            f"batch_size: {experiment.batch_size} is more than the {dataset_size} training images"
        )
    steps = experiment.steps or max(1, round(experiment.epochs * per_epoch))
    return Extent(steps, per_epoch, dataset_size, experiment.batch_size)


def seed_everything(seed: int) -> None:
    """Seed every global generator that a model or an optimizer may draw from."""
    seed = int(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


@torch.no_grad()
def _try_out(
    model: nn.Module,
    loss_fn: Callable[..., Any],
    data: Splits,
    normalizer: Normalizer,
    asked: Experiment,
) -> None:
    """Refuse a network or a loss that does not take these inputs and labels.

    Leaves buffers and random state alone.
    """
    examples = data.train[:2]
    inputs = normalizer(examples.inputs.to(normalizer.device))
    name, loss_name = asked.model.class_path, asked.loss.class_path
    model.eval()
    try:
        outputs = Graphless()(lambda: model(inputs))
    except Exception as error:  # a network of one's own may raise anything
        raise UserError(
            f"model.class_path: {name} does not take {data.kind} of "
            f"{tuple(inputs.shape[1:])} ({one_line(error)})"
        ) from error
    wanted = data.task.output_shape(examples.labels, len(data.classes))
    if _shape(outputs) != wanted:
        raise UserError(
            f"model.class_path: {name} gives {_shape(outputs)} for two examples; "
            f"{wanted} is needed ({wanted[-1]} outputs)"
        )
    if loss_name:
        try:
            loss = loss_fn(outputs, examples.labels.to(normalizer.device))
        except Exception as error:  # a loss of one's own may raise anything
            raise UserError(f"loss.class_path: {loss_name}: {one_line(error)}") from error
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            got = _shape(loss)
            raise UserError(
                f"loss.class_path: {loss_name} gives {got}; one number is needed (a mean)"
            )
    model.train()


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
