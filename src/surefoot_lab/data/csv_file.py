"""A table of numbers from a text file, whatever separates and quotes its cells."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from surefoot_lab.config import UserError
from surefoot_lab.errors import one_line
from surefoot_lab.text_files import read_text

SEPARATORS = ("\t", ";", ",", "|")
NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"
DECIMAL_COMMA = r"[-+]?\d*,\d+([eE][-+]?\d+)?"
# What people write where a value is missing; in a column of classes, `none` may be one.
MISSING = ("", "na", "n/a", "#n/a", "nan", "null", "?", "-", "--", ".", "none", "missing")
INDEX_NAMES = ("", "unnamed: 0", "index", "id", "rownames", "row", "#")
FAR_OUT = 10  # times the others' distance from their median: hardly a row like them


@dataclass(frozen=True)
class Table:
    """What a file holds.

    Attributes:
        columns: float64, shape (rows, columns), without the target.
        target: float64, or int64 class numbers; shape (rows,).
        name: of the target.
        classes: their names by number; empty for a target of numbers.
    """

    columns: np.ndarray
    target: np.ndarray
    name: str
    classes: tuple[str, ...]


def read_table(path: Path, header: bool | None = None) -> Table:
    """Read a file of rows whose last cell is the target.

    Commas, semicolons, tabs, bars or spaces separate the cells; quotes are CSV's; where it is not
    the comma that separates, numbers may have decimal commas. Empty columns at the right are left
    out, and with a warning a column at the left that only numbers or names the rows.

    Args:
        path: the file.
        header: whether the first line holds names; None tells by itself, with a warning where it
            might be data as well.

    Raises:
        UserError: names the file, and the line or column that cannot be used.
    """
    lines = read_text(path, f"data.root: {path}", "a CSV file").split("\n")
    separator = _separator(lines)
    cells, numbers = _cells(path, lines, separator)
    if separator != ",":
        cells = _decimal_points(cells)
    names: list[str] | None = None
    if len(cells) and (header if header is not None else _holds_names(path, cells)):
        names = [str(name).lstrip("# ").strip() for name in cells[0]]
        cells, numbers = cells[1:], numbers[1:]
    if names and names[-1] == "" and cells.shape[1] > 2:  # R names every column but that of rows
        names = ["", *names[:-1]]
    if len(cells) == 0 or cells.shape[1] < 2:
        raise UserError(
            f"data.root: {path}: needs rows of two numbers or more, separated by commas, tabs, "
            "semicolons or spaces"
        )
    if names and cells.shape[1] > 2 and _is_index(names[0], cells[:, 0]):
        warnings.warn(
            f"{path}: the first column ({names[0] or 'without a name'}) numbers or names the rows, "
            "and is left out",
            stacklevel=2,
        )
        names, cells = names[1:], cells[:, 1:]
    check = _Checked(path, lines, numbers, names, cells)
    name = names[-1] if names else "target"
    columns = check.columns()
    target, classes = check.target()
    return Table(columns, target, name, classes)


class _Checked:
    """The cells as numbers; what is none is named by its line and column."""

    def __init__(
        self,
        path: Path,
        lines: list[str],
        numbers: np.ndarray,
        names: list[str] | None,
        cells: np.ndarray,
    ) -> None:
        self._path, self._lines, self._numbers, self._cells = path, lines, numbers, cells
        self._names = names or [str(place) for place in range(1, cells.shape[1] + 1)]
        self._values = np.stack([_as_numbers(column) for column in cells.T], axis=1)
        self._words = not np.isfinite(self._values[:, -1]).any()
        self._words = self._words and any(not _missing(cell) for cell in cells[:, -1])

    def columns(self) -> np.ndarray:
        """All columns but the last; every cell must be a finite number."""
        values = self._values[:, :-1]
        for place in range(values.shape[1]):
            bad = ~np.isfinite(values[:, place])
            if bad.all():
                raise UserError(
                    f"{self._path}: column {self._names[place]!r} holds no numbers "
                    f"({self._cells[0, place][:20]!r}); leave it out, or write numbers for it"
                )
        self._refuse(~np.isfinite(values))
        return values

    def target(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """The last column, and the names of its classes if it holds words."""
        cells, name = self._cells[:, -1], self._names[-1]
        if not self._words:
            self._refuse(~np.isfinite(self._values))
            return self._values[:, -1], ()
        bad = np.zeros(self._cells.shape, dtype=bool)
        bad[:, -1] = [_missing(cell) and cell.lower() != "none" for cell in cells]
        self._refuse(bad)
        found, numbers = np.unique(cells.astype(str), return_inverse=True)
        classes = tuple(map(str, found))
        if len(classes) == 1:
            raise UserError(f"{self._path}: column {name!r} holds one class only, {classes[0]!r}")
        if 2 * len(classes) > len(cells):
            raise UserError(
                f"{self._path}: column {name!r} holds {len(classes)} different words in "
                f"{len(cells)} rows, which are no classes; put the target into the last column"
            )
        return numbers.reshape(-1).astype(np.int64), classes

    def _refuse(self, bad: np.ndarray) -> None:
        """Name the first bad cell, if there is one."""
        places = np.argwhere(bad)
        if len(places) == 0:
            return
        row, column = places[0]
        number = int(self._numbers[row])
        count = self._cells.shape[1] - self._words
        wanted = f"{count} finite numbers{' and a class' if self._words else ''}"
        has = f"{self._cells[row, column][:20]!r}" if self._cells[row, column] else "nothing"
        raise UserError(
            f"{self._path}: line {number} has to hold {wanted}: "
            f"{self._lines[number - 1][:60]!r} (column {self._names[column]!r} has {has}; cells "
            "are separated by commas, tabs, semicolons or spaces); repair or remove it"
        )


def _separator(lines: list[str]) -> str:
    """What stands between the cells of every line; else of most lines."""
    rows = [re.sub(r'"[^"]*"', '""', line) for line in lines if line.strip()][:1000]
    for separator in SEPARATORS:
        if rows and all(separator in row for row in rows):
            return separator
    counts = {len(row.split()) for row in rows}
    if len(counts) == 1 and counts != {1}:
        return r"\s+"
    shares = {sep: sum(sep in row for row in rows) for sep in (",", ";", "\t", "|")}
    return max(shares, key=lambda sep: shares[sep])


def _cells(path: Path, lines: list[str], separator: str) -> tuple[np.ndarray, np.ndarray]:
    """All cells as texts, shape (rows, columns), and the numbers of their lines."""
    import pandas as pd

    counts = [
        len(row.split()) if separator == r"\s+" else row.count(separator) + 1
        for row in (re.sub(r'"[^"]*"', '""', line) for line in lines)
    ]
    width = max(counts)
    written = [count for count, line in zip(counts, lines, strict=True) if line.strip()]
    if not written:
        return np.empty((0, width), dtype=object), np.empty(0, dtype=int)
    try:
        frame = pd.read_csv(
            io.StringIO("\n".join(lines)),
            sep=separator,
            header=None,
            names=range(width),
            index_col=False,
            dtype=str,
            keep_default_na=False,
            skipinitialspace=True,
            skip_blank_lines=False,
        )
    except (ValueError, pd.errors.ParserError) as error:
        reason = one_line(error)
        raise UserError(f"{path}: cannot be read ({reason}); are all quotes closed?") from None
    cells = np.array([[str(cell).strip() for cell in row] for row in frame.to_numpy(dtype=object)])
    cells = cells.astype(object).reshape(-1, width)
    kept = (cells != "").any(axis=1)
    while cells.shape[1] > 1 and not (cells[:, -1] != "").any():
        cells = cells[:, :-1]
    usual = max(sorted(set(written), reverse=True), key=written.count)
    longer = np.flatnonzero((cells[:, usual:] != "").any(axis=1))
    if len(longer):
        raise UserError(
            f"{path}: line {longer[0] + 1} has {counts[longer[0]]} cells and most lines {usual}: "
            f"{lines[longer[0]][:60]!r} (separated by commas, tabs, semicolons or spaces; numbers "
            "with commas need quotes); repair or remove it"
        )
    return cells[kept], np.flatnonzero(kept) + 1


def _decimal_points(cells: np.ndarray) -> np.ndarray:
    """Points for decimal commas, where all commas are such and not of thousands."""
    held = [cell for cell in cells.flat if "," in cell and re.fullmatch(r"[-+\d.,eE]+", cell)]
    decimal = all(re.fullmatch(DECIMAL_COMMA, cell) for cell in held)
    if not held or not decimal or all(re.fullmatch(r"[-+]?\d+,\d{3}", cell) for cell in held):
        return cells
    found = cells.copy()
    for place, cell in np.ndenumerate(cells):
        if re.fullmatch(DECIMAL_COMMA, cell):
            found[place] = cell.replace(",", ".")
    return found


def _holds_names(path: Path, cells: np.ndarray) -> bool:
    """Whether the first row holds names; says so where they are numbers."""
    first, rest = cells[0], cells[1:]
    if not any(map(_is_number, first)):
        return any(not _missing(cell) for cell in first)
    words = [not (_is_number(cell) or _missing(cell)) for cell in first]
    for place in np.flatnonzero(words):
        lettered = any(letter.isalpha() for letter in first[place])
        if lettered and len(rest) and all(map(_is_number, rest[:, place])):
            return True
    if not _looks_like_names(first, rest, words):
        return False
    warnings.warn(
        f"{path}: the first line ({', '.join(first)[:60]}) is taken for names; if it is data, say "
        "data.header: false (if names, true)",
        stacklevel=3,
    )
    return True


def _looks_like_names(first: np.ndarray, rest: np.ndarray, words: list[bool]) -> bool:
    """Whether a first row of numbers is 0, 1, 2, ..., or lies far out in every column."""
    if first[0] == "" and len(first) > 2:  # of the column that numbers the rows
        first, rest, words = first[1:], rest[:, 1:], words[1:]
    if len(rest) < 3 or any(words[:-1]) or not all(map(_is_number, first[:-1])):
        return False
    numbered = list(first[: len(first) - words[-1]])
    counts = numbered == [str(place) for place in range(len(numbered))]
    if words[-1]:  # a word as any other, or the name of a column of words?
        return counts and first[-1] not in set(rest[:, -1])
    if not _is_number(first[-1]):
        return False
    whole = [all(re.fullmatch(r"[-+]?\d+", cell) for cell in column) for column in rest.T]
    if counts and (not all(whole) or (len(first) > 2 and not _rises_by_ones(rest))):
        return True
    far = []
    for cell, column in zip(first, rest.T, strict=True):
        values = _as_numbers(column)
        values = values[np.isfinite(values)]
        if len(values) == 0:
            return False
        middle = np.median(values)
        far.append(abs(float(cell) - middle) > FAR_OUT * np.abs(values - middle).max())
    return all(far)


def _rises_by_ones(rows: np.ndarray) -> bool:
    """Whether any row of numbers is like 4, 5, 6."""
    values = np.stack([_as_numbers(row) for row in rows])
    return bool((np.diff(values, axis=1) == 1).all(axis=1).any())


def _is_index(name: str, column: np.ndarray) -> bool:
    """Whether a column only numbers the rows or, without a name, names them."""
    if name.lower() not in INDEX_NAMES:
        return False
    values = _as_numbers(column)
    if not np.isfinite(values).all():
        return name == "" and len(set(column)) == len(column)
    steps = np.diff(values)
    if len(values) > 1 and (steps == 1).all() and values[0] in (0, 1):
        return True
    return name.lower() in ("", "unnamed: 0") and (
        len(set(values)) == len(values) and (values == values.round()).all()
    )


def _is_number(cell: str) -> bool:
    return re.fullmatch(NUMBER, cell) is not None


def _missing(cell: str) -> bool:
    return cell.lower() in MISSING


def _as_numbers(column: np.ndarray) -> np.ndarray:
    """The cells as float64; NaN for what is no number."""
    return np.array([float(cell) if _is_number(cell) else np.nan for cell in column])
