"""What a checkpoint keeps of a measured rate: in the first group, which every tool keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["STATE", "read", "write"]

STATE = "measured"
"""The key in the first group; None while the optimizer runs."""


def write(base: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The wrapped optimizer's state_dict, with plain values that are to be kept."""
    first, *others = base["param_groups"]
    return {**base, "param_groups": [{**first, STATE: own}, *others]}


def read(state_dict: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The wrapped optimizer's state_dict, and what was kept, by 0.1, too; {} if nothing was."""
    plain = {key: value for key, value in state_dict.items() if key != STATE}
    old = state_dict.get(STATE)
    own = state_dict["param_groups"][0].get(STATE) or (_of_0_1(old) if old else {})
    return plain, own


def _of_0_1(own: Mapping[str, Any]) -> dict[str, Any]:
    """What 0.1 remembered, in today's words."""
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
