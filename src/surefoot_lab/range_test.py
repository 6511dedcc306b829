"""Measure a learning rate for an experiment, draw it, and train with it if asked."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from surefoot.lr_range import NoSuggestion, Progress, RangeCurve, range_test
from surefoot.lr_range.schedules import ONE_CYCLE_RULE
from surefoot.lr_range.suggest import DEFAULT, RULES
from surefoot_lab.config import Experiment, SchedulerConfig, UserError
from surefoot_lab.data import TrainLoader, in_order
from surefoot_lab.data.loader import Batch
from surefoot_lab.parse import joined, parse_train
from surefoot_lab.range_grid import run_grid
from surefoot_lab.train.assemble import Parts, assemble

CURVE_NAME = "range_test.json"


def run(words: Sequence[str]) -> int:
    """Run `surefoot range-test`.

    Args:
        words: the words after `range-test`: its own options, an experiment file, overrides.

    Returns:
        The exit code: that of the training with `--then`, else 0 if there is a suggestion, 1 if
        the curve holds none.
    """
    own, rest = _parser().parse_known_args(joined(words))
    if "--resume" in rest:
        raise UserError("--resume: resume the training itself: surefoot train --resume --out RUN")
    arguments = parse_train(rest)
    if arguments.out and not own.then:
        raise UserError("--out: the run directory belongs to the training of --then one_cycle")
    experiment = arguments.experiment
    stem = Path(f"range-test-{experiment.run_dir.parent.name}-{experiment.run_dir.name}")
    if own.batch_sizes or own.weight_decays:
        return run_grid(experiment, own, stem)
    curve, total_steps = measure(experiment, own)
    _save(curve, stem)
    print(f"{curve.message}; {curve.seconds:.1f} s")
    _show(curve)
    print(f"{stem}.png  {stem}.json")
    if own.then is None:
        return 0 if curve.suggest(DEFAULT) else 1
    try:
        measured = with_one_cycle(experiment, curve, curve.suggestion(own.rule), total_steps)
    except NoSuggestion as error:
        print(f"surefoot: error: {error}", file=sys.stderr)
        return 1
    return _train(measured, curve, arguments.out or measured.run_dir, arguments.overwrite)


def measure(experiment: Experiment, options: argparse.Namespace) -> tuple[RangeCurve, int]:
    """The range test of an experiment, with a progress bar on a terminal.

    The experiment's scheduler is left out: the test makes its own rates.

    Returns:
        The curve, and the number of steps the experiment is to be trained.

    Raises:
        UserError: something in the experiment cannot be used.
    """
    parts = assemble(without_schedule(experiment))
    if parts.team.size > 1:
        raise UserError("range-test runs in one process; train with several afterwards")
    try:
        with _bar(options.num_iter) as show:
            curve = range_test(
                parts.model,
                parts.optimizer,
                Stream(parts.loader),
                parts.loss_fn,
                start_lr=options.start_lr,
                end_lr=options.end_lr,
                num_iter=options.num_iter,
                step_mode=options.step_mode,
                val_loader=Validation(parts) if options.validate else None,
                on_progress=show,
            )
    except (TypeError, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from error
    return curve, parts.extent.total_steps


def without_schedule(experiment: Experiment) -> Experiment:
    """The experiment at a constant rate."""
    return dataclasses.replace(copy.deepcopy(experiment), scheduler=SchedulerConfig())


class Stream:
    """The batches of a training loader without end; its place can be kept."""

    def __init__(self, loader: TrainLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self._loader.next_batch()

    def state_dict(self) -> dict[str, Any]:
        """The place in the stream."""
        return self._loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a place."""
        self._loader.load_state_dict(state)


