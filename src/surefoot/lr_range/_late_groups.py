"""Groups that join a schedule in mid-run, and the rates that it writes.

Torch's schedulers know nothing of groups that are added later: OneCycleLR ends in a KeyError,
CyclicLR leaves them out or raises, as the version has it.
"""

from __future__ import annotations

import weakref
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from surefoot._no_trace import unwrapped


def admit_later(scheduler: OneCycleLR | CyclicLR) -> None:
    """Let groups that are added to the optimizer from now on join the schedule."""
    optimizer = unwrapped(scheduler.optimizer)[-1]
    # that of the optimizer itself, not of an earlier schedule
    plain_add = getattr(optimizer.add_param_group, "surefoot_plain", optimizer.add_param_group)
    known = weakref.ref(scheduler)

    def add_param_group(param_group: dict[str, Any]) -> None:
        plain_add(param_group)
        if (joined := known()) is not None and admit(joined):
            write_rates(joined)

    add_param_group.surefoot_plain = plain_add  # type: ignore[attr-defined]
    optimizer.add_param_group = add_param_group


def admit(scheduler: OneCycleLR | CyclicLR) -> bool:
    """Give the groups that the schedule does not know their bounds; whether there were any."""
    groups = scheduler.optimizer.param_groups
    tops, bottoms = _known_bounds(scheduler)
    late = groups[len(tops) :]
    if not late:
        return False
    r = next((g for g, top in enumerate(tops) if top > 0.0), 0)
    share = bottoms[r] / tops[r] if tops[r] > 0.0 else 1.0
    given = unwrapped(scheduler.optimizer)[-1].defaults.get("lr")
    for group in late:
        # an lr of its own is the group's maximum; with the optimizer's default it joins the first
        top = tops[r] if group["lr"] == given else float(group["lr"])
        group["initial_lr"] = share * top
        scheduler.base_lrs.append(share * top)
        if isinstance(scheduler, CyclicLR):
            scheduler.max_lrs.append(top)
        else:
            last = groups[r]["min_lr"] / tops[r] if tops[r] > 0.0 else 1.0
            group["max_lr"], group["min_lr"] = top, last * top
        if scheduler.cycle_momentum:
            _admit_momentum(scheduler, group)
    return True


def _known_bounds(scheduler: OneCycleLR | CyclicLR) -> tuple[list[float], list[float]]:
    """Highest and lowest rate of a cycle, of each group that the schedule knows."""
    if isinstance(scheduler, CyclicLR):
        return list(map(float, scheduler.max_lrs)), list(map(float, scheduler.base_lrs))
    known = [group for group in scheduler.optimizer.param_groups if "max_lr" in group]
    return [group["max_lr"] for group in known], [group["initial_lr"] for group in known]


def _admit_momentum(scheduler: OneCycleLR | CyclicLR, group: dict[str, Any]) -> None:
    """The momenta of the groups that use one, or 0 where this one does not."""
    cycled = [g for g in scheduler.optimizer.param_groups if "max_momentum" in g]
    on = has_momentum(scheduler.optimizer, group)
    for key in ("max_momentum", "base_momentum"):
        group[key] = max(g[key] for g in cycled) if on else 0.0
    if isinstance(scheduler, CyclicLR):
        scheduler.max_momentums.append(group["max_momentum"])
        scheduler.base_momentums.append(group["base_momentum"])


def has_momentum(optimizer: Optimizer, group: dict[str, Any]) -> bool:
    """Whether a group uses one, as torch's schedulers choose: beta1 before momentum."""
    if "betas" in optimizer.defaults:
        return bool(group["betas"][0])
    return "momentum" in optimizer.defaults and bool(group["momentum"])


def write_rates(scheduler: OneCycleLR | CyclicLR) -> None:
    """Compute the rates of the present place and write them into the optimizer."""
    count = scheduler._step_count
    scheduler.last_epoch -= 1
    scheduler._step_count = 2  # past the call at which step() asks whether the optimizer stepped
    scheduler.step()
    scheduler._step_count = count
