"""Sweeps: which runs there are, that each did what its cell says, and that none is lost."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest

from _ranks import start
from surefoot_lab.config import Experiment, ModelConfig, OptimizerConfig, SweepConfig
from surefoot_lab.errors import UserError
from surefoot_lab.records import read_run
from surefoot_lab.records.lock import alone
from surefoot_lab.sweep.cells import Trial, trials_of
from surefoot_lab.sweep.command import read_sweep
from surefoot_lab.sweep.trial import close_record, is_done, run_trial
from surefoot_lab.training.stepping import Stepper

pytest.importorskip("ray")

BASE = """\
name: digits-sweep
steps: 12
batch_size: 64
model: {class_path: mlp, init_args: {widths: [8]}}
optimizer: {class_path: SGD, init_args: {lr: 0.05}}
train: {device: cpu, tensorboard: false, log_every: 4, eval_every: 6, checkpoint_every: 5}
"""


def _file(folder: Path, sections: str, base: str = BASE) -> str:
    path = folder / "sweep.yaml"
    path.write_text(base + sections)
    return str(path)


def _trials(folder: Path, sections: str) -> list[Trial]:
    file = _file(folder, sections)
    return trials_of(*read_sweep([file]))


# Which runs there are


def test_a_grid_is_all_combinations_in_the_order_of_the_file(tmp_path: Path) -> None:
    grid = "grid:\n  optimizer.init_args.lr: [1e-2, 1]\n  batch_size: [32, 64]\n  seed: [0, 7]\n"
    found = [
        (t.experiment.optimizer.init_args["lr"], t.experiment.batch_size, t.experiment.seed)
        for t in _trials(tmp_path, grid)
    ]
    assert found == [(a, b, c) for a in (0.01, 1) for b in (32, 64) for c in (0, 7)]


def test_seeds_share_a_label_and_cells_do_not(tmp_path: Path) -> None:
    trials = _trials(tmp_path, "grid:\n  optimizer.init_args.lr: [0.1, 1.0]\n  seed: [0, 1]\n")
    labels = [trial.experiment.label for trial in trials]
    assert labels == ["SGD (lr=0.1)"] * 2 + ["SGD (lr=1)"] * 2
    assert {trial.method for trial in trials} == {"SGD"}
    assert len({trial.fingerprint for trial in trials}) == 4


def test_a_network_is_called_by_its_name_and_settings_by_theirs(tmp_path: Path) -> None:
    grid = """\
grid:
  model.class_path: [surefoot_lab.models.MLP, convnet]
  model.init_args: [{}, {hidden: 8, widths: [4, 4]}]
"""
    found = [t.experiment.label for t in _trials(tmp_path, grid)]
    small = "hidden=8, widths=[4, 4]"
    assert found == ["SGD (MLP)", f"SGD (MLP, {small})", "SGD (convnet)", f"SGD (convnet, {small})"]


def test_a_section_as_a_whole_compares_methods(tmp_path: Path) -> None:
    grid = """\
grid:
  optimizer:
    - {class_path: PAL}
    - {class_path: torch.optim.SGD, init_args: {lr: 0.1}}
    - {class_path: torch.optim.SGD, init_args: {lr: 0.2}}
"""
    trials = _trials(tmp_path, grid)
    assert [t.experiment.label for t in trials] == ["PAL", "SGD (lr=0.1)", "SGD (lr=0.2)"]
    assert [t.method for t in trials] == ["PAL", "SGD", "SGD"]
    assert trials[0].experiment.optimizer == OptimizerConfig("PAL", {})  # and not the file's lr


def test_the_hash_of_a_run_tells_what_decides_its_result_and_nothing_else(tmp_path: Path) -> None:
    def marks(**changes: Any) -> list[str]:
        base = Experiment(**{"steps": 5, "model": ModelConfig("mlp"), **changes})
        return [t.fingerprint for t in trials_of(base, SweepConfig(grid={"seed": [0, 1]}))]

    plain = Experiment()
    moved, shown = plain.data, plain.train
    moved.root, shown.tensorboard = "/elsewhere", False
    assert marks() == marks(data=moved, train=shown)
    assert not set(marks()) & set(marks(steps=6))


def test_more_random_samples_leave_the_first_as_they_are(tmp_path: Path) -> None:
    section = (
        "random:\n  samples: %d\n  seed: 3\n  optimizer.init_args.lr: {log_uniform: [1e-4, 10]}\n"
        "  batch_size: {integer: [16, 128]}\n  model.init_args.widths: {choice: [[4], [8, 8]]}\n"
    )
    few, many = _trials(tmp_path, section % 4), _trials(tmp_path, section % 40)
    assert [t.fingerprint for t in few] == [t.fingerprint for t in many[:4]]
    rates = [t.experiment.optimizer.init_args["lr"] for t in many]
    assert all(1e-4 <= rate <= 10 for rate in rates)
    # of a log-uniform law over five decades, each half holds half: 20 ± 4 standard deviations
    assert 8 <= sum(rate < math.sqrt(1e-4 * 10) for rate in rates) <= 32
    assert {t.experiment.batch_size for t in many} <= set(range(16, 129))
    assert {json.dumps(t.experiment.model.init_args["widths"]) for t in many} == {"[4]", "[8, 8]"}


# One trial


def test_the_record_names_the_cell(tmp_path: Path) -> None:
    grid = "grid:\n  optimizer.init_args.momentum: [0.5]\n  model.init_args.widths: [[6]]\n"
    (trial,) = _trials(tmp_path, grid)
    record = run_trial(trial, tmp_path / "run")
    assert record.sweep == {"method": "SGD", "cell": trial.cell}


@pytest.mark.parametrize(
    "grid",
    [
        "optimizer.init_args.lr: [0.3]",
        "optimizer: [{class_path: SGD, init_args: {lr: 0.3}}]",
    ],
)
def test_a_value_that_does_not_reach_what_it_sets_fails_the_trial(
    grid: str, tmp_path: Path
) -> None:
    """OneCycleLR overwrites the optimizer's rate: a grid over it would compare equal runs."""
    scheduler = "scheduler: {class_path: OneCycleLR, init_args: {max_lr: 0.1}}"
    (trial,) = _trials(tmp_path, f"{scheduler}\ngrid:\n  {grid}\n")
    with pytest.raises(UserError, match=r"asks for 0.3, but what was built has 0.004"):
        run_trial(trial, tmp_path / "run")
    record = read_run(tmp_path / "run")
    assert record.end is not None
    assert record.end["reason"] == "failed"
    assert "asks for 0.3" in record.end["message"]


