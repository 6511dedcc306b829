"""What every test needs: no leftovers of random state, and one thread: the nets are tiny."""

from __future__ import annotations

import os
import signal

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """One file alone is not worth a second process, unless somebody asks for it."""
    asked = any(word.startswith(("-n", "--numprocesses")) for word in config.invocation_params.args)
    files = [word.partition("::")[0] for word in config.args]
    if not asked and len(files) == 1 and files[0].endswith(".py"):
        config.option.numprocesses = 0


def pytest_configure() -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # nor does a process that a test starts need more
    # Where the suite is started in the background, SIGINT is ignored, also in every child; the
    # tests of Ctrl-C need what a terminal gives.
    signal.signal(signal.SIGINT, signal.default_int_handler)
