"""Weight decay that belongs to the rate: what is held is the time in which weights are forgotten.

Decay shrinks the weights by rate × decay a step, so they are an average over the last
1 / (rate × decay) updates. That time, as a share of the run, is what carries over from one size,
length and rate to another (2405.13698, 2505.13738), not the decay itself.
"""

from __future__ import annotations

from torch.optim import Optimizer

from surefoot.measured._toy import Toy, first_answer

__all__ = ["TIMES", "decay_gain", "weight_decay"]

TIMES = 1.0
"""Decay times in a run at its full rate: measured, docs/beyond-the-rate.md."""
_SOONEST = 100
"""Steps of a run of unknown length before which it counts as that long."""
_STEPS, _DECAY = 64, 0.01


def weight_decay(
    gain: float, rate: float, left: float, step: int, total_steps: int | None
) -> float:
    """The weight decay of a group.

    Args:
        gain: of its optimizer, see :func:`decay_gain`.
        rate: that its next step is taken with.
        left: what horizon and schedulers leave of it, so that decay falls along.
        step: steps made before.
        total_steps: length of the run; where it is not known, so far.
    """
    if rate <= 0.0:
        return 0.0
    length = total_steps or max(step + 1, _SOONEST)
    return TIMES * left / (length * rate * gain)


def decay_gain(base: Optimizer) -> float:
    """How ``base`` decays: its weights shrink by gain × rate × decay a step.

    1 for decoupled decay, 1 / (1 − μ) for an L2 term that goes through a heavy-ball memory: found
    out on a toy copy whose gradient is zero.

    Raises:
        ValueError: where its groups have no ``weight_decay``, or the weights do not shrink by a
            multiple of rate × decay (an L2 term in Adam is divided by the gradient's size).
    """
    name = type(base).__name__
    if not all("weight_decay" in group for group in base.param_groups):
        raise ValueError(f'weight_decay="measured": {name} has no weight_decay')
    found = first_answer(lambda how: [_shrinkage(Toy(base, how), times) for times in (1.0, 2.0)])
    once, twice = found or (0.0, 0.0)
    if once > 0.5 and abs(twice - once) <= 0.02 * once:
        return round(once, 6)
    raise ValueError(
        f'weight_decay="measured": {name} does not shrink its weights by rate × weight_decay, so '
        "there is no decay time to hold; use one with decoupled decay, as AdamW, or SGD"
    )


def _shrinkage(toy: Toy, times: float) -> float:
    """By which share of rate × decay the weights shrink once the optimizer's memory is filled."""
    for group in toy.base.param_groups:
        group["weight_decay"] = times * _DECAY
    moves = toy.hold(_STEPS, times=0.0)[-1]
    rates = {id(p): float(g["lr"]) for g in toy.base.param_groups for p in g["params"]}
    shares = [
        -float((move * start).sum() / start.square().sum()) / (rates[id(p)] * times * _DECAY)
        for p, start, move in zip(toy.params, toy.start, moves, strict=True)
    ]
    return sum(shares) / len(shares)
