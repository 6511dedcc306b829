"""The section `lines` of an experiment file."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from surefoot_lab.config import UserError, did_you_mean
from surefoot_lab.values import plain, shown


@dataclass(frozen=True)
class LinesConfig:
    """Which lines are sampled, and where.

    Attributes:
        every: steps between two lines; the first lies before the first step.
        along: the `gradient` of the step's batch, or the optimizer's next `update`.
        lengths: distances from the start; None for 41 places from −0.5 to 0.5.
        images: training examples that make up the full batch; None for all of them.
        batch_sizes: at the same places also lines along gradients of batches of these sizes.
        measuring_length: μ of PAL, FBPAL and LABPAL, whose steps are marked.
    """

    every: int = 10
    along: str = "gradient"
    lengths: tuple[float, ...] | None = None
    images: int | None = None
    batch_sizes: tuple[int, ...] = field(default=())
    measuring_length: float = 0.1

    @classmethod
    def from_dict(cls, values: Any) -> LinesConfig:
        """Check the values of the section.

        Raises:
            UserError: names the first that cannot be used.
        """
        if values is None:
            values = {}
        if not isinstance(values, dict):
            raise UserError(f"lines: must hold its settings one a line, but it is {shown(values)}")
        values = plain(values)
        known = [item.name for item in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise UserError(f"lines.{key}: no such setting; {did_you_mean(str(key), known)}")
        may_be_null = ("lengths", "images")
        for key, value in values.items():
            if value is None and key not in may_be_null:
                raise UserError(f"lines.{key}: must not be null; give it a value or leave it out")
        for key in ("lengths", "batch_sizes"):
            if values.get(key) is not None:
                values = {**values, key: _numbers(key, values[key])}
        config = cls(**values)
        config._check()
        return config

    def _check(self) -> None:
        whole = [("every", self.every), ("images", self.images)]
        whole += [("batch_sizes", size) for size in self.batch_sizes]
        for key, value in whole:
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise UserError(f"lines.{key}: must be a whole number, not {value!r}")
            if value is not None and value < 1:
                raise UserError(f"lines.{key}: must be at least 1, not {value}")
        if self.along not in ("gradient", "update"):
            raise UserError(f"lines.along: gradient or update, not {self.along!r}")
        if self.along == "update" and self.batch_sizes:
            raise UserError("lines.batch_sizes: only along gradients; an update has no batch size")
        if self.lengths is not None and len(set(self.lengths) | {0.0}) < 3:
            raise UserError("lines.lengths: needs two places besides 0")
        mu = self.measuring_length
        if isinstance(mu, bool) or not isinstance(mu, int | float) or not 0 < mu < math.inf:
            raise UserError(f"lines.measuring_length: must be a number above 0, not {mu!r}")


def _numbers(key: str, values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list | tuple) or not all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values
    ):
        raise UserError(f"lines.{key}: must be a list of numbers, but it is {shown(values)}")
    return tuple(values)
