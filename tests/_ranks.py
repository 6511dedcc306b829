"""Processes of tests: how they start, and how one of a group ends."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch.distributed as dist
import torch.multiprocessing as mp

# What a process of a test needs; imported once, by the process that all others are forked from.
LOADED = ["torch", "torch.distributed", "surefoot"]


def start(function: Callable[..., Any], *arguments: Any) -> multiprocessing.Process:
    """Begin with a call in a process of its own, which did not have to import torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    process = context.Process(target=function, args=arguments)
    process.start()
    return process  # type: ignore[return-value]


def spawn(function: Callable[..., None], arguments: Sequence[Any], nprocs: int = 2) -> None:
    """Call a function with a rank and the arguments in so many processes; wait for all."""
    multiprocessing.set_forkserver_preload(LOADED)
    mp.start_processes(function, tuple(arguments), nprocs=nprocs, start_method="forkserver")


def leave() -> NoReturn:
    """Leave the group and end the process here.

    A thread of Gloo that still frees a tensor while Python shuts down aborts the process: seen on
    busy machines, after everything was done.
    """
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
