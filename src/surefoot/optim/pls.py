"""PLS: a Gaussian process along the line, and the first place that probably will do."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from surefoot import _params, _reduce
from surefoot.line import Line
from surefoot.optim._every_step import EveryStepOptimizer, Visit
from surefoot.optim._noise import Noise, SampleLosses, Seen
from surefoot.optim.base import ParamsLike, check_count, check_number, check_share
from surefoot.outcome import Status, StepOutcome
from surefoot.searches.probabilistic import ProbabilisticSearch

__all__ = ["PLS"]


class PLS(EveryStepOptimizer):
    r"""Probabilistic line search (PLS): SGD whose rate meets the Wolfe conditions, probably.

    A Gaussian process, updated with the values and slopes seen along the line and with how noisy
    they are, gives the probability that a rate meets the strong Wolfe conditions on the
    noise-free loss; the first rate for which it exceeds c_W is taken. A forward and a backward
    pass at each place.

    How noisy a batch is, is measured in one of two ways:

    - The closure returns the loss of every sample (``reduction="none"``). Then the spread within
      the batch tells, as in the paper, and costs nothing: values from the losses, slopes from the
      differences between the losses of the same samples at 0 and at the first place.
    - The closure returns their mean. Then the loss and the slope of two successive batches at one
      place tell, averaged exponentially over the steps; the first step believes in no noise.

    Args:
        params: the model (recommended), or parameters, or dicts of groups, as for ``torch.optim``.
        lr: multiple of the accepted rate that is taken. Torch's schedulers act on it.
        start: α₀, learning rate that the first step tries first.
        sufficient_decrease: c₁.
        curvature: c₂.
        threshold: c_W.
        growth: the next step tries this many times the accepted rate first.
        max_change: where that is further than this factor away from the average accepted rate,
            the average is tried instead.
        max_evaluations: budget of a step.
        averaging: weight of the past in the noise measured between batches.
        weight_decay: decoupled, per unit of the effective learning rate.
        total_steps: length of the run in steps; the step then falls linearly to 0 over it.
        model, loss_precision, process_group, grad_scaler, on_measure: see
            :class:`LineSearchOptimizer`.

    Example:
        >>> import torch, surefoot
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(64, 3)
        >>> y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = surefoot.PLS(model)
        >>> def losses():
        ...     return torch.nn.functional.mse_loss(model(x), y, reduction="none")[:, 0]
        >>> for _ in range(40):
        ...     loss = optimizer.step(losses)
        >>> bool(loss < 1e-3)
        True

    References: Mahsereci and Hennig, "Probabilistic line searches for stochastic optimization",
    1502.02846; sections 3.3 for the rates, 3.4 for the noise.

    Departures: slopes' noise comes from differences of losses, which needs no per-sample gradients
    and neglects no covariance between parameters; all places of a line are evaluated on one
    batch, unless the closure draws a new one at every call.

    *When it fails*: the noise of one batch at two places is nearly the same noise, and the model
    takes it for independent.
    """

    _compares_losses = False
    _probes_run_backward = True

    def __init__(
        self,
        params: ParamsLike,
        lr: float = 1.0,
        *,
        start: float = 0.01,
        sufficient_decrease: float = 0.05,
        curvature: float = 0.5,
        threshold: float = 0.3,
        growth: float = 1.3,
        max_change: float = 100.0,
        max_evaluations: int = 7,
        averaging: float = 0.9,
        weight_decay: float = 0.0,
        total_steps: int | None = None,
        model: nn.Module | None = None,
        loss_precision: float | None = None,
        process_group: Any = None,
        grad_scaler: Any = None,
        on_measure: Callable[[StepOutcome], None] | None = None,
    ) -> None:
        check_number("start", start, at_least=0.0, above=True)
        check_share("sufficient_decrease", sufficient_decrease)
        check_share("curvature", curvature)
        check_share("threshold", threshold)
        check_share("averaging", averaging)
        check_number("growth", growth, at_least=1.0)
        check_number("max_change", max_change, at_least=1.0)
        check_count("max_evaluations", max_evaluations)
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "start": start,
            "sufficient_decrease": sufficient_decrease,
            "curvature": curvature,
            "threshold": threshold,
            "growth": growth,
            "max_change": max_change,
            "max_evaluations": max_evaluations,
            "averaging": averaging,
        }
        super().__init__(
            params,
            defaults,
            model=model,
            total_steps=total_steps,
            loss_precision=loss_precision,
            process_group=process_group,
            grad_scaler=grad_scaler,
            on_measure=on_measure,
        )

    _trial: _Trial | None = None

    def _fresh_memory(self) -> dict[str, Any]:
        return {
            **super()._fresh_memory(),
            "rate": None,  # what the next step tries first
            "average_rate": None,
            "noise": None,  # variances of a batch's loss, and of its slope per unit of length
            "left_behind": None,  # loss and slope of the last batch where it went
        }

    def step(self, closure: Callable[[], Any] | None = None) -> Tensor:  # type: ignore[override]
        """As :meth:`LineSearchOptimizer.step`; the closure may return one loss per sample."""
        if not callable(closure):
            return super().step(closure)
        self._trial = _Trial(SampleLosses(closure))
        try:
            return super().step(self._trial.samples)
        finally:
            self._trial = None

    def _search(self, line: Line, visit: Visit) -> StepOutcome:
        memory, trial = self._memory, self._trial
        assert trial is not None
        start: float = memory["start"] if memory["rate"] is None else memory["rate"]
        trial.seen = Seen(line)
        trial.noise = self._noise(trial, trial.seen, start, visit)
        search = ProbabilisticSearch(
            start=start,
            value_noise=math.sqrt(trial.noise.value),
            slope_noise=math.sqrt(trial.noise.slope) * line.direction_norm,
            sufficient_decrease=memory["sufficient_decrease"],
            curvature=memory["curvature"],
            threshold=memory["threshold"],
            max_evaluations=memory["max_evaluations"],
            rounding=self._rounding(visit.loss),
        )
        return search(trial.seen)

    def _noise(self, trial: _Trial, seen: Seen, start: float, visit: Visit) -> Noise:
        memory = self._memory
        past = None if memory["noise"] is None else Noise(*memory["noise"])
        fresh: Noise | None = None
        at_0 = trial.samples.losses
        if at_0 is not None:
            value, _ = seen.value_and_slope(start)
            at_start = trial.samples.losses
            if math.isfinite(value) and at_start is not None:
                length = start * seen.direction_norm
                return Noise.within(at_0, at_start, length, self._process_group)
        elif memory["left_behind"] is not None:
            fresh = self._against_last_batch(seen.value0, visit)
            fresh = fresh.averaged(past, memory["averaging"])
        return fresh or past or Noise(0.0, 0.0)

    def _against_last_batch(self, value0: float, visit: Visit) -> Noise:
        """The last batch's loss and slope at the present weights against this one's."""
        value, slope = self._memory["left_behind"]
        pairs = [
            (grad, self.state[p]["walked"])
            for p, grad in zip(visit.active.params, visit.active.grads, strict=True)
            if "walked" in self.state[p]
        ]
        grads, walked = [g for g, _ in pairs], [w for _, w in pairs]
        dot, _ = _params.dot_and_norm_sq(grads, walked, [1.0] * len(pairs))
        dot = _reduce.mean(dot, self._process_group, visit.loss.device)
        return Noise.between((value0, value), (dot, slope))

    def _before_leaving(self, line: Line, outcome: StepOutcome, visit: Visit) -> None:
        trial = self._trial
        assert trial is not None
        assert trial.seen is not None
        if trial.samples.losses is None:
            # a further pass where α or the horizon lead to a place that was not tried
            value, slope = trial.seen.value_and_slope(outcome.t)
            trial.left_behind = [value, slope / line.direction_norm]

    def _learn(self, found: StepOutcome, visit: Visit) -> None:
        memory, trial = self._memory, self._trial
        assert trial is not None
        memory["noise"] = [trial.noise.value, trial.noise.slope]
        memory["left_behind"] = trial.left_behind
        if trial.left_behind is not None:
            direction = visit.direction.unit()
            walked = visit.active.memory(self.state, "walked")
            _params.shrink(walked, 0.0)
            _params.add_scaled(walked, direction.tensors, direction.weights, 1.0)
        self._choose_next(found)

    def _choose_next(self, found: StepOutcome) -> None:
        memory = self._memory
        if found.status is Status.NON_FINITE:
            memory["rate"] = 0.1 * (memory["rate"] or memory["start"])
            return
        if found.t == 0.0:
            return
        past: float = memory["average_rate"] or found.t
        average = 0.95 * past + 0.05 * found.t
        rate = memory["growth"] * found.t  # PLS section 3.3
        if not average / memory["max_change"] < rate < average * memory["max_change"]:
            rate = average
        memory["rate"], memory["average_rate"] = rate, average


@dataclasses.dataclass
class _Trial:
    """What the step under way knows; nothing of it is state."""

    samples: SampleLosses
    seen: Seen | None = None
    noise: Noise = dataclasses.field(default_factory=lambda: Noise(0.0, 0.0))
    left_behind: list[float] | None = None
