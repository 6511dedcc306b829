"""Train an experiment, and sample the lines of its steps as it goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from surefoot.shape import LineRecords, LineSample, gradient_direction, sample_line, sample_run
from surefoot_lab.config import Experiment
from surefoot_lab.data.loader import Batch, InOrder
from surefoot_lab.errors import UserError, one_line
from surefoot_lab.training.assemble import Parts, assemble
from surefoot_lab.values import Finite, Positive, Real, Settings

RECORDS = "lines.jsonl"
OTHERS = "lines-batch-size-{}.jsonl"
SEED_STEP = 7919  # a prime, so that the batches of neighbouring seeds and steps differ


@dataclass(frozen=True)
class LinesConfig(Settings):
    """Which lines are sampled, and where.

    Attributes:
        every: steps between two lines; the first lies before the first step.
        along: the `gradient` of the step's batch, or the optimizer's next `update`.
        lengths: distances from the start; None for 41 places from −0.5 to 0.5.
        images: training examples that make up the full batch; None for all of them.
        batch_sizes: at the same places also lines along gradients of batches of these sizes.
        measuring_length: μ of PAL, FBPAL and LABPAL, whose steps are marked.
    """

    every: Positive = 10
    along: Literal["gradient", "update"] = "gradient"
    lengths: tuple[Finite, ...] | None = None
    images: Positive | None = None
    batch_sizes: tuple[Positive, ...] = ()
    measuring_length: Annotated[Real, Field(gt=0, allow_inf_nan=False)] = 0.1

    def __post_init__(self) -> None:
        if self.along == "update" and self.batch_sizes:
            raise ValueError("batch_sizes: only along gradients; an update has no batch size")
        if self.lengths is not None and len(set(self.lengths) | {0.0}) < 3:
            raise ValueError("lengths: needs two places besides 0")


def sample_experiment(
    experiment: Experiment,
    config: LinesConfig,
    folder: Path,
    on_line: Callable[[LineSample], None] | None = None,
    on_progress: Callable[[Any], None] | None = None,
) -> dict[str, LineRecords]:
    """Train, and sample; called again after it was stopped, it goes on.

    Args:
        experiment: what is trained; not evaluated.
        config: which lines.
        folder: for records and checkpoint.
        on_line: called with each line.
        on_progress: called with a `SampleProgress` after each batch at each place.

    Returns:
        The records of the steps' own lines under the name `lines`, and those of each further batch
        size under its number.

    Raises:
        UserError: something in the experiment cannot be used.
    """
    parts = assemble(experiment)
    if parts.team.size > 1:
        raise UserError("surefoot lines runs in one process")
    everything = _full_batch(parts, config)
    others = {size: LineRecords(folder / OTHERS.format(size)) for size in config.batch_sizes}
    loss_fn = parts.loss_fn
    numbered = enumerate(parts.loader)  # steps rise: a run that resumes draws past what it has seen

    def further(line: LineSample) -> None:
        step = int(line.step or 0)
        for size, records in others.items():
            records.cut(step)  # a run that resumes here has written it before
            batch = _random_batch(everything, size, experiment.seed + SEED_STEP * step + size)
            records.append(
                sample_line(
                    parts.model,
                    loss_fn,
                    everything,
                    direction=gradient_direction(parts.model, loss_fn, batch),
                    own_batch=batch,
                    lengths=config.lengths,
                    kind="gradient",
                    step=step,
                    info={"batch_size": size},
                    on_progress=on_progress,
                )
            )
        if on_line is not None:
            on_line(line)

    try:
        own = sample_run(
            parts.model,
            parts.optimizer,
            loss_fn,
            lambda step: next(batch for place, batch in numbered if place == step),
            everything,
            steps=parts.extent.total_steps,
            every=config.every,
            along="update" if config.along == "update" else "gradient",
            lengths=config.lengths,
            folder=folder,
            scheduler=parts.scheduler,
            on_line=further,
            on_progress=on_progress,
        )
    except (TypeError, ValueError) as error:
        raise UserError(one_line(error)) from error
    return {"lines": own, **{str(size): records for size, records in others.items()}}


def _full_batch(parts: Parts, config: LinesConfig) -> InOrder:
    """The training examples as they are, not augmented, batch by batch.

    Raises:
        UserError: there are fewer than asked for.
    """
    count, there = config.images, len(parts.data.train)
    if count is not None and count > there:
        raise UserError(f"lines.images: {count} is more than the {there} training examples")
    examples = parts.data.train[slice(0, count)]
    for size in config.batch_sizes:
        if size > len(examples):
            raise UserError(f"lines.batch_sizes: {size} is more than the {len(examples)} examples")
    return InOrder(examples, parts.normalizer, parts.experiment.batch_size)


def _random_batch(full: InOrder, size: int, seed: int) -> Batch:
    """A random batch of any size, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    chosen = full.examples[torch.randperm(len(full.examples), generator=generator)[:size]]
    return full.normalizer(chosen.inputs), chosen.labels
