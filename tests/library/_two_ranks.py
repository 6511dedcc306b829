"""Many cases in one pair of processes: starting it costs more than any case."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from _ranks import leave, spawn

PATIENCE = timedelta(seconds=120)  # of a rank whose partner has raised


class TwoRanks:
    """What a function returned on both ranks, case by case.

    Args:
        function: called with the rank and a case's arguments, in a process group of its own.
        cases: arguments by the case's name.
        folder: an empty folder for the results.
    """

    def __init__(
        self, function: Callable[..., Any], cases: Mapping[str, tuple[Any, ...]], folder: Path
    ) -> None:
        self._places = {name: number for number, name in enumerate(cases)}
        self._folder = folder
        # the processes import the function's file, and it imports its neighbours
        os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
        spawn(_rank, (function, list(cases.values()), str(folder)))

    def __getitem__(self, name: str) -> list[Any]:
        files = [self._folder / f"{self._places[name]}-{rank}.pt" for rank in (0, 1)]
        results = [torch.load(file, weights_only=True) for file in files]
        for result in results:
            assert not isinstance(result, str), result
        return results


def _rank(rank: int, function: Callable[..., Any], cases: list[Any], folder: str) -> None:
    torch.set_num_threads(1)
    for number, arguments in enumerate(cases):
        store = dist.FileStore(f"{folder}/store{number}", 2)
        dist.init_process_group("gloo", rank=rank, world_size=2, store=store, timeout=PATIENCE)
        try:
            result = function(rank, *arguments)
        except Exception:  # told by the test of this case; the other cases go on
            result = traceback.format_exc()
        torch.save(result, f"{folder}/{number}-{rank}.pt")
        if number < len(cases) - 1:
            dist.destroy_process_group()
    leave()
