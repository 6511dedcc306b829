"""Measure a learning rate: train for a moment while the rate rises, then put everything back.
Leaves a picture (PNG) and the curve (JSON) in the current directory. Every setting of the
experiment can be overridden as in `surefoot train`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from surefoot.lr_range import NoSuggestion, RangeCurve
from surefoot.lr_range.schedules import ONE_CYCLE_RULE
from surefoot.lr_range.suggest import DEFAULT, RULES
from surefoot_lab._command import add_settings, settings_of
from surefoot_lab.errors import UserError
from surefoot_lab.parse import parse_words
from surefoot_lab.range_tests.config import RangeTestConfig
from surefoot_lab.range_tests.grid import PICTURE_DPI, run_grid, save_picture
from surefoot_lab.range_tests.measure import measure, with_one_cycle
from surefoot_lab.records import RunRecord
from surefoot_lab.train import train
from surefoot_lab.train_command import add_run_arguments, conclude

CURVE_NAME = "range_test.json"


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
        return run_grid(experiment, config, stem)
    curve, total_steps = measure(experiment, **config.of_each)
    curve.to_json(f"{stem}.json")
    save_picture(curve.plot().figure, Path(f"{stem}.png"), dpi=PICTURE_DPI)
    print(f"{curve.message}; {curve.seconds:.1f} s")
    _show(curve)
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


def _show(curve: RangeCurve) -> None:
    table = Table("rule", "learning rate", "remark")
    for name, suggestion in curve.suggestions().items():
        remark = "the default" if name == DEFAULT else ""
        rate = "-" if suggestion.rate is None else f"{suggestion.rate:.3g}"
        table.add_row(name, rate, suggestion.reason or remark)
    Console().print(table)
