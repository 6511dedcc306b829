"""Comparison: records in, figures out. Nothing here runs, draws or writes."""

from surefoot_lab.compare.columns import Cell, Column, method_columns, run_columns
from surefoot_lab.compare.curves import AXES, Band, Curve, evaluation_curve, mean_band, step_curve
from surefoot_lab.compare.settings import Settings, environments, settings
from surefoot_lab.compare.summary import (
    MethodSummary,
    Rate,
    RunSummary,
    Spread,
    State,
    level_with_best,
    summarize,
    summarize_run,
)
from surefoot_lab.compare.table import terminal_table

__all__ = [
    "AXES",
    "Band",
    "Cell",
    "Column",
    "Curve",
    "MethodSummary",
    "Rate",
    "RunSummary",
    "Settings",
    "Spread",
    "State",
    "environments",
    "evaluation_curve",
    "level_with_best",
    "mean_band",
    "method_columns",
    "run_columns",
    "settings",
    "step_curve",
    "summarize",
    "summarize_run",
    "terminal_table",
]
