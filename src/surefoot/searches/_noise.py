"""How noisy a batch is: from its samples, or from two batches at one place."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from surefoot import _reduce
from surefoot.line import Walkable
from surefoot.reuse import averaged


@dataclass(frozen=True)
class Noise:
    """Variances of the noise in what one batch says about a line.

    Args:
        value: of its loss.
        slope: of its slope along a direction of length 1.
    """

    value: float
    slope: float

    @classmethod
    def within(cls, at_0: Tensor, at_t: Tensor, length: float, process_group: Any = None) -> Noise:
        """From the losses of the same samples at 0 and at a distance of ``length``.

        The variance of a mean is that of the samples over their number: PLS section 3.4.2. The
        slopes of the samples are their difference quotients, exact for parabolas at half way.
        """
        n = at_0.numel()
        if at_t.shape != at_0.shape:
            raise ValueError(
                f"the closure gave the losses of {n} samples and then those of {at_t.numel()}: a "
                "closure that returns one loss per sample must keep its batch during a step"
            )
        at_0, at_t = at_0.double().cpu(), at_t.double().cpu()
        value = float(at_0.var()) / n
        slope = float(((at_t - at_0) / length).var()) / n
        world = dist.get_world_size(process_group) if _reduce.is_distributed(process_group) else 1
        return cls(*(_reduce.mean(variance, process_group) / world for variance in (value, slope)))

    @classmethod
    def between(cls, values: tuple[float, float], slopes: tuple[float, float]) -> Noise:
        """From what two batches say at one place: half the squared differences."""
        return cls(0.5 * (values[0] - values[1]) ** 2, 0.5 * (slopes[0] - slopes[1]) ** 2)

    def averaged(self, past: Noise | None, share: float) -> Noise:
        """The exponential average with ``share`` of the past in it."""
        if past is None:
            return self
        values = averaged(past.value, self.value, share), averaged(past.slope, self.slope, share)
        return Noise(*values)


@dataclass(eq=False)
class SampleLosses:
    """A closure that may return one loss per sample, as one that returns their mean.

    Args:
        closure: the user's.
        losses: the samples' losses at the last call; None where only their mean was given.
    """

    closure: Callable[[], Any]
    losses: Tensor | None = None

    def __call__(self) -> Any:
        loss = self.closure()
        self.losses = None
        if isinstance(loss, Tensor) and loss.ndim == 1 and loss.numel() > 1:
            self.losses = loss.detach()
            with torch.set_grad_enabled(loss.requires_grad):
                return loss.mean()
        return loss


@dataclass(eq=False)
class NoisyLine:
    """A line that remembers what it was asked, and knows how noisy its batch is.

    Args:
        line: the line.
        samples: the closure that is evaluated on it.
        noise_between: what two successive batches said at one place; None for the first one.
        process_group: processes that share the batch.
    """

    line: Walkable
    samples: SampleLosses
    noise_between: Noise | None
    process_group: Any = None

    def __post_init__(self) -> None:
        line, self._at_0 = self.line, self.samples.losses
        self.value0, self.slope0 = line.value0, line.slope0
        self.direction_norm = line.direction_norm
        self._known: dict[float, tuple[float, float]] = {}
        if line.slope0 is not None:
            self._known[0.0] = (line.value0, line.slope0)

    def value(self, t: float) -> float:
        """As the line's, once for each place."""
        return self.value_and_slope(t)[0]

    def value_and_slope(self, t: float) -> tuple[float, float]:
        """As the line's, once for each place."""
        if t not in self._known:
            self._known[t] = self.line.value_and_slope(t)
        return self._known[t]

    def noise_within(self, t: float) -> Noise | None:
        """From the samples' losses at 0 and ``t``; None where there are none."""
        if self._at_0 is None:
            return None
        value, _ = self.value_and_slope(t)
        at_t = self.samples.losses
        if at_t is None or not math.isfinite(value):
            return None
        return Noise.within(self._at_0, at_t, t * self.direction_norm, self.process_group)
