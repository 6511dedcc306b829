"""Runs with MeasuredLR around another optimizer: built, recorded, resumed, swept, refused."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import surefoot
from surefoot_lab.config import (
    Experiment,
    ModelConfig,
    OptimizerConfig,
    SchedulerConfig,
    TrainConfig,
)
from surefoot_lab.errors import UserError
from surefoot_lab.parse import parse_words, to_yaml
from surefoot_lab.records import RunRecord
from surefoot_lab.sweep.cells import trials_of
from surefoot_lab.sweep.command import read_sweep
from surefoot_lab.training import train
from surefoot_lab.training.assemble import assemble
from surefoot_lab.training.optimizers import Extent, build_optimizer, check_reached
from surefoot_lab.training.stepping import Stepper, effective_lr

SGD = {"class_path": "SGD", "init_args": {"lr": 0.1, "momentum": 0.9}}
ADAMW = {"class_path": "AdamW", "init_args": {"lr": 0.001}}
EXTENT = Extent(total_steps=25, steps_per_epoch=10, dataset_size=1285, batch_size=128)


def measured(base: Any, **init_args: Any) -> OptimizerConfig:
    return OptimizerConfig("MeasuredLR", {"optimizer": base, **init_args})


def experiment(
    optimizer: OptimizerConfig, steps: int = 10, *, tensorboard: bool = False, **settings: Any
) -> Experiment:
    config = TrainConfig(device="cpu", log_every=4, eval_every=1000, tensorboard=tensorboard)
    model = ModelConfig("mlp", {"widths": [8]})
    given = {"batch_size": 32, "model": model, "train": config, **settings}
    return Experiment(steps=steps, optimizer=optimizer, **given)


def build(base: Any, **init_args: Any) -> tuple[Any, dict[str, Any]]:
    return build_optimizer(measured(base, **init_args), nn.Linear(2, 2), EXTENT)


# What is built


def test_the_wrapped_optimizer_is_built_and_the_length_filled_in() -> None:
    optimizer, filled = build(SGD)
    assert isinstance(optimizer, surefoot.MeasuredLR)
    assert type(optimizer.optimizer) is torch.optim.SGD
    assert optimizer.param_groups[0]["momentum"] == 0.9
    assert filled == {"total_steps": 25}
    assert optimizer.total_steps == 25
    assert build({"class_path": "AdamW"}, total_steps=None)[0].total_steps is None


class Long(torch.optim.SGD):
    """An optimizer that wants to know how long the run is."""

    def __init__(self, params: Any, lr: float = 0.1, *, total_steps: int) -> None:
        super().__init__(params, lr)
        self.total_steps = total_steps


def test_the_wrapped_optimizers_own_length_is_filled_in_too(tmp_path: Path) -> None:
    base = {"class_path": "test_measured_runs.Long", "init_args": {"lr": 0.2}}
    optimizer, filled = build(base)
    assert optimizer.optimizer.total_steps == 25
    whole = {**base, "init_args": {"lr": 0.2, "total_steps": 25}}
    assert filled == {"total_steps": 25, "optimizer": whole}
    assert base["init_args"] == {"lr": 0.2}, "what was asked for stays as it was"


def test_the_rate_of_an_optimizer_with_an_estimate_includes_it() -> None:
    optimizer, _ = build(SGD)
    optimizer.param_groups[0].update(d=0.25, effective_lr=0.5)
    assert effective_lr(optimizer) == 0.125


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (OptimizerConfig("MeasuredLR"), r"optimizer\.init_args\.optimizer: must hold .* null"),
        (measured("AdamW"), r"init_args\.optimizer: must hold its settings .* 'AdamW'"),
        (measured({"class_path": "Adamw"}), r"optimizer\.init_args\.optimizer\.class_path: no"),
        (measured({"class_path": "AdamW", "lr": 1}), r"init_args\.optimizer\.lr: no such setting"),
        (
            measured({"class_path": "AdamW", "init_args": {"rate": 1}}),
            r"optimizer\.init_args\.optimizer\.init_args\.rate: AdamW has no such argument",
        ),
        (measured({"class_path": "AdamW", "init_args": [1]}), r"init_args: must be a mapping"),
        (measured({"class_path": "PAL"}), "PAL measures its steps already"),
        (measured({"class_path": "LBFGS"}), "LBFGS evaluates the loss itself"),
        (
            measured({"class_path": "benchmarks.rivals.alig.AliG"}),
            "AliG needs the loss for its own step",
        ),
        (measured(SGD, horizons="none"), r"init_args\.horizons: MeasuredLR has no such argument"),
        (measured(SGD, overhead=-1.0), r"MeasuredLR: overhead must be"),
        (measured(SGD, growth=2.0), r"init_args\.growth: MeasuredLR has no such argument"),
        (measured({"class_path": "torch.nn.Linear"}), r"is no torch\.optim\.Optimizer"),
    ],
)
def test_what_cannot_be_wrapped_is_refused_in_one_line(
    optimizer: OptimizerConfig, message: str, tmp_path: Path
) -> None:
    if "AliG" in message:
        pytest.importorskip("pytorch_optimizer")
    with pytest.raises(UserError, match=message) as caught:
        train(experiment(optimizer), tmp_path / "run", progress=False)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# What is recorded


def equivalents(run: RunRecord) -> int:
    return run.steps[-1]["forwards"] + 2 * run.steps[-1]["backwards"]


@pytest.mark.filterwarnings("ignore:most of the last 50 steps were shortened")
@pytest.mark.parametrize("base", [SGD, ADAMW], ids=lambda base: base["class_path"])
def test_a_run_records_its_rates_its_measurements_and_their_cost(
    base: dict[str, Any], tmp_path: Path
) -> None:
    passes = 0

    def count(network: nn.Module, _: Any) -> None:
        nonlocal passes
        passes += network.training  # evaluations are not

    original = Stepper.__init__

    def watch(self: Stepper, network: nn.Module, *words: Any, **options: Any) -> None:
        original(self, network, *words, **options)
        network.register_forward_pre_hook(count)

    plan = experiment(measured(base), steps=300, tensorboard=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stepper, "__init__", watch)
        run = train(plan, tmp_path, progress=False)
    assert run.problems == []
    assert run.end is not None
    assert run.end["reason"] == "finished"

    last = run.steps[-1]
    assert last["forwards"] == passes, "every pass in training is told"
    assert last["backwards"] == 300
    assert 900 < equivalents(run) <= 1.03 * 900
    spent = sum(line["cost"]["forwards"] - 1 for line in run.measurements)
    assert 0 < spent <= last["forwards"] - 300

    rates = [line["effective_lr"] for line in run.steps]
    assert all(rate > 0.0 and math.isfinite(rate) for rate in rates)
    assert rates[-1] < 0.05 * max(rates), "the horizon ends at zero"
    assert {line["status"] for line in run.steps} & {"reused", "capped"}
    assert not any(line.get("non_finite") for line in run.measurements)
    assert run.evaluations[-1]["accuracy"] > 0.8

    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    shown = [event.value for event in board.Scalars("effective_lr/group0")]
    assert shown == pytest.approx(rates, rel=1e-6)


def test_a_frozen_measurement_leaves_the_run_as_it_would_be(tmp_path: Path) -> None:
    plain = OptimizerConfig("SGD", SGD["init_args"])
    for name, optimizer in (("plain", plain), ("frozen", measured(SGD, frozen=True))):
        train(experiment(optimizer, steps=40), tmp_path / name, progress=False)
    first, second = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["model"]
        for name in ("plain", "frozen")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_lab_calls_it_by_what_it_wraps() -> None:
    assert experiment(measured(ADAMW)).label == "Measured AdamW"
    assert experiment(measured({"class_path": "torch.optim.SGD"})).label == "Measured SGD"
    scheduled = experiment(measured(SGD), scheduler=SchedulerConfig("StepLR", {"step_size": 3}))
    assert scheduled.label == "Measured SGD + StepLR"
    assert experiment(OptimizerConfig("MeasuredLR")).label == "MeasuredLR"


# Files and sweeps


def test_an_experiment_file_describes_it_and_the_command_line_changes_it(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(to_yaml(experiment(measured(ADAMW))))
    assert parse_words([str(file)]).experiment == experiment(measured(ADAMW))
    changed = parse_words([str(file), "--optimizer.init_args.overhead=0.1"]).experiment
    assert changed.optimizer.init_args == {"optimizer": ADAMW, "overhead": 0.1}


def test_a_sweep_varies_the_wrapped_optimizers_settings_and_proves_it(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(
        to_yaml(Experiment(steps=2, optimizer=measured(ADAMW)))
        + "\ngrid:\n"
        + "  optimizer.init_args.optimizer.init_args.weight_decay: [0.0, 0.1]\n"
        + "  seed: [0]\n"
    )
    trials = trials_of(*read_sweep([str(file)]))
    key = "optimizer.init_args.optimizer.init_args.weight_decay"
    assert [trial.experiment.label for trial in trials] == [
        "Measured AdamW (weight_decay=0)",
        "Measured AdamW (weight_decay=0.1)",
    ]
    for trial, value in zip(trials, (0.0, 0.1), strict=True):
        parts = assemble(trial.experiment)
        assert parts.optimizer.param_groups[0]["weight_decay"] == value
        check_reached(parts.optimizer, trial.cell)
    with pytest.raises(UserError, match=r"weight_decay: the sweep asks for 0\.3"):
        check_reached(parts.optimizer, {key: 0.3})


def test_sweeps_tell_whole_sections_apart_by_what_is_wrapped(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "steps: 2\ngrid:\n  optimizer:\n"
        "  - {class_path: AdamW, init_args: {lr: 0.01}}\n"
        "  - {class_path: MeasuredLR, init_args: {optimizer: "
        "{class_path: AdamW, init_args: {lr: 0.001}}}}\n"
    )
    trials = trials_of(*read_sweep([str(file)]))
    labels = [trial.experiment.label for trial in trials]
    assert labels == ["AdamW (lr=0.01)", "Measured AdamW (lr=0.001)"]


# Resumes

RESUMED = {
    "AdamW": (measured(ADAMW), SchedulerConfig()),
    "SGD, often": (measured(SGD, overhead=0.3), SchedulerConfig()),
    "with a scheduler": (
        measured(SGD, horizon="none"),
        SchedulerConfig("OneCycleLR", {"max_lr": 0.1, "cycle_momentum": False}),
    ),
}


@pytest.mark.parametrize("method", RESUMED)
def test_a_run_broken_off_is_continued_exactly(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer, scheduler = RESUMED[method]
    plan = experiment(optimizer, 40, scheduler=scheduler, model=ModelConfig("lab_nets.NoisyNet"))
    plan.train.log_every, plan.train.eval_every, plan.train.checkpoint_every = 3, 11, 7
    whole = train(plan, tmp_path / "whole", progress=False)
    step, taken = Stepper.step, 0

    def break_off(self: Stepper, batch: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken in (6, 30, 40):  # before the first checkpoint, and twice between two
            raise KeyError("the end of the process")
        return step(self, batch)

    monkeypatch.setattr(Stepper, "step", break_off)
    for attempt in range(3):
        with pytest.raises(KeyError):
            train(plan, tmp_path / "broken", resume=attempt > 0, progress=False)
    again = train(plan, tmp_path / "broken", resume=True, progress=False)

    def timeless(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{key: line[key] for key in line if key != "seconds"} for line in lines]

    for kind in ("steps", "measurements", "evaluations"):
        assert timeless(getattr(whole, kind)) == timeless(getattr(again, kind)), kind
    assert whole.measurements
    first, second = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)
        for name in ("whole", "broken")
    )
    assert all(torch.equal(first["model"][key], second["model"][key]) for key in first["model"])
    kept = [parts["optimizer"]["param_groups"][0]["measured"] for parts in (first, second)]
    assert kept[0] == kept[1]
