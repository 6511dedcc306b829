"""PLS's search (1502.02846): a belief about the line, and the probability that a place will do."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from surefoot._numbers import check_count, check_number, check_positive, check_share
from surefoot.line import Walkable
from surefoot.outcome import Status, StepOutcome
from surefoot.searches._gaussian import (
    LineModel,
    expected_improvement,
    probability_both_positive,
    tensor,
)
from surefoot.searches._noise import Noise, NoisyLine
from surefoot.searches._search import Search, all_finite, is_level, outcome, refusal


@dataclass(frozen=True)
class ProbabilisticSearch(Search):
    r"""The first place that probably meets the strong Wolfe conditions on the noise-free line.

    Values and slopes with known noise update a Gaussian process whose mean is a cubic spline. A
    place is accepted once

    .. math:: P\bigl(L(t) \le L(0) + c_1 t L'(0) \;\wedge\; |L'(t)| \le c_2 |L'(0)|\bigr) > c_W

    and the next place is where expected improvement times that probability is largest, among the
    minima of the spline and one place beyond the last.

    Args:
        start: α₀, first place tried, in multiples of the direction.
        value_noise: standard deviation of a measured loss around the noise-free one.
        slope_noise: the same of a measured slope, per unit of ``t``.
        sufficient_decrease: c₁.
        curvature: c₂.
        threshold: c_W, probability that is enough.
        max_evaluations: budget.
        rounding: relative rounding error of a loss; differences below it count as zero.
        growth: the next search tries this many times the accepted place first.
        max_change: where that is further than this factor away from the average accepted place,
            the average is tried instead.
        averaging: weight of the past in the noise measured between batches.
        average: of the accepted places; None before the first.
        noise: variances of a batch's loss, and of its slope per unit of length, when last seen.

    Example:
        >>> from surefoot.testing import FunctionLine, function
        >>> found = ProbabilisticSearch(start=0.2)(FunctionLine(function("quadratic")))
        >>> found.status.value, 0.75 < found.t < 2.25
        ('accepted', True)

    References: Mahsereci and Hennig, "Probabilistic line searches for stochastic optimization",
    1502.02846, algorithm 1 and section 3.

    Departures: a place that is not finite is a rejected trial that no later one goes beyond; the
    paper has none. Where the budget ends, the lowest mean is taken, as in the paper, but the status
    says so.

    *When it fails*: the noise at two places of one batch is nearly the same, and the model takes
    it for independent; then it underestimates what it knows.
    """

    compares_losses: ClassVar[bool] = False
    takes_slopes: ClassVar[bool] = True
    compares_batches: ClassVar[bool] = True
    internal = (*Search.internal, "value_noise", "slope_noise", "average", "noise")

    start: float = 0.01
    value_noise: float = 0.0
    slope_noise: float = 0.0
    sufficient_decrease: float = 0.05
    curvature: float = 0.5
    threshold: float = 0.3
    max_evaluations: int = 10
    rounding: float = 0.0
    growth: float = 1.3
    max_change: float = 100.0
    averaging: float = 0.9
    average: float | None = None
    noise: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_positive(self, "start")
        for name in ("sufficient_decrease", "curvature", "threshold", "averaging"):
            check_share(name, getattr(self, name))
        check_number("growth", self.growth, at_least=1.0)
        check_number("max_change", self.max_change, at_least=1.0)
        check_count("max_evaluations", self.max_evaluations)

    def knowing(self, line: NoisyLine) -> ProbabilisticSearch:
        """With the spread within the batch, or that between batches averaged over the steps."""
        past = None if self.noise is None else Noise(*self.noise)
        noise = line.noise_within(self.start)
        if noise is None and line.noise_between is not None:
            noise = line.noise_between.averaged(past, self.averaging)
        noise = noise or past or Noise(0.0, 0.0)
        value, slope = math.sqrt(noise.value), math.sqrt(noise.slope) * line.direction_norm
        seen = (noise.value, noise.slope)
        return dataclasses.replace(self, noise=seen, value_noise=value, slope_noise=slope)

    def after(self, found: StepOutcome) -> ProbabilisticSearch:
        """PLS section 3.3; a tenth of the place where the last one ended in NaN."""
        if found.status is Status.NON_FINITE:
            return dataclasses.replace(self, start=0.1 * self.start)
        if found.t == 0.0:
            return self
        past = self.average or found.t
        average = 0.95 * past + 0.05 * found.t
        start = self.growth * found.t
        if not average / self.max_change < start < average * self.max_change:
            start = average
        return dataclasses.replace(self, start=start, average=average)

    def __call__(self, line: Walkable) -> StepOutcome:
        """Search ``line``, which must know its slope at 0. Forward and backward at each place."""
        if not all_finite(self.value_noise, self.slope_noise):
            return outcome(line, 0.0, Status.NON_FINITE)
        return refusal(line) or _Belief(self, line).run()


class _Belief:
    """One search under way. Inside, t counts in units of α₀ and losses in units of α₀ |L'(0)|."""

    def __init__(self, rule: ProbabilisticSearch, line: Walkable) -> None:
        assert line.slope0 is not None
        self._rule, self._line = rule, line
        self._value0, self._slope_unit = line.value0, abs(line.slope0)
        self._value_unit = rule.start * self._slope_unit
        # PLS section 3.4.1: after this scaling no scale parameter is left
        self._model = LineModel(
            value_variance=(rule.value_noise / self._value_unit) ** 2,
            slope_variance=(rule.slope_noise / self._slope_unit) ** 2,
        )
        self._model.add(0.0, 0.0, -1.0)
        self._beyond = 1.0  # how far beyond the last place the next exploration goes
        self._edge = math.inf  # nearest place that was not finite

    def run(self) -> StepOutcome:
        t = 1.0
        for _ in range(self._rule.max_evaluations):
            value, slope = self._line.value_and_slope(t * self._rule.start)
            if not all_finite(value, slope):
                self._edge = t
                t = 0.5 * (max(self._model.places) + t)
                continue
            if is_level(value, self._value0, self._rule.rounding, t * self._value_unit):
                return outcome(self._line, 0.0, Status.FLAT)
            self._model.add(t, (value - self._value0) / self._value_unit, slope / self._slope_unit)
            places = self._model.places[1:]
            probabilities = self._appraise(places)[0].tolist()
            best = max(zip(probabilities, places, strict=True))
            if best[0] > self._rule.threshold:
                return self._end(best[1], Status.ACCEPTED)
            if self._model.mean([0.0])[1][0] >= 0.0:
                return self._end(0.0, Status.NOT_DESCENT)
            t = self._next()
        if len(self._model.places) == 1:
            return self._end(0.0, Status.NON_FINITE)
        means = self._model.mean(self._model.places)[0]
        lowest = min(zip(means, self._model.places, strict=True))
        return self._end(lowest[1], Status.EXHAUSTED)

    def _end(self, t: float, status: Status) -> StepOutcome:
        return outcome(self._line, t * self._rule.start, status)

    def _appraise(self, ts: list[float]) -> tuple[Tensor, Tensor, Tensor]:
        """P that the Wolfe conditions hold at each place; mean and variance of the value there."""
        c1, c2 = self._rule.sufficient_decrease, self._rule.curvature
        mean, cov = self._model.believe([0.0, *ts])
        n = len(ts) + 1
        # f(0), f'(0), f(t) and f'(t) of each place
        pick = torch.tensor([[0, n, i, n + i] for i in range(1, n)], device="cpu")
        mean4, cov4 = mean[pick], cov[pick[:, :, None], pick[:, None, :]]
        # a = f(0) + c1 t f'(0) − f(t) and b = f'(t) − c2 f'(0), both to be positive: PLS eq. (11)
        combine = tensor([[[1.0, c1 * t, -1.0, 0.0], [0.0, -c2, 0.0, 1.0]] for t in ts])
        mean_ab = (combine @ mean4[:, :, None])[:, :, 0]
        cov_ab = combine @ cov4 @ combine.transpose(1, 2)
        # the strong condition bounds b from above, with the noise of f'(0) allowed for: eq. (16)
        deviation = cov4[:, 1, 1].clamp(min=0.0).sqrt()
        upper = 2.0 * c2 * (mean4[:, 1].abs() + 2.0 * deviation)
        return probability_both_positive(mean_ab, cov_ab, upper), mean4[:, 2], cov4[:, 2, 2]

    def _next(self) -> float:
        """The candidate of highest promise: improvement times probability. PLS section 3.1."""
        last = max(self._model.places)
        explored = min(last + self._beyond, 0.5 * (last + self._edge))
        candidates = [*self._model.minima(), explored]
        probability, mean, variance = self._appraise(candidates)
        lowest = min(self._model.mean(self._model.places)[0])
        promise = expected_improvement(mean, variance, lowest) * probability
        chosen = candidates[int(promise.argmax())]
        if chosen == explored:
            self._beyond *= 2.0
        return chosen
