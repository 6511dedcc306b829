"""One row per method: what its runs reached, over seeds, and what they cost."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from surefoot_lab.compare.intervals import Interval, paired_difference

if TYPE_CHECKING:
    from surefoot_lab.records import RunRecord

SGD_FORWARD_EQUIVALENTS = 3  # one batch of plain SGD: a forward, and a backward counted as two


class State(str, Enum):
    """How a run ended. Only a finished run has final figures."""

    FINISHED = "finished"
    NON_FINITE = "non-finite"
    INTERRUPTED = "interrupted"
    FAILED = "failed"  # an error, which the record's message names
    STOPPED = "stopped early"  # given up by the sweep it belongs to
    UNFINISHED = "unfinished"  # no end in the record: killed, or still running


_STATES = {"finished": State.FINISHED, "failed": State.FAILED, "stopped": State.STOPPED}


@dataclass(frozen=True)
class Spread:
    """One figure over the runs that have it."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """That of the values that are there; None if there is none."""
        known = tuple(float(value) for value in values if value is not None)
        return cls(known) if known else None

    @property
    def n(self) -> int:
        """How many runs have the figure."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """The arithmetic mean."""
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float | None:
        """The sample standard deviation (n - 1 below the line); None for a single run."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Rate:
    """Where the learning rate came from: measured, or given by whoever wrote the experiment.

    `given` is the largest that a schedule goes up to, where it names one (`rises`).
    """

    measured: bool
    given: float | None
    schedule: str | None
    rises: bool = False

    def __str__(self) -> str:
        if self.measured:
            return "measured"
        rate = "default" if self.given is None else f"{self.given:g}"
        rate = f"up to {rate}" if self.rises else rate
        return rate if self.schedule is None else f"{rate}, {self.schedule}"


@dataclass(frozen=True)
class RunSummary:
    """The figures of one run; None where the record does not hold them.

    Accuracies are shares between 0 and 1, `seconds` is training time without evaluation, and
    `relative_cost` is the number of forward-equivalents (forwards + 2 backwards) over what plain
    SGD spends on the same number of batches.
    """

    name: str
    label: str
    seed: int | None
    path: str
    state: State
    message: str | None
    rate: Rate
    steps: int
    test_accuracy: float | None
    test_loss: float | None
    validation_accuracy: float | None
    validation_loss: float | None
    best_validation_accuracy: float | None
    train_loss: float | None
    forward_equivalents: int | None
    relative_cost: float | None
    seconds: float | None
    problems: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Name of the run's directory, which tells apart the runs of one experiment."""
        return self.path.replace("\\", "/").rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class MethodSummary:
    """All runs that share a label."""

    label: str
    runs: tuple[RunSummary, ...]

    @property
    def finished(self) -> int:
        """How many of the runs came to their end with finite numbers."""
        return sum(run.state is State.FINISHED for run in self.runs)

    @property
    def failures(self) -> dict[State, int]:
        """How many runs ended in each way other than finished."""
        counts = {state: sum(run.state is state for run in self.runs) for state in State}
        return {k: n for k, n in counts.items() if n and k is not State.FINISHED}

    @property
    def rates(self) -> str:
        """Where the learning rate came from, in words."""
        return " / ".join(dict.fromkeys(str(run.rate) for run in self.runs))

    def counted(self, figure: str) -> list[RunSummary]:
        """The runs that count for a figure (a field of `RunSummary`).

        The cost of a batch counts for every run; accuracies, losses and seconds only where the run
        finished, since a half-way figure of a run that broke off is not comparable.
        """
        every = figure == "relative_cost"
        return [
            run
            for run in self.runs
            if (every or run.state is State.FINISHED) and getattr(run, figure) is not None
        ]

    def spread(self, figure: str) -> Spread | None:
        """The spread of one figure over the runs that count for it; None if none does."""
        return Spread.of(getattr(run, figure) for run in self.counted(figure))

    def difference(self, other: MethodSummary, figure: str) -> Interval | None:
        """This method's figure minus another's, by seed; None if they share no seed."""
        own, others = (
            {run.seed: getattr(run, figure) for run in m.counted(figure) if run.seed is not None}
            for m in (self, other)
        )
        return paired_difference(own, others)


