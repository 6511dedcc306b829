"""Measure a learning rate once, before training, and turn it into torch's own schedules."""

from surefoot.lr_range._course import NoSuggestion
from surefoot.lr_range._data import RangeData, ValidationPoint
from surefoot.lr_range.curve import RangeCurve
from surefoot.lr_range.ramp import Ramp
from surefoot.lr_range.range_test import Progress, range_test
from surefoot.lr_range.schedules import cyclic, one_cycle, resume_schedule
from surefoot.lr_range.stop import StopReason, StopRule
from surefoot.lr_range.suggest import RULES, Suggestion

__all__ = [
    "RULES",
    "NoSuggestion",
    "Progress",
    "Ramp",
    "RangeCurve",
    "RangeData",
    "StopReason",
    "StopRule",
    "Suggestion",
    "ValidationPoint",
    "cyclic",
    "one_cycle",
    "range_test",
    "resume_schedule",
]
