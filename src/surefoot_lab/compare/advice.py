"""Which method to use on a task, in one sentence that says why and what may be chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surefoot_lab.compare.summary import MethodSummary, level_with_best, ranked_by
from surefoot_lab.compare.text import number, percent

if TYPE_CHECKING:
    from surefoot_lab.records import RunRecord

LENGTHS = ("total_steps", "T_max", "total_iters", "max_iter", "epochs")


@dataclass(frozen=True)
class Advice:
    """What follows from a comparison.

    Attributes:
        method: the one to use; None where nothing can be told apart.
        level: the first method and those within noise of it.
        sentence: both in words.
    """

    method: MethodSummary | None
    level: tuple[MethodSummary, ...]
    sentence: str


def advise(runs: Sequence[RunRecord], methods: Sequence[MethodSummary]) -> Advice | None:
    """The method to use: of those within noise of the best, the one that asks for least.

    Least to choose comes first (a rate, a schedule, the length of the run), then the cost in
    tenths, then the figure itself. None where there is nothing to compare.

    Args:
        runs: the records that `methods` were made from; of one task.
        methods: in the order of :func:`~surefoot_lab.compare.summarize`.
    """
    figure = ranked_by(methods)
    if figure is None or len(methods) < 2 or len({run.name for run in runs}) > 1:
        return None
    best, what = methods[0], figure.replace("_", " ")
    text = percent if figure.endswith("accuracy") else number
    if not any((d := m.difference(best, figure)) and d.low is not None for m in methods[1:]):
        sentence = (
            f"{best.label} has the best {what} here, {text(best.spread(figure))}, but one run a "
            "method tells no difference from chance: give each at least two seeds."
        )
        return Advice(None, (best,), sentence)
    level = (best, *level_with_best(methods, figure))
    records = {run.label: run for run in runs}
    chosen = {m.label: _chosen(m, records[m.label]) for m in level}

    def asks(method: MethodSummary) -> tuple[int, float, int]:
        cost = method.spread("relative_cost")
        tenths = 0.0 if cost is None else round(cost.mean, 1)
        return len(chosen[method.label]), tenths, methods.index(method)

    use = min(level, key=asks)
    sentence = f"On this task use {use.label}, because "
    if use is best:
        sentence += f"it has the best {what}, {text(use.spread(figure))}"
    else:
        sentence += (
            f"its {what}, {text(use.spread(figure))}, is within noise of the best "
            f"({best.label}, {text(best.spread(figure))})"
        )
    if not chosen[use.label]:
        sentence += " and nothing was chosen for it"
    elif len(level) > 1:
        sentence += f" and it asks for least: {', '.join(chosen[use.label])}"
    others = [m.label for m in level if m not in (use, best)]
    if others:
        listed = " and ".join(filter(None, [", ".join(others[:-1]), others[-1]]))
        sentence += f"; {listed} {'is' if len(others) == 1 else 'are'} within noise, too"
    return Advice(use, level, sentence + ".")


def _chosen(method: MethodSummary, run: RunRecord) -> list[str]:
    """What somebody decided for the optimizer beforehand."""
    arguments: dict[str, Any] = {}
    for key in ("optimizer.init_args", "filled_in.optimizer"):
        given = run.setting(key)
        arguments |= given if isinstance(given, dict) else {}
    rate = method.runs[0].rate
    found = []
    if not rate.measured:
        found.append("a default learning rate" if rate.given is None else "a learning rate")
    if rate.schedule is not None:
        found.append("a schedule")
    if rate.schedule is not None or any(arguments.get(key) is not None for key in LENGTHS):
        found.append("the length of the run")
    return found
