"""The charts of the page as Vega-Lite specifications: what is drawn, without data or colours.

Data arrive by name (`means`, `seeds`, `cursor`, `dots`) and colours by the theme, both from
page.js, so that the page holds every number once and follows the reader's light or dark setting.
The page steers a chart through its parameters alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import altair as alt

from surefoot_lab.compare import MethodSummary

_TICKS: Any = {"expr": "max(2, floor(width / 75))"}  # a phone has room for four numbers
_LABELS: Any = {"expr": "max(120, 0.3 * containerSize()[0])"}
# ... and breaks a long name once, at a space, instead of cutting off what tells it from others
_SPACE = "lastindexof(slice(datum.label, 0, 16), ' ')"
_CUT = f"({_SPACE} > 4 ? {_SPACE} : 15)"
_BROKEN = (
    "containerSize()[0] < 500 && length(datum.label) > 15 ? "
    f"[slice(datum.label, 0, {_CUT}), slice(datum.label, {_CUT})] : datum.label"
)
ROW_HEIGHT = 30
CLOSE_ROWS = 24  # in pixels, where there are many
MANY = 25

DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
COLOURS = 10  # in style.css, `--c0` to `--c9`; the eleventh method repeats a colour, dashed


@dataclass(frozen=True)
class CurveChart:
    """One chart over training: which figure, how it is scaled and written."""

    key: str
    title: str
    note: str
    log: bool
    format: str
    points: bool


CURVE_CHARTS = (
    CurveChart(
        "effective_lr",
        "Effective learning rate",
        "applied to the update; log scale; the largest where parameter groups differ",
        log=True,
        format="~g",
        points=False,
    ),
    CurveChart(
        "train_loss",
        "Training loss",
        "mean since the last entry of the record; log scale",
        log=True,
        format="~g",
        points=False,
    ),
    CurveChart(
        "validation_accuracy",
        "Validation accuracy",
        "at each evaluation; the scale fits the last four fifths",
        log=False,
        format=".1~%",
        points=True,
    ),
    CurveChart(
        "validation_loss",
        "Validation loss",
        "at each evaluation; log scale",
        log=True,
        format="~g",
        points=True,
    ),
)


def curve_spec(chart: CurveChart, methods: list[MethodSummary]) -> dict[str, Any]:
    """Means with a band from the lowest to the highest seed, or a thin line for each seed."""
    shown = "indexof(hidden, datum.method) < 0"
    if chart.log:
        shown += " && datum.value > 0"  # zero and below have no logarithm
    seeds, means = "mode === 'seeds'", "mode === 'mean'"
    base = alt.Chart().encode(color=_colour(methods), opacity=_faded(1.0)).transform_filter(shown)
    line = base.encode(strokeDash=_dash(methods))
    y = alt.Y("value:Q", title=None, axis=alt.Axis(format=chart.format), scale=_scale(chart.log))
    x = _window_x()
    point: Any = {"size": 14, "filled": True, "strokeDash": [1, 0]} if chart.points else False
    band = (
        base.transform_filter(means)
        .mark_area(clip=True, strokeWidth=0)
        .encode(x=x, y=alt.Y("low:Q", title=None), y2="high:Q", opacity=_faded(0.16))
    )
    if chart.log:
        band = band.transform_filter("datum.low > 0")
    mean = line.transform_filter(means).mark_line(clip=True, strokeWidth=2, point=point)
    seed = line.transform_filter(seeds).mark_line(clip=True, strokeWidth=1, point=point)
    end = base.transform_filter("isValid(datum.broken)").mark_point(
        shape="cross", angle=45, size=90, filled=True, clip=True
    )
    cursor = alt.Chart(alt.NamedData(name="cursor"))
    layers = (
        band.properties(data=alt.NamedData(name="means")),
        mean.encode(x=x, y=y).properties(data=alt.NamedData(name="means")),
        seed.encode(x=x, y=y, detail="run:N").properties(data=alt.NamedData(name="seeds")),
        end.encode(x=x, y=y).properties(data=alt.NamedData(name="seeds")),
        cursor.transform_filter("datum.rule").mark_rule(opacity=0.4, clip=True).encode(x=x),
        cursor.mark_point(size=50, filled=True, clip=True, opacity=1).encode(
            x=x, y=y, color=_colour(methods)
        ),
    )
    spec = _sized(alt.layer(*layers), height=260).add_params(
        alt.param(name="hidden", value=[]),
        alt.param(name="mode", value="mean"),
        alt.param(name="focus", value=""),
        *(alt.param(name=bound) for bound in ("x_min", "x_max", "y_min", "y_max")),
    )
    return _without_schema(spec)


def dots_spec(figure: str, methods: list[MethodSummary]) -> dict[str, Any]:
    """One dot a seed, a tick for the mean and a line of one standard deviation each way."""
    order = [method.label for method in methods]
    share = figure.endswith("accuracy")
    axis = alt.Axis(format=".1~%" if share else "~g", tickCount=_TICKS)
    base = alt.Chart().transform_filter("indexof(hidden, datum.method) < 0")
    y = alt.Y(
        "method:N",
        sort=order,
        title=None,
        axis=alt.Axis(
            labelLimit=_LABELS,
            labelExpr=_BROKEN,
            labelLineHeight=11,
            ticks=False,
            domain=False,
            grid=True,
            labelPadding=8,
        ),
    )
    x = alt.X("value:Q", title=None, axis=axis, scale=alt.Scale(zero=False, padding=12))
    colour = _colour(methods)
    spread = (
        base.mark_rule(strokeWidth=2)
        .encode(x=alt.X("low:Q", title=None), x2="high:Q", y=y, color=colour, opacity=_faded(0.5))
        .properties(data=alt.NamedData(name="dot_means"))
    )
    mean = (
        base.mark_tick(thickness=3, size=18)
        .encode(x=x, y=y, color=colour, opacity=_faded(1.0))
        .properties(data=alt.NamedData(name="dot_means"))
    )
    dots = (
        base.mark_point(size=42, strokeWidth=1.5, filled=False)
        .encode(x=x, y=y, color=colour, opacity=_faded(0.85), tooltip=_dot_tooltip(axis.format))
        .properties(data=alt.NamedData(name="dots"))
    )
    row = ROW_HEIGHT if len(methods) < MANY else CLOSE_ROWS
    spec = _sized(alt.layer(spread, mean, dots), height=row * len(methods)).add_params(
        alt.param(name="hidden", value=[]), alt.param(name="focus", value="")
    )
    return _without_schema(spec)


def _colour(methods: list[MethodSummary]) -> alt.Color:
    # The full domain, so that a method keeps its colour when others are hidden.
    domain = [method.label for method in methods]
    return alt.Color("method:N", scale=alt.Scale(domain=domain), legend=None)


def _dash(methods: list[MethodSummary]) -> alt.StrokeDash:
    domain = [method.label for method in methods]
    range_ = [DASHES[(i // COLOURS) % len(DASHES)] for i in range(len(domain))]
    return alt.StrokeDash("method:N", scale=alt.Scale(domain=domain, range=range_), legend=None)


def _faded(opacity: float) -> Any:
    return (
        alt.when("focus === '' || focus === datum.method")
        .then(alt.value(opacity))
        .otherwise(alt.value(opacity * 0.15))
    )


def _window_x() -> alt.X:
    scale = alt.Scale(
        domainMin=alt.expr("x_min"), domainMax=alt.expr("x_max"), nice=False, zero=False
    )
    return alt.X("x:Q", title="", scale=scale, axis=alt.Axis(grid=False, tickCount=_TICKS))


def _scale(log: bool) -> alt.Scale:
    bounds = {"domainMin": alt.expr("y_min"), "domainMax": alt.expr("y_max")}
    return alt.Scale(type="log", nice=False, **bounds) if log else alt.Scale(zero=False, **bounds)


def _dot_tooltip(number: str) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("method:N", title="method"),
        alt.Tooltip("seed:N", title="seed"),
        alt.Tooltip("value:Q", title="value", format=number),
    ]


def _sized(chart: alt.LayerChart, height: Any) -> alt.LayerChart:
    return chart.properties(
        width="container",
        height=height,
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
    )


def _without_schema(chart: alt.LayerChart) -> dict[str, Any]:
    spec: dict[str, Any] = chart.to_dict()
    spec.pop("config", None)  # altair's own look; the page has one of its own
    spec.pop("$schema")  # an address; the page says "vega-lite" itself
    return spec
