"""surefoot: learning rates you measure instead of guess, for PyTorch."""

from surefoot.line import NotRepeatableError
from surefoot.optim import LABPAL, PAL, LineSearchOptimizer, noise_factor
from surefoot.outcome import Cost, Status, StepOutcome
from surefoot.parabola import Parabola

__version__ = "0.1.0"

__all__ = [
    "LABPAL",
    "PAL",
    "Cost",
    "LineSearchOptimizer",
    "NotRepeatableError",
    "Parabola",
    "Status",
    "StepOutcome",
    "noise_factor",
]
