"""Range tests of one experiment for several batch sizes and weight decays, drawn together."""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from surefoot import plots
from surefoot.lr_range import RangeCurve
from surefoot.lr_range.suggest import DEFAULT
from surefoot_lab.build import argument_names, find
from surefoot_lab.config import Experiment, UserError
from surefoot_lab.rivals import resolve

PICTURE_DPI = 110


def plain(number: float) -> str:
    """`0` and `0.001` rather than `0.0` and `1e-3`, but never another number."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


@dataclass(frozen=True)
class Pair:
    """One cell of the grid.

    Attributes:
        batch_size: images per step.
        weight_decay: of the optimizer; None leaves it as the experiment has it.
    """

    batch_size: int
    weight_decay: float | None

    @property
    def label(self) -> str:
        """The weight decay in words."""
        if self.weight_decay is None:
            return "weight decay of the experiment"
        return f"weight decay {plain(self.weight_decay)}"

    @property
    def suffix(self) -> str:
        """What tells this pair's file from the others'."""
        decay = "" if self.weight_decay is None else f"-wd{plain(self.weight_decay)}"
        return f"-bs{self.batch_size}{decay}"

    def of(self, experiment: Experiment) -> Experiment:
        """The experiment with these settings."""
        own = copy.deepcopy(experiment)
        own.batch_size = self.batch_size
        if self.weight_decay is not None:
            own.optimizer.init_args["weight_decay"] = self.weight_decay
        return own


def run_grid(experiment: Experiment, options: argparse.Namespace, stem: Path) -> int:
    """Measure every pair, write a curve (JSON) each and a picture (PNG) of all, show a table.

    Args:
        experiment: what is varied.
        options: those of `surefoot range-test`.
        stem: beginning of the files' names.

    Returns:
        The exit code: 1 if no curve holds a suggestion, else 0.

    Raises:
        UserError: a pair cannot be used; all are tried before the first is measured.
    """
    from surefoot_lab.range_test import measure, without_schedule
    from surefoot_lab.train.assemble import assemble

    pairs = pairs_of(experiment, options)
    for pair in {pair.batch_size: pair for pair in pairs}.values():
        assemble(without_schedule(pair.of(experiment)))
    curves: dict[Pair, RangeCurve] = {}
    for pair in pairs:
        curves[pair], _ = measure(pair.of(experiment), options)
        curves[pair].to_json(f"{stem}{pair.suffix}.json")
        print(f"batch size {pair.batch_size}, {pair.label}: {curves[pair].message}")
    draw(curves, Path(f"{stem}-grid.png"))
    _show(curves)
    print(f"{stem}-grid.png  {len(curves)} curves: {stem}-bs*.json")
    return 0 if any(curve.suggest(DEFAULT) for curve in curves.values()) else 1


def pairs_of(experiment: Experiment, options: argparse.Namespace) -> list[Pair]:
    """The pairs asked for, batch size by batch size.

    Raises:
        UserError: a value no run could use, one given twice, or an optimizer without weight decay.
    """
    if options.then:
        raise UserError("--then: takes the rate of one range test; leave out the grid's options")
    sizes = options.batch_sizes or [experiment.batch_size]
    decays: Sequence[float | None] = options.weight_decays or [None]
    for size in sizes:
        if size < 1:
            raise UserError(f"--batch-sizes: must be at least 1, not {size}")
    for decay in options.weight_decays or []:
        if not (decay >= 0 and math.isfinite(decay)):
            raise UserError(f"--weight-decays: must not be negative, but one is {decay}")
    _no_value_twice("--batch-sizes", sizes)
    _no_value_twice("--weight-decays", decays)
    if options.weight_decays:
        _needs_weight_decay(experiment.optimizer.class_path)
    return [Pair(size, decay) for size in sizes for decay in decays]


def draw(curves: dict[Pair, RangeCurve], path: Path) -> None:
    """Write the picture: a panel a batch size, a curve a weight decay."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels: dict[str, dict[str, RangeCurve]] = {}
    for pair, curve in curves.items():
        panels.setdefault(f"batch size {pair.batch_size}", {})[pair.label] = curve
    figure = plots.range_grid(panels)
    figure.savefig(path, dpi=PICTURE_DPI)
    pyplot.close(figure)


def _no_value_twice(option: str, values: Sequence[float | None]) -> None:
    for value in values:
        if list(values).count(value) > 1:
            raise UserError(f"{option}: {value} is given twice")


def _needs_weight_decay(class_path: str) -> None:
    where = ["surefoot", "torch.optim"]
    constructor = find(
        resolve(class_path), where, "optimizer.class_path", base=torch.optim.Optimizer
    )
    if "weight_decay" not in argument_names(constructor):
        raise UserError(
            f"--weight-decays: {class_path} takes no weight_decay; leave the option out"
        )


def _show(curves: dict[Pair, RangeCurve]) -> None:
    table = Table(
        "batch size", "weight decay", f"learning rate ({DEFAULT})", "lowest loss", "remark"
    )
    for pair, curve in curves.items():
        suggestion = curve.suggest(DEFAULT)
        decay = "as given" if pair.weight_decay is None else plain(pair.weight_decay)
        rate = "-" if suggestion.rate is None else f"{suggestion.rate:.3g}"
        lowest = min(filter(math.isfinite, curve.loss), default=math.nan)
        table.add_row(str(pair.batch_size), decay, rate, f"{lowest:.3g}", suggestion.reason or "")
    Console().print(table)
