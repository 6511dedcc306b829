"""Optimizers that measure their step, one a file. All are ``torch.optim.Optimizer``s."""

from surefoot.optim.base import LineSearchOptimizer
from surefoot.optim.batch_growth import noise_factor
from surefoot.optim.exact import ExactLineSearch
from surefoot.optim.fbpal import FullBatchPAL
from surefoot.optim.gols import GOLS
from surefoot.optim.labpal import LABPAL
from surefoot.optim.line_search import LineSearch
from surefoot.optim.pal import PAL, SparsePAL
from surefoot.optim.pls import PLS
from surefoot.optim.sls import SLS

__all__ = [
    "GOLS",
    "LABPAL",
    "PAL",
    "PLS",
    "SLS",
    "ExactLineSearch",
    "FullBatchPAL",
    "LineSearch",
    "LineSearchOptimizer",
    "SparsePAL",
    "noise_factor",
]
