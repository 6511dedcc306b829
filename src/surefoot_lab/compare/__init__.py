"""Comparison: records in, figures out. Nothing here runs, draws or writes."""

from surefoot_lab.compare.advice import advise
from surefoot_lab.compare.intervals import interval
from surefoot_lab.compare.summary import summarize, summarize_run
from surefoot_lab.compare.table import terminal_table

__all__ = ["advise", "interval", "summarize", "summarize_run", "terminal_table"]