class Validation:
    """The validation images of an experiment, batch by batch."""

    def __init__(self, parts: Parts) -> None:
        self._images = parts.data.validation
        self._normalizer = parts.normalizer
        self._batch_size = parts.experiment.train.eval_batch_size
        if len(self._images) == 0:
            raise UserError("--validate: the experiment has no validation images")

    def __len__(self) -> int:
        return math.ceil(len(self._images) / self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return in_order(self._images, self._normalizer, self._batch_size)


def _train(measured: Experiment, curve: RangeCurve, run_dir: Path, overwrite: bool) -> int:
    """Train, and keep the curve beside the record of the run."""
    from surefoot_lab.cli import conclude
    from surefoot_lab.train import train

    rate = measured.scheduler.init_args["max_lr"]
    print(f"1cycle up to {rate:.3g} for the remaining {measured.steps} steps")

    def run() -> Any:
        record = train(measured, run_dir, overwrite=overwrite)
        curve.to_json(run_dir / CURVE_NAME)
        return record

    return conclude(run, run_dir)


def with_one_cycle(
    experiment: Experiment, curve: RangeCurve, rate: float, total_steps: int
) -> Experiment:
    """The experiment with a 1cycle schedule, shortened by what the test has spent.

    Raises:
        UserError: nothing of the budget is left to train with.
    """
    # a step is one forward and one backward pass, three forward-equivalents
    spent = math.ceil(curve.cost.forward_equivalents / 3)
    if total_steps - spent < 10:
        raise UserError(
            f"steps: the range test has used {spent} of {total_steps} steps, and too few are left "
            "to train with"
        )
    return dataclasses.replace(
        experiment,
        label=f"{experiment.optimizer.class_path.rpartition('.')[2]} + measured 1cycle",
        steps=total_steps - spent,
        scheduler=SchedulerConfig("surefoot.lr_range.one_cycle", {"max_lr": rate}),
    )


def _save(curve: RangeCurve, stem: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curve.to_json(f"{stem}.json")
    axes = curve.plot()
    axes.figure.savefig(f"{stem}.png", dpi=150)
    pyplot.close(axes.figure)


def _show(curve: RangeCurve) -> None:
    table = Table("rule", "learning rate", "remark")
    for name, suggestion in curve.suggestions().items():
        remark = "the default" if name == DEFAULT else ""
        rate = "-" if suggestion.rate is None else f"{suggestion.rate:.3g}"
        table.add_row(name, rate, suggestion.reason or remark)
    Console().print(table)


class _bar:
    """A progress bar on a terminal, nothing elsewhere; gives the callback that feeds it."""

    def __init__(self, total: int) -> None:
        console = Console()
        columns = (
            TextColumn("range test"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self._bar = Bar(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=total, figures="")

    def __enter__(self) -> Any:
        self._bar.start()
        return self._update

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _update(self, progress: Progress) -> None:
        figures = f"lr {progress.lr:.2e}  loss {progress.loss:.4f}  best {progress.best:.4f}"
        self._bar.update(self._task, completed=progress.iteration + 1, figures=figures)


def _parser() -> argparse.ArgumentParser:
    from surefoot_lab.cli import _OneLineParser

    parser = _OneLineParser(
        prog="surefoot range-test",
        usage="surefoot range-test [EXPERIMENT.yaml] [OPTIONS] [--KEY VALUE ...]",
        description="Measure a learning rate: train for a moment while the rate rises, then put "
        "everything back. Leaves a picture (PNG) and the curve (JSON) in the current directory. "
        "Every setting of the experiment can be overridden as in `surefoot train`.",
        allow_abbrev=False,
    )
    parser.add_argument("--start-lr", type=float, default=1e-7, help="lowest rate (1e-7)")
    parser.add_argument("--end-lr", type=float, default=10.0, help="highest rate (10)")
    parser.add_argument("--num-iter", type=int, default=100, help="optimizer steps (100)")
    parser.add_argument(
        "--step-mode", choices=("exp", "linear"), default="exp", help="how the rate rises (exp)"
    )
    parser.add_argument("--validate", action="store_true", help="measure on validation images, too")
    parser.add_argument(
        "--then",
        choices=("one_cycle",),
        help="train with the measured rate as the maximum of a 1cycle schedule; the steps of the "
        "test count towards the experiment's",
    )
    parser.add_argument(
        "--rule", choices=list(RULES), default=ONE_CYCLE_RULE, help="which suggestion --then takes"
    )
    grid = parser.add_argument_group(
        "grid", "a range test for each pair, all in one picture with a panel a batch size"
    )
    grid.add_argument("--batch-sizes", type=int, nargs="+", metavar="N", help="images per step")
    grid.add_argument(
        "--weight-decays", type=float, nargs="+", metavar="W", help="of the optimizer"
    )
    return parser
