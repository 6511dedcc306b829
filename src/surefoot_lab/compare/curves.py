"""Curves of a record, thinned to what a screen can show, and their mean over seeds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from surefoot_lab.records import RunRecord

AXES = ["step", "cost", "seconds"]
"""What a curve can be drawn over: batches, forward-equivalents, training seconds."""


def curve(run: RunRecord, figure: str, *, limit: int = 300) -> pd.DataFrame:
    """One figure of one run over its steps.

    Args:
        run: the record.
        figure: `effective_lr` (of several param groups the largest), `train_loss`, or `loss` or
            `accuracy` of a split, such as `validation_loss`.
        limit: most points. Neighbours are averaged, so that a spike moves its bin instead of
            vanishing.

    Returns:
        A frame with the columns of `AXES` and `value`; NaN for a cost or a time that is unknown.
    """
    split, _, of_split = figure.partition("_")
    evaluated = split in ("validation", "test")
    lines, name = (run.split(split), of_split) if evaluated else (run.steps, figure)
    rows = [[*map(line.get, AXES), _largest(line.get(name))] for line in lines]
    found = pd.DataFrame(rows, columns=[*AXES, "value"], dtype=float).dropna(subset="value")
    if len(found) <= limit:
        return found
    return found.groupby(np.arange(len(found)) * limit // len(found)).mean()


def mean_band(curves: Iterable[pd.DataFrame]) -> pd.DataFrame | None:
    """The mean over the seeds of one label, at the steps of the longest curve; None without one.

    Seeds that logged at other steps are interpolated linearly; a seed counts only between its
    first and last point, and `n` says how many did. `value` is the mean, `low` and `high` are the
    lowest and the highest.
    """
    curves = [curve for curve in curves if len(curve)]
    if not curves:
        return None
    grid = max(curves, key=lambda c: (c["step"].iloc[-1], len(c)))["step"]
    places = pd.concat([_at(grid, curve) for curve in curves]).groupby(level=0)
    value = places["value"]
    return (
        places[AXES]
        .mean()
        .assign(value=value.mean(), low=value.min(), high=value.max(), n=value.count())
    )


def _at(grid: pd.Series, curve: pd.DataFrame) -> pd.DataFrame:
    ends = {"left": np.nan, "right": np.nan}
    return pd.DataFrame({k: np.interp(grid, curve["step"], curve[k], **ends) for k in curve})


def _largest(value: float | list[float | None] | None) -> Any:
    if isinstance(value, list):
        return max((rate for rate in value if rate is not None), default=None)
    return value
