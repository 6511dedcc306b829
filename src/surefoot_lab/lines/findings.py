"""What the lines of a run say, as plain numbers."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from surefoot.shape import (
    LineSample,
    StepOnLine,
    batch_size_effect,
    fit_errors,
    is_convex,
    proportionality,
    shape_distance,
    steps_on_line,
    tuned_rate,
)
from surefoot_lab.lines.run import LinesConfig

UPDATE = "the update itself"
TUNED = "tuned rate"
IN_USE = "rate in use"


def mark(samples: Sequence[LineSample], config: LinesConfig) -> list[dict[str, StepOnLine]]:
    """For each line where the methods would go, the rate in use and the tuned one included."""
    tuned = _or_none(tuned_rate, samples) if config.along == "gradient" else None
    marked = []
    for sample in samples:
        if config.along == "update":
            rates = {UPDATE: 1.0}
        else:
            rates = {IN_USE: sample.info["rates"][0]} if "rates" in sample.info else {}
            rates |= {TUNED: tuned} if tuned is not None else {}
        marked.append(steps_on_line(sample, rates=rates, measuring_length=config.measuring_length))
    return marked


def find(
    samples: Sequence[LineSample],
    marked: Sequence[Mapping[str, StepOnLine]],
    config: LinesConfig,
    others: Mapping[int, Sequence[LineSample]] | None = None,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """All measures of a run's lines.

    Args:
        samples: the lines of the steps.
        marked: where the methods would go on each, as `mark` says.
        config: how they were made.
        others: lines along gradients of batches of other sizes.
        batch_size: that of the steps.

    Returns:
        Plain JSON types; a measure that these lines do not allow is None.
    """
    inside = [s for s in samples if not s.exact_minimum().at_border]
    pooled = [*inside, *(s for lines in (others or {}).values() for s in lines)]
    errors = [fit_errors(s) for s in samples]
    return {
        "lines": len(samples),
        "minimum_inside": len(inside),
        "along": config.along,
        "full_batch": sum(samples[0].batch_sizes),
        "fit_errors": {f"degree {k}": _spread([e[k] for e in errors]) for k in (0, 1, 2)},
        "parabola_error_over_range": _spread(
            [e[2] / _range(s) for e, s in zip(errors, samples, strict=True)]
        ),
        "convex_share": statistics.fmean(is_convex(s, tolerance=1e-3) for s in samples),
        "successive_distance": _spread([shape_distance(a, b) for a, b in pairwise(samples)]),
        "distance_from_first": _spread([shape_distance(samples[0], s) for s in samples[1:]]),
        "minimum_length": _spread([s.exact_minimum().length for s in inside]),
        "minimum_standard_error": _spread(
            [e for s in inside if (e := s.exact_minimum().standard_error) is not None]
        ),
        "tuned_rate": _or_none(tuned_rate, samples) if config.along == "gradient" else None,
        "methods": methods(samples, marked),
        "proportionality": _or_none(proportionality, inside),
        "proportionality_all_batch_sizes": _or_none(proportionality, pooled) if others else None,
        "batch_sizes": _or_none(batch_size_effect, {batch_size: list(samples), **others})
        if others
        else None,
    }


def methods(
    samples: Sequence[LineSample], marked: Sequence[Mapping[str, StepOnLine]]
) -> dict[str, dict[str, Any]]:
    """For each method, over the lines whose minimum lies inside: how far and how well it goes.

    `length_over_minimum` is its step over the full-batch minimum's, `gain_over_possible` the sum
    of what the full-batch loss falls by over the sum of what it could fall by. A step out of what
    was sampled has no gain; `outside` counts those.
    """
    keep = [i for i, s in enumerate(samples) if not s.exact_minimum().at_border]
    rows = {}
    for name in dict.fromkeys(name for steps in marked for name in steps):
        steps = [(marked[i]["minimum"], marked[i][name]) for i in keep if name in marked[i]]
        known = [(best, own) for best, own in steps if math.isfinite(own.loss)]
        ratios = [own.length / best.length for best, own in steps if best.length != 0]
        possible = math.fsum(best.gain for best, _ in known)
        reached = math.fsum(own.gain for _, own in known)
        rows[name] = {
            "length": _spread([own.length for _, own in steps]),
            "length_over_minimum": _spread(ratios),
            "gain_over_possible": reached / possible if possible > 0 else None,
            "outside": len(steps) - len(known),
        }
    return rows


def _or_none(measure: Callable[..., Any], *arguments: Any) -> Any:
    """What a measure says, as plain JSON types; None where these lines do not allow it."""
    try:
        return _plain(measure(*arguments))
    except ValueError:
        return None


def _plain(found: Any) -> Any:
    if isinstance(found, list):
        return [_plain(item) for item in found]
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        return {name: _plain(value) for name, value in dataclasses.asdict(found).items()}
    return None if isinstance(found, float) and not math.isfinite(found) else found


def _range(sample: LineSample) -> float:
    finite = [f for f in sample.losses if math.isfinite(f)]
    return max(max(finite) - min(finite), 1e-12)


def _spread(values: Sequence[float]) -> dict[str, float | int | None]:
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return {"n": 0, "median": None, "low": None, "high": None}
    return {
        "n": len(finite),
        "median": statistics.median(finite),
        "low": min(finite),
        "high": max(finite),
    }
