"""What lies beside the records: curves of range tests, pictures of lines."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surefoot.lr_range import RangeCurve
from surefoot.lr_range.suggest import DEFAULT
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
DAMAGE = (ValueError, TypeError, ArithmeticError, AttributeError, LookupError, RecursionError)


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

    @property
    def is_full(self) -> bool:
        """Whether a further picture would only be counted."""
        return len(self.pictures) >= MOST


def range_tests(runs: Sequence[RunRecord]) -> Gallery:
    """The curve of every run that began with a range test."""
    gallery = Gallery()
    for run in runs:
        path = run.path / CURVE
        if not path.is_file():
            continue
        try:
            curve = RangeCurve.from_json(path)
            if not curve.lr:
                raise ValueError("it has no points")
            if gallery.is_full:
                gallery.hidden += 1
            else:
                gallery.pictures.append(_curve_picture(curve, run))
        except (OSError, *DAMAGE) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            gallery.problems.append((run.path.name, str(path), f"{CURVE} left out: {reason}"))
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
    """The pictures that `surefoot lines` has left in these folders."""
    gallery = Gallery()
    for folder in folders:
        try:
            note = _findings_note(json.loads((folder / FINDINGS).read_text(encoding="utf-8")))
        except (OSError, *DAMAGE) as error:
            note = ""
            gallery.problems.append(
                (folder.name, str(folder / FINDINGS), f"{FINDINGS} cannot be read: {error}")
            )
        for path in _in_order(folder):
            _add_png(gallery, path, note)
    return gallery


def _curve_picture(curve: RangeCurve, run: RunRecord) -> Picture:
    # a figure of its own, not pyplot's: nothing to close, and no backend to choose
    from matplotlib.figure import Figure

    from surefoot.plots.range_curve import range_curve

    figure = Figure(figsize=(6.4, 4.2), dpi=100, layout="constrained")
    range_curve(curve, figure.subplots())
    target = io.BytesIO()
    figure.savefig(target, format="png")
    answer = curve.suggest(DEFAULT)
    if answer.rate is None:
        said = f"no suggestion ({answer.reason})"
    else:
        said = f"suggestion {answer.rate:.3g} ({DEFAULT})"
    seed = "" if run.seed is None else f", seed {run.seed}"
    title = f"{run.label}{seed}"
    alt = f"Range test of {title}: loss against learning rate; {said}; {curve.message}"
    return Picture(title, target.getvalue(), note=said, alt=alt)


def _add_png(gallery: Gallery, path: Path, note: str) -> None:
    if gallery.is_full:
        gallery.hidden += 1
        return
    try:
        png = path.read_bytes()
        if len(png) < 24 or not png.startswith(PNG_START):
            raise ValueError("it is no PNG image")
    except (OSError, ValueError) as error:
        gallery.problems.append((path.parent.name, str(path), f"{path.name} left out: {error}"))
        return
    title = f"{path.parent.name}: {TITLES.get(path.stem, path.stem)}"
    gallery.pictures.append(Picture(title, png, note=note))


def _in_order(folder: Path) -> Iterator[Path]:
    """The pictures that have a title first, in its order; then any others by name."""
    known = [folder / f"{stem}.png" for stem in TITLES]
    yield from (path for path in known if path.is_file())
    yield from (path for path in sorted(folder.glob("*.png")) if path not in known)


def _findings_note(found: Any) -> str:
    return f"{found['lines']} lines, {100 * found['convex_share']:.0f} % of them convex"
