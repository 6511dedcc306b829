"""The range test of an experiment, and the experiment that follows from its curve."""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console

from surefoot.lr_range import Progress, RangeCurve, range_test
from surefoot_lab.config import Experiment, SchedulerConfig
from surefoot_lab.data.loader import InOrder
from surefoot_lab.errors import UserError, one_line
from surefoot_lab.training.assemble import assemble
from surefoot_lab.training.progress import bar_of
from surefoot_lab.values import NotNegative, Positive, Real, Settings, Truth, Whole


@dataclass(frozen=True)
class RangeTestConfig(Settings):
    """One range test, or a grid of them, all in one picture with a panel a batch size.

    Attributes:
        start_lr: lowest rate.
        end_lr: highest rate.
        num_iter: optimizer steps.
        step_mode: how the rate rises, `exp` or `linear`.
        validate: measure on validation images, too.
        batch_sizes: images per step, a range test for each.
        weight_decays: of the optimizer, a range test for each.
    """

    start_lr: Real = 1e-7
    end_lr: Real = 10.0
    num_iter: Whole = 100
    step_mode: Literal["exp", "linear"] = "exp"
    validate: Truth = False
    batch_sizes: tuple[Positive, ...] = ()
    weight_decays: tuple[NotNegative, ...] = ()

    def __post_init__(self) -> None:
        for name in ("batch_sizes", "weight_decays"):
            values = list(getattr(self, name))
            if twice := [value for value in values if values.count(value) > 1]:
                raise ValueError(f"{name}: {twice[0]} is given twice")

    @property
    def of_each(self) -> dict[str, Any]:
        """What `measure` takes."""
        return {k: v for k, v in vars(self).items() if k not in ("batch_sizes", "weight_decays")}


def measure(
    experiment: Experiment, *, validate: bool = False, **settings: Any
) -> tuple[RangeCurve, int]:
    """The range test of an experiment, with a progress bar on a terminal.

    The experiment's scheduler is left out: the test makes its own rates.

    Args:
        experiment: what is measured.
        validate: on the validation images, too.
        **settings: of `surefoot.range_test`.

    Returns:
        The curve, and the number of steps the experiment is to be trained.

    Raises:
        UserError: something in the experiment cannot be used.
    """
    parts = assemble(without_schedule(experiment))
    if parts.team.size > 1:
        raise UserError("range-test runs in one process; train with several afterwards")
    if validate and len(parts.data.validation) == 0:
        raise UserError("--validate: the experiment has no validation images")
    size = experiment.train.eval_batch_size
    validation = InOrder(parts.data.validation, parts.normalizer, size) if validate else None
    with bar_of(Console()) as bar:
        task = bar.add_task("range test", total=settings["num_iter"], figures="")

        def show(progress: Progress) -> None:
            figures = f"lr {progress.lr:.2e}  loss {progress.loss:.4f}  best {progress.best:.4f}"
            bar.update(task, completed=progress.iteration + 1, figures=figures)

        try:
            curve = range_test(
                parts.model,
                parts.optimizer,
                parts.loader,
                parts.loss_fn,
                val_loader=validation,
                on_progress=show,
                **settings,
            )
        except (TypeError, ValueError) as error:
            kind = isinstance(error, TypeError)  # of optimizer, if all else could be assembled
            what = f"optimizer.class_path: {experiment.optimizer.class_path}: " if kind else ""
            raise UserError(f"{what}{one_line(error)}") from error
    return curve, parts.extent.total_steps


def without_schedule(experiment: Experiment) -> Experiment:
    """The experiment at a constant rate."""
    return dataclasses.replace(copy.deepcopy(experiment), scheduler=SchedulerConfig())


def with_one_cycle(
    experiment: Experiment, curve: RangeCurve, rate: float, total_steps: int
) -> Experiment:
    """The experiment with a 1cycle schedule, shortened by what the test has spent.

    Raises:
        UserError: nothing of the budget is left to train with.
    """
    # a step is one forward and one backward pass, three forward-equivalents
    spent = math.ceil(curve.cost.forward_equivalents / 3)
    if total_steps - spent < 10:
        raise UserError(
            f"steps: the range test has used {spent} of {total_steps} steps, and too few are left "
            "to train with"
        )
    return dataclasses.replace(
        experiment,
        label=f"{experiment.optimizer.class_path.rpartition('.')[2]} + measured 1cycle",
        steps=total_steps - spent,
        scheduler=SchedulerConfig("surefoot.lr_range.one_cycle", {"max_lr": rate}),
    )
