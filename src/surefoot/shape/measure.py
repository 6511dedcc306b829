"""Figures of shape: pure functions of what was sampled along lines."""

from __future__ import annotations

import math
import operator
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from surefoot.outcome import Status
from surefoot.parabola import Parabola
from surefoot.searches import LargeBatchSearch, ParabolicSearch
from surefoot.shape.line_sample import LineSample


def fit_errors(sample: LineSample, window: float | None = None) -> tuple[float, float, float]:
    """Mean absolute errors of the least-squares polynomials of degree 0, 1 and 2.

    Args:
        sample: the full-batch loss of which is fitted.
        window: use places up to this distance from the start; None for all.

    Source: 2103.17132, figure 4 (degrees 1 and 2 there).

    Raises:
        ValueError: if fewer than three places have a finite loss.
    """
    pairs = sample.finite(window)
    if len(pairs) < 3:
        raise ValueError("fits need three places with a finite loss")
    n, (places, losses) = len(pairs), zip(*pairs, strict=True)
    mean, line = statistics.fmean(losses), statistics.linear_regression(places, losses)
    parabola = Parabola.from_values(places, losses)
    models = (lambda s: mean, lambda s: line.intercept + line.slope * s, parabola.value)
    constant, linear, quadratic = (
        math.fsum(abs(f - model(s)) for s, f in pairs) / n for model in models
    )
    return constant, linear, quadratic


def is_convex(sample: LineSample, window: float | None = None, tolerance: float = 1e-6) -> bool:
    """Whether no place lies above the chord between its neighbours.

    Args:
        sample: the full-batch loss of which is looked at.
        window: use places up to this distance from the start; None for all.
        tolerance: excess that is forgiven, relative to the largest loss: rounding.
    """
    pairs = sample.finite(window)
    slack = tolerance * max(abs(f) for _, f in pairs)
    for (a, fa), (b, fb), (c, fc) in zip(pairs, pairs[1:], pairs[2:], strict=False):
        if fb > fa + (fc - fa) * (b - a) / (c - a) + slack:
            return False
    return True


def shape_distance(a: LineSample, b: LineSample, window: float | None = None) -> float:
    """Mean absolute difference of two full-batch losses, each counted from its own lowest place.

    At the places of ``a`` that ``b`` covers, too. Source: 2103.17132, figure 3.

    Raises:
        ValueError: if the two lines have no place in common.
    """
    places = [s for s, _ in a.finite(window)]
    pairs = [(a.loss_at(s), b.loss_at(s)) for s in places]
    pairs = [(fa, fb) for fa, fb in pairs if math.isfinite(fa) and math.isfinite(fb)]
    if not pairs:
        raise ValueError("the two lines have no place in common")
    lowest_a, lowest_b = min(fa for fa, _ in pairs), min(fb for _, fb in pairs)
    return math.fsum(abs((fa - lowest_a) - (fb - lowest_b)) for fa, fb in pairs) / len(pairs)


class SampledLine:
    """What was sampled, as a line that a search can walk: see :class:`surefoot.line.Walkable`.

    ``t`` is a length. Between the places it interpolates; beyond them it is NaN. ``value0`` and
    ``slope0`` are the loss and its derivative at 0.

    Args:
        sample: where the losses come from.
        row: the losses to walk on; None for those of the full batch.
        slope0: derivative at 0; None for that of the interpolation.
    """

    direction_norm = 1.0

    def __init__(
        self, sample: LineSample, row: Sequence[float] | None = None, slope0: float | None = None
    ) -> None:
        self._sample = sample
        self._row = sample.losses if row is None else row
        self.value0 = self._row[sample.origin]
        self.slope0 = sample.slope_at(0.0, self._row) if slope0 is None else slope0

    def value(self, t: float) -> float:
        """Loss at the distance ``t``."""
        return self._sample.interpolate(self._row, t)

    def value_and_slope(self, t: float) -> tuple[float, float]:
        """Loss and derivative at the distance ``t``."""
        return self.value(t), self._sample.slope_at(t, self._row)


@dataclass(frozen=True)
class StepOnLine:
    """Where a method's step would end.

    Args:
        length: of the step.
        loss: the full-batch loss there; NaN outside of what was sampled.
        beyond_minimum: how far beyond the full-batch minimum; negative before it.
        gain: how much lower the full-batch loss is than at the start.
    """

    length: float
    loss: float
    beyond_minimum: float
    gain: float


def steps_on_line(
    sample: LineSample,
    *,
    rates: Mapping[str, float] | None = None,
    measuring_length: float = 0.1,
    pal_length: float | None = None,
    labpal_batches: int = 10,
) -> dict[str, StepOnLine]:
    """Where the methods would go on this line, and the full-batch loss that each reaches.

    ``"minimum"`` is the full-batch minimum. ``"FBPAL"`` measures the full-batch loss and its slope,
    ``"LABPAL"`` the mean loss of the first ``labpal_batches`` batches, ``"PAL"`` the loss of the
    direction's own batch with its exact slope, and ``"own batch"`` is that batch's minimum;
    the last two are there only if that batch was sampled. None of them is multiplied by an α.

    Args:
        sample: the line; along a gradient, or the names of the methods promise too much.
        rates: learning rates by name, such as ``{"SGD 0.1": 0.1}``; each goes
            ``rate · direction_norm`` far.
        measuring_length: μ of FBPAL and LABPAL; 0.1 in 2103.17132.
        pal_length: μ of PAL; None for the same.
        labpal_batches: batches that LABPAL measures on.
    """
    lowest = sample.exact_minimum().length
    lengths = {"minimum": lowest}
    for name, rate in (rates or {}).items():
        lengths[name] = rate * sample.direction_norm
    lengths["FBPAL"] = _pal(SampledLine(sample), measuring_length)
    few = sample.subset(range(min(labpal_batches, len(sample.batch_losses))))
    few_search = LargeBatchSearch(measuring_length=measuring_length, max_length=math.inf)
    lengths["LABPAL"] = few_search(SampledLine(few)).t
    if sample.own_losses is not None:
        own = SampledLine(sample, sample.own_losses, sample.slope0)
        lengths["PAL"] = _pal(own, pal_length or measuring_length)
        alone = LineSample(sample.lengths, (sample.own_losses,), (1,))
        lengths["own batch"] = alone.exact_minimum().length
    losses = {name: sample.loss_at(length) for name, length in lengths.items()}
    return {
        name: StepOnLine(length, losses[name], length - lowest, sample.value0 - losses[name])
        for name, length in lengths.items()
    }


