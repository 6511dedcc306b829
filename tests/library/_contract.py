"""The contract of a line-search optimizer, one check a clause."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from _contract_bench import Bench, global_random_state_kept
from _contract_state import STATE_CONTRACTS
from _contract_steps import STEP_CONTRACTS

from surefoot.optim import LineSearchOptimizer

_CONTRACTS = {contract.__name__: contract for contract in (*STEP_CONTRACTS, *STATE_CONTRACTS)}

OPTIMIZER_CONTRACTS: tuple[str, ...] = tuple(_CONTRACTS)
"""Names of the clauses, each a sentence whose subject is the optimizer."""


def check_optimizer(
    factory: Callable[..., LineSearchOptimizer],
    *,
    repeatable: bool = True,
    contracts: Sequence[str] = OPTIMIZER_CONTRACTS,
) -> None:
    """Assert that an optimizer keeps the contract of :class:`surefoot.LineSearchOptimizer`.

    Args:
        factory: makes the optimizer; called with a model, with parameters or with groups,
            and with some of ``model``, ``weight_decay``, ``total_steps`` and ``on_measure``.
            One that measures rarely should be made to measure within ten steps.
        repeatable: whether it must refuse a closure whose losses change from call to call.
        contracts: the clauses to check; an AssertionError names the one that is not kept.
    """
    bench = Bench(factory, repeatable)
    for name in contracts:
        with global_random_state_kept():
            try:
                _CONTRACTS[name](bench)
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from error
