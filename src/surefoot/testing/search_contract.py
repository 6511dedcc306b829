"""What every search must do on every line, however strange."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from surefoot.outcome import Status, StepOutcome
from surefoot.searches import Search
from surefoot.testing.functions import FUNCTIONS, FunctionLine, LineFunction

Condition = Callable[[FunctionLine, StepOutcome], None]
SearchFactory = Callable[[float], Search]

_PRECISIONS = (torch.float64, torch.float32, torch.bfloat16)
_NORMS = (1.0, 0.25)
_MOST_EVALUATIONS = 500
_SUCCESS = (Status.MINIMUM, Status.ACCEPTED)


def check_search(
    search_factory: SearchFactory,
    *,
    condition: Condition | None = None,
    visits: bool = True,
    decreases: bool = True,
    looks_at_losses: bool = True,
    in_lengths: bool = False,
    unit_free: bool = True,
    functions: Sequence[LineFunction] = FUNCTIONS,
) -> None:
    """Assert that a search keeps the contract of :class:`surefoot.searches.Search`.

    On every function, at every precision and for directions of several lengths: no exception; an
    honest :class:`~surefoot.outcome.Status`; a finite place that is not behind the start; a
    bounded number of evaluations, all at finite places; no step uphill, from a NaN or on a
    plateau; the same answer when asked twice and when the loss is measured in another unit.

    Args:
        search_factory: makes the search; called with the relative rounding error of the losses
            that it will see.
        condition: called with the line and the outcome wherever the search claims success
            (:attr:`Status.MINIMUM` or :attr:`Status.ACCEPTED`); raises AssertionError if
            the place does not meet the search's published condition.
        visits: the search ends only at places that it has evaluated, so the loss is finite there.
            False for rules that trust a model or measure nothing.
        decreases: it never ends above the start.
        looks_at_losses: it notices a plateau. False for rules that look at slopes only.
        in_lengths: its settings are lengths, so a longer direction gives the same move.
        unit_free: none of its settings is a loss, so the unit of the loss does not matter.
        functions: what to walk on.

    Raises:
        AssertionError: the message names the function, the precision and the outcome.

    Example:
        >>> from surefoot.searches import FixedSearch
        >>> check_search(lambda rounding: FixedSearch(0.1), visits=False, decreases=False)
    """
    for function in functions:
        for dtype in _PRECISIONS:
            for norm in _NORMS:
                line = FunctionLine(function, norm, dtype)
                outcome = _search(search_factory, line)(line)
                try:
                    _check_form(line, outcome)
                    _check_start(line, outcome, looks_at_losses)
                    _check_place(line, outcome, visits, decreases)
                    _check_repeats(line, outcome, search_factory)
                    if unit_free:
                        _check_units(line, outcome, search_factory)
                    if condition is not None and outcome.status in _SUCCESS:
                        condition(line, outcome)
                except AssertionError as error:
                    where = f"{function.name}, {dtype}, direction of length {norm}"
                    raise AssertionError(f"{where}: {error}; outcome: {outcome}") from error
        if in_lengths:
            _check_length_is_a_length(search_factory, function)


def _search(search_factory: SearchFactory, line: FunctionLine) -> Search:
    return search_factory(4.0 * torch.finfo(line.dtype).eps)


def _check_form(line: FunctionLine, outcome: StepOutcome) -> None:
    assert isinstance(outcome, StepOutcome), f"not a StepOutcome but {type(outcome).__name__}"
    assert isinstance(outcome.status, Status), f"status {outcome.status!r} is no Status"
    assert type(outcome.t) is float, f"t is a {type(outcome.t).__name__}"
    assert math.isfinite(outcome.t), "t is not finite"
    assert outcome.t >= 0.0, "t lies behind the start"
    assert math.isclose(outcome.length, outcome.t * line.direction_norm, rel_tol=1e-12)
    assert all(map(math.isfinite, line.places)), f"evaluated at {line.places}"
    assert len(line.places) <= _MOST_EVALUATIONS, f"{len(line.places)} evaluations"


def _check_start(line: FunctionLine, outcome: StepOutcome, looks_at_losses: bool) -> None:
    traits, status = line.function.traits, outcome.status
    if outcome.t == 0.0:
        assert status not in _SUCCESS, "claims success without a step"
    if status is Status.FIXED:
        return
    if "bad_start" in traits:
        assert outcome.t == 0.0, "left a start that is not finite"
        assert status is Status.NON_FINITE, "did not say that the start is not finite"
    if "flat" in traits and (looks_at_losses or line.slope0 == 0.0):
        assert outcome.t == 0.0, "walked on a plateau"
    if "ascent" in traits and line.slope0 > 0.0:
        assert outcome.t == 0.0, "walked uphill"
        assert status in (Status.NOT_DESCENT, Status.FLAT), "did not say that it goes uphill"


def _check_place(line: FunctionLine, outcome: StepOutcome, visits: bool, decreases: bool) -> None:
    if outcome.t == 0.0:
        return
    value = FunctionLine(line.function, dtype=line.dtype).value(outcome.t)
    if visits:
        assert outcome.t in line.places, "ends where it has never been"
        assert math.isfinite(value), f"ends at a loss of {value}"
    if decreases:
        assert value <= line.value0, f"ends at {value}, above the start at {line.value0}"


def _check_repeats(line: FunctionLine, outcome: StepOutcome, search_factory: SearchFactory) -> None:
    search = _search(search_factory, line)
    for _ in range(2):
        again = search(FunctionLine(line.function, line.direction_norm, line.dtype))
        assert repr(again) == repr(outcome), f"asked again: {again}"  # NaN equals NaN here


def _check_units(line: FunctionLine, outcome: StepOutcome, search_factory: SearchFactory) -> None:
    for factor in (2.0**12, 2.0**-12):  # powers of two: no rounding of their own
        times = FunctionLine(line.function.times(factor), line.direction_norm, line.dtype)
        scaled = _search(search_factory, times)(times)
        agree = scaled.status is outcome.status and math.isclose(scaled.t, outcome.t, rel_tol=1e-6)
        assert agree, f"in other units of the loss: {scaled}"


def _check_length_is_a_length(search_factory: SearchFactory, function: LineFunction) -> None:
    lines = FunctionLine(function), FunctionLine(function.stretched(0.25), 4.0)
    plain, longer = (_search(search_factory, line)(line).length for line in lines)
    assert math.isclose(plain, longer, rel_tol=1e-6), (
        f"{function.name}: {plain} along a direction of length 1, {longer} along one of length 4"
    )
