"""What one measured step does: look along it, conclude, leave the weights where they are to be."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from surefoot import _reduce
from surefoot.measured import notices
from surefoot.measured.probes import Probes, search
from surefoot.measured.rate import RateState
from surefoot.outcome import Status, StepOutcome
from surefoot.parabola import Parabola
from surefoot.replay import Loss

__all__ = ["Measured", "Step", "conclude", "own_slope", "scale_of"]

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
_ROUGH = 1e-4
"""Rounding error of weights, from which on it is told: that of half precision."""
_SHARP = 0.03
"""A move this many times √eps of the weights' norm is sharper than their rounding."""


@dataclass(frozen=True)
class Step:
    """What is known of a step that was taken and is to be measured.

    Args:
        number: which one it is.
        multiple: of the groups' units, that it was taken with.
        alpha: α, measured minima to go.
        left: what the horizon leaves of the rate.
        scheduled: what schedulers leave of it.
        filling: how many times longer updates will be as the optimizer's memory fills.
        limit: the longest step, a Euclidean length.
        total_steps: length of the run.
        frozen: whether the weights have to end where the optimizer put them, to the bit.
        shortened: whether it is shorter than the rate says already, for the bound.
        checks: whether to look at a second place.
        share: 1 − β, what of a step gradients see at once under averaged weights; 0 without.
        foreign: whether the gradient was not the loss's own before the optimizer saw it.
        rounding: relative rounding error of a loss.
        eps: that of the roughest weights.
    """

    number: int
    multiple: float
    alpha: float
    left: float
    scheduled: float
    filling: float
    limit: float
    total_steps: int | None
    frozen: bool
    shortened: bool
    checks: bool
    share: float
    foreign: bool
    rounding: float
    eps: float


@dataclass(frozen=True)
class Measured:
    """What came of it.

    Args:
        outcome: in multiples of the groups' units.
        rate: with what was learnt.
        share: of the step that was left; the weights are there.
        limited: whether the bound, or what was measured, shortened it.
    """

    outcome: StepOutcome
    rate: RateState
    share: float
    limited: bool


def conclude(
    step: Step,
    probes: Probes,
    rate: RateState,
    slope: float | None,
    tell: Callable[[str, str], None],
) -> Measured:
    """Measure along a step that was taken.

    Args:
        step: the step.
        probes: its line; the weights are at its end.
        rate: what is known.
        slope: derivative of the loss at the step's start, per step, where the gradient tells it.
        tell: says a thing once.
    """
    length = probes.direction_norm
    is_first = rate.in_use is None
    drowned = is_first and not step.frozen and length < _SHARP * math.sqrt(step.eps) * rate.norm
    if not 0.0 < length < math.inf or step.multiple == 0.0 or drowned:
        return _nothing_moved(step, probes, rate, tell)
    per_unit = length / step.multiple * step.filling
    rate = dataclasses.replace(rate, length=per_unit)
    probes.slope0 = slope if rate.slopes == "gradient" else None
    end, limited, fell = 1.0, step.shortened, False
    if not step.frozen and not is_first and length > 1.001 * step.limit:
        end, limited = step.limit / length, True
        probes.line.go_to(end)
    places: tuple[float, ...]
    if is_first and step.share:
        if step.eps > _ROUGH:
            tell("rough", notices.ROUGH)
        end = _FIRST_CHANGE * rate.norm / length
        places = (end,) if probes.slope0 is not None else (end, 0.5 * end)
        found = probes.fit(places, step.rounding)
        rate = dataclasses.replace(rate, in_use=step.multiple * end / (step.share * step.alpha))
    elif is_first:
        reach = _FIRST_SHARE * rate.norm / length
        most = _UNMEASURED_CHANGE * rate.norm / length
        found = search(probes, step.rounding, reach, most, keeps_end=step.frozen)
        finite = tuple(t for t, value in probes.values.items() if math.isfinite(value))
        places = finite or tuple(probes.values)
    else:
        places = _places(step, probes, rate, end)
        found = probes.fit(places, step.rounding)
        fell = not step.frozen and _is_absurd(probes, found, max(places))
        if fell:  # measured anew, from the start of the line on
            far = max(places)
            found = search(probes, step.rounding, 0.1 * far, 0.5 * far, keeps_end=False)
            places = tuple(t for t, v in probes.values.items() if math.isfinite(v)) or (far,)
        elif len(places) > 1 and found.parabola is not None and probes.slope0 is not None:
            rate = rate.checked(found.parabola, max(places))
            if rate.is_misfit:
                tell("misfit", notices.MISFIT)
    _notice_unmoved(probes, rate, slope, max(step.rounding, 4.0 * step.eps))
    rate = _compare_slopes(step, probes, rate, places, slope, tell)
    parabola = None if found.parabola is None else _per_multiple(found.parabola, step.multiple)
    rate = rate.learned(
        step.number,
        found.status,
        parabola,
        probed=max(places) * step.multiple,
        filling=step.filling,
        total_steps=step.total_steps,
        most=_UNMEASURED_CHANGE * rate.norm / per_unit,
        averaged=bool(step.share),
        fell=fell,
    )
    if rate.is_bottomless:
        tell("bottomless", notices.BOTTOMLESS)
    if rate.flat >= 6 and rate.interval.value is None:
        tell("flat", notices.FLAT)
    if fell:
        place, limited = _place_anew(step, probes, found, end), True
    else:
        place, limited = _place(step, probes, rate, found, end, limited, is_first)
    status = found.status
    if rate.is_misfit and rate.interval.value is not None and found.parabola is not None:
        status = Status.MISFIT
    elif limited and status in (Status.MINIMUM, Status.NOT_CONVEX):
        status = Status.CAPPED
    outcome = StepOutcome(
        t=step.multiple * place,
        length=length * place,
        status=status,
        value0=probes.value0,
        slope0=None if found.slope0 is None else found.slope0 / step.multiple,
        direction_norm=length / step.multiple,
        parabola=parabola,
    )
    return Measured(outcome, rate, place, limited)


