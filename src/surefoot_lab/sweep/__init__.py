"""Sweeps: many runs of one experiment, on Ray, whose outcome does not depend on interruptions."""

from surefoot_lab.sweep.cells import Trial, trials_of
from surefoot_lab.sweep.table import write_table
from surefoot_lab.sweep.trial import is_done, run_trial

__all__ = ["Trial", "is_done", "run_trial", "trials_of", "write_table"]