def test_a_trial_that_raises_is_recorded_and_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (trial,) = _trials(tmp_path, "grid:\n  seed: [4]\n")
    whole = run_trial(trial, tmp_path / "whole")
    step, calls = Stepper.step, iter(range(8))

    def raising(self: Stepper, batch: Any) -> Any:
        if next(calls, None) is None:
            raise ZeroDivisionError("of all things")
        return step(self, batch)

    monkeypatch.setattr(Stepper, "step", raising)
    with pytest.raises(ZeroDivisionError):
        run_trial(trial, tmp_path / "run")
    broken = read_run(tmp_path / "run")
    assert broken.end is not None
    assert (broken.end["step"], broken.end["reason"]) == (8, "failed")
    assert broken.end["message"] == "ZeroDivisionError: of all things"
    assert not is_done(tmp_path / "run")
    monkeypatch.setattr(Stepper, "step", step)
    again = run_trial(trial, tmp_path / "run")
    assert again.end == whole.end
    assert [e["loss"] for e in again.evaluations] == [e["loss"] for e in whole.evaluations]


def test_a_done_trial_is_left_alone(tmp_path: Path) -> None:
    (trial,) = _trials(tmp_path, "grid:\n  seed: [0]\n")
    run_trial(trial, tmp_path / "run")
    before = (tmp_path / "run" / "record.jsonl").read_bytes()
    run_trial(trial, tmp_path / "run")
    assert (tmp_path / "run" / "record.jsonl").read_bytes() == before


@pytest.mark.parametrize("left", [b"", b'{"kind": "sta', b"\x00\xff\n", b'{"kind": "end"}\n'])
def test_whatever_a_crash_left_behind_the_trial_is_run(left: bytes, tmp_path: Path) -> None:
    (trial,) = _trials(tmp_path, "grid:\n  seed: [0]\n")
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "record.jsonl").write_bytes(left)
    (run_dir / "checkpoint.tmp").write_bytes(b"half of it")
    record = run_trial(trial, run_dir)
    assert record.end is not None
    assert record.end["reason"] == "finished"
    assert record.problems == []


def _hold(folder: Path) -> None:
    with alone(folder):
        (folder / "in").touch()
        time.sleep(60)


def test_two_processes_never_write_one_record(tmp_path: Path) -> None:
    other = start(_hold, tmp_path)
    while not (tmp_path / "in").exists():
        assert other.is_alive()
        time.sleep(0.01)
    with pytest.raises(UserError, match="another process is at work here"), alone(tmp_path, 0.2):
        pass
    other.kill()
    other.join()
    with alone(tmp_path, 10.0):  # the lock died with its holder
        pass


def test_the_end_of_a_run_whose_process_is_gone_is_written_once(tmp_path: Path) -> None:
    (trial,) = _trials(tmp_path, "grid:\n  seed: [0]\n")
    run_trial(trial, tmp_path)
    close_record(tmp_path, "failed", "it is too late for that")
    lines = (tmp_path / "record.jsonl").read_text().splitlines(keepends=True)
    assert json.loads(lines[-1])["reason"] == "finished"
    (tmp_path / "record.jsonl").write_text("".join(lines[:-1]))
    close_record(tmp_path, "stopped", "enough")
    assert read_run(tmp_path).end == {
        "kind": "end", "step": 12, "reason": "stopped", "message": "enough"
    }  # fmt: skip
    assert is_done(tmp_path)
