"""Tables of numbers, the last of which is to be predicted: standardized columns, squared loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from surefoot_lab.config import DataConfig, UserError
from surefoot_lab.data.examples import Examples, Splits, hold_out
from surefoot_lab.data.task import Regression

# As many rows and columns as California's housing table, whose file needs a network.
FRIEDMAN_ROWS, FRIEDMAN_COLUMNS, FRIEDMAN_NOISE = 20_640, 8, 1.0


def diabetes(config: DataConfig) -> Splits:
    """442 patients, 10 measurements, how the disease went on: comes with scikit-learn."""
    from sklearn.datasets import load_diabetes

    columns, target = load_diabetes(return_X_y=True, scaled=False)
    return _split(config, columns, target, "progression")


def friedman(config: DataConfig) -> Splits:
    """20,640 rows drawn from Friedman's function: 10 sin(π a b) + 20 (c - ½)² + 10 d + 5 e + noise.

    Eight columns, three of which say nothing; the noise has variance 1, the target about 24, so
    that no model gets below a loss of about 0.04. The rows are the same in every run.
    """
    from sklearn.datasets import make_friedman1

    columns, target = make_friedman1(
        FRIEDMAN_ROWS, FRIEDMAN_COLUMNS, noise=FRIEDMAN_NOISE, random_state=0
    )
    return _split(config, columns, target, "y")


def table(config: DataConfig) -> Splits:
    """A CSV file of numbers, with or without a line of names; the last column is the target."""
    if not config.root:
        raise UserError("data.root: table needs the path of a CSV file")
    path = Path(config.root)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"data.root: {path}: cannot be read ({reason}); name a CSV file") from None
    rows = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    names = None
    if rows and _numbers(rows[0][1]) is None:
        names = rows.pop(0)[1].split(",")
    values = np.asarray([_checked(path, number, line, rows[0][1]) for number, line in rows])
    if len(values) == 0 or values.shape[1] < 2:
        raise UserError(f"data.root: {path}: needs rows of two numbers or more, with commas")
    target = names[-1].strip() if names else "target"
    return _split(config, values[:, :-1], values[:, -1], target)


def _numbers(line: str) -> list[float] | None:
    """The numbers of a line, or None if one of its fields is none."""
    try:
        return [float(field) for field in line.split(",")]
    except ValueError:
        return None


def _checked(path: Path, number: int, line: str, first: str) -> list[float]:
    """The numbers of a line; there must be as many as in the first line, all finite."""
    values = _numbers(line)
    if values is None or len(values) != len(first.split(",")) or not np.isfinite(values).all():
        raise UserError(
            f"{path}: line {number} has to hold {len(first.split(','))} finite numbers: "
            f"{line[:60]!r}; repair or remove it"
        )
    return values


def _split(config: DataConfig, columns: np.ndarray, target: np.ndarray, name: str) -> Splits:
    """Split at random, then standardize all by the training rows, the target too."""
    everything = Examples(
        torch.from_numpy(columns).double(), torch.from_numpy(target).double().view(-1, 1)
    )
    rest, test = hold_out(everything, config.test, config.split_seed, "data.test")
    train, validation = hold_out(rest, config.validation, config.split_seed, "data.validation")
    inputs, labels = _Standardize(train.inputs), _Standardize(train.labels)
    train, validation, test = (
        Examples(inputs(part.inputs), labels(part.labels)) for part in (train, validation, test)
    )
    return Splits(train, validation, test, (name,), kind="table", task=Regression())


class _Standardize:
    """Subtract the mean of each column and divide by its deviation; constant columns become 0."""

    def __init__(self, values: Tensor) -> None:
        self._mean = values.mean(dim=0)
        deviation = values.std(dim=0, correction=0)
        self._deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))

    def __call__(self, values: Tensor) -> Tensor:
        return ((values - self._mean) / self._deviation).float()
