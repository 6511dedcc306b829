"""Measure a learning rate: train for a moment while the rate rises, then put everything back.
Leaves a picture (PNG) and the curve (JSON) in the current directory. Every setting of the
experiment can be overridden as in `surefoot train`.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from surefoot import plots
from surefoot.lr_range import NoSuggestion, RangeCurve
from surefoot.lr_range.schedules import ONE_CYCLE_RULE
from surefoot.lr_range.suggest import DEFAULT, RULES
from surefoot_lab._command import add_settings, settings_of
from surefoot_lab.config import Experiment
from surefoot_lab.errors import UserError
from surefoot_lab.parse import parse_words
from surefoot_lab.range_tests.measure import (
    RangeTestConfig,
    measure,
    with_one_cycle,
    without_schedule,
)
from surefoot_lab.records import RunRecord
from surefoot_lab.train_command import add_run_arguments, conclude
from surefoot_lab.training import train
from surefoot_lab.training.assemble import assemble

CURVE_NAME = "range_test.json"
PICTURE_DPI = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `surefoot range-test`."""
    add_settings(parser, RangeTestConfig)
    parser.add_argument(
        "--then",
        choices=("one_cycle",),
        help="train with the measured rate as the maximum of a 1cycle schedule; the steps of the "
        "test count towards the experiment's",
    )
    parser.add_argument(
        "--rule", choices=list(RULES), default=ONE_CYCLE_RULE, help="which suggestion --then takes"
    )
    add_run_arguments(parser)


def main(options: argparse.Namespace) -> int:
    """Run `surefoot range-test`.

    Returns:
        The exit code: that of the training with `--then`, else 0 if there is a suggestion, 1 if
        the curve holds none.
    """
    experiment = parse_words(options.words).experiment
    if options.out and not options.then:
        raise UserError("--out: the run directory belongs to the training of --then one_cycle")
    stem = Path(f"range-test-{experiment.run_dir.parent.name}-{experiment.run_dir.name}")
    config = settings_of(options, RangeTestConfig)
    if config.batch_sizes or config.weight_decays:
        if options.then:
            raise UserError(
                "--then: takes the rate of one range test; leave out the grid's options"
            )
        return _run_grid(experiment, config, stem)
    curve, total_steps = measure(experiment, **config.of_each)
    curve.to_json(f"{stem}.json")
    _save_picture(curve.plot().figure, Path(f"{stem}.png"))
    print(f"{curve.message}; {curve.seconds:.1f} s")
    table = Table("rule", "learning rate", "remark")
    for name, suggestion in curve.suggestions().items():
        remark = "the default" if name == DEFAULT else ""
        rate = "-" if suggestion.rate is None else f"{suggestion.rate:.3g}"
        table.add_row(name, rate, suggestion.reason or remark)
    Console().print(table)
    print(f"{stem}.png  {stem}.json")
    if options.then is None:
        return 0 if curve.suggest(DEFAULT) else 1
    try:
        measured = with_one_cycle(experiment, curve, curve.suggestion(options.rule), total_steps)
    except NoSuggestion as error:
        print(f"surefoot: error: {error}", file=sys.stderr)
        return 1
    run_dir = Path(options.out) if options.out else measured.run_dir
    rate = measured.scheduler.init_args["max_lr"]
    print(f"1cycle up to {rate:.3g} for the remaining {measured.steps} steps")

    def run() -> RunRecord:
        record = train(measured, run_dir, overwrite=options.overwrite)
        curve.to_json(run_dir / CURVE_NAME)
        return record

    return conclude(run, run_dir)


def _run_grid(experiment: Experiment, config: RangeTestConfig, stem: Path) -> int:
    """Measure every pair, write a curve (JSON) each and a picture (PNG) of all, show a table.

    Args:
        experiment: what is varied; its batch size and weight decay where none are given.
        config: batch sizes, weight decays, and how each is measured.
        stem: beginning of the files' names.

    Returns:
        The exit code: 1 if no curve holds a suggestion, else 0.

    Raises:
        UserError: a pair cannot be used; all are tried before the first is measured.
    """
    sizes, decays = config.batch_sizes or (experiment.batch_size,), config.weight_decays or (None,)
    for size in sizes:
        assemble(without_schedule(_varied(experiment, size, decays[0])))
    panels: dict[str, dict[str, RangeCurve]] = {}
    table = Table(
        "batch size", "weight decay", f"learning rate ({DEFAULT})", "lowest loss", "remark"
    )
    found = False
    for size, decay in itertools.product(sizes, decays):
        curve, _ = measure(_varied(experiment, size, decay), **config.of_each)
        label = f"weight decay {'of the experiment' if decay is None else _plain(decay)}"
        suffix = f"-bs{size}" + ("" if decay is None else f"-wd{_plain(decay)}")
        curve.to_json(f"{stem}{suffix}.json")
        print(f"batch size {size}, {label}: {curve.message}")
        panels.setdefault(f"batch size {size}", {})[label] = curve
        suggestion = curve.suggest(DEFAULT)
        found |= bool(suggestion)
        lowest = min(filter(math.isfinite, curve.loss), default=math.nan)
        table.add_row(
            str(size),
            "as given" if decay is None else _plain(decay),
            "-" if suggestion.rate is None else f"{suggestion.rate:.3g}",
            f"{lowest:.3g}",
            suggestion.reason or "",
        )
    _save_picture(plots.range_grid(panels), Path(f"{stem}-grid.png"))
    Console().print(table)
    print(f"{stem}-grid.png  {sum(map(len, panels.values()))} curves: {stem}-bs*.json")
    return 0 if found else 1


def _plain(number: float) -> str:
    """`0` and `0.001` rather than `0.0` and `1e-3`, but never another number."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def _save_picture(figure: Any, path: Path) -> None:
    """Write a figure of matplotlib, and forget it."""
    from matplotlib import pyplot

    figure.savefig(path, dpi=PICTURE_DPI)
    pyplot.close(figure)


def _varied(experiment: Experiment, batch_size: int, weight_decay: float | None) -> Experiment:
    own = copy.deepcopy(experiment)
    own.batch_size = batch_size
    if weight_decay is not None:
        own.optimizer.init_args["weight_decay"] = weight_decay
    return own
