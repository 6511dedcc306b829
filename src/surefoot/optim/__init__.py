"""Optimizers that measure their step, one a file. All are ``torch.optim.Optimizer``s."""

from surefoot.optim.base import LineSearchOptimizer
from surefoot.optim.labpal import LABPAL, noise_factor
from surefoot.optim.pal import PAL

__all__ = ["LABPAL", "PAL", "LineSearchOptimizer", "noise_factor"]
