"""A run at a glance: one line for a terminal, a small table with its curve for a notebook."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surefoot_lab.records.reader import RunRecord

WIDTH, HEIGHT = 240, 44
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
    losses = [loss for line in run.steps if (loss := line.get("train_loss")) is not None]
    return f"<div>{head}{table}{sparkline(losses)}</div>"


def sparkline(values: Sequence[float]) -> str:
    """A curve as SVG in the colour of the text around it; logarithmic where all are positive."""
    shown = [float(v) for v in values[:: max(1, len(values) // POINTS)] if math.isfinite(v)]
    if len(shown) < 2:
        return ""
    heights = [math.log(v) for v in shown] if min(shown) > 0.0 else shown
    low, span = min(heights), (max(heights) - min(heights)) or 1.0
    points = " ".join(
        f"{WIDTH * i / (len(heights) - 1):.1f},{2 + (HEIGHT - 4) * (1 - (h - low) / span):.1f}"
        for i, h in enumerate(heights)
    )
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="from {shown[0]:.3g} to {shown[-1]:.3g}">'
        f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.5"/></svg>'
    )


def as_rows(run: RunRecord) -> list[dict[str, Any]]:
    """All lines in the order of their steps: steps, then measurements, then evaluations."""
    lines = [*run.steps, *run.measurements, *run.evaluations]
    return sorted(lines, key=lambda line: line["step"])


def facts(run: RunRecord) -> Iterator[tuple[str, str]]:
    """How a run ended and what it reached, as names and texts."""
    end = run.end or {"reason": "not finished", "step": run.steps[-1]["step"] if run.steps else 0}
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
