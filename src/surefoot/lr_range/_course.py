"""The course of a range curve, prepared once for all rules: cleaned, smoothed, its landmarks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from surefoot.lr_range._data import RangeData
from surefoot.lr_range._smooth import finite_part, noise_of, slopes, smooth

MINIMUM_POINTS = 5
VALIDATION_POINTS = 10  # fewer are too coarse a curve to be preferred to that of training
_ROUNDING = 1e-9  # differences below this share of the loss itself are rounding


class NoSuggestion(ValueError):
    """The curve holds no answer; the message says why and what to do."""


@dataclass(frozen=True)
class Course:
    """A curve that falls: rates, raw values, and their smoothed course with its landmarks."""

    rates: list[float]
    raw: list[float]
    smoothed: list[float]
    level: float  # where it starts
    noise: float  # standard deviation of the raw values about the course
    source: str

    @cached_property
    def lowest(self) -> int:
        """Index of the smoothed minimum."""
        return self.smoothed.index(min(self.smoothed))

    @cached_property
    def fall(self) -> float:
        """From the starting level to the minimum; positive."""
        return self.level - self.smoothed[self.lowest]

    @cached_property
    def slopes(self) -> list[float]:
        """Slope of the smoothed values per decade of the rate."""
        return slopes([math.log10(rate) for rate in self.rates], self.smoothed)

    @cached_property
    def steepest(self) -> int:
        """Index of the steepest fall, up to the minimum."""
        return min(range(self.lowest + 1), key=self.slopes.__getitem__)

    @property
    def still_falling(self) -> bool:
        """Whether the curve ends before it has turned: its end is no higher than its minimum."""
        rise = self.smoothed[-1] - self.smoothed[self.lowest]
        return rise <= max(0.05 * self.fall, 2.0 * self.noise, _ROUNDING * abs(self.level))

    @property
    def ragged_from(self) -> int | None:
        """First index from which the curve scatters three times as much as at its beginning.

        The beginning lasts until a quarter of the fall is done; a scatter of less than a
        twentieth of the fall is not ragged, whatever came before.
        """
        quarter = self.level - 0.25 * self.fall
        start = next(i for i, value in enumerate(self.smoothed) if value <= quarter)
        window = max(12, len(self.raw) // 10)  # so wide that one spike is outvoted
        if start < window:
            return None  # too little of a beginning to compare with
        limit = max(3.0 * noise_of(self.raw[:start]), 0.05 * self.fall)
        places = range(start, self.lowest + 1)
        return next((i for i in places if noise_of(self.raw[i : i + window]) > limit), None)


def _finite(values: Iterable[float]) -> int:
    """How many are finite."""
    return sum(map(math.isfinite, values))


def remark_on(curve: RangeData) -> str:
    """What the user should know about the losses that an answer was read from."""
    if curve.validation and not _finite(p.loss for p in curve.validation):
        return "every validation loss is NaN or infinite, so training was read"
    return ""


def read_losses(curve: RangeData) -> tuple[list[float], list[float]]:
    """Rates and losses that the rules read: of validation if enough are finite, else of training.

    Those of validation were paid for.
    """
    points = curve.validation
    if _finite(p.loss for p in points) >= VALIDATION_POINTS:
        return [p.lr for p in points], [p.loss for p in points]
    return curve.lr, curve.loss


def course_of(curve: RangeData) -> Course:
    """The course of the loss.

    Raises:
        NoSuggestion: it does not fall.
    """
    lr, losses = read_losses(curve)
    return _falling(lr, losses, "training loss" if losses is curve.loss else "validation loss")


def accuracy_course(curve: RangeData) -> Course:
    """The course of 1 - accuracy (validation before training), or of the loss where there is none.

    Upside down, so that the landmarks of a falling curve serve for both.

    Raises:
        NoSuggestion: it does not fall.
    """
    if not _finite(curve.loss):
        return course_of(curve)  # whatever was right, it was not learnt
    validated = [p for p in curve.validation if p.accuracy is not None]
    if len(validated) >= VALIDATION_POINTS:
        rates = [p.lr for p in validated]
        return _falling(rates, [1.0 - (p.accuracy or 0.0) for p in validated], "validation error")
    if curve.accuracy and _finite(p.loss for p in curve.validation) < VALIDATION_POINTS:
        return _falling(curve.lr, [1.0 - a for a in curve.accuracy], "training error")
    return course_of(curve)


def _falling(lr: Sequence[float], values: Sequence[float], source: str) -> Course:
    rates, raw = finite_part(lr, values)
    if len(rates) < MINIMUM_POINTS:
        count = f"the curve has {len(rates)} finite points of the {source}, at least "
        count += f"{MINIMUM_POINTS} are needed; "
        if len(values) and not math.isfinite(values[0]):
            count += "the first is not, before any step: look at the data and the model"
        else:
            count += "lower start_lr or raise num_iter"
        raise NoSuggestion(count)
    level = statistics.median(raw[: max(3, len(raw) // 10)])
    # A loss in flight would drag its neighbours up through the smoothing: cut it off at the
    # height of its own fall above the start.
    ceiling = level + max(level - min(raw), 0.0)
    smoothed = smooth([math.log10(x) for x in rates], [min(value, ceiling) for value in raw])
    # the scatter before the turn; the flight behind it is not noise
    lowest = smoothed.index(min(smoothed))
    noise = noise_of(raw[: lowest + 1] if lowest >= MINIMUM_POINTS else raw)
    course = Course(rates, raw, smoothed, level, noise, source)
    # the mean of several points scatters less than one: two deviations of one point are the
    # usual range of a smoothed curve that goes nowhere
    if course.lowest == 0 or course.fall <= max(2.0 * noise, _ROUNDING * abs(level)):
        raise NoSuggestion(
            f"the {source} does not fall: {course.fall:.2g} from its start to its lowest, with a "
            f"scatter of {noise:.2g}; widen the range of rates or raise num_iter"
        )
    return course
