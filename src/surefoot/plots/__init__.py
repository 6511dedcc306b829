"""Plots: records in, matplotlib Axes out. Nothing is computed, shown or saved here.

matplotlib is imported when something is drawn, not before.
"""

from surefoot.plots.measurement import parabola

__all__ = ["parabola"]
