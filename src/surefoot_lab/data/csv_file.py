"""A table of numbers from a text file: pandas separates the cells, here they are checked."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from surefoot_lab.errors import UserError, one_line
from surefoot_lab.text_files import read_text

SEPARATORS = ("\t", ";", "|", ",")  # where all lines hold two of them, the earlier one
DECIMAL_COMMA, THOUSANDS = r"[-+]?\d*,\d+([eE][-+]?\d+)?", r"[-+]?\d+,\d{3}"
# What people write where a value is missing.
MISSING = ("", "na", "n/a", "#n/a", "nan", "null", "?", "-", "--", ".", "missing")
NAMELESS, COUNTERS = ("", "unnamed: 0"), ("index", "id", "row", "rownames", "#")


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

    Tabs, semicolons, bars, commas or spaces separate the cells, quotes are CSV's. Where it is not
    the comma that separates, numbers may have decimal commas. A column at the left that only
    numbers or names the rows is left out, with a warning.

    Args:
        path: the file.
        header: whether the first line holds names; None takes it for names if it holds a word
            above numbers, or no number at all.

    Raises:
        UserError: names the file, and the line or column that cannot be used.
    """
    frame = _cells(path, read_text(path, f"data.root: {path}", "a CSV file"))
    if len(frame) and (header if header is not None else _begins_with_names(path, frame)):
        frame = frame.iloc[1:].set_axis([c.lstrip("# ") for c in frame.iloc[0]], axis=1)
    else:
        frame = frame.set_axis([*map(str, range(1, frame.shape[1])), "target"], axis=1)
    if frame.shape[1] > 2 and _is_index(str(frame.columns[0]), frame.iloc[:, 0]):
        said = f"the first column ({frame.columns[0] or 'without a name'}) numbers or names"
        warnings.warn(f"{path}: {said} the rows, and is left out", stacklevel=2)
        frame = frame.iloc[:, 1:]
    if len(frame) == 0 or frame.shape[1] < 2:
        raise UserError(
            f"data.root: {path}: needs rows of two numbers or more, separated by commas, tabs, "
            "semicolons or spaces"
        )
    values = np.stack([_numbers(frame.iloc[:, k]) for k in range(frame.shape[1])], axis=1)
    good, words = np.isfinite(values), frame.iloc[:, -1]
    missing = words.map(_is_missing)
    of_classes = not good[:, -1].any() and not missing.all()
    if of_classes:
        good[:, -1] = ~missing
    _check(path, frame, good)
    if not of_classes:
        if (values[:, -1] == values[0, -1]).all():
            raise UserError(
                f"{path}: column {words.name!r} is {words.iloc[0]} in every row; put what is to be "
                "predicted into the last column"
            )
        return Table(values[:, :-1], values[:, -1], str(words.name), ())
    numbers, classes = pd.factorize(words, sort=True)
    if len(classes) == 1 or 2 * len(classes) > len(frame):
        raise UserError(
            f"{path}: column {words.name!r} has {len(classes)} classes in {len(frame)} rows; "
            "put the target into the last column, numbers or the names of a few classes"
        )
    return Table(values[:, :-1], numbers.astype(np.int64), str(words.name), tuple(classes))


def _cells(path: Path, text: str) -> pd.DataFrame:
    """All cells as texts, the rows by the numbers of their lines; none that are empty."""
    lines = text.split("\n")
    bare = [re.sub(r'"[^"]*"', '""', line) for line in lines if line.strip()]
    counts = {each: sum(each in line for line in bare) for each in SEPARATORS}
    separator = max(counts, key=lambda each: counts[each])
    if 2 * counts[separator] < len(bare) or not counts[separator]:
        separator = r"\s+"
    above = _lines_above(lines, separator)
    body = [line.rstrip() for line in lines[above:] if line.strip()]
    if len(body) > 1 and all(line.endswith(separator) for line in body[1:]):
        lines[above] = body[0].removesuffix(separator) + separator  # perhaps not after the names
    try:
        frame = pd.read_csv(
            io.StringIO("\n".join(lines)),
            sep=separator,
            header=None,
            skiprows=above,
            skip_blank_lines=False,
            dtype=str,
            keep_default_na=False,
            skipinitialspace=True,
        )
    except pd.errors.EmptyDataError:
        return pd.DataFrame(columns=[0])
    except (ValueError, pd.errors.ParserError) as error:  # names the line
        raise UserError(
            f"{path}: {one_line(error)}; repair it, close its quotes, or remove what stands above "
            "the names"
        ) from None
    frame = frame.fillna("").map(str.strip)
    frame.index += above + 1
    frame = frame.loc[(frame != "").any(axis=1)]
    while frame.shape[1] > 1 and (frame.iloc[:, -1] == "").all():  # a separator at every end
        frame = frame.iloc[:, :-1]
    return frame if separator == "," else _with_points(frame)


