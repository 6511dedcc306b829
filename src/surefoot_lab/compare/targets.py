"""How soon a run is good, not only how good it is at its end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surefoot_lab.compare.curves import evaluation_curve

if TYPE_CHECKING:
    from surefoot_lab.records import RunRecord

RISING = {"accuracy": True, "loss": False}


@dataclass(frozen=True)
class Reached:
    """What a run had spent at the first evaluation that met the target; evaluation not counted."""

    batches: int
    forward_equivalents: float | None
    seconds: float | None


def time_to_target(
    run: RunRecord, target: float, figure: str = "accuracy", split: str = "validation"
) -> Reached | None:
    """The first evaluation at least as good as the target; None if there is none.

    Args:
        run: a record.
        target: an accuracy to reach, or a loss to fall to.
        figure: `accuracy` or `loss`.
        split: `validation` or `test`.
    """
    for line in run.evaluations:
        value: Any = line.get(figure)
        if line.get("split") != split or not _is_number(value):
            continue
        if value >= target if RISING[figure] else value <= target:
            return Reached(line["step"], _cost(line), line.get("seconds"))
    return None


def area_under_curve(
    run: RunRecord, figure: str = "accuracy", axis: str = "step", split: str = "validation"
) -> float | None:
    """The mean height of a curve between its first and last evaluation, by the trapezoid rule.

    The integral is divided by the length of the axis, so that the result is in the figure's own
    unit and runs of different length compare. None without an evaluation.
    """
    curve = evaluation_curve(run, split, figure, limit=10**9)
    if len(curve) == 0:
        return None
    x, y = curve.x[axis], curve.value
    if np.isnan(x).any():
        return None
    span = x[-1] - x[0]
    if span == 0:
        return float(y[-1])
    return float(np.sum((y[1:] + y[:-1]) * np.diff(x)) / (2 * span))


def _cost(line: dict[str, Any]) -> float | None:
    forwards, backwards = line.get("forwards"), line.get("backwards")
    if not (_is_number(forwards) and _is_number(backwards)):
        return None
    return float(forwards + 2 * backwards)  # type: ignore[operator]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
