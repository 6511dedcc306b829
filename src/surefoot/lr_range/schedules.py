"""Measured bounds into torch's own CyclicLR and OneCycleLR, with their traps closed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from surefoot._no_trace import unwrapped
from surefoot._numbers import check_choice, check_count, check_number, kind_of, sequence
from surefoot.lr_range._late_groups import admit, admit_later, has_momentum, write_rates
from surefoot.lr_range.curve import RangeCurve
from surefoot.lr_range.ramp import check_rates, per_group, set_rate
from surefoot.lr_range.suggest import Suggestion

Bound = float | Sequence[float] | Suggestion

ONE_CYCLE_RULE = "consensus"
"""Rule that gives :func:`one_cycle` its maximum."""


def one_cycle(
    optimizer: Optimizer,
    curve: RangeCurve | None = None,
    *,
    total_steps: int,
    max_lr: Bound | None = None,
    div_factor: float = 10.0,
    final_div_factor: float = 1000.0,
    cycle_share: float = 0.9,
    anneal_strategy: str = "linear",
    momentum: tuple[float, float] | None = (0.85, 0.95),
) -> OneCycleLR:
    r"""Torch's OneCycleLR with the bounds that a range test measured.

    With η the maximum, T ``total_steps`` and c ``cycle_share``, the rate rises on a straight line
    from η / ``div_factor`` to η, falls back, and then goes down to η / (``div_factor`` ·
    ``final_div_factor``). Steps counted from 0, torch turns at cT/2 - 1 and cT - 2, and the last
    step is T - 1.

    Args:
        optimizer: momentum or beta1 is cycled upside down in those of its groups that use one;
            it is never switched on where it is off.
        curve: what :func:`~surefoot.range_test` measured; not needed with ``max_lr``.
        total_steps: optimizer steps of the whole run.
        max_lr: the maximum, for the first group that moves (a number or a
            :class:`~surefoot.lr_range.Suggestion`) or for each group (a sequence).
        div_factor: maximum over minimum; 3 to 20 in 1803.09820.
        final_div_factor: minimum of the cycle over the very last rate.
        cycle_share: share of the steps in the cycle, 0.85 to 0.9 in the paper.
        anneal_strategy: ``"linear"`` as in the paper, or ``"cos"``.
        momentum: lowest and highest momentum, or None to leave the optimizer's alone.

    Returns:
        A ``torch.optim.lr_scheduler.OneCycleLR``. A group that is added later joins the cycle: its
        ``lr`` is its maximum, or that of the first group if none is given. One ``step()`` after
        the schedule's last, which torch would continue past the minimum (a linear rate then gets
        negative), holds the minimum.

    Raises:
        NoSuggestion: if the curve holds no rate and none is given.
        ValueError: for settings outside their ranges.

    Example:
        >>> import torch
        >>> from surefoot.lr_range import one_cycle
        >>> w = torch.nn.Parameter(torch.zeros(3))
        >>> sgd = torch.optim.SGD([w], lr=0.1)
        >>> scheduler = one_cycle(sgd, total_steps=100, max_lr=1.0)
        >>> type(scheduler).__name__, scheduler.get_last_lr(), sgd.param_groups[0]["momentum"]
        ('OneCycleLR', [0.1], 0)

    References:
        Smith and Topin, *Super-convergence*, 1708.07120; Smith, *A disciplined approach to neural
        network hyper-parameters: part 1*, 1803.09820.
    """
    if not 0.0 < cycle_share < 1.0:
        raise ValueError(f"cycle_share must lie between 0 and 1, got {cycle_share!r}")
    steps = check_count("total_steps", total_steps)
    if steps * cycle_share < 4.0:
        raise ValueError(
            "total_steps must leave at least 4 steps for the cycle, got "
            f"{total_steps!r} with cycle_share={cycle_share:g}"
        )
    if not div_factor > 1.0 or not final_div_factor > 1.0:
        raise ValueError("div_factor and final_div_factor must be above 1")
    check_rates(unwrapped(optimizer)[-1])
    tops = _bounds(optimizer, curve, max_lr, ONE_CYCLE_RULE)
    cycled = _momenta(optimizer, momentum)
    _forget(optimizer)
    scheduler = OneCycleLR(
        optimizer,
        max_lr=tops,
        total_steps=steps,
        pct_start=float(cycle_share) / 2.0,
        anneal_strategy=anneal_strategy,  # type: ignore[arg-type]
        div_factor=float(div_factor),
        final_div_factor=float(final_div_factor),
        three_phase=True,
        **cycled,
    )
    # for the one step() that torch allows after the last: the rate stays
    last = scheduler._schedule_phases[-1]
    held: Any = {"start_lr": last["end_lr"], "start_momentum": last["end_momentum"]}
    scheduler._schedule_phases.append({**last, **held, "end_step": steps})
    admit_later(scheduler)
    return scheduler


def cyclic(
    optimizer: Optimizer,
    curve: RangeCurve | None = None,
    *,
    steps_per_epoch: int,
    epochs: int | None = None,
    step_size_epochs: float | None = None,
    base_lr: Bound | None = None,
    max_lr: Bound | None = None,
    mode: str = "triangular",
    gamma: float = 0.99994,
    momentum: tuple[float, float] | None = None,
) -> CyclicLR:
    r"""Torch's CyclicLR with the bounds that a range test measured.

    The rate goes up and down between ``base_lr`` and ``max_lr`` on straight lines, each
    ``step_size`` steps long. The amplitude stays (``"triangular"``), is halved after each cycle
    (``"triangular2"``), or shrinks by ``gamma`` with each step (``"exp_range"``).

    Args:
        optimizer: momentum is left alone unless ``momentum`` is given.
        curve: what :func:`~surefoot.range_test` measured; not needed if both bounds are given.
        steps_per_epoch: optimizer steps in an epoch.
        epochs: length of the run. If given, the step size is the one nearest to
            ``step_size_epochs`` for which the run ends at the end of a cycle.
        step_size_epochs: half a cycle, in epochs; 2 to 10 in 1506.01186, 4 by default. A run too
            short for one cycle of two such halves gets one shorter cycle, and a warning.
        base_lr: lower bound; Smith's lower bound from the curve, or a quarter of the upper one
            if the curve shows none.
        max_lr: upper bound; Smith's upper bound from the curve.
        mode: ``"triangular"``, ``"triangular2"`` or ``"exp_range"``.
        gamma: for ``"exp_range"``; the paper's 0.99994. (Torch's own default of 1 makes that mode
            the same as ``"triangular"``.)
        momentum: lowest and highest momentum (or beta1), cycled upside down in the groups that
            use one.

    Returns:
        A ``torch.optim.lr_scheduler.CyclicLR``. A group that is added later joins the cycles: its
        ``lr`` is its upper bound, or that of the first group if none is given.

    Raises:
        NoSuggestion: if the curve holds no upper bound and none is given.
        ValueError: for settings outside their ranges.

    Example:
        >>> import torch
        >>> from surefoot.lr_range import cyclic
        >>> w = torch.nn.Parameter(torch.zeros(3))
        >>> sgd = torch.optim.SGD([w], lr=0.1)
        >>> scheduler = cyclic(sgd, steps_per_epoch=5, epochs=8, base_lr=0.1, max_lr=0.5)
        >>> scheduler.total_size, scheduler.get_last_lr()
        (40.0, [0.1])

    References:
        Smith, *Cyclical learning rates for training neural networks*, 1506.01186.
    """
    count = check_count("steps_per_epoch", steps_per_epoch)
    check_rates(unwrapped(optimizer)[-1])
    check_choice("mode", mode, ("triangular", "triangular2", "exp_range"))
    step_size = _step_size(count, epochs, step_size_epochs)
    tops = _bounds(optimizer, curve, max_lr, "smith_max")
    bottoms = _lower_bounds(optimizer, curve, base_lr, tops)
    for g, (bottom, top) in enumerate(zip(bottoms, tops, strict=True)):
        if bottom > top or (bottom == top and top > 0.0):
            raise ValueError(f"param group {g}: base_lr {bottom:g} must lie below max_lr {top:g}")
    cycled = _momenta(optimizer, momentum)
    _forget(optimizer)
    for group, bottom in zip(optimizer.param_groups, bottoms, strict=True):
        set_rate(group, bottom)
    scheduler = CyclicLR(
        optimizer,
        base_lr=bottoms,
        max_lr=tops,
        step_size_up=step_size,  # type: ignore[arg-type]  # torch makes a float of it anyway
        mode=mode,  # type: ignore[arg-type]
        gamma=float(gamma),
        **cycled,
    )
    admit_later(scheduler)
    return scheduler


def resume_schedule(scheduler: OneCycleLR | CyclicLR, state: dict[str, Any]) -> None:
    """Go on from a saved place, with the length and the bounds of *this* scheduler.

    ``scheduler.load_state_dict`` takes everything over, the old ``total_steps`` as well: a run
    that was to be longer this time then fails at its old end. Here only the place is taken over,
    and the rates (and momenta) of that place are written into the optimizer. The given ``state``
    is not changed, where ``CyclicLR.load_state_dict`` takes an entry out of it.

    The order is: load the optimizer's state, build the scheduler, resume it. To get torch's own
    behaviour, the old schedule to its old end, use ``load_state_dict``.

    Args:
        scheduler: just built, by :func:`one_cycle` or :func:`cyclic` (or torch's own class).
        state: what ``state_dict()`` of the earlier one returned.

    Raises:
        TypeError: for other schedulers, whose rates do not follow from the place alone.
        ValueError: if the saved place lies beyond this scheduler's end.
    """
    if not isinstance(scheduler, (OneCycleLR, CyclicLR)):
        raise TypeError(
            f"resume_schedule() is for OneCycleLR and CyclicLR, not {type(scheduler).__name__}"
        )
    place = int(state["last_epoch"])
    if isinstance(scheduler, OneCycleLR) and place > scheduler.total_steps:
        raise ValueError(
            f"the saved run had made {place} steps, this schedule has {scheduler.total_steps}: "
            "build it with the new total_steps"
        )
    admit(scheduler)
    scheduler.last_epoch = place
    scheduler._step_count = int(state["_step_count"])
    write_rates(scheduler)


def _bounds(
    optimizer: Optimizer, curve: RangeCurve | None, given: Bound | None, rule: str
) -> list[float]:
    """One rate per group, from what was given or from the curve."""
    if curve is not None and not isinstance(curve, RangeCurve):
        raise TypeError(f"curve must be a RangeCurve, got {kind_of(curve)}; pass rates as max_lr")
    if given is None:
        if curve is None:
            raise ValueError("pass a range curve, or the rate itself as max_lr")
        given = curve.suggest(rule)
    if isinstance(given, Suggestion):
        given = float(given)  # raises NoSuggestion with its reason
    if curve is None or sequence(given) is not None:
        return per_group("the learning rate", optimizer, given)
    rate = check_number("the learning rate", given, at_least=0.0)
    return curve.rates_for(optimizer, rate)


def _lower_bounds(
    optimizer: Optimizer, curve: RangeCurve | None, given: Bound | None, tops: list[float]
) -> list[float]:
    if given is None and curve is not None:
        measured = curve.suggest("smith_base")
        if measured.rate is not None and measured.rate < max(tops):
            given = measured
    if given is None:
        # 1506.01186: without a measured lower bound, a third or a quarter of the upper one
        return [top / 4.0 for top in tops]
    return _bounds(optimizer, curve, given, "smith_base")


def _step_size(steps_per_epoch: int, epochs: int | None, wanted: float | None) -> float:
    """Half a cycle, in steps, such that the run is a whole number of cycles."""
    if wanted is not None and not 2.0 <= wanted <= 10.0:
        raise ValueError(f"step_size_epochs must lie between 2 and 10, got {wanted!r}")
    wanted = 4.0 if wanted is None else wanted
    if epochs is None:
        return float(round(wanted * steps_per_epoch))
    epochs = check_count("epochs", epochs)
    if epochs < 4:
        warnings.warn(
            f"{epochs} epochs are too short for a cycle of two halves of 2 epochs; the run gets "
            "one shorter cycle",
            stacklevel=3,
        )
    # every number of cycles whose halves last 2 to 10 epochs, the nearest to the wish
    most, least = max(1, epochs // 4), max(1, -(-epochs // 20))
    cycles = min(range(least, most + 1), key=lambda n: abs(epochs / (2 * n) - wanted))
    return epochs * steps_per_epoch / (2 * cycles)


def _momenta(optimizer: Optimizer, wanted: tuple[float, float] | None) -> dict[str, Any]:
    """Torch's arguments: lowest and highest momentum of each group, 0 where it is off.

    Torch's schedulers would write their momentum into every group, SGD without momentum and
    RMSprop included.
    """
    if wanted is None:
        return {"cycle_momentum": False}
    low, high = map(float, wanted)
    if not 0.0 <= low <= high < 1.0:
        raise ValueError(f"momentum must be (lowest, highest) within [0, 1), got {wanted!r}")
    used = [has_momentum(optimizer, group) for group in optimizer.param_groups]
    base, top = ([bound if on else 0.0 for on in used] for bound in (low, high))
    return {"cycle_momentum": any(used), "base_momentum": base, "max_momentum": top}


def _forget(optimizer: Optimizer) -> None:
    """Remove what an earlier scheduler left: torch would take it for the new one's start."""
    for group in optimizer.param_groups:
        for key in ("initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum"):
            group.pop(key, None)
