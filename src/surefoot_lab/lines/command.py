"""Train, and before every n-th step measure the loss along the direction of that step, for each
batch and for all the data. Writes records as it goes; called again, it goes on. At the end:
findings.json, pictures (PNG) and lines.html. The options can stand in the section `lines` of the
file, too; every setting of the experiment can be overridden as in `surefoot train`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from surefoot.shape import LineRecords, LineSample
from surefoot_lab._command import add_settings, settings_of
from surefoot_lab.config import Experiment
from surefoot_lab.errors import UserError, of_the_system
from surefoot_lab.lines.draw import draw
from surefoot_lab.lines.findings import find, mark
from surefoot_lab.lines.run import OTHERS, RECORDS, LinesConfig, sample_experiment
from surefoot_lab.parse import parse_words
from surefoot_lab.report.files import write_pictures
from surefoot_lab.training.progress import bar_of

ASKED = "asked.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `surefoot lines`."""
    add_settings(parser, LinesConfig)
    parser.add_argument("--out", help="folder; default runs/NAME/LABEL-seedN-lines")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in the folder")
    parser.add_argument(
        "--report-only", action="store_true", help="only findings and pictures, from the records"
    )


def main(options: argparse.Namespace) -> int:
    """Run `surefoot lines`.

    Raises:
        UserError: the file or an option cannot be used.
    """
    experiment, _, sections = parse_words(options.words, ("lines",))
    config = settings_of(options, LinesConfig, sections.get("lines"), "lines")
    folder = experiment.run_dir.with_name(f"{experiment.run_dir.name}-lines")
    folder = Path(options.out) if options.out else folder
    if not options.report_only:
        _claim(folder, experiment, config, options.overwrite)
        _sample(experiment, config, folder)
    conclude(experiment, config, folder)
    return 0


def conclude(experiment: Experiment, config: LinesConfig, folder: Path) -> dict[str, Any]:
    """From the records in a folder to findings, pictures and a page, all written into it.

    Raises:
        UserError: there is no line in it.
    """
    samples = _read(folder / RECORDS)
    if not samples:
        raise UserError(f"{folder / RECORDS}: no line has been sampled yet")
    others = {size: _read(folder / OTHERS.format(size)) for size in config.batch_sizes}
    others = {size: lines for size, lines in others.items() if lines}
    marked = mark(samples, config)
    found = find(samples, marked, config, others, experiment.batch_size)
    text = json.dumps(found, indent=1, allow_nan=False)
    (folder / "findings.json").write_text(text + "\n", encoding="utf-8")
    made = draw(samples, marked, others, experiment.batch_size, folder)
    pictures = {title: path.read_bytes() for title, path in made.items()}
    facts = list(_facts(found))
    page = write_pictures(
        pictures, folder / "lines.html", title=f"{experiment.name}: lines", facts=facts
    )
    table = Table("", "median (lowest to highest)")
    for row in facts:
        table.add_row(*row)
    Console().print(table)
    print(f"{len(samples)} lines: {page}")
    return found


def _read(path: Path) -> list[LineSample]:
    try:
        return LineRecords(path).read()
    except ValueError as error:
        raise UserError(str(error)) from error


def _sample(experiment: Experiment, config: LinesConfig, folder: Path) -> None:
    console = Console()
    with bar_of(console) as bar:
        task = bar.add_task("sampling", total=None, figures="")

        def on_line(line: LineSample) -> None:
            lowest = line.exact_minimum()
            console.print(
                f"step {line.step}: loss {line.value0:.4f}, minimum at {lowest.length:.3g}"
                f"{' (border)' if lowest.at_border else ''}, loss there {lowest.loss:.4f}",
                highlight=False,
            )

        def on_progress(progress: Any) -> None:
            bar.update(task, completed=progress.done, total=progress.total)

        sample_experiment(experiment, config, folder, on_line, on_progress)


def _claim(folder: Path, experiment: Experiment, config: LinesConfig, overwrite: bool) -> None:
    """Make sure that a folder with records holds those of the same experiment."""
    asked = {"experiment": experiment.to_dict(), "lines": dataclasses.asdict(config)}
    text = json.dumps(asked, indent=1) + "\n"
    path = folder / ASKED
    if overwrite and path.exists():
        shutil.rmtree(folder)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise UserError(
            f"{folder}: holds the lines of another experiment; give another --out, or --overwrite"
        )
    with of_the_system(folder):
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _facts(found: dict[str, Any], name: str = "") -> Iterator[tuple[str, str]]:
    """The findings for the page and the terminal: name and text of each."""
    for key, value in found.items():
        key = f"{name} {key}".strip().replace("_", " ")
        if isinstance(value, list):
            for row in value:
                measured = {name: row[name] for name in row if name != "batch_size"}
                yield from _facts(measured, f"batches of {row['batch_size']}:")
        elif isinstance(value, dict) and "median" in value:
            if value["n"]:
                yield key, f"{value['median']:.3g} ({value['low']:.3g} to {value['high']:.3g})"
        elif isinstance(value, dict):
            yield from _facts(value, key.removeprefix("methods"))
        elif value is not None:
            yield key, f"{value:.3g}" if isinstance(value, float) else str(value)