def _places(step: Step, probes: Probes, rate: RateState, end: float) -> tuple[float, ...]:
    """Where to look, the farthest first: the step's end if it tells of the minimum.

    Late under a horizon, or behind the bound, the end is so near that the loss barely bends: then
    at the rate in use.
    """
    assert rate.in_use is not None
    wanted = rate.in_use * step.filling / step.multiple
    near = 1.0 / _INFORMATIVE <= wanted / end <= _INFORMATIVE
    far = end if near else wanted
    alone = not step.checks and probes.slope0 is not None
    if end == 1.0 and not (near and alone):
        if near:
            probes.value(1.0)
        if not near or math.isfinite(probes.values[1.0]):
            probes.line.keep_end()
    if alone or not math.isfinite(probes.value(far)):
        return (far,)
    return (far, 0.5 * far)


def _place(
    step: Step,
    probes: Probes,
    rate: RateState,
    found: StepOutcome,
    end: float,
    limited: bool,
    is_first: bool,
) -> tuple[float, bool]:
    """Leave the weights where the step is to end: at which share of it, whether that is less."""
    line = probes.line
    if step.frozen:
        line.return_to_end()
        return 1.0, False
    if step.share and (is_first or not limited):
        rise = max(probes.values.values()) - probes.value0
        expected = abs((found.slope0 or 0.0) * end)
        if math.isfinite(rise) and rise <= _RISE * expected:
            _end_at(probes, end)
            return end, False
        line.return_to_start()
        return 0.0, True
    if is_first:
        assert rate.in_use is not None
        whole = rate.in_use * step.alpha * step.left * step.scheduled
        wanted = whole * rate.approach(rate.since) / step.multiple
        share = min(wanted, step.limit / probes.direction_norm)
        line.go_to(share)
        return share, wanted > 1.001 * share
    if found.status is Status.MINIMUM:
        best = found.t * max(1.0, step.alpha * step.left)
        if end > _TOO_FAR * best:
            line.go_to(best)
            return best, True
    _end_at(probes, end)
    return end, limited


def _end_at(probes: Probes, place: float) -> None:
    """Leave the weights there; where the step itself ends, to the bit."""
    if place == 1.0:
        probes.line.return_to_end()
    else:
        probes.line.go_to(place)


def _is_absurd(probes: Probes, found: StepOutcome, far: float) -> bool:
    """Whether the loss has left its range where the rate in use leads."""
    if found.status is Status.NON_FINITE:
        return True
    rise, promised = probes.value(far) - probes.value0, abs((found.slope0 or 0.0) * far)
    return rise > _ABSURD * promised and rise > 0.1 * _ABSURD * abs(probes.value0)


def _place_anew(step: Step, probes: Probes, found: StepOutcome, end: float) -> float:
    """Where a step ends whose rate turned out to be far too large: at the minimum, if any."""
    if found.status is not Status.MINIMUM:
        probes.line.return_to_start()
        return 0.0
    place = min(found.t * min(1.0, step.alpha * step.left) * (step.share or 1.0), end)
    _end_at(probes, place)
    return place


