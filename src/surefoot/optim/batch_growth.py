"""Iterative sampling (2108.13880): updates that average more batches as the run goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from surefoot._numbers import check_count, check_number


def noise_factor(dataset_size: int, batch_size: int) -> float:
    r"""How many batches make the gradient noise of the papers' setting.

    .. math:: \frac{128}{\mathrm{batch\_size}} \cdot \frac{\mathrm{dataset\_size}}{40\,000}

    Source: LABPAL (2108.13880): the noise of SGD grows with data set size over batch size
    (1711.00489), and the schedule was found with 40,000 images in batches of 128.

    Example:
        >>> noise_factor(dataset_size=40_000, batch_size=32)
        4.0
    """
    check_count("dataset_size", dataset_size)
    check_count("batch_size", batch_size)
    return 128 / batch_size * dataset_size / 40_000


def check_growth(growth: Any, total_steps: int | None) -> list[list[float]]:
    """The schedule as plain lists, in order, or an error that says what is wrong with it."""
    pairs: list[list[float]] = []
    if not isinstance(growth, Iterable):
        raise TypeError(f"batch_growth must be a list of pairs (start, factor), got {growth!r}")
    for pair in growth:
        if len(pair) != 2:
            raise ValueError(f"batch_growth needs pairs (start, factor), got {pair!r}")
        start, factor = pair
        check_number("a start in batch_growth", start, at_least=0.0)
        check_number("a factor in batch_growth", factor, at_least=0.0, above=True)
        if 0.0 < start < 1.0 and total_steps is None:
            raise ValueError(f"batch_growth starts at {start:g} of the run: pass total_steps, too")
        pairs.append([start, factor])
    return sorted(pairs)


def batches_at(step: int, settings: Mapping[str, Any]) -> int:
    """Batches per update at a step: the schedule's factor times the noise factor, rounded."""
    batches, whole = 1, settings["total_steps"] or 1
    for start, factor in settings["batch_growth"]:
        if step >= (start * whole if start < 1 else start):
            batches = max(1, round(factor * settings["noise_factor"]))
    return batches
