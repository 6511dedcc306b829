"""The charts of the page as Vega-Lite specifications, data and all: Altair draws, nothing else.

The page's controls (axis, mean or runs, one method, part of a name) are elements of its HTML that
parameters of each chart are bound to. Colours come from the theme, so that a chart follows the
reader's light or dark setting.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from surefoot_lab.compare.summary import MethodSummary

_TICKS: Any = {"expr": "max(2, floor(width / 75))"}  # a phone has room for four numbers

DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
COLOURS = 10  # in style.css, `--c0` to `--c9`; the eleventh method repeats a colour, dashed
CROWDED, STRONG = 8, 5  # beyond eight curves all but the best five are faint
FAINT = 0.15
_IN_FOCUS = (
    "isDefined(hover.method) ? hover.method[0] === datum.method : "
    "one === '' ? !datum.faint : one === datum.method"
)


@dataclass(frozen=True)
class CurveChart:
    """One chart over training: which figure, how it is scaled and written."""

    key: str
    title: str
    note: str
    format: str = "~g"
    log: bool = True
    points: bool = False


_LATE = "at each evaluation; the scale fits the last four fifths"
_LARGEST = "applied to the update; log scale; the largest where parameter groups differ"
CURVE_CHARTS = (
    CurveChart("validation_accuracy", "Validation accuracy", _LATE, ".1~%", log=False, points=True),
    CurveChart("train_loss", "Training loss", "mean since the last entry of the record; log scale"),
    CurveChart("effective_lr", "Effective learning rate", _LARGEST),
    CurveChart("validation_loss", "Validation loss", "at each evaluation; log scale", points=True),
)


def curve_spec(
    chart: CurveChart,
    methods: Sequence[MethodSummary],
    rows: Sequence[Mapping[str, Any]],
    controls: str,
) -> dict[str, Any]:
    """Means with a band from the lowest to the highest seed, or a line for each run.

    Args:
        chart: what is drawn.
        methods: the best first.
        rows: points with the `rank` of the method, each of the axes (`step`, `cost`, `seconds`),
            `value`, and either `low`, `high`, `n` of a mean or `run`, `seed`, `broken` of a run.
        controls: what the ids of the page's controls end with.
    """
    names = [method.label for method in methods]
    base = (
        _chart(rows)
        .transform_calculate(
            faint=f"{len(names) > CROWDED} && datum.rank >= {STRONG}".lower(),
            x="datum[axis]",
            of="isValid(datum.run) ? 'seed ' + datum.seed : 'mean of ' + datum.n + ' runs'",
        )
        .transform_filter("isValid(datum.x) && (mode === 'mean') === !isValid(datum.run)")
        .encode(color=_colour(names), opacity=_faded(1.0))
    )
    if chart.log:
        base = base.transform_filter("datum.value > 0")  # zero and below have no logarithm
    scale = alt.Scale(type="log", nice=False, padding=6)
    if not chart.log:
        scale = alt.Scale(zero=False, nice=False, domain=_late_range(rows))
    y = alt.Y("value:Q", title=None, axis=alt.Axis(format=chart.format), scale=scale)
    axis = alt.Axis(grid=False, tickCount=_TICKS, format="~s")
    x = alt.X("x:Q", title=None, scale=alt.Scale(nice=False, zero=False), axis=axis)
    base = base.encode(x=x, y=y)
    positive = "isValid(datum.low)" + (" && datum.low > 0" if chart.log else "")
    band = base.transform_filter(positive).mark_area(clip=True, strokeWidth=0)
    band = band.encode(y=alt.Y("low:Q", title=None), y2="high:Q", opacity=_faded(0.16))
    point: Any = {"size": 14, "filled": True, "strokeDash": [1, 0]} if chart.points else False
    width: Any = {"expr": "mode === 'mean' ? 2 : 1"}
    line = base.mark_line(clip=True, strokeWidth=width, point=point)
    line = line.encode(strokeDash=_dash(names), detail="run:N")
    end = base.transform_filter("isValid(datum.broken)")
    end = end.mark_point(shape="cross", angle=45, size=90, filled=True, clip=True)
    layers = [band, line, end, _touched(base, chart)]
    return _spec(layers, names, 260, controls, axis="step", mode="mean", one="", part="")


def _touched(base: alt.Chart, chart: CurveChart) -> alt.Chart:
    """Invisible points with room for a finger, which tell what they are; along x it zooms."""
    points = base.mark_point(opacity=0, size=160, filled=True, clip=True)
    tooltip = [
        alt.Tooltip("method:N", title="method"),
        alt.Tooltip("of:N", title="of"),
        alt.Tooltip("step:Q", title="step", format=",~f"),
        alt.Tooltip("value:Q", title="value", format=".4~g" if chart.log else ".2~%"),
    ]
    return points.encode(opacity=alt.value(0), tooltip=tooltip).add_params(
        alt.selection_point(name="hover", on="pointerover", clear="pointerout", fields=["method"]),
        alt.selection_interval(
            name="zoom",
            bind="scales",
            encodings=["x"],
            zoom="wheel![event.shiftKey]",  # a wheel alone scrolls the page, and so does a finger
            translate="[mousedown, window:mouseup] > window:mousemove!",
        ),
    )


def _spec(
    layers: Sequence[alt.Chart], names: Sequence[str], height: int, controls: str, **steered: str
) -> dict[str, Any]:
    """The layers in one chart; elements of the page steer its parameters, by their ids."""
    chart = alt.layer(*layers).properties(
        width="container",
        height=height,
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
    )
    bound = [
        alt.param(name=name, value=value, bind=alt.BindDirect(element=f"#{name}-{controls}"))
        for name, value in steered.items()
    ]
    spec: dict[str, Any] = chart.add_params(alt.param(name="names", value=names), *bound).to_dict()
    spec.pop("config", None)  # altair's own look; the page has one of its own
    spec.pop("$schema")  # an address; the page says "vega-lite" itself
    return spec


def _chart(rows: Sequence[Mapping[str, Any]]) -> alt.Chart:
    """A chart of the methods asked for; rows are kept as columns, a third of a list's size."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    columns = {key: [_written(row.get(key)) for row in rows] for key in keys}
    return (
        alt.Chart(alt.InlineData([columns]))
        .transform_flatten(keys)
        .transform_calculate(method="names[datum.rank]")
        .transform_filter("part === '' || indexof(lower(datum.method), lower(part)) >= 0")
    )


