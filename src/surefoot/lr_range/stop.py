"""When a range test ends before its last iteration, and why."""

from __future__ import annotations

import enum
import itertools
import math
import statistics


class StopReason(str, enum.Enum):
    """Why a range test ended. A string, so that it can be logged and saved as it is."""

    FINISHED = "finished"
    """All iterations were made."""
    DIVERGED = "diverged"
    """The loss rose far above its best."""
    NON_FINITE = "non_finite"
    """The loss was NaN or infinite, several times in a row."""
    PLATEAU = "plateau"
    """The loss fell, came back to where it began, and stays there: the network is dead."""


class StopRule:
    r"""Decides after each loss whether the test may end. Pure: losses in, a reason out.

    Diverged: the loss exceeds the best smoothed one by more than ``threshold`` times a scale, in
    ``patience`` iterations in a row. The scale knows nothing about where zero lies, so it serves
    negative and shifted losses as well:

    .. math:: \max(\text{fall so far},\ 10 \times \text{noise},\ 0.1 \times |\text{best}|)

    where the noise is the median change from one iteration to the next. The last term keeps a
    test alive whose loss has hardly moved yet. Patience lets a single spike pass, or a batch
    whose loss is NaN (all of its labels ignored, say).

    Args:
        threshold: as above; None ends the test at its last iteration only, even after a NaN.
        num_iter: length of the whole test; the plateau's length follows from it.
        patience: consecutive losses above the limit, or not finite.
    """

    _SMOOTHING = 0.8  # of the previous value; a memory of five iterations
    _RECENT = 200  # differences that the noise is taken from, so that long tests stay cheap

    def __init__(self, threshold: float | None, num_iter: int, patience: int = 5) -> None:
        self._threshold = threshold
        self._patience = patience
        self._plateau = max(10, num_iter // 10)
        self._losses: list[float] = []
        self._smoothed: list[float] = []
        self._average = self._weight = 0.0
        self._above = self._lost = 0
        self.best = math.inf

    def update(self, loss: float) -> StopReason | None:
        """Take the next loss; a reason if the test should end now."""
        if not math.isfinite(loss):
            self._lost += 1
            ends = self._threshold is not None and self._lost >= self._patience
            return StopReason.NON_FINITE if ends else None
        self._lost = 0
        self._losses.append(loss)
        # bias-corrected: the first value is the first loss, not a fraction of it
        self._average = self._SMOOTHING * self._average + (1.0 - self._SMOOTHING) * loss
        self._weight = self._SMOOTHING * self._weight + (1.0 - self._SMOOTHING)
        self._smoothed.append(self._average / self._weight)
        self.best = min(self.best, self._smoothed[-1])
        if self._threshold is None:
            return None
        fall = self._smoothed[0] - self.best
        recent = self._losses[-self._RECENT - 1 :]
        changes = [abs(b - a) for a, b in itertools.pairwise(recent)]
        noise = statistics.median(changes) if changes else 0.0
        limit = self.best + self._threshold * max(fall, 10.0 * noise, 0.1 * abs(self.best))
        # a loss that is still 0 everywhere has no scale: nothing has risen then
        self._above = self._above + 1 if loss > limit else 0
        if self._above >= self._patience:
            return StopReason.DIVERGED
        return StopReason.PLATEAU if self._is_dead(fall, noise) else None

    def _is_dead(self, fall: float, noise: float) -> bool:
        recent = self._smoothed[-self._plateau :]
        if len(self._smoothed) < 2 * self._plateau or fall <= 10.0 * noise:
            return False
        # the output has become a constant: less change than ever, and nothing left of the fall
        still = max(recent) - min(recent) <= max(0.1 * fall, noise)
        return still and statistics.fmean(recent) >= self._smoothed[0] - 0.1 * fall