def _pal(line: SampledLine, measuring_length: float) -> float:
    found = ParabolicSearch(measuring_length=measuring_length, max_length=math.inf)(line)
    return measuring_length if found.status is Status.NOT_CONVEX else found.t


def tuned_rate(samples: Sequence[LineSample]) -> float:
    r"""The one learning rate whose steps end nearest to the full-batch minima of all the lines.

    .. math:: \arg\min_\eta \textstyle\sum_i |\eta\, n_i - s_i|, a median of
              :math:`s_i / n_i` with weights :math:`n_i`

    with minima :math:`s_i` and norms :math:`n_i` of the directions. Lines whose minimum lies at
    the border are left out.

    Raises:
        ValueError: if no line has its minimum inside.
    """
    ratios = sorted((s / line.direction_norm, line.direction_norm) for line, s in _inside(samples))
    half = 0.5 * math.fsum(n for _, n in ratios)
    reached = 0.0
    for ratio, n in ratios:
        reached += n
        if reached >= half:
            return ratio
    raise ValueError("no line has its minimum inside of what was sampled")


def _inside(samples: Sequence[LineSample]) -> list[tuple[LineSample, float]]:
    """The lines that have their minimum inside, and its distance."""
    found = [(line, line.exact_minimum()) for line in samples]
    return [(line, minimum.length) for line, minimum in found if not minimum.at_border]


@dataclass(frozen=True)
class Proportionality:
    """How nearly the optimal step is proportional to the gradient norm.

    Args:
        n: lines.
        rate: the factor, Σ s n / Σ n²: the learning rate of the best proportional step.
        correlation: of optimal step and norm; NaN where one of them does not vary.
        ratio_spread: standard deviation of the ratios over their mean.
        step_spread: the same of the optimal steps themselves: what a constant length would have.
    """

    n: int
    rate: float
    correlation: float
    ratio_spread: float
    step_spread: float


def proportionality(samples: Sequence[LineSample]) -> Proportionality:
    """Optimal step against direction norm, over lines with their minimum inside.

    Raises:
        ValueError: if fewer than two lines have their minimum inside of what was sampled.
    """
    inside = _inside(samples)
    if len(inside) < 2:
        raise ValueError("fewer than two lines have their minimum inside of what was sampled")
    steps, norms = [s for _, s in inside], [line.direction_norm for line, _ in inside]
    ratios = [s / n for s, n in zip(steps, norms, strict=True)]
    varies = len(set(steps)) > 1 and len(set(norms)) > 1
    return Proportionality(
        n=len(inside),
        rate=math.fsum(map(operator.mul, steps, norms)) / math.fsum(n * n for n in norms),
        correlation=statistics.correlation(steps, norms) if varies else math.nan,
        ratio_spread=statistics.stdev(ratios) / abs(statistics.fmean(ratios)),
        step_spread=statistics.stdev(steps) / abs(statistics.fmean(steps)),
    )


@dataclass(frozen=True)
class BatchSizeEffect:
    """Lines along the gradients of batches of one size, compared with those of the smallest size.

    Args:
        batch_size: samples in the direction's batch.
        n: lines.
        gradient_norm: mean norm of the direction: minus the slope of its own batch.
        full_slope: mean slope of the full-batch loss, per unit of length, at 0.
        optimal_length: mean distance of the full-batch minimum.
        optimal_rate: mean of that distance over the gradient's norm.
        norm_ratio: gradient norm over that of the smallest size.
        rate_ratio: optimal rate over that of the smallest size; k, where a batch k times as large
            acts like a rate divided by k.
    """

    batch_size: int
    n: int
    gradient_norm: float
    full_slope: float
    optimal_length: float
    optimal_rate: float
    norm_ratio: float
    rate_ratio: float


def batch_size_effect(samples: Mapping[int, Sequence[LineSample]]) -> list[BatchSizeEffect]:
    """What the size of the direction's batch does to slope and optimal step. 2103.17132, fig. 7.

    Args:
        samples: lines by the size of the batch that defined their direction.
    """
    rows: list[BatchSizeEffect] = []
    for size in sorted(samples):
        inside = _inside(samples[size])
        if not inside:
            raise ValueError(f"batch size {size}: no line has its minimum inside")
        norm = statistics.fmean([line.direction_norm for line, _ in inside])
        rate = statistics.fmean([s / line.direction_norm for line, s in inside])
        first = rows[0] if rows else None
        rows.append(
            BatchSizeEffect(
                batch_size=size,
                n=len(inside),
                gradient_norm=norm,
                full_slope=statistics.fmean([SampledLine(line).slope0 for line, _ in inside]),
                optimal_length=statistics.fmean([s for _, s in inside]),
                optimal_rate=rate,
                norm_ratio=norm / first.gradient_norm if first else 1.0,
                rate_ratio=rate / first.optimal_rate if first else 1.0,
            )
        )
    return rows
