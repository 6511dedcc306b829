"""What all data sets with an official test set share: fetching, finding, splitting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from surefoot_lab.config import DataConfig, UserError
from surefoot_lab.data.examples import Examples, Splits, hold_out
from surefoot_lab.data.images import PUBLISHED


def with_validation(
    config: DataConfig, train: Examples, test: Examples, classes: tuple[str, ...]
) -> Splits:
    """Hold the validation images out of the training images."""
    rest, validation = hold_out(train, config.validation, config.split_seed, "data.validation")
    statistics = PUBLISHED[config.name] if config.normalize == "published" else None
    return Splits(rest, validation, test, classes, statistics=statistics)


def fetch(config: DataConfig, root: str, downloads: Callable[[str], Any]) -> None:
    """Let torchvision fetch a data set into `root`, if the experiment says so.

    Raises:
        UserError: there is no network, or what came is damaged.
    """
    if not config.download:
        return
    try:
        downloads(root)
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"data.download: {config.name} could not be fetched into {root} ({reason}); "
            "check the network, or set data.root to files that are there"
        ) from None


def missing(config: DataConfig, wanted: str, places: str, hint: str = "") -> UserError:
    """The error for files that are not there."""
    return UserError(
        f"data.root: no {wanted} in {places}; set data.root to the folder that holds "
        f"{config.name}, or data.download: true to fetch it{hint}"
    )


def first_folder(root: str, *inside: str, holding: str) -> Path | None:
    """The first of `root` and the folders in it that has the file `holding`."""
    for folder in (Path(root), *(Path(root) / name for name in inside)):
        if (folder / holding).is_file():
            return folder
    return None
