"""The rate in use: what is remembered of the measurements, and what follows from them. No torch."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from surefoot.measured.estimate import Measurement, RateInterval, pool
from surefoot.outcome import Status
from surefoot.parabola import Parabola
from surefoot.reuse import GROWTH, Pooled, within_growth

__all__ = ["CREDIT", "RateState", "next_measurement"]

CREDIT = 24.0
"""Forward-equivalents that may be spent before they were earned: the rate changes most at first. At
most a quarter of the whole budget where the run's length is known."""

NEAR = 16.0
"""The rate in use is never farther than this factor below what is measured ..."""
ABOVE = 4.0
"""... nor than this one above it."""
WORTH = 1e-4
"""Share of the loss that a step must promise for the rate to grow."""
PRECISION = 0.1
"""Relative half-width of the interval at which the rate counts as known."""
APPROACH = 3
"""Doublings in which the first rate is approached, one a step."""
BEYOND = 4.0
"""How many times the farthest probe a minimum may be."""
MISFIT = 0.12
"""Distance from the parabola, as a share of the largest bend, from which on it is none."""
_LOUD = 3.0
"""How many times as loud as usual a line may count there."""
FASTER = 2.0
"""The power of the number of steps with which the rate may rise there on a plateau ..."""
STILL = 0.02
"""... where the last quarter of the run gained less than this share of all that was gained."""
HELD = 1.5
"""By how much the rate may fall there below its highest, as long as the loss goes on falling: the
curvature of many networks grows until it fits the rate, and follows the rate down ..."""
PAST = 2.0
"""... though not beyond this many of the minima measured last: there the batch's own loss would
hardly fall any more."""
_SURE = 2.0
"""Standard errors above which a rise or a fall of the loss counts ..."""
_EBB, _FLOW, _LEAST = 0.9, 1.03, 0.1
"""... what every loss that is heard then makes of α, and the least of it."""
_FAR, _LOOSER = 10.0, 1.2
"""Steps to the minimum from which on it is far; what the bound is multiplied by at every fall then:
measured, docs/what-did-not-work.md."""
_COURSE = 96
"""Losses kept to see that."""
_KEPT, _RECENT = 64, 16
_STEEPER = 0.05
"""By which share the slope has to grow along an update."""
_CALM, _ALARM = 8, 8.0
"""Losses to have seen before one can be out of range; mean distances that are out of range."""
FITS = (Status.MINIMUM, Status.CAPPED, Status.NOT_CONVEX, Status.NOT_DESCENT)


