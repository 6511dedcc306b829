"""Performance profiles: one curve per method over many problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def performance_profiles(
    costs: Mapping[str, Mapping[str, float | None]], factors: Sequence[float]
) -> dict[str, list[float]]:
    """The share of problems that a method solves within a factor of the cheapest method.

    ρ_s(τ) = |{p : c(p, s) <= τ · min_r c(p, r)}| / |P|   (Dolan and Moré 2002, cs/0102001)

    Args:
        costs: for each method, what it spent on each problem until the target; None where it
            never got there, and for problems that it was not tried on.
        factors: the τ, at least 1.

    Returns:
        For each method, ρ at each factor. Problems that no method solves count in |P|: nobody is
        better for them, but nobody solves everything either.

    Raises:
        ValueError: there is no problem, or a factor below 1, where no method could be.

    Example:
        >>> performance_profiles({"a": {"p": 1.0}, "b": {"p": 3.0}}, [1.0, 3.0])
        {'a': [1.0, 1.0], 'b': [0.0, 1.0]}
    """
    if any(factor < 1.0 for factor in factors):
        raise ValueError("factors must be at least 1, the ratio of the cheapest method to itself")
    problems = list(dict.fromkeys(problem for row in costs.values() for problem in row))
    if not problems:
        raise ValueError("performance profiles need at least one problem")
    best: dict[str, float] = {}
    for problem in problems:
        spent = [cost for row in costs.values() if (cost := row.get(problem)) is not None]
        if spent:
            best[problem] = min(spent)
    profiles = {}
    for method, row in costs.items():
        ratios = [
            cost / best[problem] for problem in problems if (cost := row.get(problem)) is not None
        ]
        profiles[method] = [sum(r <= factor for r in ratios) / len(problems) for factor in factors]
    return profiles
