"""Everything a run tells: to its record, to TensorBoard, to the terminal."""

from __future__ import annotations

import math
import shutil
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from surefoot_lab.errors import UserError, named
from surefoot_lab.records import RECORD_NAME, TRACEBACK_NAME, RecordWriter, has_record
from surefoot_lab.training.checkpoint import CHECKPOINT_NAME
from surefoot_lab.training.progress import ProgressDisplay
from surefoot_lab.values import flat, plain

EXPERIMENT_NAME = "experiment.yaml"
TENSORBOARD_NAME = "tensorboard"
MESSAGE_LENGTH = 1000  # of what stands in the record; the rest is in the traceback
# What a resumed run may be given anew: where the data lies and what else is written, not what is
# computed (another device computes the same up to rounding).
FREE_ON_RESUME = ("data.root", "data.download", "train.device", "train.tensorboard")


class RunLog:
    """Write each fact once to wherever it belongs; what is for the record alone, to `record`.

    Args:
        run_dir: the run's directory.
        display: the terminal.
        tensorboard: write TensorBoard files too.
        purge_step: TensorBoard entries from this step on are void (after a resume).
    """

    def __init__(
        self, run_dir: Path, display: ProgressDisplay, *, tensorboard: bool, purge_step: int | None
    ) -> None:
        self.run_dir = run_dir
        self.record = RecordWriter(run_dir)
        self._display = display
        self._board: Any = None
        self._wants_board = tensorboard
        self._purge_step = purge_step

    def step(self, **fields: Any) -> None:
        """A line of training: loss, effective learning rate, cost."""
        self.record.write("step", **fields)
        self._display.step(fields["step"], fields["train_loss"], fields["effective_lr"])
        self._scalar("train/loss", fields["train_loss"], fields["step"])
        rates = fields["effective_lr"]
        for place, rate in enumerate(rates if isinstance(rates, list) else [rates]):
            self._scalar(f"effective_lr/group{place}", rate, fields["step"])

    def measured(self, step: int, outcome: dict[str, Any]) -> None:
        """What a measurement told beside the common rate, for TensorBoard."""
        self._scalar("noise_scale", outcome.get("noise_scale"), step)
        for name in ("ratios", "weight_decay"):
            for place, value in enumerate(outcome.get(name) or ()):
                self._scalar(f"{name}/group{place}", value, step)

    def evaluation(self, effective_lr: Any, **fields: Any) -> None:
        """An evaluation."""
        self.record.evaluation(**fields)
        step, split = fields["step"], fields["split"]
        loss, accuracy = fields["loss"], fields["accuracy"]
        self._display.evaluation(step, split, loss, accuracy, effective_lr)
        self._scalar(f"{split}/loss", loss, step)
        self._scalar(f"{split}/accuracy", accuracy, step)

    def open_board(self) -> None:
        """Begin with TensorBoard, after the record: which says so if that fails."""
        if self._wants_board:
            from torch.utils.tensorboard import SummaryWriter

            place = str(self.run_dir / TENSORBOARD_NAME)
            self._board = SummaryWriter(place, purge_step=self._purge_step)

    def fail(self, step: int, error: Exception) -> None:
        """The run ends with an error: in one line of the record, and in full beside it."""
        with suppress(OSError):  # a full disk may not take even that
            self.record.end(step, "failed", named(error, MESSAGE_LENGTH))
        with suppress(OSError):
            text = "".join(traceback.format_exception(error))
            (self.run_dir / TRACEBACK_NAME).write_text(text, "utf-8", "replace")

    def close(self) -> None:
        """Close all files."""
        self.record.close()
        if self._board is not None:
            with suppress(OSError):  # what a run came to stands in the record
                self._board.close()

    def _scalar(self, name: str, value: float | None, step: int) -> None:
        if self._board is not None and value is not None and math.isfinite(value):
            self._board.add_scalar(name, value, step)


class SilentLog:
    """The log of a process that leaves the writing to another: whatever is said is not written."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *args: Any, **fields: Any) -> None:
        """Say nothing."""


def check_run_dir(run_dir: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a directory that holds a run already, unless it is to be resumed or replaced.

    Raises:
        UserError: says which of the two to choose.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"{run_dir}: is a file; choose another --out")
    if resume and not has_record(run_dir):
        raise UserError(f"{run_dir}: nothing to resume (it has no {RECORD_NAME})")
    if has_record(run_dir) and not (resume or overwrite):
        raise UserError(
            f"{run_dir}: holds a run already; go on with --resume, replace it with --overwrite, "
            "or choose another --out"
        )


def check_same_experiment(old: dict[str, Any], resolved: dict[str, Any], what: str) -> None:
    """Refuse to resume a run as a different experiment.

    Args:
        old: the experiment that was recorded; empty where nobody knows.
        resolved: the one to go on with.
        what: where the old one stands, for the error message.

    Raises:
        UserError: names the first setting that differs.
    """
    before, now = flat(plain(old)), flat(plain(resolved))
    for key in dict.fromkeys([*before, *now] if old else []):
        if key in (*FREE_ON_RESUME, "name"):  # a name may follow from the folder
            continue
        if before.get(key) != now.get(key):
            raise UserError(
                f"{key}: {what} has {before.get(key)!r}, this experiment {now.get(key)!r}; "
                "resume with the same settings, or start a new run with another --out"
            )


def clear_run(run_dir: Path) -> None:
    """Remove what a former run wrote, and nothing else."""
    for name in (RECORD_NAME, CHECKPOINT_NAME, EXPERIMENT_NAME, TRACEBACK_NAME):
        (run_dir / name).unlink(missing_ok=True)
    shutil.rmtree(run_dir / TENSORBOARD_NAME, ignore_errors=True)
