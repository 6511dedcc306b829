"""What one measured step does: look along it, conclude, leave the weights where they are to be."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from surefoot._evaluation import UNMOVED
from surefoot.measured import notices
from surefoot.measured.due import checks
from surefoot.measured.probes import Probes
from surefoot.measured.rate import RateState
from surefoot.measured.reach import Reach
from surefoot.outcome import Status, StepOutcome
from surefoot.parabola import Parabola

__all__ = ["ROUGH", "Measuring", "roughest"]

_FIRST_SHARE = 0.01
"""Where the first probe goes, as a share of the weights' norm."""
_INFORMATIVE = 4.0
"""A probe tells of a minimum that is at most this factor away from it."""
_TOO_FAR = 4.0
"""How many times as far as it should have gone a step may go before it is taken back."""
_FIRST_CHANGE = 1e-3
"""Share of the weights' norm by which the first step changes them under averaged weights."""
_RISE = 4.0
"""How many times its expected fall the loss may rise in a step that stands, there."""
_ABSURD = 100.0
"""How many times what its slope promises the loss may rise before the line is looked at anew; and,
in tenths, how many times what it was."""
_UNMEASURED_CHANGE = 0.1
"""Share of the weights' norm up to which a rate may grow where no minimum was measured."""
ROUGH = 1e-4
"""Rounding error of weights, from which on it is told: that of half precision."""
_SHARP = 0.03
"""A move this many times √eps of the weights' norm is sharper than their rounding."""


