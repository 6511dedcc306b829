"""Build all parts of a run from its experiment, before anything is written."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from surefoot_lab.config import Experiment, TrainConfig, UserError
from surefoot_lab.data import Normalize, Splits, TrainLoader, load_data, loader_of, normalizer_of
from surefoot_lab.models import build_model
from surefoot_lab.train.evaluate import averages_weights
from surefoot_lab.train.optimizers import Extent, build_optimizer, build_scheduler
from surefoot_lab.train.stepping import Stepper, closure_mode


@dataclass
class Parts:
    """Everything a run is made of.

    Attributes:
        experiment: what was asked for.
        resolved: the same as plain values, with the arguments that were filled in.
        data: the images; validation and test images are on `device`.
        loader: training batches.
        normalizer: for evaluations.
        model: the network, on `device`, with autocast if asked for.
        optimizer: of the model's parameters.
        scheduler: of the optimizer, or None.
        stepper: takes a step.
        extent: the run's length.
        device: where the run computes.
    """

    experiment: Experiment
    resolved: dict[str, Any]
    data: Splits
    loader: TrainLoader
    normalizer: Normalize
    model: nn.Module
    optimizer: Any
    scheduler: Any
    stepper: Stepper
    extent: Extent
    device: torch.device


def assemble(experiment: Experiment) -> Parts:
    """Build everything, and pass two images through the network to see that all fits.

    Raises:
        UserError: something in the experiment cannot be used.
    """
    experiment.check()
    accelerator = _accelerator(experiment.train)
    device = accelerator.device
    data = load_data(experiment.data)
    extent = _extent(experiment, len(data.train))
    normalizer = normalizer_of(data, device)
    loader = loader_of(
        data, experiment.data, normalizer, experiment.batch_size, experiment.seed, device
    )
    data = data.held_on(device)

    _seed_everything(experiment.seed)
    model = build_model(experiment.model, data).to(device)
    _try_out(model, data, normalizer, experiment.model.class_path)
    optimizer, optimizer_filled = build_optimizer(experiment.optimizer, model, extent)
    scheduler, scheduler_filled = build_scheduler(experiment.scheduler, optimizer, extent)
    resolved = experiment.to_dict()
    resolved["steps"] = extent.total_steps
    resolved["optimizer"]["init_args"].update(optimizer_filled)
    resolved["scheduler"]["init_args"].update(scheduler_filled)
    resolved["filled_in"] = {"optimizer": optimizer_filled, "scheduler": scheduler_filled}

    if averages_weights(optimizer):
        optimizer.train()
    prepared = accelerator.prepare_model(model)
    mode = closure_mode(optimizer, experiment.train.closure)
    stepper = Stepper(prepared, data.task.loss, optimizer, mode, accelerator.backward)
    _seed_everything(experiment.seed)  # dropout: the same, whatever building the parts drew
    return Parts(
        experiment=experiment,
        resolved=resolved,
        data=data,
        loader=loader,
        normalizer=normalizer,
        model=prepared,
        optimizer=optimizer,
        scheduler=scheduler,
        stepper=stepper,
        extent=extent,
        device=device,
    )


def _accelerator(config: TrainConfig) -> Any:
    """Accelerate's object for device and precision; its state is global, so it is made anew."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    precision = {"fp32": "no", "bf16": "bf16"}[config.precision]
    try:
        accelerator = Accelerator(cpu=config.device == "cpu", mixed_precision=precision)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"train.precision, train.device: {reason}") from None
    if accelerator.num_processes > 1:
        raise UserError(
            "surefoot train runs in one process; for several, use surefoot's optimizers in a "
            "script of your own (they need nothing but torch.distributed)"
        )
    return accelerator


def _extent(experiment: Experiment, dataset_size: int) -> Extent:
    per_epoch = dataset_size // experiment.batch_size
    if per_epoch == 0:
        raise UserError(
            f"batch_size: {experiment.batch_size} is more than the {dataset_size} training images"
        )
    steps = experiment.steps or max(1, round(experiment.epochs * per_epoch))
    return Extent(steps, per_epoch, dataset_size, experiment.batch_size)


def _seed_everything(seed: int) -> None:
    """Seed every global generator that a model or an optimizer may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


@torch.no_grad()
def _try_out(model: nn.Module, data: Splits, normalizer: Normalize, name: str) -> None:
    """Refuse a network that does not take these inputs; leaves buffers and random state alone."""
    inputs = normalizer(data.train.inputs[:2].to(normalizer.device))
    model.eval()
    try:
        outputs = model(inputs)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"model.class_path: {name} does not take {data.kind} of "
            f"{tuple(inputs.shape[1:])} ({reason})"
        ) from error
    model.train()
    wanted = data.task.output_shape(data.train.labels[:2], len(data.classes))
    if not isinstance(outputs, torch.Tensor) or tuple(outputs.shape) != wanted:
        got = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise UserError(
            f"model.class_path: {name} gives {got} for two examples; {wanted} is needed "
            f"({wanted[-1]} outputs)"
        )
