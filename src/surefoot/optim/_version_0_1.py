"""Checkpoints of version 0.1: what was remembered lay among the settings of the first group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FORMER = """
steps forwards backwards probes closure_calls_backward closure_needs_graph size checked length
direction_norms_sq has_full_loss rate average_rate noise left_behind updates since_measurement
batches_per_update gathered measuring measured skipped value_sums own_values recent collected
measured_for is_rough reach edge failures minimum_at start condition sufficient_decrease shrink grow
reset max_rate min_rate growth_per_step overshoot factor curvature threshold growth max_change
max_evaluations averaging method first_length tolerance max_length measuring_length
direction_adaptation fit stretch average_over max_collecting
"""
"""What version 0.1 remembered, and the settings of its searches."""
_NAMES = {"untrusted": "burn_in"}


def from_version_0_1(state_dict: dict[str, Any], key: str, settings: Mapping[str, Any]) -> Any:
    """The checkpoint in today's form; one that is has no ``steps`` among its settings.

    Args:
        state_dict: what is loaded.
        key: under which the first group holds what is remembered today.
        settings: what groups hold today.
    """
    first, *others = state_dict["param_groups"]
    if key in first or "steps" not in first:
        return state_dict
    groups = [
        {
            _NAMES.get(name, name): value
            for name, value in group.items()
            if name in settings or name not in _FORMER.split()
        }
        for group in (first, *others)
    ]
    if "rule" in settings:  # LABPAL knew the papers' alone
        for group in groups:
            group["rule"] = "released" if first["fit"] == "released" else "published"
    groups[0][key] = _remembered(first)
    return {**state_dict, "param_groups": groups}


def _remembered(first: Mapping[str, Any]) -> dict[str, Any]:
    """All that any line search remembered; each takes what it knows."""
    passes = {name: first[name] for name in ("forwards", "backwards", "probes")}
    return {
        **first,
        "cost": passes,
        "is_repeatable": first.get("checked", False),
        "weights_norm": first.get("size"),
        "probe_length": first.get("reach"),
        "search": _search(first),
        "direction": {"previous_share": first.get("direction_adaptation", 0.0)},
    }


def _search(first: Mapping[str, Any]) -> dict[str, Any]:
    """The search as it is today: what it remembers is where it starts."""
    search = {**first, "max_t": first.get("max_rate"), "min_t": first.get("min_rate")}
    rate, top = first.get("rate"), first.get("max_rate")
    if rate is not None and "reset" in first:
        follows = {"growing": rate * first["growth_per_step"], "previous": rate, "maximum": top}
        rate = min(follows[first["reset"]], top)
    if rate is not None:
        search["start"] = rate
    if first.get("length") is not None and "first_length" in first:
        search["first_length"] = first["length"]
    return search
