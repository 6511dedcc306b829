"""`surefoot lines`: what the loss looks like along the steps of a training run."""

from surefoot_lab.lines.config import LinesConfig
from surefoot_lab.lines.findings import find
from surefoot_lab.lines.run import OTHERS, RECORDS, sample_experiment

__all__ = ["OTHERS", "RECORDS", "LinesConfig", "find", "sample_experiment"]
