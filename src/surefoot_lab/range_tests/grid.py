"""Range tests of one experiment for several batch sizes and weight decays, drawn together."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from surefoot import plots
from surefoot.lr_range import RangeCurve
from surefoot.lr_range.suggest import DEFAULT
from surefoot_lab.config import Experiment
from surefoot_lab.range_tests.config import RangeTestConfig
from surefoot_lab.range_tests.measure import measure, without_schedule
from surefoot_lab.train.assemble import assemble

PICTURE_DPI = 130


def run_grid(experiment: Experiment, config: RangeTestConfig, stem: Path) -> int:
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
        label = f"weight decay {'of the experiment' if decay is None else plain(decay)}"
        suffix = f"-bs{size}" + ("" if decay is None else f"-wd{plain(decay)}")
        curve.to_json(f"{stem}{suffix}.json")
        print(f"batch size {size}, {label}: {curve.message}")
        panels.setdefault(f"batch size {size}", {})[label] = curve
        suggestion = curve.suggest(DEFAULT)
        found |= bool(suggestion)
        lowest = min(filter(math.isfinite, curve.loss), default=math.nan)
        table.add_row(
            str(size),
            "as given" if decay is None else plain(decay),
            "-" if suggestion.rate is None else f"{suggestion.rate:.3g}",
            f"{lowest:.3g}",
            suggestion.reason or "",
        )
    save_picture(plots.range_grid(panels), Path(f"{stem}-grid.png"), dpi=PICTURE_DPI)
    Console().print(table)
    print(f"{stem}-grid.png  {sum(map(len, panels.values()))} curves: {stem}-bs*.json")
    return 0 if found else 1


def plain(number: float) -> str:
    """`0` and `0.001` rather than `0.0` and `1e-3`, but never another number."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def save_picture(figure: Any, path: Path, dpi: int) -> None:
    """Write a figure of matplotlib, and forget it."""
    from matplotlib import pyplot

    figure.savefig(path, dpi=dpi)
    pyplot.close(figure)


def _varied(experiment: Experiment, batch_size: int, weight_decay: float | None) -> Experiment:
    own = copy.deepcopy(experiment)
    own.batch_size = batch_size
    if weight_decay is not None:
        own.optimizer.init_args["weight_decay"] = weight_decay
    return own
