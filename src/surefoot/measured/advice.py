"""What the measurements say beyond the rate, in words and as numbers. No torch here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from surefoot.measured.estimate import RateInterval, student_quantile

__all__ = ["Advice", "Prediction", "predict"]

_FEWEST = 6
"""Losses from which on a prediction is made."""
_LATE = 0.5
"""Share of the run whose losses tell where it is going."""


@dataclass(frozen=True)
class Advice:
    """What :meth:`surefoot.MeasuredLR.advice` returns.

    Args:
        rate: the measured multiple of ``lr``.
        lr: the learning rate that it stands for, of the group with the largest.
        noise_scale: the gradient noise scale in batches of the size in use; ``value`` is None where
            the slopes show no signal, ``high`` infinite where it cannot be told from none.
        batch_size: examples in a batch, where they were given.
    """

    rate: RateInterval
    lr: float | None
    noise_scale: RateInterval
    batch_size: int | None = None

    @property
    def diminishing(self) -> float | None:
        """The batch size beyond which returns diminish, in the unit of ``batch_size``.

        There, twice the smallest number of steps, and of examples, is needed. In batches of the
        size in use where no batch size was given; None where unknown.
        """
        value = self.noise_scale.value
        return None if value is None else value * (self.batch_size or 1)

    def __str__(self) -> str:
        rate = "learning rate: not measured yet"
        if self.rate.value is not None and self.lr is not None:
            unit = self.lr / self.rate.value
            rate = (
                f"learning rate: the measured minimum is at {self.lr:.2g} "
                f"({self.rate.low * unit:.2g} to {self.rate.high * unit:.2g})"
            )
        return f"{rate}\n{self._about_noise()}"

    def _about_noise(self) -> str:
        scale, size = self.noise_scale, self.batch_size or 1
        unit = "examples" if self.batch_size else "batches of this size"
        if scale.value is None or scale.n < 2:
            return "batch size: not measured yet"
        span = (
            f"{scale.value * size:.2g} {unit} ({scale.low * size:.2g} to {scale.high * size:.2g})"
        )
        if scale.low > 1.0:
            verdict = (
                "a larger batch still pays: up to there, twice the batch needs about half the steps"
            )
        elif scale.high < 1.0:
            verdict = "a smaller batch would do: it needs hardly more steps"
        else:
            verdict = "about the batch in use, or not known well enough to say which side"
        return f"batch size: returns diminish beyond {span}; {verdict}"


@dataclass(frozen=True)
class Prediction:
    """The loss that a decay would reach.

    Args:
        loss: mean training loss of the decay's last steps.
        low: lower end of the 95 % interval.
        high: upper end.
        steps: length of the decay.
    """

    loss: float
    low: float
    high: float
    steps: int

    def __str__(self) -> str:
        return f"loss {self.loss:.4g} ({self.low:.4g} to {self.high:.4g}) after {self.steps} steps"


def predict(
    losses: Sequence[tuple[int, float]], excess: float, now: int, steps: int
) -> Prediction | None:
    r"""The loss after a linear decay of so many steps.

    The loss of the run's second half falls along a line in the logarithm of the step; a linear
    decay adds up to half as many full steps; and it takes away what noise holds up at the rate in
    use,

    .. math:: E = \tfrac14 \, \overline{|a - f|} / s

    for a quadratic in balance (a and f are :class:`surefoot.measured.noise.SlopePair`'s).

    Args:
        losses: steps and losses of batches, measured before their steps.
        excess: E.
        now: step at which the decay begins.
        steps: its length.

    Returns:
        None where too few losses were seen.
    """
    late = [(math.log(s + 1.0), v) for s, v in losses if s >= _LATE * now]
    n = len(late)
    if n < _FEWEST:
        return None
    x0, y0 = map(statistics.fmean, zip(*late, strict=True))
    spread = math.fsum((x - x0) ** 2 for x, _ in late)
    slope = math.fsum((x - x0) * (y - y0) for x, y in late) / spread
    residual = math.fsum((y - y0 - slope * (x - x0)) ** 2 for x, y in late) / (n - 2)
    there = math.log(now + 0.5 * steps + 1.0) - x0
    trend = y0 + min(slope, 0.0) * there
    error = math.sqrt(residual * (1.0 / n + there * there / spread) + (0.5 * excess) ** 2)
    reach = student_quantile(0.975, n - 2) * error
    return Prediction(trend - excess, trend - excess - reach, trend - excess + reach, steps)
