"""The wrapped optimizer's groups: their parameters, their units, the rates that are applied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from surefoot.measured.averaging import Averages
from surefoot.measured.decay import weight_decay

__all__ = ["Groups"]


class Groups:
    """What is asked of the groups and done to them.

    Args:
        base: the wrapped optimizer.
        units: of its groups, where they were known before.

    Attributes:
        measured_ratios: what each group's rate is multiplied by, as far as that was measured.
    """

    def __init__(self, base: Optimizer, units: Sequence[float] = ()) -> None:
        self._base = base
        self.measured_ratios: tuple[float, ...] = ()
        self._units = (*units, *map(_unit, self.all[len(units) :]))

    @property
    def all(self) -> list[dict[str, Any]]:
        """The groups themselves."""
        return self._base.param_groups

    def params(self) -> list[Tensor]:
        """All parameters."""
        return [p for group in self.all for p in group["params"]]

    def with_gradient(self) -> list[Tensor]:
        """Those that the next step moves."""
        groups = self._base.param_groups
        return [p for group in groups for p in group["params"] if p.grad is not None]

    @property
    def units(self) -> tuple[float, ...]:
        """Each group's rate that a multiple of 1 stands for.

        The rate before schedulers, or the peak of 1cycle, when the group was first seen: it may be
        added later, here or to the wrapped optimizer.
        """
        groups = self._base.param_groups
        if len(self._units) < len(groups):
            self._units = (*self._units, *map(_unit, groups[len(self._units) :]))
        return self._units

    @property
    def ratios(self) -> tuple[float, ...]:
        """What each group's rate is multiplied by, beside what all are; 1 unless measured."""
        groups = self._base.param_groups
        if len(self.measured_ratios) < len(groups):
            self.measured_ratios += (1.0,) * (len(groups) - len(self.measured_ratios))
        return self.measured_ratios

    def places(self, params: Sequence[Tensor]) -> list[list[int]]:
        """Which of some parameters, by their places among them, are in each group."""
        place = {id(p): i for i, p in enumerate(params)}
        return [[place[id(p)] for p in group["params"] if id(p) in place] for group in self.all]

    def multiples(self) -> tuple[float, ...]:
        """By group, the multiple of its unit that was applied last."""
        pairs = zip(self.all, self.units, strict=True)
        return tuple(g.get("effective_lr", 0.0) / unit if unit > 0.0 else 0.0 for g, unit in pairs)

    @property
    def scheduled(self) -> float:
        """What schedulers have made of the groups' rates."""
        highest: float | None = None
        for group, unit in zip(self._base.param_groups, self.units, strict=True):
            if unit > 0.0:
                left = float(group["lr"]) / unit
                highest = left if highest is None else max(highest, left)
        return 1.0 if highest is None else highest

    @property
    def are_idle(self) -> bool:
        """Whether nothing will move: every rate is 0 (a warm-up begins), or no gradient is."""
        groups = self._base.param_groups
        rests = True
        for group in groups:
            rests = rests and float(group["lr"]) == 0.0
        if rests:
            return True
        for group in groups:
            for p in group["params"]:
                if p.grad is not None:
                    return False
        return True

    def step(
        self, factor: float, averages: Averages | None, decays: Sequence[float | None] = ()
    ) -> None:
        """The wrapped optimizer's own step, with ``factor`` times its rates.

        Args:
            factor: of every group's ``lr``.
            averages: of the weights; the parameters move by what they see of a step at once.
            decays: each group's weight decay; None for its own.
        """
        if averages is not None:
            factor *= averages.before_step()
        groups = self._base.param_groups
        factors = [factor * ratio for ratio in self.ratios]
        if factors.count(1.0) == len(factors) and not decays:
            self._base.step()
            return
        kept = [(group["lr"], group.get("weight_decay")) for group in groups]
        try:
            for group, each in zip(groups, factors, strict=True):
                group["lr"] = group["lr"] * each
            for group, decay in zip(groups, decays, strict=False):
                if decay is not None:
                    group["weight_decay"] = decay
            self._base.step()
        finally:
            for group, (lr, decay) in zip(groups, kept, strict=True):
                group["lr"] = lr  # the same object, which a scheduler or a graph may hold
                if "weight_decay" in group:
                    group["weight_decay"] = decay

    def decays(
        self, gain: float, factor: float, left: float, step: int, total_steps: int | None
    ) -> list[float | None]:
        """Each group's weight decay for a step; None for those that are not to decay.

        Those are the groups whose own is 0, unless every group's is.
        """
        any_decays = any(float(group["weight_decay"]) > 0.0 for group in self.all)
        found: list[float | None] = []
        for group, ratio in zip(self.all, self.ratios, strict=True):
            rate = float(group["lr"]) * factor * ratio
            decays = float(group["weight_decay"]) > 0.0 or not any_decays
            found.append(weight_decay(gain, rate, left, step, total_steps) if decays else None)
            group["effective_weight_decay"] = found[-1] or 0.0
        return found

    def publish(self, factor: float) -> float:
        """Show what was applied; the largest multiple of a unit, ratios not included."""
        groups, multiple = self._base.param_groups, 0.0
        for group, unit, ratio in zip(groups, self.units, self.ratios, strict=True):
            rate = float(group["lr"]) * factor
            group["effective_lr"] = rate * ratio
            if unit > 0.0:
                multiple = max(multiple, rate / unit)
        return multiple

    @property
    def effective_lr(self) -> float:
        """The largest rate that was applied last."""
        return max([float(group["effective_lr"]) for group in self.all])


def _unit(group: dict[str, Any]) -> float:
    return float(group.get("max_lr", group.get("initial_lr", group["lr"])))
