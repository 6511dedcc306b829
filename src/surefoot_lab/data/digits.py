"""The handwritten digits that come with scikit-learn: no file, no network."""

from __future__ import annotations

import torch

from surefoot_lab.config import DataConfig
from surefoot_lab.data.examples import Examples, Splits, hold_out
from surefoot_lab.data.official import with_validation

DIGIT_LEVELS = 16  # scikit-learn's digits count ink from 0 to 16


def digits(config: DataConfig) -> Splits:
    """The 1,797 handwritten digits of 8 by 8 pixels that come with scikit-learn."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    levels = torch.from_numpy(bunch.images).unsqueeze(1)
    images = (levels * (255 / DIGIT_LEVELS)).round().to(torch.uint8)
    everything = Examples(images, torch.from_numpy(bunch.target).long())
    rest, test = hold_out(everything, config.test, config.split_seed, "data.test")
    return with_validation(config, rest, test, tuple(str(name) for name in bunch.target_names))