def summarize(runs: Iterable[RunRecord]) -> list[MethodSummary]:
    """Group runs by label and order the methods, the best first.

    The order: methods whose runs all finished before those with a failed run; within each, by
    mean final test accuracy, then by validation accuracy, then by the smaller loss.
    """
    groups: dict[str, list[RunSummary]] = {}
    for run in runs:
        groups.setdefault(run.label, []).append(summarize_run(run))
    methods = [
        MethodSummary(label, tuple(sorted(group, key=lambda r: (r.seed is None, r.seed or 0))))
        for label, group in groups.items()
    ]
    return sorted(methods, key=_rank)


def level_with_best(methods: Sequence[MethodSummary], figure: str) -> list[MethodSummary]:
    """The methods that cannot be told from the first one by this figure.

    Those whose difference from it, seed by seed, has a 95 % interval that holds zero. Two methods
    that share fewer than two seeds have no interval, and are never called level.
    """
    found = [(m, m.difference(methods[0], figure)) for m in methods[1:]]
    return [m for m, d in found if d is not None and d.low is not None and not d.excludes_zero]


def ranked_by(methods: Sequence[MethodSummary]) -> str | None:
    """The figure that the first method is first by; None where it has none."""
    figures = ("test_accuracy", "validation_accuracy", "test_loss", "validation_loss")
    return next((f for f in figures if methods and methods[0].spread(f) is not None), None)


def summarize_run(run: RunRecord) -> RunSummary:
    """The figures of one record."""
    validation, test = run.split("validation"), run.split("test")
    accuracies = [a for line in validation if (a := line.get("accuracy")) is not None]
    last = max([*run.steps, *run.evaluations], key=lambda line: line["step"], default={})
    steps, spent = last.get("step", 0), last.get("cost")
    return RunSummary(
        name=run.name,
        label=run.label,
        seed=run.seed,
        path=str(run.path),
        state=_state(run),
        message=(run.end or {}).get("message"),
        rate=_rate(run),
        steps=steps,
        test_accuracy=_last(test, "accuracy"),
        test_loss=_last(test, "loss"),
        validation_accuracy=_last(validation, "accuracy"),
        validation_loss=_last(validation, "loss"),
        best_validation_accuracy=max(accuracies, default=None),
        train_loss=_last(run.steps, "train_loss"),
        forward_equivalents=spent,
        relative_cost=spent / (SGD_FORWARD_EQUIVALENTS * steps) if spent and steps else None,
        seconds=last.get("seconds"),
        problems=tuple(str(problem) for problem in run.problems),
    )


def _rank(method: MethodSummary) -> tuple[Any, ...]:
    def key(figure: str, sign: int) -> tuple[bool, float]:
        spread = method.spread(figure)
        return (True, 0.0) if spread is None else (False, sign * spread.mean)

    return (
        method.finished < len(method.runs),
        key("test_accuracy", -1),
        key("validation_accuracy", -1),
        key("test_loss", 1),
        key("validation_loss", 1),
        method.label,
    )


def _state(run: RunRecord) -> State:
    reason = (run.end or {}).get("reason")
    # A loop may go on to its last step with a loss that is NaN: that is not a finish.
    if reason == "non_finite" or (run.steps and run.steps[-1].get("non_finite")):
        return State.NON_FINITE
    if reason is None:
        return State.UNFINISHED
    return _STATES.get(reason, State.INTERRUPTED)


def _rate(run: RunRecord) -> Rate:
    # The record itself says whether a rate was measured; the optimizer's name need not be known.
    measured = bool(run.measurements) or any(line.get("status") for line in run.steps)
    given = run.setting("optimizer.init_args.lr")
    top = run.setting("scheduler.init_args.max_lr")
    scheduler = run.setting("scheduler.class_path")
    rate = next((r for r in (top, given) if isinstance(r, int | float)), None)
    name = str(scheduler).rpartition(".")[2] if scheduler else None
    return Rate(measured, rate, name, rises=rate is not None and rate is top)


def _last(lines: Sequence[Mapping[str, Any]], key: str) -> float | None:
    return lines[-1].get(key) if lines else None
