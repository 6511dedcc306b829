"""What a checkpoint keeps of a measured rate: in the first group, which every tool keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surefoot.measured.noise import SlopePair
from surefoot.measured.rate import RateState
from surefoot.measured.ratios import Ratios
from surefoot.outcome import Cost

__all__ = ["STATE", "Kept", "read", "write"]

STATE = "measured"
"""The key in the first group; None while the optimizer runs."""


@dataclass(frozen=True)
class Kept:
    """What a checkpoint held.

    Args:
        rate: the measured rate.
        cost: passes spent.
        step: steps made.
        filled_before: steps that the wrapped optimizer had made before it was wrapped.
        closure_differentiates: whether the closure calls ``backward()``; None where not known.
        average_weight: of all steps in the average.
        units: of the groups.
        ratios: of the groups' rates.
        pairs: own and fresh slopes.
        losses: of measured steps.
        ending: length of the run, step where its decay began and what was left of the rate there;
            None unless that was asked for while it ran.
        needs_graph: whether the loss differentiates inside.
    """

    rate: RateState
    cost: Cost
    step: int
    filled_before: int
    closure_differentiates: bool | None
    average_weight: float
    units: tuple[float, ...]
    ratios: Ratios
    pairs: list[SlopePair]
    losses: list[tuple[int, float]]
    ending: tuple[int, int, float] | None
    needs_graph: bool


def write(base: dict[str, Any], kept: Kept) -> dict[str, Any]:
    """The wrapped optimizer's state_dict, with what is to be kept: plain values."""
    cost = kept.cost
    own = {
        **kept.rate.to_dict(),
        "units": list(kept.units),
        "cost": [cost.forwards, cost.backwards, cost.probes],
        "step": kept.step,
        "filled_before": kept.filled_before,
        "closure_differentiates": kept.closure_differentiates,
        "average_weight": kept.average_weight,
        "ratios": kept.ratios.to_dict(),
        "pairs": [list(pair) for pair in kept.pairs],
        "batch_losses": [list(loss) for loss in kept.losses],
        "ending": None if kept.ending is None else list(kept.ending),
        "needs_graph": kept.needs_graph,
    }
    first = {**base["param_groups"][0], STATE: own}
    return {**base, "param_groups": [first, *base["param_groups"][1:]]}


def read(state_dict: Mapping[str, Any]) -> tuple[dict[str, Any], Kept | None]:
    """The wrapped optimizer's state_dict, and what was kept, by 0.1, too."""
    plain = {key: value for key, value in state_dict.items() if key != STATE}
    own = state_dict["param_groups"][0].get(STATE) or _of_0_1(state_dict.get(STATE))
    if not own:
        return plain, None
    rest = (
        own["step"],
        own["filled_before"],
        own["closure_differentiates"],
        own.get("average_weight", 0.0),
        tuple(own["units"]),
        Ratios.from_dict(own.get("ratios", {})),
        [SlopePair(*pair) for pair in own.get("pairs", ())],
        [(int(step), float(loss)) for step, loss in own.get("batch_losses", ())],
        None if own.get("ending") is None else tuple(own["ending"]),
        own.get("needs_graph", False),
    )
    return plain, Kept(RateState.from_dict(own), Cost(*own["cost"]), *rest)


def _of_0_1(own: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What 0.1 remembered, in today's words."""
    if own is None:
        return None
    gauge, counts = own["gauge"], own["counts"]
    same = ("measurements", "attempts", "next", "spent", "price", "misfits")
    return {
        **{name: gauge[name] for name in same},
        "units": list(gauge["reference"]),
        "in_use": gauge["scale"],
        "since": -8,
        "probed": gauge["reach"],
        "losses": [*gauge["losses"], 0],
        "norm": gauge["size"],
        "step": counts["steps"],
        "filled_before": 32,
        "closure_differentiates": counts["closure_calls_backward"],
        "cost": [counts["forwards"], counts["backwards"], counts["probes"]],
    }
