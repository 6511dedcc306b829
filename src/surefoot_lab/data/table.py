"""Tables whose last column is to be predicted: a number (squared loss) or a class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from surefoot_lab.config import DataConfig
from surefoot_lab.data.examples import Examples, Splits, hold_out
from surefoot_lab.data.task import Classification, Regression
from surefoot_lab.errors import UserError

# As many rows and columns as California's housing table, whose file needs a network.
FRIEDMAN_ROWS, FRIEDMAN_COLUMNS, FRIEDMAN_NOISE = 20_640, 8, 1.0


def diabetes(config: DataConfig) -> Splits:
    """442 patients, 10 measurements, how the disease went on: comes with scikit-learn."""
    from sklearn.datasets import load_diabetes

    columns, target = load_diabetes(return_X_y=True, scaled=False)
    return _split(config, columns, target, ("progression",))


def friedman(config: DataConfig) -> Splits:
    """20,640 rows drawn from Friedman's function: 10 sin(π a b) + 20 (c - ½)² + 10 d + 5 e + noise.

    Eight columns, three of which say nothing; the noise has variance 1, the target about 24, so
    that no model gets below a loss of about 0.04. The rows are the same in every run.
    """
    from sklearn.datasets import make_friedman1

    columns, target = make_friedman1(
        FRIEDMAN_ROWS, FRIEDMAN_COLUMNS, noise=FRIEDMAN_NOISE, random_state=0
    )
    return _split(config, columns, target, ("y",))


def table(config: DataConfig) -> Splits:
    """A CSV file, with or without a line of names; the last column is the target."""
    from surefoot_lab.data.csv_file import read_table  # with pandas, which takes half a second

    if not config.root:
        raise UserError("data.root: table needs the path of a CSV file")
    found = read_table(Path(config.root), config.header)
    return _split(config, found.columns, found.target, found.classes or (found.name,))


def _split(
    config: DataConfig, columns: np.ndarray, target: np.ndarray, names: tuple[str, ...]
) -> Splits:
    """Split at random, then standardize all by the training rows, a target of numbers, too."""
    labels = torch.from_numpy(target)
    if target.dtype != np.int64:
        labels = labels.double().view(-1, 1)
    everything = Examples(torch.from_numpy(columns).double(), labels)
    rest, test = hold_out(everything, config.test, config.split_seed, "data.test")
    train, validation = hold_out(rest, config.validation, config.split_seed, "data.validation")
    standardize = _Standardize(train.inputs)
    numbers = _Standardize(train.labels) if labels.is_floating_point() else torch.clone
    train, validation, test = (
        Examples(standardize(part.inputs), numbers(part.labels))
        for part in (train, validation, test)
    )
    task = Regression() if labels.is_floating_point() else Classification()
    return Splits(train, validation, test, names, kind="table", task=task)


class _Standardize:
    """Subtract the mean of each column and divide by its deviation; constant columns become 0."""

    def __init__(self, values: Tensor) -> None:
        size = values.abs().amax(dim=0)
        self._size = torch.where(size > 0, size, torch.ones_like(size))  # squares overflow
        values = values / self._size
        self._mean = values.mean(dim=0)
        deviation = values.std(dim=0, correction=0)
        self._deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))

    def __call__(self, values: Tensor) -> Tensor:
        return ((values / self._size - self._mean) / self._deviation).float()
