"""A measured learning rate for any torch optimizer, and how sure it is."""

from surefoot.measured.estimate import Measurement, RateInterval, interval, pool
from surefoot.measured.history import RatePoint
from surefoot.measured.named import MeasuredAdamW, MeasuredMuon, MeasuredSGD
from surefoot.measured.optimizer import MeasuredLR

__all__ = [
    "MeasuredAdamW",
    "MeasuredLR",
    "MeasuredMuon",
    "MeasuredSGD",
    "Measurement",
    "RateInterval",
    "RatePoint",
    "interval",
    "pool",
]
