"""The pictures of a run's lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from surefoot import plots
from surefoot.shape import LineSample, StepOnLine, batch_size_effect, fit_errors, proportionality

MOST = 12  # small pictures in one


def draw(
    samples: Sequence[LineSample],
    marked: Sequence[Mapping[str, StepOnLine]],
    others: Mapping[int, Sequence[LineSample]],
    batch_size: int,
    folder: Path,
) -> dict[str, Path]:
    """Write the PNG files.

    Args:
        samples: the lines of the steps.
        marked: where the methods would go on each.
        others: lines along gradients of batches of other sizes.
        batch_size: that of the steps.
        folder: to write into.

    Returns:
        A sentence on each picture, and its file.
    """
    from matplotlib import pyplot

    made: dict[str, Path] = {}

    def save(name: str, title: str, figure: Any) -> None:
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=110)
        pyplot.close(figure)
        made[title] = path

    middle = len(samples) // 2
    axes = samples[middle].plot(steps=marked[middle])
    save("line", f"The line before step {samples[middle].step}", axes.figure)
    chosen = range(0, len(samples), -(-len(samples) // MOST))
    figure = plots.line_grid([samples[i] for i in chosen], [marked[i] for i in chosen])
    save("lines", "Lines over the run", figure)
    save("measures", "Fits, and where the methods would go, over the run", _over(samples, marked))
    inside = [s for s in samples if not s.exact_minimum().at_border]
    if len(inside) > 1 and samples[0].kind == "gradient":
        figure = _against_norms(inside, others, batch_size)
        save("norms", "Distance of the full-batch minimum against the gradient norm", figure)
    return made


def _over(samples: Sequence[LineSample], marked: Sequence[Mapping[str, StepOnLine]]) -> Any:
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11.0, 4.0), layout="constrained")
    at = [float(sample.step or 0) for sample in samples]
    errors = [fit_errors(sample) for sample in samples]
    series = {f"degree {k}": [error[k] for error in errors] for k in (0, 1, 2)}
    plots.over_training(at, series, left, ylabel="mean absolute error of the fit", log=True)
    names = [name for name in marked[0] if all(name in steps for steps in marked)]
    lengths = {name: [steps[name].length for steps in marked] for name in names}
    plots.over_training(at, lengths, right, ylabel="length of the step")
    return figure


def _against_norms(
    inside: Sequence[LineSample], others: Mapping[int, Sequence[LineSample]], batch_size: int
) -> Any:
    from matplotlib import pyplot

    groups = {batch_size: list(inside)}
    groups |= {n: [s for s in o if not s.exact_minimum().at_border] for n, o in others.items()}
    groups = {size: lines for size, lines in sorted(groups.items()) if len(lines) > 1}
    wide = 2 if len(groups) > 1 else 1
    figure, row = pyplot.subplots(
        1, wide, figsize=(5.5 * wide, 4.0), squeeze=False, layout="constrained"
    )
    axes = row[0]
    for size, lines in groups.items():
        plots.steps_against_norms(
            [s.direction_norm for s in lines],
            [s.exact_minimum().length for s in lines],
            axes[0],
            rate=proportionality(lines).rate if len(groups) == 1 else None,
            label=f"batches of {size}",
        )
    if wide == 2:
        plots.batch_sizes(batch_size_effect(groups), axes[1])
    return figure
