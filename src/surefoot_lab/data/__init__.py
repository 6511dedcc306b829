"""Data for experiments: read once into memory where it fits, batched and varied as tensors."""

from __future__ import annotations

import os
from dataclasses import replace

from surefoot_lab.config import DataConfig
from surefoot_lab.data.examples import Splits
from surefoot_lab.data.loader import PUBLISHED
from surefoot_lab.errors import UserError

# Settings that mean nothing to other data sets.
FOR = {
    "header": ("table",),
    "image_size": ("imagefolder", "imagenet"),
    "in_memory": ("imagefolder", "imagenet"),
    "sequence_length": ("text",),
}


def load_data(config: DataConfig) -> Splits:
    """Load a data set and split it.

    Args:
        config: which data, from where, split how.

    Returns:
        Training, validation and test examples.

    Raises:
        UserError: files are missing or unreadable, a part would be empty, or a setting is not for
            this kind of data.
    """
    from surefoot_lab.data import folder, own, table, text
    from surefoot_lab.data.official import digits, official

    if config.root is not None:  # no shell has seen it
        config = replace(config, root=os.path.expanduser(config.root))
    if config.class_path is not None:
        return own.own_data(config)

    load = {
        "digits": digits,
        "imagenet": folder.imagenet,
        "imagefolder": folder.image_folder,
        "text": text.text,
        "diabetes": table.diabetes,
        "friedman": table.friedman,
        "table": table.table,
    }.get(config.name, official)
    if config.normalize == "published" and config.name not in PUBLISHED:
        raise UserError(
            f"data.normalize: nothing is published for {config.name}; use measured, or one of "
            f"{', '.join(PUBLISHED)}"
        )
    data = load(config)
    for setting, names in FOR.items():
        if getattr(config, setting) != getattr(DataConfig, setting) and config.name not in names:
            raise UserError(f"data.{setting}: is for {' and '.join(names)}, not for {config.name}")
    if data.kind != "images" and (config.crop or config.flip):
        raise UserError(f"data.crop, data.flip: are for images, and {config.name} has none")
    return data
