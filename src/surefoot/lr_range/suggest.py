"""Rules that read a learning rate off a range curve. Pure functions: a curve in, an answer out."""

from __future__ import annotations

import bisect
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from surefoot.lr_range._course import (
    Course,
    accuracy_course,
    course_or_reason,
    remark_on,
    training_course,
)
from surefoot.lr_range._data import RangeData
from surefoot.lr_range.stop import StopReason


class NoSuggestion(ValueError):
    """The curve holds no answer; the message says why and what to do."""


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


def steepest(curve: RangeData) -> Suggestion:
    r"""Where the loss falls fastest per decade of the rate.

    .. math:: \arg\min_i \frac{d\,\tilde L}{d \log_{10} \eta}(i)

    over the smoothed losses L̃, left of their minimum.
    """
    course = course_or_reason(curve)
    if isinstance(course, str):
        return Suggestion(None, "steepest", course)
    i = course.steepest
    return _at(course, "steepest", i, slope_per_decade=course.slopes[i])


def valley(curve: RangeData) -> Suggestion:
    """Half-way down the longest run of falling losses.

    The longest falling subsequence of the smoothed losses is taken (not every point of the
    stretch has to take part, so a bump does not end it); its first 5 % of the fall, which in a
    flat start is noise, does not count; the middle of the rest, in iterations, is the answer.
    """
    course = course_or_reason(curve)
    if isinstance(course, str):
        return Suggestion(None, "valley", course)
    run = _longest_fall(course.smoothed)
    top, bottom = course.smoothed[run[0]], course.smoothed[run[-1]]
    run = [i for i in run if course.smoothed[i] <= top - 0.05 * (top - bottom)]
    middle = (run[0] + run[-1]) // 2
    return _at(course, "valley", middle, begin=course.rates[run[0]], end=course.rates[run[-1]])


def minimum_tenth(curve: RangeData) -> Suggestion:
    """A tenth of the rate at which the smoothed loss is lowest."""
    course = course_or_reason(curve)
    if isinstance(course, str):
        return Suggestion(None, "minimum_tenth", course)
    if course.still_falling and curve.stop is StopReason.FINISHED:
        reason = "the loss was still falling at the last rate; raise end_lr"
        return Suggestion(None, "minimum_tenth", reason)
    i = course.lowest
    evidence = {"minimum": course.rates[i], "loss": course.smoothed[i]}
    return Suggestion(course.rates[i] / 10.0, "minimum_tenth", "", evidence)


