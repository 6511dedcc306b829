"""Curves of a record, thinned to what a screen can show, and their mean over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from surefoot_lab.records import RunRecord

AXES = ("step", "cost", "seconds")
"""What a curve can be drawn over: batches, forward-equivalents, training seconds."""


@dataclass(frozen=True)
class Curve:
    """One figure of one run over its steps; `x` holds an array for each of `AXES`."""

    label: str
    path: str
    seed: int | None
    x: dict[str, np.ndarray]
    value: np.ndarray

    def __len__(self) -> int:
        return len(self.value)


@dataclass(frozen=True)
class Band:
    """Mean, lowest and highest of a figure over the seeds of one label; `n` seeds at each point."""

    label: str
    x: dict[str, np.ndarray]
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray


def step_curve(run: RunRecord, figure: str, *, limit: int = 300) -> Curve:
    """The curve of `effective_lr` or `train_loss`, at most `limit` points."""
    return _thin(_curve(run, run.steps, figure), limit)


def evaluation_curve(run: RunRecord, split: str, figure: str, *, limit: int = 300) -> Curve:
    """The curve of `loss` or `accuracy` on one split, at most `limit` points."""
    return _thin(_curve(run, run.split(split), figure), limit)


def mean_band(curves: Iterable[Curve]) -> Band | None:
    """The mean over the seeds of one label, at the steps of the longest curve.

    Seeds that logged at other steps are interpolated linearly; a seed counts only between its
    first and last point, and `n` says how many did.
    """
    curves = [curve for curve in curves if len(curve)]
    if not curves:
        return None
    grid = max(curves, key=lambda c: (c.x["step"][-1], len(c))).x["step"]
    value = np.stack([_at(grid, curve, curve.value) for curve in curves])
    n = np.isfinite(value).sum(axis=0)
    return Band(
        label=curves[0].label,
        x={
            axis: np.nanmean(
                np.stack([_at(grid, curve, curve.x[axis]) for curve in curves]), axis=0
            )
            for axis in AXES
        },
        mean=np.nanmean(value, axis=0),
        low=np.nanmin(value, axis=0),
        high=np.nanmax(value, axis=0),
        n=n,
    )


def _at(grid: np.ndarray, curve: Curve, values: np.ndarray) -> np.ndarray:
    return np.asarray(np.interp(grid, curve.x["step"], values, left=np.nan, right=np.nan))


def _curve(run: RunRecord, lines: Sequence[Mapping[str, Any]], figure: str) -> Curve:
    rows = [
        (line["step"], line.get("cost"), line.get("seconds"), value)
        for line in lines
        if (value := _largest(line.get(figure))) is not None
    ]  # None becomes NaN below: a point without a cost can still be drawn over steps
    step, cost, seconds, values = np.array(rows, dtype=float).reshape(-1, 4).T
    x = {"step": step, "cost": cost, "seconds": seconds}
    return Curve(run.label, str(run.path), run.seed, x, values)


def _largest(value: float | list[float | None] | None) -> float | None:
    """Of one rate a param group, the page shows the largest."""
    if isinstance(value, list):
        return max((rate for rate in value if rate is not None), default=None)
    return value


def _thin(curve: Curve, limit: int) -> Curve:
    """Means of neighbouring points, so that a spike moves its bin instead of vanishing."""
    if len(curve) <= limit:
        return curve
    edges = np.linspace(0, len(curve), limit + 1).astype(int)
    starts, counts = edges[:-1], np.diff(edges)

    def binned(values: np.ndarray) -> np.ndarray:
        return np.asarray(np.add.reduceat(values, starts) / counts)

    x = {axis: binned(values) for axis, values in curve.x.items()}
    return Curve(curve.label, curve.path, curve.seed, x, binned(curve.value))
