"""A share of a validation set that stands for the whole, also where it is sorted by class."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, Subset

from surefoot._batches import length_of


def spread_out(total: int, wanted: int) -> list[int]:
    """``wanted`` of the places 0 to total - 1, as evenly spaced as whole numbers allow."""
    return [(2 * i + 1) * total // (2 * wanted) for i in range(wanted)]


def share_of(loader: Iterable[Any], share: float) -> Iterable[Any]:
    """The loader, cut down to a share of it.

    A ``DataLoader`` that reads in order gives every n-th example; one that shuffles, its first
    batches; anything else with a length, every n-th batch.

    Raises:
        ValueError: for a share below 1 of a loader without a length.
    """
    if share >= 1.0:
        return loader
    total = length_of(loader)
    if total is None:
        raise ValueError(
            "val_share needs a val_loader with a length; pass val_share=1 or a shorter loader"
        )
    if isinstance(loader, DataLoader) and _reads_in_order(loader):
        count = len(loader.dataset)  # type: ignore[arg-type]
        places = spread_out(count, max(1, math.ceil(share * count)))
        names = ("batch_size", "num_workers", "collate_fn", "pin_memory", "worker_init_fn")
        settings = {name: getattr(loader, name) for name in (*names, "multiprocessing_context")}
        return DataLoader(Subset(loader.dataset, places), **settings)
    wanted = max(1, math.ceil(share * total))
    if isinstance(loader, DataLoader):
        return _Some(loader, range(wanted))
    return _Some(loader, spread_out(total, wanted))


def _reads_in_order(loader: DataLoader[Any]) -> bool:
    """Exactly torch's own: a subclass, as Accelerate's, may do more than these settings say."""
    return (
        type(loader) is DataLoader
        and type(loader.sampler) is SequentialSampler
        and type(loader.batch_sampler) is BatchSampler
        and not loader.drop_last
    )


class _Some:
    """The batches at some places of a loader, nothing read behind the last."""

    def __init__(self, loader: Iterable[Any], places: Iterable[int]) -> None:
        self._loader, self._places = loader, frozenset(places)

    def __iter__(self) -> Iterator[Any]:
        read = itertools.islice(self._loader, max(self._places) + 1)
        return (batch for place, batch in enumerate(read) if place in self._places)