def _nothing_moved(
    step: Step, probes: Probes, rate: RateState, tell: Callable[[str, str], None]
) -> Measured:
    """The step drowned in the weights' rounding: try a larger unit at the next one."""
    length, flat = probes.direction_norm, rate.flat + 1
    larger = 1e-3 * rate.norm / length if length > 0.0 and math.isfinite(length) else 1e4
    rate = dataclasses.replace(
        rate,
        trial=min(rate.trial * min(max(larger, 2.0), 1e6), 1e30),
        flat=flat,
        next=step.number + (1 if rate.in_use is None else min(8 * flat, 1000)),
    )
    if flat >= 6:
        tell("flat", notices.FLAT)
    outcome = StepOutcome(step.multiple, length, Status.FLAT, probes.value0)
    return Measured(outcome, rate, 1.0, False)


def _compare_slopes(
    step: Step,
    probes: Probes,
    rate: RateState,
    places: tuple[float, ...],
    slope: float | None,
    tell: Callable[[str, str], None],
) -> RateState:
    """Decide where derivatives come from: from losses where gradient and losses disagree."""
    if slope is None:
        if rate.slopes == "losses" and step.foreign:  # the second time: one may be an accident
            tell("losses", notices.NOT_ITS_GRADIENT)
        return dataclasses.replace(rate, slopes="losses")
    if len(places) < 2 or not all(math.isfinite(v) for v in probes.values.values()):
        return rate
    far, near = places[0], places[1]
    fit = Parabola.from_values(
        (0.0, near, far), (probes.value0, probes.value(near), probes.value(far))
    )
    size = max(abs(slope), abs(fit.slope0), abs(0.5 * fit.curvature * far))
    noise = 8.0 * step.rounding * abs(probes.value0) / near
    if abs(fit.slope0 - slope) <= 0.5 * size + noise:
        slopes = "gradient" if rate.disagreed == 0 else rate.slopes
        return dataclasses.replace(rate, slopes=slopes, disagreed=0)
    if rate.disagreed >= 1 and rate.slopes == "gradient":
        tell("slopes", notices.OTHER_GRADIENT)
        return dataclasses.replace(rate, slopes="losses", disagreed=2)
    return dataclasses.replace(rate, disagreed=rate.disagreed + 1)


def _notice_unmoved(probes: Probes, rate: RateState, slope: float | None, rounding: float) -> None:
    """A loss that does not look at the weights: the same bits where it must differ."""
    if rate.attempts > 0 or slope is None:
        return
    same = all(v == probes.value0 for v in probes.values.values())
    far = max(probes.values, default=0.0)
    if same and abs(slope * far) > 1000.0 * rounding * abs(probes.value0):
        raise RuntimeError(notices.UNMOVED)


def scale_of(loss: Loss, active: list[Tensor]) -> float | None:
    """What the loss's own gradient was multiplied by since ``backward()``; None where unknown."""
    if loss.backwards > 1 or loss.gradient is None:
        return None
    return loss.gradient.scale_since(active)


def own_slope(
    probes: Probes, active: list[Tensor], grads: list[Tensor | None], scale: float | None
) -> float | None:
    """Derivative of the loss along the step; None where the gradient is not the loss's own.

    Args:
        probes: the line of the step, its end not yet left.
        active: the parameters that moved.
        grads: their gradients before the step.
        scale: what those were multiplied by since ``backward()``.
    """
    slope, probes.direction_norm = probes.line.slope_and_length(grads)
    if scale is None:
        return None
    after = scale_of(probes.loss, active)  # some optimizers write into gradients
    if after is None or not math.isclose(after, scale, rel_tol=1e-4):
        return None
    if not _reduce.is_sharded(active):
        slope = _reduce.mean(slope, probes.process_group, active[0].device)
    return slope / scale


def _per_multiple(p: Parabola, multiple: float) -> Parabola:
    return Parabola(p.value0, p.slope0 / multiple, p.curvature / multiple**2, p.residual)


def in_half_precision(optimizer: Optimizer) -> bool:
    """Whether any weight has so few bits."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return roughest(params) > _ROUGH


def roughest(params: list[Tensor]) -> float:
    """The largest rounding error of the parameters' dtypes."""
    return max((torch.finfo(p.dtype).eps for p in params if p.is_floating_point()), default=0.0)
