"""surefoot: learning rates you measure instead of guess, for PyTorch."""

from surefoot import plots
from surefoot.line import NotRepeatableError
from surefoot.lr_range import (
    NoSuggestion,
    RangeCurve,
    Suggestion,
    cyclic,
    one_cycle,
    range_test,
    resume_schedule,
)
from surefoot.measured import (
    MeasuredAdamW,
    MeasuredLR,
    MeasuredMuon,
    MeasuredSGD,
    RateInterval,
    RatePoint,
)
from surefoot.optim import (
    GOLS,
    LABPAL,
    PAL,
    PLS,
    SLS,
    ExactLineSearch,
    FullBatchPAL,
    LineSearch,
    LineSearchOptimizer,
    SparsePAL,
    noise_factor,
)
from surefoot.outcome import Cost, Status, StepOutcome
from surefoot.parabola import Parabola
from surefoot.replay import ReplayError, is_measuring
from surefoot.shape import LineSample, sample_line

__version__ = "0.2.0"

__all__ = [
    "GOLS",
    "LABPAL",
    "PAL",
    "PLS",
    "SLS",
    "Cost",
    "ExactLineSearch",
    "FullBatchPAL",
    "LineSample",
    "LineSearch",
    "LineSearchOptimizer",
    "MeasuredAdamW",
    "MeasuredLR",
    "MeasuredMuon",
    "MeasuredSGD",
    "NoSuggestion",
    "NotRepeatableError",
    "Parabola",
    "RangeCurve",
    "RateInterval",
    "RatePoint",
    "ReplayError",
    "SparsePAL",
    "Status",
    "StepOutcome",
    "Suggestion",
    "cyclic",
    "is_measuring",
    "noise_factor",
    "one_cycle",
    "plots",
    "range_test",
    "resume_schedule",
    "sample_line",
]