def _lines_above(lines: list[str], separator: str) -> int:
    """How many lines stand above the table: empty ones, Excel's, and comments that are no names."""
    bare = separator if len(separator) == 1 else " "
    above = (
        not line.strip()
        or line.strip() == f"sep={separator}"
        or (line[0] == "#" and bare not in line.lstrip("# "))
        for line in lines
    )
    return next((place for place, skipped in enumerate(above) if not skipped), len(lines))


def _with_points(frame: pd.DataFrame) -> pd.DataFrame:
    """Points for decimal commas, where all commas are such and not of thousands."""
    numbers = [c for c in frame.to_numpy().flat if "," in c and re.fullmatch(r"[-+\d.,eE]+", c)]
    decimal = all(re.fullmatch(DECIMAL_COMMA, cell) for cell in numbers)
    if not decimal or all(re.fullmatch(THOUSANDS, cell) for cell in numbers):
        return frame
    return frame.map(lambda c: c.replace(",", ".") if re.fullmatch(DECIMAL_COMMA, c) else c)


def _begins_with_names(path: Path, frame: pd.DataFrame) -> bool:
    """Whether the first row holds names; says so where it might."""
    first, rest = frame.iloc[0], frame.iloc[1:]
    given = np.isfinite(_numbers(first))
    if not given.any():
        return not first.map(_is_missing).all()
    counts = list(first) == [str(place) for place in range(len(first))]
    if counts or (given.all() and _is_far(first, rest)):
        what = "0, 1, 2, ..." if counts else "far from all others"
        said = f"the first line ({what}) is read as data; if it holds names, say"
        warnings.warn(f"{path}: {said} data.header: true", stacklevel=3)
    words = first.map(lambda cell: any(map(str.isalpha, cell)) and not _is_missing(cell))
    below = [np.isfinite(_numbers(rest.iloc[:, place])) for place in np.flatnonzero(words)]
    return any(numbers.all() for numbers in below if len(numbers))


def _is_far(first: pd.Series, rest: pd.DataFrame) -> bool:
    """Whether a row lies outside of the others in every column, by more than their whole range."""
    if len(rest) < 8:
        return False
    values = np.stack([_numbers(rest.iloc[:, place]) for place in range(rest.shape[1])], axis=1)
    low, high, own = np.nanmin(values, 0), np.nanmax(values, 0), _numbers(first)
    return bool((np.maximum(low - own, own - high) > high - low).all())


def _is_index(name: str, column: pd.Series) -> bool:
    """Whether a column counts the rows, or without a name tells them apart."""
    if name.lower() not in NAMELESS + COUNTERS:
        return False
    values = _numbers(column)
    if np.isfinite(values).all() and values[0] in (0, 1) and (np.diff(values) == 1).all():
        return True
    return name.lower() in NAMELESS and column.is_unique


def _check(path: Path, frame: pd.DataFrame, good: np.ndarray) -> None:
    """Refuse the first cell that cannot be used."""
    for place in np.flatnonzero(~good.any(axis=0)):
        raise UserError(
            f"{path}: column {_name(frame, int(place))} holds no numbers "
            f"({frame.iloc[0, place][:20]!r}); leave it out, or write numbers for it"
        )
    for row, place in np.argwhere(~good):
        cell = frame.iloc[row, place][:20]
        raise UserError(
            f"{path}: line {frame.index[row]}: column {_name(frame, int(place))} has "
            f"{repr(cell) if cell else 'nothing'}; every cell must hold a finite number, or in the "
            "last column a class; repair or remove the line"
        )


def _name(frame: pd.DataFrame, place: int) -> str:
    return repr(frame.columns[place]) if frame.columns[place] else f"{place + 1} (without a name)"


def _numbers(cells: pd.Series) -> np.ndarray:
    """The cells as float64; NaN for what is no number."""
    without_comma = cells.where(~cells.str.contains(","))  # pandas would take it for thousands
    values: np.ndarray = pd.to_numeric(without_comma, errors="coerce").to_numpy(np.float64)
    return values


def _is_missing(cell: str) -> bool:
    return cell.lower() in MISSING
