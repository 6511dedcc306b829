"""How a process of a group ends."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import torch.distributed as dist


def leave() -> NoReturn:
    """Leave the group and end the process here.

    A thread of Gloo that still frees a tensor while Python shuts down aborts the process: seen on
    busy machines, after everything was done.
    """
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
