"""The section `lines` of an experiment file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from surefoot_lab.values import Finite, Positive, Real, Settings


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
