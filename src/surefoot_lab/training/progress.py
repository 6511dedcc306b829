"""What the person in front of the terminal sees of a run."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EVERY_S = 30.0


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
    """A live bar on a terminal; elsewhere plain lines; nothing if not wanted.

    In a log or a notebook there is a line per evaluation, and one every half minute between.

    Args:
        label: what is trained.
        total_steps: length of the run.
        wanted: show anything at all.
        done: steps made already, where a run is resumed.
    """

    def __init__(self, label: str, total_steps: int, *, wanted: bool, done: int = 0) -> None:
        self._label = label
        self._total = total_steps
        self._wanted = wanted
        self._accuracy: float | None = None
        self._bar: Progress | None = None
        console = Console()
        if wanted and console.is_terminal:
            self._bar = bar_of(console)
            self._task = self._bar.add_task(label, total=total_steps, completed=done, figures="")
        self._told = time.monotonic()

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
            if self._wanted and time.monotonic() - self._told >= EVERY_S:
                self._print(f"{self._place(step)}  loss {loss:.4f}  lr {_rates(effective_lr)}")
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
        line = f"{self._place(step)}  {split} loss {loss:.4f}  {share}lr {_rates(rate)}"
        if self._bar is not None:
            self._bar.console.print(line, highlight=False)
        elif self._wanted:
            self._print(line)

    def _place(self, step: int) -> str:
        return f"{self._label}  step {step}/{self._total}"

    def _print(self, line: str) -> None:
        print(line, file=sys.stdout, flush=True)
        self._told = time.monotonic()


def _rates(effective_lr: Any) -> str:
    rates = effective_lr if isinstance(effective_lr, list) else [effective_lr]
    return " ".join("?" if rate is None else f"{rate:.3g}" for rate in rates)
