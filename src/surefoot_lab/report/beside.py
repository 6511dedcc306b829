"""What lies beside the records: curves of range tests, pictures of lines."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from surefoot.lr_range import RangeCurve
from surefoot.lr_range.suggest import DEFAULT
from surefoot.plots.range_curve import range_curve
from surefoot_lab.errors import one_line
from surefoot_lab.report.pictures import Picture

if TYPE_CHECKING:
    from surefoot_lab.records import RunRecord

MOST = 12  # pictures in a section: some 50 KB each
CURVE = "range_test.json"
FINDINGS = "findings.json"
PNG_START = b"\x89PNG\r\n\x1a\n"
TITLES = {
    "line": "one line",
    "lines": "lines over the run",
    "measures": "fits, and where the methods would go, over the run",
    "norms": "distance of the full-batch minimum against the gradient norm",
}
# whatever a file that somebody edited makes of reading, asking and drawing it
DAMAGE = (
    *(OSError, ValueError, TypeError, ArithmeticError),
    *(AttributeError, LookupError, RecursionError),
)


@dataclass
class Gallery:
    """The pictures of one section.

    Attributes:
        pictures: the first few, in order.
        hidden: how many more there are.
        problems: name, path and reason of each file that cannot be shown.
    """

    pictures: list[Picture] = field(default_factory=list)
    hidden: int = 0
    problems: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, path: Path, picture_of: Callable[[Path], Picture]) -> None:
        """Show a file; past the first few it is counted only."""
        if len(self.pictures) >= MOST:
            self.hidden += 1
            return
        try:
            self.pictures.append(picture_of(path))
        except DAMAGE as error:
            self.tell(path, f"left out: {one_line(error)}")

    def tell(self, path: Path, what: str) -> None:
        """Say what is wrong with a file."""
        self.problems.append((path.parent.name, str(path), f"{path.name} {what}"))


def range_tests(runs: Sequence[RunRecord]) -> Gallery:
    """The curve of every run that began with a range test."""
    gallery = Gallery()
    for run in runs:
        if (path := run.path / CURVE).is_file():
            gallery.add(path, functools.partial(_curve_picture, run))
    return gallery


def line_folders(paths: Iterable[str | Path]) -> list[Path]:
    """The folders of `surefoot lines` among these and below them, each once."""
    found = {
        file.parent.resolve(): file.parent
        for given in map(Path, paths)
        for file in sorted(given.rglob(FINDINGS))
        if any(file.parent.glob("*.png"))
    }
    return list(found.values())


def lines(folders: Sequence[Path]) -> Gallery:
    """The pictures that `surefoot lines` has left in these folders: those with a title first."""
    gallery, known = Gallery(), list(TITLES)
    for folder in folders:
        note = ""
        try:
            found = json.loads((folder / FINDINGS).read_text(encoding="utf-8"))
            note = f"{found['lines']} lines, {100 * found['convex_share']:.0f} % of them convex"
        except DAMAGE as error:
            gallery.tell(folder / FINDINGS, f"cannot be read: {one_line(error)}")
        stems = sorted(path.stem for path in folder.glob("*.png"))
        for stem in sorted(stems, key=lambda s: known.index(s) if s in known else len(known)):
            gallery.add(folder / f"{stem}.png", functools.partial(_png_picture, note))
    return gallery


def _curve_picture(run: RunRecord, path: Path) -> Picture:
    # a figure of its own, not pyplot's: nothing to close, and no backend to choose
    from matplotlib.figure import Figure

    curve = RangeCurve.from_json(path)
    if not curve.lr:
        raise ValueError("it has no points")
    figure = Figure(figsize=(6.4, 4.2), dpi=100, layout="constrained")
    range_curve(curve, figure.subplots())
    target = io.BytesIO()
    figure.savefig(target, format="png")
    answer = curve.suggest(DEFAULT)
    if answer.rate is None:
        said = f"no suggestion ({answer.reason})"
    else:
        said = f"suggestion {answer.rate:.3g} ({DEFAULT})"
    title = run.label if run.seed is None else f"{run.label}, seed {run.seed}"
    alt = f"Range test of {title}: loss against learning rate; {said}; {curve.message}"
    return Picture(title, target.getvalue(), note=said, alt=alt)


def _png_picture(note: str, path: Path) -> Picture:
    png = path.read_bytes()
    if len(png) < 24 or not png.startswith(PNG_START):
        raise ValueError("it is no PNG image")
    return Picture(f"{path.parent.name}: {TITLES.get(path.stem, path.stem)}", png, note=note)
