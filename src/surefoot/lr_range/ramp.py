"""The ramp of learning rates that a range test walks along."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from surefoot._numbers import check_choice, check_count, check_number, kind_of, sequence


@dataclass(frozen=True)
class Ramp:
    r"""From ``starts[g]`` to ``ends[g]`` in ``num_iter`` iterations, for each param group g.

    With r = i / (num_iter - 1):

    .. math::
        \text{exp: } \eta_g(i) = s_g (e_g / s_g)^r \qquad
        \text{linear: } \eta_g(i) = s_g + r\,(e_g - s_g)

    Both ends are reached. A group whose start and end are 0 stays at 0.
    """

    starts: tuple[float, ...]
    ends: tuple[float, ...]
    num_iter: int
    step_mode: str

    @classmethod
    def build(
        cls,
        optimizer: Optimizer,
        start_lr: float | Sequence[float],
        end_lr: float | Sequence[float],
        num_iter: int,
        step_mode: str,
    ) -> Ramp:
        """Check the arguments and spread single rates over the groups in their present ratios."""
        check_choice("step_mode", step_mode, ("exp", "linear"))
        count = check_count("num_iter", num_iter, at_least=2)
        starts = per_group("start_lr", optimizer, start_lr)
        ends = per_group("end_lr", optimizer, end_lr)
        for g, (start, end) in enumerate(zip(starts, ends, strict=True)):
            _check_range(g, start, end, step_mode)
        if not any(ends):
            raise ValueError("every param group would keep a learning rate of 0")
        return cls(tuple(starts), tuple(ends), count, step_mode)

    @property
    def reference(self) -> int:
        """The group whose rate stands for all: the first that moves."""
        return next(g for g, end in enumerate(self.ends) if end > 0.0)

    def rates(self, iteration: float) -> list[float]:
        """The rate of every group at ``iteration``, counted from 0."""
        r = iteration / (self.num_iter - 1)
        return [self._at(g, r) for g in range(len(self.starts))]

    def rates_for(self, rate: float) -> list[float]:
        """The rate of every group at the place of the ramp where the reference group has ``rate``.

        Outside the ramp the ramp is continued.
        """
        start, end = self.starts[self.reference], self.ends[self.reference]
        if self.step_mode == "exp":
            r = math.log(rate / start) / math.log(end / start)
        else:
            r = (rate - start) / (end - start)
        rates = [max(self._at(g, r), 0.0) for g in range(len(self.starts))]
        rates[self.reference] = rate
        return rates

    def _at(self, g: int, r: float) -> float:
        start, end = self.starts[g], self.ends[g]
        if r == 1.0 or start == end:
            return end
        if self.step_mode == "exp":
            return float(start * (end / start) ** r)
        return start + r * (end - start)


def group_ratios(optimizer: Optimizer) -> list[float]:
    """Each group's rate relative to the first one that is not 0.

    A warm-up may hold ``lr`` at 0 just now; then the ``initial_lr`` of its scheduler counts.
    """
    check_rates(optimizer)
    for key in ("lr", "initial_lr"):
        rates = [float(group.get(key, 0.0)) for group in optimizer.param_groups]
        if any(rates):
            reference = next(rate for rate in rates if rate != 0.0)
            return [rate / reference for rate in rates]
    return [1.0] * len(optimizer.param_groups)


def check_rates(optimizer: Optimizer) -> None:
    """Raise where a group has no rate, or the optimizer chooses it by itself."""
    if isinstance(optimizer, type) or not hasattr(optimizer, "param_groups"):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {kind_of(optimizer)}")
    for g, group in enumerate(optimizer.param_groups):
        if group.get("lr") is not None:
            continue
        name = type(optimizer).__name__
        why = (
            "has lr=None: it chooses its steps itself (relative_step); give it a number"
            if "lr" in group
            else "has no 'lr', so there is no learning rate to vary"
        )
        raise ValueError(f"param group {g} of {name} {why}")


def set_rate(group: dict[str, Any], rate: float, key: str = "lr") -> None:
    """Write a rate into a param group; a rate kept as a tensor keeps its tensor."""
    old = group.get(key)
    if isinstance(old, Tensor):
        old.fill_(rate)
    else:
        group[key] = rate


def per_group(name: str, optimizer: Optimizer, value: Any) -> list[float]:
    """One rate per group: as given, or one number spread in the groups' present ratios."""
    groups = len(optimizer.param_groups)
    values = sequence(value)
    if values is not None:
        if len(values) != groups:
            raise ValueError(
                f"{name} has {len(values)} values, but the optimizer has {groups} param groups"
            )
        return [check_number(name, v, at_least=0.0) for v in values]
    rate = check_number(name, value, at_least=0.0)
    return [rate * ratio for ratio in group_ratios(optimizer)]


def _check_range(g: int, start: float, end: float, step_mode: str) -> None:
    where = f"param group {g}: start_lr {start:g}, end_lr {end:g}"
    if start == end == 0.0:
        return
    if step_mode == "exp" and start == 0.0:
        raise ValueError(f"an exponential ramp cannot start at 0; use step_mode='linear' ({where})")
    if start >= end:
        raise ValueError(f"start_lr must lie below end_lr ({where})")
