"""The methods of the scoreboard: a grid that tunes, and everyone who says that none is needed."""

from __future__ import annotations

import math
from typing import Any

from surefoot_lab.config import OptimizerConfig, SchedulerConfig

Method = tuple[OptimizerConfig, SchedulerConfig]

BASES: dict[str, tuple[str, dict[str, Any], tuple[float, ...]]] = {
    "SGD": ("SGD", {"momentum": 0.9}, (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)),
    "AdamW": ("AdamW", {}, (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)),
}
NONE = SchedulerConfig()
COSINE = SchedulerConfig("CosineAnnealingLR", {"T_max": "auto"})
LINEAR = SchedulerConfig(
    "LinearLR", {"start_factor": 1.0, "end_factor": 0.0, "total_iters": "auto"}
)


def _one_cycle(rate: float) -> SchedulerConfig:
    settings = {"max_lr": rate, "total_steps": "auto", "cycle_momentum": False}
    return SchedulerConfig("OneCycleLR", settings)


def grid() -> dict[str, Method]:
    """SGD with momentum and AdamW, seven rates, three schedules."""
    cells = {}
    for base, (class_path, settings, rates) in BASES.items():
        for rate in rates:
            schedules = {"constant": NONE, "linear": LINEAR, "1cycle": _one_cycle(rate)}
            for name, schedule in schedules.items():
                optimizer = OptimizerConfig(class_path, {**settings, "lr": rate})
                cells[f"{base} {rate:g} {name}"] = (optimizer, schedule)
    return cells


def _measured(class_path: str, measuring: dict[str, Any] | None = None, **settings: Any) -> Method:
    base = {"class_path": class_path, "init_args": settings}
    return OptimizerConfig("MeasuredLR", {"optimizer": base, **(measuring or {})}), NONE


def _plain(class_path: str, schedule: SchedulerConfig = NONE, **settings: Any) -> Method:
    return OptimizerConfig(class_path, settings), schedule


OURS = {
    "Measured AdamW": _measured("AdamW", lr=1e-3),
    "Measured SGD": _measured("SGD", lr=0.1, momentum=0.9),
    "Measured Muon": _measured("Muon"),
    "PAL every 10th step": _plain("PAL", measure_every=10),
    "PAL": _plain("PAL"),
    "LABPAL": _plain("LABPAL"),
}
RIVALS = {
    "Prodigy + cosine": _plain("Prodigy", COSINE),
    "D-Adapt Adam + cosine": _plain("DAdaptAdam", COSINE),
    "AdamW schedule-free": _plain("AdamWScheduleFree"),
    "SGD schedule-free": _plain("SGDScheduleFree"),
    "DoG": _plain("benchmarks.rivals.distance.AveragedDoG"),
    "LDoG": _plain("benchmarks.rivals.distance.AveragedLDoG"),
    "MoMo": _plain("benchmarks.rivals.momentum_models.Momo"),
    "MoMo-Adam": _plain("benchmarks.rivals.momentum_models.MomoAdam"),
    "SaLSa": _plain("benchmarks.rivals.salsa_search.SaLSA"),
    "GeN SGD": _plain("benchmarks.rivals.gen.GeN"),
    "COCOB": _plain("COCOB"),
    "AdamW, its default, linear": _plain("AdamW", LINEAR),
    "Muon, its default, linear": _plain("Muon", LINEAR),
}
"""Each as its authors say; docs/rivals.md has the handling."""

WITHOUT: dict[str, dict[str, Any]] = {
    "no horizon": {"horizon": "none"},
    "no step adaptation": {"step_adaptation": 1.0},
    "no bound": {"max_change": math.inf},
    "no warm-up by certainty, one measurement": {"overhead": 0.0},
    "ten times the measurements": {"overhead": 0.3},
}
"""What makes up the method, taken away or exchanged, one at a time."""
ABLATION = {
    f"{name}, {what}": _measured(class_path, measuring, **settings)
    for name, class_path, settings in (
        ("Measured AdamW", "AdamW", {"lr": 1e-3}),
        ("Measured SGD", "SGD", {"lr": 0.1, "momentum": 0.9}),
    )
    for what, measuring in WITHOUT.items()
}
