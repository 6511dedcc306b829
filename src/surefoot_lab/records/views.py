"""A run at a glance: one line for a terminal, a small table with its curve for a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surefoot_lab.records.reader import RunRecord

POINTS = 120


def in_a_line(run: RunRecord) -> str:
    """`RunRecord(digits-convnet, Measured AdamW, seed 0: finished at step 80, ...)`."""
    found = ", ".join(text for _, text in facts(run))
    return f"RunRecord({run.name}, {run.label}, seed {run.seed}: {found})"


def as_html(run: RunRecord) -> str:
    """A table of what the run reached, and its training loss as a small curve."""
    import pandas

    head = f"{escape(run.name)} · <b>{escape(run.label)}</b>"
    if run.seed is not None:
        head += f" · seed {run.seed}"
    with pandas.option_context("display.max_colwidth", None):  # long texts as they are
        table = pandas.DataFrame(list(facts(run))).to_html(header=False, index=False, border=0)
    return f"<div>{head}{table}{_curve(run)}</div>"


def _curve(run: RunRecord) -> str:
    """The training loss as a small SVG; logarithmic where it is positive throughout."""
    import altair as alt
    import vl_convert

    lines = [line for line in run.steps if line.get("train_loss") is not None]
    if len(lines) < 2:
        return ""
    lines = lines[:: max(1, len(lines) // POINTS)]
    kind: Any = "log" if min(line["train_loss"] for line in lines) > 0.0 else "linear"
    scale = alt.Scale(type=kind, zero=False, nice=False)
    chart = (
        alt.Chart(alt.Data(values=lines))
        .mark_line()
        .encode(x=alt.X("step:Q", axis=None), y=alt.Y("train_loss:Q", axis=None, scale=scale))
    )
    return vl_convert.vegalite_to_svg(chart.properties(width=240, height=44).to_dict())


def facts(run: RunRecord) -> Iterator[tuple[str, str]]:
    """How a run ended and what it reached, as names and texts."""
    end = run.end or {"reason": "not finished", "step": run.reached}
    yield "end", f"{end['reason']} at step {end.get('step')}"
    for split in ("validation", "test"):
        for line in run.split(split)[-1:]:
            accuracy, loss = line.get("accuracy"), line.get("loss")
            if accuracy is not None:
                yield split, f"{split} accuracy {accuracy:.1%}"
            elif loss is not None:
                yield split, f"{split} loss {loss:.3g}"
    seconds = [s for line in (*run.steps, *run.evaluations) if (s := line.get("seconds"))]
    if seconds:
        yield "time", f"{max(seconds):.1f} s of training"
    if run.problems:
        yield "problems", "; ".join(run.problems[:3])
