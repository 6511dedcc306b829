"""Images for experiments: decoded once into memory, batched and augmented as tensors."""

from __future__ import annotations

from surefoot_lab.config import DataConfig
from surefoot_lab.data.images import ImageSet, Splits
from surefoot_lab.data.loader import Normalizer, TrainLoader, augment, in_order

__all__ = ["ImageSet", "Normalizer", "Splits", "TrainLoader", "augment", "in_order", "load_data"]


def load_data(config: DataConfig) -> Splits:
    """Load a data set and split it.

    Args:
        config: which data, from where, split how.

    Returns:
        Training, validation and test images.

    Raises:
        UserError: files are missing or unreadable, or a part would be empty.
    """
    from surefoot_lab.data import folder, sets

    load = {
        "digits": sets.digits,
        "fashion-mnist": sets.fashion_mnist,
        "cifar10": sets.cifar10,
        "imagefolder": folder.image_folder,
    }[config.name]
    return load(config)
