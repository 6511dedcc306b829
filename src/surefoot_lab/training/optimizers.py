"""Build the optimizer and the scheduler of an experiment, with what only the run knows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

import surefoot
from surefoot_lab.build import argument_names, call, find
from surefoot_lab.config import OptimizerConfig, SchedulerConfig
from surefoot_lab.errors import UserError, one_line
from surefoot_lab.rivals import resolve
from surefoot_lab.values import validated

AUTO = "auto"


@dataclass(frozen=True)
class Extent:
    """How long a run is, in the words that optimizers and schedulers use.

    Attributes:
        total_steps: optimizer steps of the whole run.
        steps_per_epoch: optimizer steps of one pass over the training images.
        dataset_size: number of training images.
        batch_size: images per step.
    """

    total_steps: int
    steps_per_epoch: int
    dataset_size: int
    batch_size: int

    @property
    def on_request(self) -> dict[str, int]:
        """Values for arguments that say `auto`."""
        length = ("total_steps", "T_max", "total_iters", "max_iter")
        epochs = math.ceil(self.total_steps / self.steps_per_epoch)
        per_epoch = {"epochs": epochs, "steps_per_epoch": self.steps_per_epoch}
        return {**dict.fromkeys(length, self.total_steps), **per_epoch}

    @property
    def unasked(self) -> dict[str, int]:
        """Values for arguments that exist and are not given."""
        names = ("total_steps", "dataset_size", "batch_size")
        return {name: getattr(self, name) for name in names}


def fill_in(
    constructor: Callable[..., Any], init_args: Mapping[str, Any], extent: Extent
) -> dict[str, Any]:
    """The arguments that the lab adds or replaces.

    Args:
        constructor: what will be called.
        init_args: the arguments given; None counts as given.
        extent: the values to fill in.

    Returns:
        Only the arguments added, or given as `auto` and replaced.
    """
    filled = {k: v for k, v in extent.on_request.items() if init_args.get(k) == AUTO}
    # OneCycleLR: its length is given in epochs, and a total number of steps would win over it
    in_epochs = "epochs" in init_args and "steps_per_epoch" in init_args
    takes = argument_names(constructor)
    for name, value in extent.unasked.items():
        if name in takes and name not in init_args and not (name == "total_steps" and in_epochs):
            filled[name] = value
    return filled


def build_optimizer(
    config: OptimizerConfig, model: nn.Module, extent: Extent, what: str = "optimizer"
) -> tuple[Any, dict[str, Any]]:
    """Build the optimizer; line-search optimizers get the model itself.

    `MeasuredLR` gets the optimizer that its own argument `optimizer` describes, and the model.
    `what` is where the configuration stands, for error messages.

    Returns:
        The optimizer, and the arguments that were filled in.

    Raises:
        UserError: there is no such optimizer, or it refuses its arguments.
    """
    constructor = find(
        resolve(config.class_path),
        ["surefoot", "torch.optim"],
        f"{what}.class_path",
        base=torch.optim.Optimizer,
    )
    if isinstance(constructor, type) and not issubclass(constructor, torch.optim.Optimizer):
        raise UserError(f"{what}.class_path: {config.class_path} is no torch.optim.Optimizer")
    filled = fill_in(constructor, config.init_args, extent)
    given = {**config.init_args, **filled}
    first: list[Any] = [[p for p in model.parameters() if p.requires_grad]]
    if _is_a(constructor, surefoot.LineSearchOptimizer) or hasattr(constructor, "takes_model"):
        first = [model]
    elif _is_a(constructor, surefoot.MeasuredLR) and constructor is not surefoot.MeasuredLR:
        given["model"] = model  # MeasuredAdamW and its kin build what they wrap
    elif constructor is surefoot.MeasuredLR:
        described = given.pop("optimizer", None)
        base, filled_inside = _build_base(described, model, extent, f"{what}.init_args.optimizer")
        first = [base, model]
        if filled_inside:
            arguments = {**(described.get("init_args") or {}), **filled_inside}
            filled["optimizer"] = {**described, "init_args": arguments}
    optimizer = call(constructor, first, given, what)
    if not isinstance(optimizer, torch.optim.Optimizer):  # what a function returned
        raise UserError(f"{what}.class_path: {config.class_path} makes no torch.optim.Optimizer")
    return optimizer, filled


def _build_base(
    described: Any, model: nn.Module, extent: Extent, what: str
) -> tuple[Any, dict[str, Any]]:
    """The optimizer that another one wraps."""
    config = validated(OptimizerConfig, described, what)
    if "class_path" not in described:
        raise UserError(f"{what}.class_path: must name the optimizer to wrap, such as AdamW")
    base, filled = build_optimizer(config, model, extent, what)
    if getattr(base, "wants_closure", None):
        raise UserError(
            f"{what}.class_path: {config.class_path} needs the loss for its own step; "
            "it cannot be wrapped"
        )
    return base, filled


def _is_a(constructor: Callable[..., Any], kind: type) -> bool:
    return isinstance(constructor, type) and issubclass(constructor, kind)


def build_scheduler(
    config: SchedulerConfig, optimizer: torch.optim.Optimizer, extent: Extent
) -> tuple[Any, dict[str, Any]]:
    """Build the scheduler, if there is one.

    Returns:
        The scheduler or None, and the arguments that were filled in.

    Raises:
        UserError: there is no such scheduler, or it refuses its arguments.
    """
    if config.class_path is None:
        if config.init_args:
            raise UserError("scheduler.init_args: given without scheduler.class_path; name one")
        return None, {}
    constructor = find(
        config.class_path, ["torch.optim.lr_scheduler"], "scheduler.class_path", base=LRScheduler
    )
    filled = fill_in(constructor, config.init_args, extent)
    given = {**config.init_args, **filled}
    scheduler = call(constructor, [optimizer], given, "scheduler")
    if type(scheduler).__module__.startswith("torch."):
        _check_step(constructor, len(optimizer.param_groups), given)
    if not callable(getattr(scheduler, "step", None)):
        raise UserError(f"scheduler.class_path: {config.class_path} is no scheduler (no step())")
    return scheduler, filled


def _check_step(constructor: Callable[..., Any], groups: int, given: Mapping[str, Any]) -> None:
    """Refuse arguments that only a step complains about, by one on weights of its own."""
    toy = torch.optim.AdamW([{"params": [torch.zeros(1)]} for _ in range(groups)])
    scheduler = constructor(toy, **given)
    toy.step()
    try:
        scheduler.step(*[0.0] * isinstance(scheduler, ReduceLROnPlateau))
    except Exception as error:
        name = type(scheduler).__name__
        raise UserError(
            f"scheduler.init_args: {name} fails at a step: {one_line(error)}"
        ) from error


def check_reached(optimizer: torch.optim.Optimizer, cell: Mapping[str, Any]) -> None:
    """Refuse a trial whose numbers did not reach the optimizer: all its cells would be equal.

    Args:
        optimizer: as it was built, scheduler and all.
        cell: the trial's settings by dotted key; a whole section is a mapping.

    Raises:
        UserError: names the first number that was asked for and not found.
    """
    group = optimizer.param_groups[0]
    kept = {**group, "lr": group.get("initial_lr", group.get("lr"))}  # where a scheduler starts
    given = (cell.get("optimizer") or {}).get("init_args") or {}  # a whole section
    asked = {f"optimizer.init_args.{k}": v for k, v in given.items()} | dict(cell)
    for key, wanted in asked.items():
        found = kept.get(key.rpartition(".")[2])
        if not key.startswith("optimizer.") or not isinstance(found, int | float):
            continue
        if isinstance(wanted, int | float) and found != wanted:
            raise UserError(
                f"{key}: the sweep asks for {wanted!r}, but what was built has {found!r} "
                "(does the scheduler overwrite it?)"
            )
