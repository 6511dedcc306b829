"""Records written line by line, as a run would leave them: for tests of whatever reads records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "surefoot": "0.1.0",
    "python": "3.12.1",
    "torch": "2.9.0",
    "platform": "Linux-6.1",
    "cpu": "Some CPU",
    "cores": 2,
    "threads": 1,
    "device": "cpu",
    "gpu": None,
    "commit": "0123abcd",
    "packages": {"numpy": "2.1.0"},
}


def step(number: int, loss: float | None, *, lr: Any = 0.1, forwards: int = 1, **more: Any) -> dict:
    """A step line; `forwards` are passes per batch, one backward each."""
    line = {
        "kind": "step",
        "step": number,
        "epoch": number / 10,
        "train_loss": loss,
        "effective_lr": lr,
        "status": None,
        "forwards": forwards * number,
        "backwards": number,
        "seconds": 0.01 * number,
        **more,
    }
    return line if loss is not None else {**line, "non_finite": True}


def evaluation(
    number: int, split: str, accuracy: float | None, loss: float = 0.5, *, forwards: int = 1
) -> dict:
    """An evaluation line."""
    return {
        "kind": "evaluation",
        "step": number,
        "epoch": number / 10,
        "split": split,
        "loss": loss,
        "accuracy": accuracy,
        "forwards": forwards * number,
        "backwards": number,
        "seconds": 0.01 * number,
    }


def end(number: int, reason: str = "finished", message: str | None = None) -> dict:
    """The last line."""
    return {"kind": "end", "step": number, "reason": reason, "message": message}


def write_run(
    folder: Path,
    label: str,
    seed: int,
    lines: Iterable[Mapping[str, Any]],
    *,
    optimizer: Mapping[str, Any] | None = None,
    scheduler: str | None = None,
    environment: Mapping[str, Any] = ENVIRONMENT,
) -> Path:
    """Write one record below `folder`; returns the run directory."""
    path = folder / f"run{len(list(folder.glob('run*'))) if folder.exists() else 0:03}"
    path.mkdir(parents=True)
    start = {
        "kind": "start",
        "schema": 1,
        "name": "digits-convnet",
        "label": label,
        "seed": seed,
        "time": "2026-01-02T03:04:05+00:00",
        "experiment": {
            "name": "digits-convnet",
            "label": label,
            "seed": seed,
            "epochs": 10,
            "data": {"name": "digits", "root": None},
            "optimizer": optimizer
            or {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}},
            "scheduler": {"class_path": scheduler, "init_args": {}},
        },
        "environment": environment,
    }
    text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in [start, *lines])
    (path / "record.jsonl").write_text(text, encoding="utf-8")
    return path


def plain_run(
    folder: Path, label: str, seed: int, test: float, validation: Sequence[float], **more: Any
) -> Path:
    """A finished run: ten steps between evaluations on validation, one test at the end."""
    lines: list[dict] = []
    for index, accuracy in enumerate(validation, start=1):
        for number in range(10 * index - 9, 10 * index + 1):
            lines.append(step(number, 2.0 / number))
        lines.append(evaluation(10 * index, "validation", accuracy))
    last = 10 * len(validation)
    return write_run(
        folder, label, seed, [*lines, evaluation(last, "test", test), end(last)], **more
    )
