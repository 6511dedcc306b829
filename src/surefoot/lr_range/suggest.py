"""Rules that read a learning rate off a range curve. Pure functions: a curve in, an answer out."""

from __future__ import annotations

import bisect
import functools
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from surefoot.lr_range._course import Course, NoSuggestion, accuracy_course, course_of, remark_on
from surefoot.lr_range._data import RangeData
from surefoot.lr_range.stop import StopReason


@dataclass(frozen=True)
class Suggestion:
    """What a rule read off a curve.

    Args:
        rate: the learning rate, or None if the curve holds no answer.
        rule: name of the rule.
        reason: why there is none, or a remark on the one there is.
        evidence: the numbers that the rule went by; plain JSON types.
    """

    rate: float | None
    rule: str
    reason: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.rate is not None

    def __float__(self) -> float:
        if self.rate is None:
            raise NoSuggestion(f"no learning rate from rule {self.rule!r}: {self.reason}")
        return self.rate


Reading: TypeAlias = tuple[float, dict[str, Any]]
"""A rate and its evidence."""

RULES: dict[str, Callable[[RangeData], Suggestion]] = {}
"""Every rule by its name."""

DEFAULT = "consensus"


def _rule(read: Callable[[RangeData], Reading]) -> Callable[[RangeData], Suggestion]:
    """A rule by its function's name, with the reason where the curve holds no answer."""

    @functools.wraps(read)
    def suggest(curve: RangeData) -> Suggestion:
        try:
            rate, evidence = read(curve)
        except NoSuggestion as error:
            return Suggestion(None, read.__name__, str(error))
        return Suggestion(rate, read.__name__, remark_on(curve), evidence)

    RULES[read.__name__] = suggest
    return suggest


BATCH_NORM_FACTOR = 5.0
"""How much more than its range test shows a net with BatchNorm trains with, measured."""


@_rule
def consensus(curve: RangeData) -> Reading:
    """The median of three rules: the steepest place, three valleys, three tenths of the minimum.

    The three look at different parts of the curve, so one that is misled is outvoted. The factors
    bring them to the same scale, that of the best maximum for a 1cycle schedule (measured: the
    comparison of all rules is in the documentation). Where a rule has no answer, the geometric
    mean of the other two is taken. A constant rate should be lower, a third of it or less.

    With BatchNorm the answer is five times that: there the loss does not depend on the size of
    the weights, they grow under a rate that is too large, and the rate acts the smaller for it. A
    test of a hundred steps ends before that happens.
    """
    factors = {steepest: 1.0, valley: 3.0, minimum_tenth: 3.0}
    answers = [(rule(curve), factor) for rule, factor in factors.items()]
    rates = {a.rule: a.rate * factor for a, factor in answers if a.rate is not None}
    if not rates:
        raise NoSuggestion(answers[0][0].reason)
    middle = math.exp(statistics.median(math.log(rate) for rate in rates.values()))
    factor = BATCH_NORM_FACTOR if curve.batch_norm else 1.0
    return factor * middle, {**rates, "factor": factor}


@_rule
def steepest(curve: RangeData) -> Reading:
    r"""Where the loss falls fastest per decade of the rate.

    .. math:: \arg\min_i \frac{d\,\tilde L}{d \log_{10} \eta}(i)

    over the smoothed losses L̃, left of their minimum.
    """
    course = course_of(curve)
    i = course.steepest
    return _at(course, i, slope_per_decade=course.slopes[i])


@_rule
def valley(curve: RangeData) -> Reading:
    """Half-way down the longest run of falling losses.

    The longest falling subsequence of the smoothed losses is taken (not every point of the
    stretch has to take part, so a bump does not end it); its first 5 % of the fall, which in a
    flat start is noise, does not count; the middle of the rest, in iterations, is the answer.
    """
    course = course_of(curve)
    run = _longest_fall(course.smoothed)
    top, bottom = course.smoothed[run[0]], course.smoothed[run[-1]]
    run = [i for i in run if course.smoothed[i] <= top - 0.05 * (top - bottom)]
    middle = (run[0] + run[-1]) // 2
    return _at(course, middle, begin=course.rates[run[0]], end=course.rates[run[-1]])


@_rule
def minimum_tenth(curve: RangeData) -> Reading:
    """A tenth of the rate at which the smoothed loss is lowest."""
    course = course_of(curve)
    if course.still_falling and curve.stop is StopReason.FINISHED:
        raise NoSuggestion("the loss was still falling at the last rate; raise end_lr")
    i = course.lowest
    return course.rates[i] / 10.0, {"minimum": course.rates[i], "loss": course.smoothed[i]}


@_rule
def smith_base(curve: RangeData) -> Reading:
    """Smith's lower bound for cycles: where the accuracy starts to rise (1506.01186, section 3.3).

    The rate from which on the smoothed accuracy stays above a tenth of its whole rise. A curve
    without accuracies is read upside down from its losses.
    """
    course = accuracy_course(curve)
    level = course.level - 0.1 * course.fall
    i = next(k for k in range(course.lowest, -1, -1) if k == 0 or course.smoothed[k - 1] > level)
    return _at(course, i, read_from=course.source)


@_rule
def smith_max(curve: RangeData) -> Reading:
    """Smith's upper bound for cycles: where the accuracy's rise slows, gets ragged or turns.

    The first rate after the steepest rise at which nine tenths of the rise are done, or, if that
    comes earlier, from which on the accuracy scatters about its course three times as much as at
    the beginning (1506.01186, section 3.3). A curve without accuracies is read from its losses.
    """
    course = accuracy_course(curve)
    done = course.level - 0.9 * course.fall
    slows = next(k for k in range(course.lowest + 1) if course.smoothed[k] <= done)
    ragged = course.ragged_from
    i = slows if ragged is None else min(slows, ragged)
    return _at(course, i, read_from=course.source, why="slows" if i == slows else "ragged")


def _at(course: Course, i: int, **evidence: Any) -> Reading:
    found = {"loss": course.smoothed[i], "index": i, "points": len(course.rates)}
    return course.rates[i], {**found, **evidence}


def _longest_fall(values: list[float]) -> list[int]:
    """Indices of the longest strictly falling subsequence (patience sorting)."""
    ends: list[int] = []  # of the runs of each length; negated, their values rise
    before: list[int | None] = []
    for i, value in enumerate(values):
        place = bisect.bisect_left(ends, -value, key=lambda end: -values[end])
        before.append(ends[place - 1] if place else None)
        ends[place:] = [i, *ends[place + 1 :]]
    run: list[int] = []
    at: int | None = ends[-1]
    while at is not None:
        run.append(at)
        at = before[at]
    return run[::-1]