def slide(curve: RangeData) -> Suggestion:
    """The left end of an interval that slides down from the right until it rests.

    An interval of 15 % of the points starts at the right end and moves left while the slopes of
    the smoothed loss (per decade) at its two ends differ by more than a twentieth of the
    steepest one. It comes to rest astride the steepest part, or on the flat start.
    """
    course = course_or_reason(curve)
    if isinstance(course, str):
        return Suggestion(None, "slide", course)
    width = max(2, round(0.15 * len(course.rates)))
    limit = 0.05 * abs(course.slopes[course.steepest])
    right = len(course.rates) - 1
    # from where the loss has turned, not from its flight: that tail has slopes of any size
    right = min(right, course.lowest + width // 2)
    left = right - width
    while left > 0 and abs(course.slopes[right] - course.slopes[left]) > limit:
        left, right = left - 1, right - 1
    return _at(course, "slide", max(left, 0), interval_end=course.rates[right])


def smith_base(curve: RangeData) -> Suggestion:
    """Smith's lower bound for cycles: where the accuracy starts to rise (1506.01186, section 3.3).

    The rate from which on the smoothed accuracy stays above a tenth of its whole rise. A curve
    without accuracies is read upside down from its losses.
    """
    course = accuracy_course(curve)
    if isinstance(course, str):
        return Suggestion(None, "smith_base", course)
    level = course.level - 0.1 * course.fall
    i = next(k for k in range(course.lowest, -1, -1) if k == 0 or course.smoothed[k - 1] > level)
    return _at(course, "smith_base", i, read_from=course.source)


def smith_max(curve: RangeData) -> Suggestion:
    """Smith's upper bound for cycles: where the accuracy's rise slows, gets ragged or turns.

    The first rate after the steepest rise at which nine tenths of the rise are done, or, if that
    comes earlier, from which on the accuracy scatters about its course three times as much as at
    the beginning (1506.01186, section 3.3). A curve without accuracies is read from its losses.
    """
    course = accuracy_course(curve)
    if isinstance(course, str):
        return Suggestion(None, "smith_max", course)
    done = course.level - 0.9 * course.fall
    slows = next(k for k in range(course.lowest + 1) if course.smoothed[k] <= done)
    ragged = course.ragged_from
    i = slows if ragged is None else min(slows, ragged)
    why = "slows" if i == slows else "ragged"
    return _at(course, "smith_max", i, read_from=course.source, why=why)


def divergence(curve: RangeData) -> Suggestion:
    r"""The largest rate that training survives: beyond it the loss grows.

    On a quadratic with largest curvature λ, SGD with momentum β diverges above 2 (1 + β) / λ. The
    loss shows it late, because what grows has first shrunk to nothing below that rate. But how
    fast it grows tells λ. From iteration i to the next the growing amplitude turns its sign and
    changes in size by ρᵢ, the square root of the change of the loss above its minimum. Put into
    the update rule of SGD,

    .. math:: \lambda = \frac1{\eta_i} \left(1 + \rho_i
              + \beta \frac{\eta_i}{\eta_{i-1}} \left(1 + \frac1{\rho_{i-1}}\right)\right)

    so that each step of the rising tail yields λ and with it the bound; the median over those
    that agree is the answer. For other optimizers than SGD there is no such law, and where no two
    steps of the tail agree the loss is no quadratic: then it is the rate at which the smoothed
    loss is lowest, after which it only rises.

    *When it fails*: two large curvatures close to each other, read on a ramp of few iterations,
    give a bound that is too high by up to their ratio. A loss that is NaN at once leaves the
    place of the minimum only.
    """
    course = training_course(curve)
    if isinstance(course, str):
        return Suggestion(None, "divergence", course)
    if curve.stop is StopReason.FINISHED and course.still_falling:
        return Suggestion(None, "divergence", "the loss never rose; raise end_lr")
    onset = course.rates[course.lowest]
    bounds = [] if curve.momentum is None else _bounds_from_growth(course, curve.momentum)
    if bounds:
        evidence = {"read_from": "growth", "onset": onset, "steps": len(bounds)}
        return Suggestion(statistics.median(bounds), "divergence", "", evidence)
    if course.lowest == 0:
        return Suggestion(None, "divergence", "the loss rose from the start; lower start_lr")
    return Suggestion(onset, "divergence", "", {"read_from": "onset", "onset": onset})


BATCH_NORM_FACTOR = 5.0
"""How much more than its range test shows a net with BatchNorm trains with, measured."""


def consensus(curve: RangeData) -> Suggestion:
    """The median of three rules: the steepest place, three valleys, three tenths of the minimum.

    The three look at different parts of the curve, so one that is misled is outvoted. The factors
    bring them to the same scale, that of the best maximum for a 1cycle schedule (measured: the
    comparison of all rules is in the documentation). Where a rule has no answer, the geometric
    mean of the other two is taken. A constant rate should be lower, a third of it or less.

    With BatchNorm the answer is five times that: there the loss does not depend on the size of
    the weights, they grow under a rate that is too large, and the rate acts the smaller for it. A
    test of a hundred steps ends before that happens.
    """
    answers = [
        (rule(curve), factor)
        for rule, factor in ((steepest, 1.0), (valley, 3.0), (minimum_tenth, 3.0))
    ]
    rates = {a.rule: a.rate * factor for a, factor in answers if a.rate is not None}
    if not rates:
        return Suggestion(None, "consensus", answers[0][0].reason)
    middle = math.exp(statistics.median(math.log(rate) for rate in rates.values()))
    factor = BATCH_NORM_FACTOR if curve.batch_norm else 1.0
    return Suggestion(factor * middle, "consensus", remark_on(curve), {**rates, "factor": factor})


RULES: dict[str, Callable[[Any], Suggestion]] = {
    rule.__name__: rule
    for rule in (
        consensus,
        steepest,
        valley,
        minimum_tenth,
        slide,
        smith_base,
        smith_max,
        divergence,
    )
}
"""Every rule by its name."""

DEFAULT = "consensus"


def ask(curve: RangeData, rule: str) -> Suggestion:
    """The answer of the rule with that name.

    Raises:
        ValueError: if there is none of that name.
    """
    if rule not in RULES:
        raise ValueError(f"no rule {rule!r}; there are {', '.join(RULES)}")
    return RULES[rule](curve)


def _at(course: Course, rule: str, i: int, **evidence: Any) -> Suggestion:
    found = {"loss": course.smoothed[i], "index": i, "points": len(course.rates)}
    return Suggestion(course.rates[i], rule, "", {**found, **evidence})


def _longest_fall(values: list[float]) -> list[int]:
    """Indices of the longest strictly falling subsequence (patience sorting)."""
    tails: list[float] = []  # negated, so that bisect finds its place in rising order
    ends: list[int] = []
    before: list[int | None] = []
    for i, value in enumerate(values):
        place = bisect.bisect_left(tails, -value)
        before.append(ends[place - 1] if place else None)
        tails[place:] = [-value, *tails[place + 1 :]]
        ends[place:] = [i, *ends[place + 1 :]]
    run: list[int] = []
    at: int | None = ends[-1]
    while at is not None:
        run.append(at)
        at = before[at]
    return run[::-1]


def _bounds_from_growth(course: Course, momentum: float) -> list[float]:
    """One estimate of the divergence bound from every step of the tail, once it is in flight.

    The flight begins where the loss is above its starting level for good: below, oscillations
    (momentum) and noise go up and down without diverging.
    """
    floor = course.smoothed[course.lowest]
    height = max(course.level, floor + 3.0 * course.noise)
    inside = [i for i, value in enumerate(course.raw) if value <= height]
    start = inside[-1] + 1 if inside else 0
    above = [math.sqrt(max(value - floor, 0.0)) for value in course.raw]
    bounds = []
    for i in range(start if momentum == 0.0 else start + 1, len(above) - 1):
        if not above[i + 1] > above[i] > 0.0 or not (momentum == 0.0 or above[i - 1] > 0.0):
            continue
        rate = course.rates[i]
        curvature = 1.0 + above[i + 1] / above[i]
        if momentum:
            memory = momentum * rate / course.rates[i - 1]
            curvature += memory * (1.0 + above[i - 1] / above[i])
        bounds.append(2.0 * (1.0 + momentum) * rate / curvature)
    return _agreeing(bounds)


def _agreeing(bounds: list[float]) -> list[float]:
    """The later half of the longest stretch whose neighbours agree within a quarter.

    Early steps still mix several directions, and far from the minimum a network is no quadratic:
    there the growth itself grows and no two steps agree. A stretch of one says nothing.
    """
    best: list[float] = []
    stretch: list[float] = []
    for bound in bounds:
        if stretch and abs(bound - stretch[-1]) > 0.25 * stretch[-1]:
            stretch = []
        stretch.append(bound)
        if len(stretch) > len(best):
            best = list(stretch)
    return best[len(best) // 2 :] if len(best) > 1 else []
