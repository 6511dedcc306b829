"""The rules of reuse in closed form, and PAL that measures rarely under its own name."""

import math

import pytest
import torch
from _problems import Quadratic

from surefoot import PAL, SparsePAL
from surefoot.reuse import FORGETS, Pooled, averaged, mean_of, within_growth


def test_an_average_of_equal_lengths_is_that_length_and_the_first_stands_alone() -> None:
    assert averaged(None, 3.0, 0.7) == 3.0
    assert averaged(1.0, 2.0, 0.7) == pytest.approx(0.7 * 1.0 + 0.3 * 2.0)
    assert mean_of([1.0, 2.0, 6.0]) == 3.0


def test_pooled_lines_have_the_minimum_of_their_weighted_sum() -> None:
    lines = [(-1.0, 2.0), (-3.0, 4.0), (0.5, 1.0)]
    pooled = Pooled()
    for slope, curvature in lines:
        pooled = pooled.and_of(slope, curvature, weight=2.0)
    weights = [2.0 * FORGETS ** (len(lines) - 1 - i) for i in range(len(lines))]

    def slope_at(t: float) -> float:
        return sum(w * (b + c * t) for w, (b, c) in zip(weights, lines, strict=True))

    assert slope_at(pooled.minimum) == pytest.approx(0.0, abs=1e-12)


def test_a_fall_without_a_minimum_is_infinite_and_uphill_is_zero() -> None:
    assert Pooled(-1.0, 0.0).minimum == math.inf
    assert Pooled(-1.0, -2.0).minimum == math.inf
    assert Pooled(0.0, 1.0).minimum == Pooled(1.0, 1.0).minimum == 0.0


@pytest.mark.parametrize(("wanted", "got"), [(math.inf, 6.0), (0.0, 1.5), (4.0, 4.0)])
def test_one_measurement_at_most_doubles_or_halves(wanted: float, got: float) -> None:
    assert within_growth(wanted, 3.0) == got


def test_sparse_pal_is_pal_that_measures_every_tenth_step() -> None:
    ours, theirs = Quadratic(), Quadratic()
    sparse = SparsePAL(ours.parts, total_steps=25)
    pal = PAL(theirs.parts, measure_every=10, total_steps=25)
    for _ in range(25):
        sparse.step(ours.loss)
        pal.step(theirs.loss)
        assert torch.equal(ours.theta, theirs.theta)
    assert sparse.cost.forwards == 25 + 3
