"""The lab around surefoot: train, compare, report.

The library (`surefoot`) knows nothing of this package; this package may use everything of the
library. Importing it is cheap: torch comes in when it is needed.

    from surefoot_lab import Experiment, OptimizerConfig, train

    run = train(Experiment(steps=100, optimizer=OptimizerConfig("MeasuredAdamW")), "runs/first")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surefoot_lab.config import (
        DataConfig,
        Experiment,
        LossConfig,
        ModelConfig,
        OptimizerConfig,
        SchedulerConfig,
        TrainConfig,
    )
    from surefoot_lab.records import RunRecord, read_run, read_runs
    from surefoot_lab.training import train

__all__ = [
    "DataConfig",
    "Experiment",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RunRecord",
    "SchedulerConfig",
    "TrainConfig",
    "read_run",
    "read_runs",
    "train",
]

_ELSEWHERE = {
    **dict.fromkeys(("RunRecord", "read_run", "read_runs"), "records"),
    "train": "training",
}


def __getattr__(name: str) -> Any:
    """What is asked for comes from its module, which is imported then."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_ELSEWHERE.get(name, 'config')}")
    return getattr(module, name)
