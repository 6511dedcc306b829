"""What the person in front of the terminal sees of a run."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def bar_of(console: Console) -> Progress:
    """A bar with a description and the task's `figures` on a terminal, nothing elsewhere."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(compact=True),
        console=console,
        disable=not console.is_terminal,
    )


class ProgressDisplay:
    """A live bar on a terminal; elsewhere one plain line per evaluation; nothing if not wanted.

    Args:
        label: what is trained.
        total_steps: length of the run.
        wanted: show anything at all.
    """

    def __init__(self, label: str, total_steps: int, *, wanted: bool) -> None:
        self._label = label
        self._total = total_steps
        self._wanted = wanted
        self._accuracy: float | None = None
        self._bar: Progress | None = None
        console = Console()
        if wanted and console.is_terminal:
            self._bar = bar_of(console)
            self._task = self._bar.add_task(label, total=total_steps, figures="")

    def __enter__(self) -> ProgressDisplay:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, step: int, loss: float, effective_lr: Any) -> None:
        """Show the latest training loss and effective learning rate."""
        if self._bar is None:
            return
        figures = f"loss {loss:.4f}  lr {_rates(effective_lr)}"
        if self._accuracy is not None:
            figures += f"  validation {self._accuracy:.2%}"
        self._bar.update(self._task, completed=step, figures=figures)

    def evaluation(
        self, step: int, split: str, loss: float, accuracy: float | None, rate: Any
    ) -> None:
        """Show an evaluation."""
        if split == "validation":
            self._accuracy = accuracy
        share = "" if accuracy is None else f"accuracy {accuracy:.2%}  "
        line = (
            f"{self._label}  step {step}/{self._total}  {split} loss {loss:.4f}  "
            f"{share}lr {_rates(rate)}"
        )
        if self._bar is not None:
            self._bar.console.print(line, highlight=False)
        elif self._wanted:
            print(line, file=sys.stdout, flush=True)


def _rates(effective_lr: Any) -> str:
    rates = effective_lr if isinstance(effective_lr, list) else [effective_lr]
    return " ".join("?" if rate is None else f"{rate:.3g}" for rate in rates)
