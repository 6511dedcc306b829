"""Plots: records in, matplotlib Axes out. Nothing is computed, shown or saved here.

matplotlib is imported when something is drawn, not before.
"""

from surefoot.plots.line import line_sample
from surefoot.plots.measurement import parabola
from surefoot.plots.ranges import range_curve, range_curves, range_grid
from surefoot.plots.rate import rate
from surefoot.plots.shape import batch_sizes, line_grid, over_training, steps_against_norms

__all__ = [
    "batch_sizes",
    "line_grid",
    "line_sample",
    "over_training",
    "parabola",
    "range_curve",
    "range_curves",
    "range_grid",
    "rate",
    "steps_against_norms",
]
