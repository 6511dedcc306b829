"""The contract of a line-search optimizer, one check a clause."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from surefoot.optim import LineSearchOptimizer
from surefoot.testing._bench import Bench, global_random_state_kept
from surefoot.testing._state_contracts import STATE_CONTRACTS
from surefoot.testing._step_contracts import STEP_CONTRACTS

_CONTRACTS = {contract.__name__: contract for contract in (*STEP_CONTRACTS, *STATE_CONTRACTS)}

OPTIMIZER_CONTRACTS: tuple[str, ...] = tuple(_CONTRACTS)
"""Names of the clauses, each a sentence whose subject is the optimizer."""


def check_optimizer(
    optimizer_factory: Callable[..., LineSearchOptimizer],
    *,
    repeatable: bool = True,
    contracts: Sequence[str] = OPTIMIZER_CONTRACTS,
) -> None:
    """Assert that an optimizer keeps the contract of :class:`surefoot.LineSearchOptimizer`.

    Small nets with BatchNorm and dropout are trained for some dozen steps on the CPU. What the
    clauses ask for stands in :data:`OPTIMIZER_CONTRACTS`.

    Args:
        optimizer_factory: makes the optimizer; called with a model, with parameters or with groups,
            and with some of ``model``, ``weight_decay``, ``total_steps`` and ``on_measure``.
            An optimizer that measures rarely should be made to measure within ten steps.
        repeatable: whether it must refuse a closure whose losses change from call to call.
        contracts: the clauses to check.

    Raises:
        AssertionError: the message names the clause.

    Example:
        >>> import surefoot
        >>> check_optimizer(surefoot.SLS, contracts=["counts_what_it_spends"])
    """
    bench = Bench(optimizer_factory, repeatable)
    for name in contracts:
        with global_random_state_kept():
            try:
                _CONTRACTS[name](bench)
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from error
