"""Comparison: records in, figures out. Nothing here runs, draws or writes."""

from surefoot_lab.compare.advice import Advice, advise
from surefoot_lab.compare.columns import Cell, Column, method_columns, run_columns
from surefoot_lab.compare.curves import AXES, Band, Curve, evaluation_curve, mean_band, step_curve
from surefoot_lab.compare.intervals import Interval, interval, paired_difference
from surefoot_lab.compare.milestones import (
    FACTORS,
    Milestone,
    common_target,
    milestones,
    profiles_over_names,
)
from surefoot_lab.compare.profiles import performance_profiles
from surefoot_lab.compare.robustness import GridCell, Robustness, heat_map, robustness
from surefoot_lab.compare.settings import Settings, environments, settings
from surefoot_lab.compare.summary import (
    MethodSummary,
    Rate,
    RunSummary,
    Spread,
    State,
    level_with_best,
    ranked_by,
    summarize,
    summarize_run,
)
from surefoot_lab.compare.table import terminal_table
from surefoot_lab.compare.targets import Reached, area_under_curve, time_to_target

__all__ = [
    "AXES",
    "FACTORS",
    "Advice",
    "Band",
    "Cell",
    "Column",
    "Curve",
    "GridCell",
    "Interval",
    "MethodSummary",
    "Milestone",
    "Rate",
    "Reached",
    "Robustness",
    "RunSummary",
    "Settings",
    "Spread",
    "State",
    "advise",
    "area_under_curve",
    "common_target",
    "environments",
    "evaluation_curve",
    "heat_map",
    "interval",
    "level_with_best",
    "mean_band",
    "method_columns",
    "milestones",
    "paired_difference",
    "performance_profiles",
    "profiles_over_names",
    "ranked_by",
    "robustness",
    "run_columns",
    "settings",
    "step_curve",
    "summarize",
    "summarize_run",
    "terminal_table",
    "time_to_target",
]
