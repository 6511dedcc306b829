"""Lines along a whole training: sample every n-th step, write as it goes, resume after a crash."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from surefoot._archive import load_archive, save_archive
from surefoot._numbers import check_count
from surefoot._quiet import RngState, devices_of
from surefoot.shape._evaluate import BatchLoss, LossFn
from surefoot.shape.directions import gradient_direction, next_update
from surefoot.shape.line_sample import LineSample
from surefoot.shape.record import LineRecords
from surefoot.shape.sample import sample_line


def sample_run(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: LossFn,
    batch_at: Callable[[int], Any],
    batches: Iterable[Any],
    *,
    steps: int,
    folder: str | Path,
    every: int = 1,
    along: Literal["gradient", "update"] = "gradient",
    lengths: Iterable[float] | None = None,
    checkpoint_every: int | None = None,
    scheduler: LRScheduler | None = None,
    on_line: Callable[[LineSample], None] | None = None,
    **options: Any,
) -> LineRecords:
    """Train, and sample the line of every n-th step before that step is made.

    Called again with the same arguments after it was killed, it goes on from its last checkpoint
    and ends with the same records, to the bit, as if it had never stopped.

    Args:
        model: in training mode.
        optimizer: of ``model``; its ``step`` is called with a closure.
        loss_fn: ``loss_fn(model(inputs), targets)``, the mean or one loss per sample.
        batch_at: the batch of a step, counted from 0; always the same for the same step.
        batches: all the data, see :func:`~surefoot.sample_line`.
        steps: of the run.
        folder: for ``lines.jsonl`` and ``checkpoint.pt``.
        every: a line before every ``every``-th step, the first one included.
        along: the batch's negated gradient, or the optimizer's next update.
        lengths: as in :func:`~surefoot.sample_line`.
        checkpoint_every: steps between two checkpoints; None for one after each line.
        scheduler: a step of it follows each of the optimizer's.
        on_line: called with each line.
        options: further arguments of :func:`~surefoot.sample_line`.

    Returns:
        The records of all lines of the run.
    """
    every, steps = (check_count(*pair) for pair in (("every", every), ("steps", steps)))
    records = LineRecords(Path(folder) / "lines.jsonl")
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    parts = {name: part for name, part in parts.items() if part is not None}
    path, devices = Path(folder) / "checkpoint.pt", devices_of(model.parameters())
    start = _load(parts, path)
    records.cut(start)
    evaluate = BatchLoss(model, loss_fn)
    grid = None if lengths is None else list(lengths)
    for step in range(start, steps):
        batch = batch_at(step)
        due = step % every == 0
        if due:
            if along == "gradient":
                direction = gradient_direction(model, loss_fn, batch)
            else:
                direction = next_update(model, loss_fn, batch, optimizer)
            sample = sample_line(
                model,
                loss_fn,
                batches,
                direction=direction,
                lengths=grid,
                own_batch=batch,
                kind=along,
                step=step,
                info={"rates": [_rate(group) for group in optimizer.param_groups]},
                **options,
            )
            records.append(sample)
            if on_line is not None:
                on_line(sample)
        optimizer.step(evaluate.closure(optimizer, batch))  # type: ignore[arg-type]
        if scheduler is not None:
            scheduler.step()
        keep = due if checkpoint_every is None else (step + 1) % checkpoint_every == 0
        if keep or step + 1 == steps:
            _save(parts, step + 1, devices, path)
    return records


def _rate(group: dict[str, Any]) -> float | None:
    """The group's learning rate; None where the optimizer chooses its steps itself."""
    return None if group.get("lr") is None else float(group["lr"])


def _save(parts: dict[str, Any], step: int, devices: Iterable[torch.device], path: Path) -> None:
    """Write the state after ``step`` steps; the file is always a whole one."""
    state = {name: part.state_dict() for name, part in parts.items()}
    random = RngState.capture(devices).to_dict()
    save_archive({"step": step, "random": random, **state}, path)


def _load(parts: dict[str, Any], path: Path) -> int:
    """Read the state, if there is one; the number of steps made."""
    if not path.exists():
        return 0
    state = load_archive(path)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    RngState.from_dict(state["random"]).restore()
    return int(state["step"])
