"""Line analysis: what the loss looks like along a line, and what the methods would do there."""

from surefoot.shape._walk import SampleProgress
from surefoot.shape.directions import between, gradient_direction, next_update, random_direction
from surefoot.shape.line_sample import LineMinimum, LineSample
from surefoot.shape.measure import (
    BatchSizeEffect,
    Proportionality,
    SampledLine,
    StepOnLine,
    batch_size_effect,
    fit_errors,
    is_convex,
    proportionality,
    shape_distance,
    steps_on_line,
    tuned_rate,
)
from surefoot.shape.record import LineRecords
from surefoot.shape.run import sample_run
from surefoot.shape.sample import default_lengths, sample_line

__all__ = [
    "BatchSizeEffect",
    "LineMinimum",
    "LineRecords",
    "LineSample",
    "Proportionality",
    "SampleProgress",
    "SampledLine",
    "StepOnLine",
    "batch_size_effect",
    "between",
    "default_lengths",
    "fit_errors",
    "gradient_direction",
    "is_convex",
    "next_update",
    "proportionality",
    "random_direction",
    "sample_line",
    "sample_run",
    "shape_distance",
    "steps_on_line",
    "tuned_rate",
]