@dataclass(frozen=True)
class RateState:
    """What a measured rate remembers: plain values, which every checkpoint keeps.

    Rates are multiples of the wrapped optimizer's own ``lr``.

    Args:
        in_use: the multiple in use, α and horizon not included; None until measured.
        since: the step at which it was first known.
        measurements: the newest parabolas.
        attempts: measurements begun.
        next: the step at which to measure again.
        spent: forward-equivalents spent on measuring, in those of a training step's forward pass.
        price: of one evaluation of the loss, likewise.
        probed: where the last probe was, as a multiple.
        misfits: distances from the parabola at the last checks.
        losses: how many were seen, their mean, their mean distance from it, and how many in a row
            were out of range.
        length: of an update, per unit of the multiple, when last measured.
        loud: the norm of the gradients that are looked at at every step, when last measured.
        norm: the smallest norm of the weights so far.
        size: their norm when last measured.
        slopes: ``"gradient"`` or ``"losses"``: what the derivative is taken from.
        disagreed: checks in a row at which the two disagreed.
        flat: measurements in a row that drowned in rounding.
        trial: the multiple at which the first step is taken, to be measured.
        pooled: slope, curvature and usual loudness of the lines under averaged weights.
        last: the step at which it was measured last.
        course: steps and losses of the run so far, thinned out.
        highest: the largest multiple in use since the last alarm, under averaged weights.
        heard: the step whose loss was heard last.
        ebb: what is left of α after the loss has risen.
        slack: what the bound is multiplied by, as the loss falls with the minimum far beyond it.
        fell_from: the multiple in use before the loss left its range, until it is reached again.
    """

    in_use: float | None = None
    since: int = 0
    measurements: tuple[Measurement, ...] = field(default=(), metadata={"entry": Measurement})
    attempts: int = 0
    next: int = 0
    spent: float = 0.0
    price: float = 1.0
    probed: float | None = None
    misfits: tuple[float, ...] = ()
    losses: tuple[float, ...] = (0, 0.0, 0.0, 0)
    length: float = 0.0
    loud: float = math.inf
    norm: float = math.inf
    size: float = math.inf
    slopes: str = "gradient"
    disagreed: int = 0
    flat: int = 0
    trial: float = 1.0
    pooled: tuple[float, float, float] = (0.0, 0.0, 0.0)
    last: int = -1
    course: tuple[tuple[int, float], ...] = ()
    highest: float = 0.0
    heard: int = -1
    ebb: float = 1.0
    slack: float = 1.0
    fell_from: float = 0.0

    @property
    def interval(self) -> RateInterval:
        """The measured multiple, and how sure it is."""
        return _pooled(self.measurements)

    @property
    def is_misfit(self) -> bool:
        """Whether most of the last checks found no parabola."""
        return sum(m > MISFIT for m in self.misfits[-4:]) >= 3

    @property
    def is_bottomless(self) -> bool:
        """Whether the loss, no longer positive, fell ever faster along most of the last updates."""
        recent, place = self.measurements[-_RECENT:], self.in_use or 0.0
        steeper = sum(m.curvature * place < -_STEEPER * abs(m.slope) for m in recent)
        is_held = all(loss >= 0.0 for _, loss in self.course[-_RECENT:])
        return len(recent) == _RECENT and steeper >= 0.75 * _RECENT and not is_held

    def approach(self, step: int) -> float:
        """The share of the first rate that is walked: 1/8, 1/4, 1/2, then all of it."""
        return 2.0 ** min(0, step - self.since - APPROACH)

    def checked(self, parabola: Parabola, far: float) -> RateState:
        """With the distance of several losses from their parabola."""
        bend = abs(0.5 * parabola.curvature * far * far)
        size = max(bend, 0.5 * abs(parabola.slope0 * far))  # a straight line has no bend to miss
        share = parabola.residual / size if size > 0.0 else 0.0
        return dataclasses.replace(self, misfits=(*self.misfits, share)[-8:])

    def _part(self, low: float, high: float) -> list[float]:
        """The losses between two shares of the run so far."""
        now = self.course[-1][0] if self.course else 0
        return [loss for step, loss in self.course if low * now < step <= high * now]

    def gains(self) -> tuple[float, float]:
        """By how much the loss fell in the last quarter of the run so far, and before that."""
        before, late = self._part(0.5, 0.75), self._part(0.75, 1.0)
        if min(len(before), len(late)) < 3 or self.course[-1][0] < 32:
            return math.inf, 0.0
        first = math.fsum(loss for _, loss in self.course[:4]) / 4.0
        then, today = math.fsum(before) / len(before), math.fsum(late) / len(late)
        return then - today, first - then

    @property
    def trend(self) -> float:
        """The loss of the last quarter of the run above the least of before, in standard errors."""
        cuts = itertools.pairwise((0.125, 0.25, 0.5, 0.75, 1.0))
        *parts, late = itertools.starmap(self._part, cuts)
        before = [part for part in parts if len(part) >= 4]
        if not before or len(late) < 4:
            return 0.0
        least, error = min(map(_mean_and_error, before))
        now, its_error = _mean_and_error(late)
        noise = math.hypot(error, its_error)
        return (now - least) / noise if noise > 0.0 else 0.0

    def listens(self, step: int, often: int) -> bool:
        """Whether the loss of step number ``step`` is to be heard, measured or not.

        Args:
            step: its number.
            often: how many are heard while the run grows by a factor of e.
        """
        return step >= self.heard + max(1, self.heard // often)

    def hears(
        self, step: int, loss: float, most: float = 1.0, loosest: float = 1.0, applied: float = 0.0
    ) -> RateState:
        """With the loss of a batch on the way, where it is finite.

        α shrinks while losses surely rise, and grows while they surely fall. So does the bound
        where it is all that decides.

        Args:
            step: whose loss it is.
            loss: of its batch.
            most: what α may be multiplied by while they fall.
            loosest: what the bound may be multiplied by meanwhile.
            applied: the multiple that was applied last.
        """
        if not math.isfinite(loss):
            return dataclasses.replace(self, heard=step)
        course = (*self.course, (step, loss))
        course = course if len(course) <= _COURSE else (*course[:4], *course[5::2])
        heard = dataclasses.replace(self, heard=step, course=course)
        trend, ebb = heard.trend, self.ebb
        if trend > _SURE:
            ebb = max(_EBB * ebb, _LEAST)
        elif trend < -_SURE:
            ebb = min(_FLOW * ebb, most)
        elif ebb > 1.0:
            ebb = max(_EBB * ebb, 1.0)
        minimum = self.interval.value if loosest > 1.0 else 0.0
        is_far = minimum is None or minimum > _FAR * applied
        slack = min(_LOOSER * self.slack, loosest) if trend < -_SURE and is_far else 1.0
        return dataclasses.replace(heard, ebb=ebb, slack=slack)

    def saw(self, loss: float) -> RateState:
        """With one more loss of a batch; one far out of range lets it be measured at once.

        A single one may be an outlier of the data. The second in a row is the weights': the rate
        halves.
        """
        seen, mean, spread, alarms = self.losses
        if seen >= _CALM and loss > mean + _ALARM * spread:
            if alarms == 0:
                return dataclasses.replace(self, losses=(seen, mean, spread, 1))
            in_use = None if self.in_use is None else self.in_use / GROWTH
            kept, losses = self.measurements[-2:], (0, loss, 0.0, 0)
            return dataclasses.replace(
                self, in_use=in_use, highest=in_use or 0.0, measurements=kept, losses=losses
            )
        share = max(1.0 / (seen + 1), 0.05)
        mean += share * (loss - mean)
        spread += share * (abs(loss - mean) - spread)
        return dataclasses.replace(self, losses=(seen + 1, mean, spread, 0))

    def learned(
        self,
        step: int,
        status: Status,
        parabola: Parabola | None,
        *,
        probed: float,
        filling: float,
        total_steps: int | None,
        most: float = math.inf,
        averaged: bool = False,
        fell: bool = False,
    ) -> RateState:
        """With one more measurement.

        Args:
            step: when it was made.
            status: how it ended.
            parabola: the loss per unit of the multiple.
            probed: where the farthest probe was, as a multiple.
            filling: how many times longer updates will be as the optimizer's memory fills.
            total_steps: length of the run.
            most: the largest rate that may be walked to where no minimum was measured.
            averaged: whether weights are averaged, so that the rate is used as it is measured.
            fell: whether the loss was not finite at the rate in use, and it was measured anew: the
                rate falls as far as this line says.
        """
        attempts, flat = self.attempts + 1, self.flat + 1 if status is Status.FLAT else 0
        found = dataclasses.replace(self, attempts=attempts, probed=probed / filling, flat=flat)
        if status in FITS and parabola is not None and parabola.is_finite:
            new = Measurement(step, parabola.slope0 * filling, parabola.curvature * filling**2)
            found = dataclasses.replace(found, measurements=(*self.measurements, new)[-_KEPT:])
        if averaged:
            found = found._learned_averaged(step, status, parabola, most)
        if fell or averaged:
            return found._fallen(step, parabola) if fell else found
        rate = found.interval
        wanted = found._wanted(rate, status, most)
        if self.in_use is not None:
            top = GROWTH if parabola is None or _promises(parabola, probed) else 1.0
            wanted = min(max(wanted, self.in_use / GROWTH), self.in_use * top)
        if rate.value is not None and status is not Status.NON_FINITE:
            floor = min(rate.value / NEAR, BEYOND * probed / filling)  # far away nothing is known
            wanted = min(max(wanted, floor), rate.value * ABOVE)
        since = self.since if self.in_use is not None else step + 1
        following = next_measurement(step, rate, PRECISION, total_steps)
        return dataclasses.replace(found, in_use=wanted, since=since, next=following)

    def _fallen(self, step: int, parabola: Parabola | None) -> RateState:
        """With the minimum of the last line alone, if it is lower; to be measured at once."""
        minimum = None if parabola is None else parabola.vertex
        last = 0.1 * (self.probed or 1.0) if minimum is None or minimum <= 0.0 else minimum
        in_use = min(last, (self.in_use or 1.0) / GROWTH)
        before = max(self.fell_from, self.in_use or 0.0)
        fallen = dataclasses.replace(self, in_use=in_use, highest=in_use, fell_from=before)
        return fallen.at_once(step)

    def at_once(self, step: int) -> RateState:
        """To be measured at the next step, whatever it costs: budgets are for runs that go well."""
        return dataclasses.replace(self, next=step + 1, spent=self.spent - CREDIT)

    def _wanted(self, rate: RateInterval, status: Status, most: float) -> float:
        """The multiple that the measurements ask for."""
        probed, in_use = self.probed or 1.0, self.in_use
        if status is Status.NON_FINITE:
            return 0.01 * probed if in_use is None else in_use / GROWTH
        if rate.n == 0:
            return 1.0 if in_use is None else in_use  # nothing known: the optimizer's own rate
        if rate.value is None:
            if in_use is None:
                return 0.5 * probed
            falls = math.fsum(m.slope for m in self.measurements[-rate.n :]) < 0.0
            return _farther(in_use, most) if falls else in_use / GROWTH
        if self.is_misfit:
            return max(rate.low, 0.1 * rate.value)
        # warm-up: as long as the rate is unsure, less of it, at worst half
        sure = 1.0 + min(1.0, rate.relative_error)
        return min(rate.value, BEYOND * probed) / sure

    def _learned_averaged(
        self, step: int, status: Status, parabola: Parabola | None, most: float
    ) -> RateState:
        """The minimum of the last few lines; the rate rises at most with the number of steps.

        So the first rate, which changes the weights by a thousandth, is a warm-up that ends where
        the measurements say.
        """
        lines, usual = Pooled(*self.pooled[:2]), self.pooled[2]
        in_use = 1.0 if self.in_use is None else self.in_use
        if status is Status.FLAT and not usual:  # no line has told anything yet
            return dataclasses.replace(
                self, in_use=_farther(in_use, most), last=step, next=step + 1
            )
        if status in FITS and parabola is not None and parabola.is_finite:
            loud = abs(parabola.slope0)
            usual = usual or loud
            tame = min(1.0, _LOUD * usual / loud) if loud > 0.0 else 1.0
            usual += 0.2 * (tame * loud - usual)
            lines = lines.and_of(parabola.slope0, parabola.curvature, tame)
        wanted = 0.0 if status is Status.NON_FINITE else lines.minimum
        gain, whole = self.gains()
        power = FASTER if gain < STILL * whole else 1.0
        rise = min(GROWTH, ((step + 2) / (self.last + 2)) ** power)
        returns = in_use < self.fell_from  # to where it was, as fast as anything may change
        wanted = within_growth(wanted, in_use, GROWTH if returns else rise)
        returns = returns and in_use < wanted < self.fell_from
        is_lost = status is Status.NON_FINITE or gain < 0.0 or lines.minimum == 0.0
        highest = wanted if is_lost else self.highest
        wanted = max(wanted, min(highest / HELD, PAST * lines.minimum))
        highest = max(highest, wanted)
        gap = 1 if returns or step < 16 else 4 if step < 64 else max(16, step // 16)
        return dataclasses.replace(
            self,
            in_use=wanted,
            highest=highest,
            pooled=(*lines, usual),
            last=step,
            next=step + gap,
            fell_from=self.fell_from if returns else 0.0,
        )


def next_measurement(
    step: int, rate: RateInterval, precision: float, total_steps: int | None
) -> int:
    """The step at which to measure again, if the budget allows.

    While the rate is less sure than wanted: at once, though never after less than a fifth of the
    run so far in its first steps, in which the rate moves with the number of steps. Then after an
    eighth of the time over which it has stood still, at most a fiftieth of the run.
    """
    if rate.n < 4 or rate.relative_error > precision:
        return step + max(1, min(step // 5, 8))
    longest = max(1, (total_steps or 50_000) // 50)
    return step + max(1, min(rate.span // 8, longest))


def _mean_and_error(losses: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error, of two or more."""
    n = len(losses)
    mean = math.fsum(losses) / n
    return mean, math.sqrt(math.fsum((x - mean) ** 2 for x in losses) / (n * (n - 1)))


_pooled = functools.lru_cache(maxsize=4)(pool)
"""For states that have the same measurements, and whoever logs the rate at every step."""


def _farther(in_use: float, most: float) -> float:
    """A larger rate, where all that is known is that it may be larger."""
    return max(in_use, min(GROWTH * in_use, most))


def _promises(parabola: Parabola, probed: float) -> bool:
    """Whether the line has more to offer than a loss that is as good as solved."""
    vertex = parabola.vertex
    place = probed if vertex is None else min(max(vertex, 0.0), probed)
    return abs(parabola.value(place) - parabola.value0) > WORTH * abs(parabola.value0)
