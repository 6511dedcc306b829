"""PAL: a parabola through the batch loss along the update direction, at every step."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from surefoot import _params
from surefoot._closure import Closure
from surefoot._numbers import check_count, check_number, check_share
from surefoot.directions import ConjugateLike, Direction, Steepest
from surefoot.optim._active import Active
from surefoot.optim._keywords import Keyword, Shared, formerly, keywords_of
from surefoot.optim._memory import Memory
from surefoot.optim.base import LineSearchOptimizer, ParamsLike, rejected
from surefoot.outcome import Status, StepOutcome
from surefoot.reuse import averaged
from surefoot.searches.parabolic import ParabolicSearch

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass
class PALMemory(Memory):
    """What PAL remembers.

    Args:
        length: average of the lengths measured; None where every step measures.
    """

    length: float | None = None


class PAL(LineSearchOptimizer):
    r"""Parabolic approximation line search (PAL): no learning rate to choose.

    Along the unit direction :math:`d_t \propto -g_t + \beta d_{t-1}`, the batch loss at 0, its
    slope there, and the batch loss at the measuring length μ determine a parabola; the step goes to
    α times its minimum. Two forward passes and one backward pass a step.

    .. math:: s = \min(-\alpha\, b / 2a,\; s_{max}) \;\text{if}\; a > 0,\; b < 0; \quad
              s = \mu \;\text{if}\; a \le 0,\; b < 0; \quad s = 0 \;\text{otherwise}

    Args:
        params: the model.
        step_multiplier: α, multiple of the measured minimum that is taken; 1/0.6 in the authors'
            code. Torch's schedulers act on it.
        measuring_length: μ, distance of the probe from the start, in units of the weights.
        max_length: s_max, largest distance moved in a step. None: 3.16, as published, but where the
            model is known and has several layers and no BatchNorm, at most 3 % of the smallest
            norm that the weights had (looked at every 32 steps).
        direction_adaptation: β, share of the previous direction, at least 0 and below 1.
        measure_every: steps between measurements. With 1, PAL as published. With more, the lengths
            measured are averaged exponentially and used for the steps in between, which costs less
            and, measured, trains better: :class:`SparsePAL`.
        averaging: weight of the past in that average; not used where ``measure_every`` is 1.
        **shared: keywords of every line search.

    Example:
        >>> import torch, surefoot
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(64, 3)
        >>> y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = surefoot.PAL(model)
        >>> for _ in range(40):
        ...     loss = optimizer.step(lambda: torch.nn.functional.mse_loss(model(x), y))
        >>> bool(loss < 1e-3), optimizer.cost.forwards, optimizer.cost.backwards
        (True, 80, 40)

    The paper's algorithm 1, plainly, for the loss ``f`` of a batch at the weights ``x``, all in one
    vector:

        >>> def plain_step(f, x, d, mu=1.0, alpha=1 / 0.6, s_max=3.16, beta=0.4):
        ...     x = x.detach().requires_grad_()
        ...     value0 = f(x)
        ...     (g,) = torch.autograd.grad(value0, x)
        ...     d = -g + beta * d
        ...     unit = d / d.norm()
        ...     b = g @ unit
        ...     a = (f(x + mu * unit) - value0 - b * mu) / mu**2
        ...     if a > 0 and b < 0:
        ...         s = min(alpha * -b / (2 * a), s_max)
        ...     else:
        ...         s = mu if b < 0 else 0.0
        ...     return (x + s * unit).detach(), d
        >>> bowl = lambda x: (x**2 * torch.tensor([1.0, 4.0])).sum()
        >>> x, d = torch.tensor([3.0, 1.0]), torch.zeros(2)
        >>> p = torch.nn.Parameter(x.clone())
        >>> optimizer = surefoot.PAL([p], max_length=3.16)
        >>> for _ in range(10):
        ...     x, d = plain_step(bowl, x, d)
        ...     _ = optimizer.step(lambda: bowl(p))
        >>> torch.allclose(x, p.detach(), atol=1e-4)
        True

    References: Mutschler and Zell, "Parabolic Approximation Line Search for DNNs", 1903.11991.

    Departures from the authors' code: all groups are trained; non-finite probes are rejected; where
    rounding drowns the measurement the step is 0 instead of μ.

    *When it fails*: the parabola is that of one batch, so with small batches the step is too long
    for all other data; a horizon (``total_steps``) repairs most of that. Models whose forward pass
    draws from a random generator of its own cannot be measured.
    """

    memory: PALMemory

    @formerly(lr="step_multiplier")
    def __init__(
        self,
        params: ParamsLike,
        step_multiplier: float = 1 / 0.6,
        *,
        measuring_length: float = 1.0,
        max_length: float | None = None,
        direction_adaptation: float = 0.4,
        measure_every: int = 1,
        averaging: float = 0.7,
        **shared: Unpack[Shared],
    ) -> None:
        check_number("measuring_length", measuring_length, at_least=0.0, above=True)
        if max_length is not None:
            check_number("max_length", max_length, at_least=0.0, above=True)
        check_share("direction_adaptation", direction_adaptation)
        check_share("averaging", averaging)
        check_count("measure_every", measure_every)
        settings = {
            "measuring_length": measuring_length,
            "max_length": max_length,
            "direction_adaptation": direction_adaptation,
            "measure_every": measure_every,
            "averaging": averaging,
        }
        super().__init__(params, step_multiplier, settings, PALMemory(), **shared)

    def _advance(self, call: Closure) -> tuple[Tensor, StepOutcome]:
        every: int = self._settings["measure_every"]
        if every > 1 and self.memory.length is not None and self.memory.steps % every != 0:
            return self._follow(call)
        with self._quiet_room() as room:
            loss, active = self._gradient(call)
            value0 = self._mean(loss)
            direction = self._direction(active)
            if direction is None or not math.isfinite(value0):
                return loss, rejected(value0)
            if not direction.is_usable:
                return loss, StepOutcome(0.0, 0.0, Status.FLAT, value0)
            try:
                with self._line(active.params, direction.unit(), call, room, value0) as line:
                    found = self._search(loss, active.params)(line)
                    outcome = self._settle(found, direction)
                    line.commit(outcome.t)
            except BaseException:
                if beta := self._settings["direction_adaptation"]:
                    # the gradient out of the memory again: exact up to rounding
                    memory = active.memory(self.state, "direction")
                    _params.lerp(memory, active.grads, 1.0 - 1.0 / beta)
                raise
        self._decay(active.params, outcome.effective_lr)
        return loss, outcome

    def _follow(self, call: Closure) -> tuple[Tensor, StepOutcome]:
        """A step of the averaged length, without a probe."""
        loss, active = self._gradient(call, takes_slope0=False)
        direction = self._direction(active)
        if direction is None:
            return loss, rejected(float(loss))
        if not direction.is_usable:
            return loss, StepOutcome(0.0, 0.0, Status.FLAT, float(loss))
        unit = direction.unit()
        start = StepOutcome(0.0, 0.0, Status.REUSED, float(loss), unit.slope0, direction_norm=1.0)
        outcome = self._settle(start, direction)
        _params.add_scaled(active.params, unit.tensors, unit.weights, outcome.t)
        self._decay(active.params, outcome.effective_lr)
        return loss, outcome

    def _direction(self, active: Active) -> Direction | None:
        """The next direction, or None where the gradient is not finite. Advances the memory."""
        if not active.is_finite:
            return None
        beta: float = self._settings["direction_adaptation"]
        if beta == 0.0:
            return Steepest()(active.grads, [], active.ratios)
        memory = active.memory(self.state, "direction")
        return ConjugateLike(beta)(active.grads, memory, active.ratios)

    def _search(self, loss: Tensor, params: list[Tensor]) -> ParabolicSearch:
        settings = self._settings
        as_published = settings["measure_every"] == 1
        alpha = self.step_multiplier
        return ParabolicSearch(
            measuring_length=settings["measuring_length"],
            # PAL's cap holds for the adapted step; an average is taken of the minima themselves
            max_length=self._max_length(params, 1.0 if as_published else alpha),
            step_adaptation=alpha if as_published else 1.0,
            rounding=self._rounding(loss),
        )

    def _settle(self, found: StepOutcome, direction: Direction) -> StepOutcome:
        """From the searched place to the place that is taken: averaging, α, horizon.

        The rate is that of a momentum-like step −rate · (g + β …) of this length.
        """
        memory, settings, length = self.memory, self._settings, found.length
        if settings["measure_every"] > 1:
            if found.status in (Status.MINIMUM, Status.CAPPED, Status.NOT_CONVEX):
                memory.length = averaged(memory.length, length, settings["averaging"])
            length = self.step_multiplier * (memory.length or 0.0)
        length *= self._horizon()
        rate = length * (1.0 - settings["direction_adaptation"]) / direction.norm
        return dataclasses.replace(found, t=length, length=length, effective_lr=rate)


class SparsePAL(PAL):
    """PAL that measures every tenth step and reuses the average of its lengths in between.

    ``PAL(measure_every=10)`` by a name of its own: not the papers' method. A tenth of PAL's extra
    forward passes, and on the scoreboard (docs/zero-tuning.md) no worse.

    Args:
        params: the model.
        step_multiplier: α, multiple of the averaged minimum that is walked.
        measure_every: steps between measurements.
        **settings: the others of :class:`PAL`.
        **shared: keywords of every line search.

    Example:
        >>> import torch, surefoot
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = surefoot.SparsePAL(model, total_steps=20)
        >>> for _ in range(20):
        ...     loss = optimizer.step(lambda: model(torch.ones(4, 3)).square().mean())
        >>> optimizer.cost.forwards, optimizer.cost.backwards
        (22, 20)
    """

    def __init__(
        self,
        params: ParamsLike,
        step_multiplier: float = 1 / 0.6,
        *,
        measure_every: int = 10,
        **settings: Any,
    ) -> None:
        super().__init__(params, step_multiplier, measure_every=measure_every, **settings)

    @classmethod
    def _keywords(cls) -> dict[str, Keyword]:
        return keywords_of(PAL)