def _written(value: Any) -> Any:
    """Five significant digits, more than a screen has pixels; nothing where there is no number."""
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    short = float(f"{value:.5g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def _late_range(rows: Iterable[Mapping[str, Any]]) -> list[float] | None:
    """The lowest and the highest value of the last four fifths of the steps, and a little room."""
    rows = [row for row in rows if row["value"] is not None and math.isfinite(row["value"])]
    if not rows:
        return None
    first, last = min(row["step"] for row in rows), max(row["step"] for row in rows)
    late = [row["value"] for row in rows if row["step"] >= first + 0.2 * (last - first)]
    low, high = min(late), max(late)
    room = 0.04 * (high - low) or 0.01 * abs(high) or 0.01
    return [low - room, high + room]


def _colour(names: Sequence[str]) -> alt.Color:
    # The full domain, so that a method keeps its colour when others are hidden.
    return alt.Color("method:N", scale=alt.Scale(domain=list(names)), legend=None)


def _dash(names: Sequence[str]) -> alt.StrokeDash:
    dashes = [DASHES[(i // COLOURS) % len(DASHES)] for i in range(len(names))]
    scale = alt.Scale(domain=list(names), range=dashes)
    return alt.StrokeDash("method:N", scale=scale, legend=None)


def _faded(opacity: float) -> Any:
    shown = alt.when(_IN_FOCUS).then(alt.value(opacity))
    return shown.otherwise(alt.value(opacity * FAINT))