@dataclass
class Measuring:
    """A step that was taken, and what is learnt along its line.

    Args:
        reach: how far it was to go.
        probes: its line; the weights are at its end.
        rate: what is known, and afterwards with what was learnt.
        number: which step it is.
        multiple: of the groups' units, that it was taken with.
        scheduled: what schedulers leave of the rate.
        limited: whether the bound, and afterwards also whether what was measured, shortened it.
        at_once: share of a step that gradients see at once: 1 − β under averaged weights, else 1.
        foreign: whether the gradient was not the loss's own before the optimizer saw it.
        tell: says a thing once.

    Attributes:
        left: what the horizon leaves of the rate.
        limit: the longest step, a Euclidean length.
        share: of the step that was left; the weights are there.
    """

    reach: Reach
    probes: Probes
    rate: RateState
    number: int
    multiple: float
    scheduled: float
    limited: bool
    at_once: float
    foreign: bool
    tell: Callable[[str, str], None]
    share: float = field(default=1.0, init=False)

    def __post_init__(self) -> None:
        self.left = self.reach.settings.left(self.number)
        self.limit = self.reach.limit(self.rate, self.number, self.scheduled)
        self._frozen, self._is_first = self.reach.settings.frozen, self.rate.in_use is None
        self._alpha = self.reach.alpha * self.rate.ebb
        self._filling = self.reach.filling(self.number)
        self._eps = roughest(self.probes.params)

    def conclude(self) -> StepOutcome:
        """Look along the line, and leave the weights where the step is to end."""
        probes, length = self.probes, self.probes.direction_norm
        may_drown = self._is_first and not self._frozen
        least = _SHARP * math.sqrt(self._eps) * self.rate.norm if may_drown else 0.0
        if not 0.0 < length < math.inf or length < least or self.multiple == 0.0:
            return self._nothing_moved()
        per_unit = length / self.multiple * self._filling
        self.rate = dataclasses.replace(self.rate, length=per_unit)
        probes.slope0 = probes.slope if self.rate.slopes == "gradient" else None
        end, fell = 1.0, False
        if not self._frozen and not self._is_first and length > 1.001 * self.limit:
            end, self.limited = self.limit / length, True
            probes.line.go_to(end)
        if not self._is_first:
            places, found, fell = self._look(end)
        elif self.reach.averages:
            end = _FIRST_CHANGE * self.rate.norm / length
            places, found = self._look_near(end)
        else:
            reach, most = (s * self.rate.norm / length for s in (_FIRST_SHARE, _UNMEASURED_CHANGE))
            found = probes.search(reach, most, keeps_end=self._frozen)
            places = probes.seen
        self._notice_unmoved()
        self._compare_slopes(places)
        parabola = None if found.parabola is None else _per_multiple(found.parabola, self.multiple)
        self.rate = rate = self.rate.learned(
            self.number,
            found.status,
            parabola,
            probed=max(places) * self.multiple,
            filling=self._filling,
            total_steps=self.reach.settings.total_steps,
            most=_UNMEASURED_CHANGE * self.rate.norm / per_unit,
            averaged=self.reach.averages,
            fell=fell,
        )
        if rate.is_bottomless:
            self.tell("bottomless", notices.BOTTOMLESS)
        if rate.flat >= 6 and rate.interval.value is None:
            self.tell("flat", notices.FLAT)
        self.share, self.limited = self._place(found, end, fell)
        probes.line.go_to(self.share)
        status = found.status
        if rate.is_misfit and rate.interval.value is not None and found.parabola is not None:
            status = Status.MISFIT
        elif self.limited and status in (Status.MINIMUM, Status.NOT_CONVEX):
            status = Status.CAPPED
        t, moved, norm = self.multiple * self.share, length * self.share, length / self.multiple
        slope0 = None if found.slope0 is None else found.slope0 / self.multiple
        return StepOutcome(t, moved, status, probes.value0, slope0, norm, parabola=parabola)

    def _look_near(self, end: float) -> tuple[tuple[float, ...], StepOutcome]:
        """The first look under averaged weights, and the rate that it begins with."""
        if self._eps > ROUGH:
            self.tell("rough", notices.ROUGH)
        places = (end,) if self.probes.slope0 is not None else (end, 0.5 * end)
        in_use = self.multiple * end / (self.at_once * self._alpha)
        self.rate = dataclasses.replace(self.rate, in_use=in_use)
        return places, self.probes.fit(places)

    def _look(self, end: float) -> tuple[tuple[float, ...], StepOutcome, bool]:
        """Where it was looked, what was found, and whether the loss had left its range there."""
        probes, places = self.probes, self._places(end)
        found, far = probes.fit(places), max(places)
        if not self._frozen and _is_absurd(probes, found, far):
            # measured anew, from the start of the line on
            found = probes.search(0.1 * far, 0.5 * far, keeps_end=False)
            return probes.seen, found, True
        if len(places) > 1 and found.parabola is not None and probes.slope0 is not None:
            self.rate = self.rate.checked(found.parabola, far)
            if self.rate.is_misfit:
                self.tell("misfit", notices.MISFIT)
        return places, found, False

    def _places(self, end: float) -> tuple[float, ...]:
        """Where to look, the farthest first: the step's end if it tells of the minimum.

        Late under a horizon, or behind the bound, the end is so near that the loss barely bends:
        then at the rate in use.
        """
        assert self.rate.in_use is not None
        probes, wanted = self.probes, self.rate.in_use * self._filling / self.multiple
        near = 1.0 / _INFORMATIVE <= wanted / end <= _INFORMATIVE
        far = end if near else wanted
        alone = not checks(self.rate) and probes.slope0 is not None
        if end == 1.0 and (not near or (not alone and math.isfinite(probes.value(1.0)))):
            probes.line.keep_end()
        return (far,) if alone or not math.isfinite(probes.value(far)) else (far, 0.5 * far)

    def _place(self, found: StepOutcome, end: float, fell: bool) -> tuple[float, bool]:
        """At which share of it the step is to end, and whether that is less."""
        if self._frozen:
            return 1.0, False
        if fell:  # at the minimum, if any: the rate turned out to be far too large
            minimum = found.t if found.status is Status.MINIMUM else 0.0
            best = minimum * min(1.0, self._alpha * self.left)
            return min(best * self.at_once, end), True
        if self.reach.averages and (self._is_first or not self.limited):
            rise = max(self.probes.values.values()) - self.probes.value0
            stands = math.isfinite(rise) and rise <= _RISE * abs((found.slope0 or 0.0) * end)
            return (end, False) if stands else (0.0, True)
        if self._is_first:
            assert self.rate.in_use is not None
            whole = self.rate.in_use * self._alpha * self.left * self.scheduled
            wanted = whole * self.rate.approach(self.rate.since) / self.multiple
            share = min(wanted, self.limit / self.probes.direction_norm)
            return share, wanted > 1.001 * share
        if found.status is Status.MINIMUM:
            best = found.t * max(1.0, self._alpha * self.left)
            if end > _TOO_FAR * best:
                return best, True
        return end, self.limited

    def _nothing_moved(self) -> StepOutcome:
        """The step drowned in the weights' rounding: try a larger unit at the next one."""
        length, rate, flat = self.probes.direction_norm, self.rate, self.rate.flat + 1
        self.limited = False
        outcome = StepOutcome(self.multiple, length, Status.FLAT, self.probes.value0)
        if length == 0.0 and (idle := self.reach.idle(self.number)) > 0:
            self.rate = dataclasses.replace(rate, next=self.number + idle)
            return outcome
        larger = 1e-3 * rate.norm / length if length > 0.0 and math.isfinite(length) else 1e4
        trial = min(rate.trial * min(max(larger, 2.0), 1e6), 1e30)
        following = self.number + (1 if rate.in_use is None else min(8 * flat, 1000))
        self.rate = dataclasses.replace(rate, trial=trial, flat=flat, next=following)
        if flat >= 6:
            self.tell("flat", notices.FLAT)
        return outcome

    def _compare_slopes(self, places: tuple[float, ...]) -> None:
        """Decide where derivatives come from: from losses where gradient and losses disagree."""
        slope, probes, rate = self.probes.slope, self.probes, self.rate
        if slope is None:
            if rate.slopes == "losses" and self.foreign:  # the second time: one may be an accident
                self.tell("losses", notices.NOT_ITS_GRADIENT)
            self.rate = dataclasses.replace(rate, slopes="losses")
            return
        if len(places) < 2 or not all(math.isfinite(v) for v in probes.values.values()):
            return
        far, near, *_ = places
        values = probes.value0, probes.value(near), probes.value(far)
        fit = Parabola.from_values((0.0, near, far), values)
        size = max(abs(slope), abs(fit.slope0), abs(0.5 * fit.curvature * far))
        noise = 8.0 * probes.loss.rounding * abs(probes.value0) / near
        if abs(fit.slope0 - slope) <= 0.5 * size + noise:
            slopes = "gradient" if rate.disagreed == 0 else rate.slopes
            self.rate = dataclasses.replace(rate, slopes=slopes, disagreed=0)
        elif rate.disagreed >= 1 and rate.slopes == "gradient":
            self.tell("slopes", notices.OTHER_GRADIENT)
            self.rate = dataclasses.replace(rate, slopes="losses", disagreed=2)
        else:
            self.rate = dataclasses.replace(rate, disagreed=rate.disagreed + 1)

    def _notice_unmoved(self) -> None:
        """A loss that does not look at the weights: the same bits where it must differ."""
        probes, slope = self.probes, self.probes.slope
        if self.rate.attempts > 0 or slope is None:
            return
        same = all(v == probes.value0 for v in probes.values.values())
        rounding = max(probes.loss.rounding, 4.0 * self._eps) * abs(probes.value0)
        if same and abs(slope * max(probes.values, default=0.0)) > 1000.0 * rounding:
            raise RuntimeError(UNMOVED)


def _is_absurd(probes: Probes, found: StepOutcome, far: float) -> bool:
    """Whether the loss has left its range where the rate in use leads."""
    if found.status is Status.NON_FINITE:
        return True
    rise, promised = probes.value(far) - probes.value0, abs((found.slope0 or 0.0) * far)
    return rise > _ABSURD * promised and rise > 0.1 * _ABSURD * abs(probes.value0)


def _per_multiple(p: Parabola, multiple: float) -> Parabola:
    return Parabola(p.value0, p.slope0 / multiple, p.curvature / multiple**2, p.residual)


def roughest(params: list[Tensor]) -> float:
    """The largest rounding error of the parameters' dtypes."""
    return max((torch.finfo(p.dtype).eps for p in params if p.is_floating_point()), default=0.0)
