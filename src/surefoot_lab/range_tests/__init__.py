"""`surefoot range-test`: learning rates measured for an experiment, one or a grid of them."""

from surefoot_lab.range_tests.grid import run_grid
from surefoot_lab.range_tests.measure import Stream, measure, with_one_cycle

__all__ = ["Stream", "measure", "run_grid", "with_one_cycle"]
