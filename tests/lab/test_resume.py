"""A run that was killed goes on as if it had never stopped: to the bit, and in its record."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from _ranks import start
from surefoot import _archive
from surefoot_lab.cli import main
from surefoot_lab.config import (
    DataConfig,
    Experiment,
    ModelConfig,
    OptimizerConfig,
    SchedulerConfig,
    TrainConfig,
)
from surefoot_lab.errors import UserError
from surefoot_lab.parse import to_yaml
from surefoot_lab.records import read_run
from surefoot_lab.training import checkpoint, train
from surefoot_lab.training.stepping import Stepper


def _experiment(optimizer: OptimizerConfig, scheduler: SchedulerConfig, steps: int) -> Experiment:
    """Everything that has a memory: BatchNorm, dropout, augmentation, optimizer, schedule."""
    board = optimizer.class_path == "Adam"  # once is enough
    return Experiment(
        steps=steps,
        batch_size=32,
        data=DataConfig(crop=2, flip=True),
        model=ModelConfig("lab_nets.NoisyNet"),
        optimizer=optimizer,
        scheduler=scheduler,
        # mutually prime: a checkpoint comes between log lines, measurements and evaluations
        train=TrainConfig(
            device="cpu", log_every=3, eval_every=11, checkpoint_every=7, tensorboard=board
        ),
    )


METHODS = {
    "PAL": (OptimizerConfig("PAL"), SchedulerConfig()),
    "PAL every 4": (OptimizerConfig("PAL", {"measure_every": 4}), SchedulerConfig()),
    "LABPAL": (
        OptimizerConfig("LABPAL", {"measuring_batches": 5, "reuse": 6, "burn_in": 3}),
        SchedulerConfig("OneCycleLR", {"max_lr": 1.8, "cycle_momentum": False}),
    ),
    "LABPAL sgd": (
        OptimizerConfig(
            "LABPAL",
            {
                **{"mode": "sgd", "measuring_batches": 3, "reuse": 4, "momentum": 0.5},
                **{"burn_in": 3, "batch_growth": [[0, 1], [0.5, 2]], "dataset_size": None},
            },
        ),
        SchedulerConfig(),
    ),
    "SGD": (
        OptimizerConfig("SGD", {"lr": 0.05, "momentum": 0.9}),
        SchedulerConfig("OneCycleLR", {"max_lr": 0.1}),
    ),
    "Adam": (OptimizerConfig("Adam"), SchedulerConfig("ReduceLROnPlateau", {"patience": 0})),
}


class _Killed(BaseException):
    """Stands for the end of the process: nothing in the loop may catch it."""


def _lines(run_dir: Path) -> list[dict[str, Any]]:
    """All lines that are not void, with times left out."""
    run = read_run(run_dir)
    assert run.problems == []
    lines = [*run.steps, *run.measurements, *run.evaluations, run.end]
    assert run.end is not None
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second) and first.dtype == second.dtype
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    return first == second


def _assert_equal_runs(first: Path, second: Path) -> None:
    """The same record, and the same state at the end: weights, optimizer, schedule, random."""
    assert _lines(first) == _lines(second)
    states = [torch.load(run / "checkpoint.pt", weights_only=True) for run in (first, second)]
    for state in states:
        state.pop("seconds")
    for key in states[0]:
        assert _same(states[0][key], states[1][key]), key
    assert states[0].keys() == states[1].keys()


@pytest.mark.parametrize("method", METHODS)
def test_a_run_broken_off_at_any_step_is_continued_exactly(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = _experiment(*METHODS[method], steps=30)
    train(experiment, tmp_path / "whole", progress=False)
    step = Stepper.step
    places = random.Random(method)
    for attempt in range(2):
        left = places.randint(1, 14)

        def break_off(self: Stepper, batch: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise _Killed
            return step(self, batch)

        monkeypatch.setattr(Stepper, "step", break_off)
        with pytest.raises(_Killed):
            train(experiment, tmp_path / "broken", resume=attempt > 0, progress=False)
        with open(tmp_path / "broken" / "record.jsonl", "a") as file:
            file.write('{"kind": "step", "ste')  # and torn in the middle of a line
        monkeypatch.setattr(Stepper, "step", step)
    torch.manual_seed(99)
    train(experiment, tmp_path / "broken", resume=True, progress=False)
    _assert_equal_runs(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.slow
def test_a_process_killed_at_any_moment_is_continued_exactly(tmp_path: Path) -> None:
    """The real thing: kill -9, at a moment drawn anew at every run of this test."""
    experiment = _experiment(*METHODS["LABPAL"], steps=300)
    experiment.train.checkpoint_every, experiment.train.eval_every = 17, 40
    (tmp_path / "experiment.yaml").write_text(to_yaml(experiment))
    words = ["train", str(tmp_path / "experiment.yaml"), "--out", str(tmp_path / "killed")]
    killed = start(main, words)
    record = tmp_path / "killed" / "record.jsonl"
    moment = random.Random(time.time_ns())
    lines = moment.randint(3, 60)  # of 100 lines about steps
    while not (record.exists() and record.read_bytes().count(b'"kind": "step"') >= lines):
        assert killed.is_alive()
        time.sleep(0.005)
    time.sleep(moment.uniform(0.0, 0.02))
    killed.kill()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL, "it had ended already"
    before = record.read_bytes()
    assert main(["train", "--out", str(tmp_path / "killed"), "--resume"]) == 0
    train(experiment, tmp_path / "whole", progress=False)
    after = record.read_bytes().splitlines(keepends=True)
    (place,) = (n for n, line in enumerate(after) if json.loads(line)["kind"] == "resume")
    former = before.splitlines(keepends=True)
    assert former[:place] == after[:place], "what is not run again stays as it is"
    step = json.loads(after[place])["step"]
    whole = [json.loads(line) for line in former[place:] if line.endswith(b"\n")]
    assert all(line["step"] > step for line in whole)
    _assert_equal_runs(tmp_path / "whole", tmp_path / "killed")


def test_an_interrupted_run_is_continued_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = _experiment(*METHODS["PAL"], steps=20)
    train(experiment, tmp_path / "whole", progress=False)
    step, taken = Stepper.step, 0

    def press_ctrl_c(self: Stepper, batch: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == 10:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch)

    monkeypatch.setattr(Stepper, "step", press_ctrl_c)
    first = train(experiment, tmp_path / "stopped", progress=False)
    assert first.end == {
        "kind": "end",
        "step": 10,
        "reason": "interrupted",
        "message": "go on with --resume",
    }
    monkeypatch.setattr(Stepper, "step", step)
    train(experiment, tmp_path / "stopped", resume=True, progress=False)
    _assert_equal_runs(tmp_path / "whole", tmp_path / "stopped")


def test_the_second_ctrl_c_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def press_ctrl_c_twice(self: Stepper, batch: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("still running")

    monkeypatch.setattr(Stepper, "step", press_ctrl_c_twice)
    run = train(_experiment(*METHODS["PAL"], steps=20), tmp_path, progress=False)
    assert run.end is not None
    assert (run.end["reason"], run.end["step"]) == ("interrupted", 0)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_run_killed_before_its_first_line_starts_anew(tmp_path: Path) -> None:
    experiment = _experiment(*METHODS["SGD"], steps=8)
    train(experiment, tmp_path / "whole", progress=False)
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "record.jsonl").write_text('{"kind": "start", "sch')
    train(experiment, tmp_path / "early", resume=True, progress=False)
    _assert_equal_runs(tmp_path / "whole", tmp_path / "early")


def test_a_checkpoint_is_replaced_only_by_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save_checkpoint(tmp_path, {"step": 1})
    whole = (tmp_path / "checkpoint.pt").read_bytes()

    def half(content: Any, file: Any) -> None:
        file.write(whole[: len(whole) // 2])
        raise _Killed

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(_Killed):
        checkpoint.save_checkpoint(tmp_path, {"step": 2})
    state = checkpoint.load_checkpoint(tmp_path)
    assert state is not None
    assert state["step"] == 1


def test_all_random_states_are_put_back(tmp_path: Path) -> None:
    import numpy as np

    checkpoint.save_checkpoint(tmp_path, {})

    def draw() -> list[float]:
        numpy = np.random.random(2).tolist()  # noqa: NPY002
        return [random.random(), random.gauss(0, 1), *numpy, *torch.rand(3).tolist()]

    expected = draw()
    draw()
    state = checkpoint.load_checkpoint(tmp_path)
    assert state is not None
    checkpoint.restore_random_state(state)
    assert draw() == expected


def test_a_resume_is_written_down_with_its_environment(tmp_path: Path) -> None:
    experiment = _experiment(*METHODS["SGD"], steps=20)
    train(experiment, tmp_path, progress=False)
    path = tmp_path / "record.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))  # as if killed before the last line
    train(experiment, tmp_path, resume=True, progress=False)
    added = [json.loads(line) for line in path.read_text().splitlines()[len(lines) - 1 :]]
    assert [line["kind"] for line in added] == ["resume", "end"]
    assert added[0]["step"] == 20
    assert added[0]["environment"]["torch"] == torch.__version__


def test_a_resumed_record_holds_no_step_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = _experiment(*METHODS["LABPAL"], steps=40)
    experiment.train.checkpoint_every, experiment.train.log_every = 7, 1
    train(experiment, tmp_path / "whole", progress=False)
    step = Stepper.step
    for left in (12, 3, 20):  # the second one comes to no checkpoint of its own

        def break_off(self: Stepper, batch: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise _Killed
            return step(self, batch)

        monkeypatch.setattr(Stepper, "step", break_off)
        with pytest.raises(_Killed):
            train(experiment, tmp_path / "run", resume=left != 12, progress=False)
        monkeypatch.setattr(Stepper, "step", step)
    train(experiment, tmp_path / "run", resume=True, progress=False)
    text = (tmp_path / "run" / "record.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    steps = [line["step"] for line in lines if line["kind"] == "step"]
    assert steps == list(range(1, 41))
    for kind in ("measure", "evaluation"):
        places = [(line["step"], line.get("split")) for line in lines if line["kind"] == kind]
        assert len(places) == len(set(places)) > 0
    assert [line["kind"] for line in lines].count("end") == 1
    _assert_equal_runs(tmp_path / "whole", tmp_path / "run")


def test_a_checkpoint_of_which_a_byte_has_changed_is_refused(tmp_path: Path) -> None:
    """Wherever it lies: in a weight, a name, a size, between the entries, in the checksum."""
    train(_experiment(*METHODS["SGD"], steps=8), tmp_path, progress=False)
    path = tmp_path / checkpoint.CHECKPOINT_NAME
    whole = path.read_bytes()
    places = random.Random(0)
    for place in [*places.sample(range(len(whole)), 100), *range(len(whole) - 90, len(whole))]:
        content = bytearray(whole)
        content[place] ^= 1 << places.randrange(8)
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"start the run anew with --overwrite$") as told:
            checkpoint.load_checkpoint(tmp_path)
        assert "\n" not in str(told.value)
    for content in (whole[: len(whole) // 2], whole[:-1], b"", whole[100:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"checkpoint\.pt: cannot be loaded"):
            checkpoint.load_checkpoint(tmp_path)


def test_a_checkpoint_without_a_digest_is_checked_by_its_archive(tmp_path: Path) -> None:
    """As earlier versions wrote them."""
    train(_experiment(*METHODS["SGD"], steps=8), tmp_path, progress=False)
    path = tmp_path / checkpoint.CHECKPOINT_NAME
    whole = path.read_bytes()[: -_archive._DIGEST_BYTES - 2] + b"\0\0"
    path.write_bytes(whole)
    state = checkpoint.load_checkpoint(tmp_path)
    assert state is not None
    assert state["step"] == 8
    weight = next(iter(state["model"].values())).contiguous().numpy().tobytes()
    content = bytearray(whole)
    content[whole.index(weight) + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="bytes have changed"):
        checkpoint.load_checkpoint(tmp_path)


@pytest.mark.parametrize("setting", ["optimizer", "seed", "steps"])
def test_a_checkpoint_of_another_run_is_refused(setting: str, tmp_path: Path) -> None:
    """Copied by mistake: it would load, and go on with another run's weights."""
    ours, theirs = (_experiment(*METHODS["SGD"], steps=8) for _ in range(2))
    others = {"optimizer": OptimizerConfig("SGD", {"lr": 0.1}), "seed": 1, "steps": 9}
    setattr(theirs, setting, others[setting])
    for experiment, name in ((ours, "ours"), (theirs, "theirs")):
        train(experiment, tmp_path / name, progress=False)
    path = tmp_path / "ours" / checkpoint.CHECKPOINT_NAME
    path.write_bytes((tmp_path / "theirs" / checkpoint.CHECKPOINT_NAME).read_bytes())
    record = tmp_path / "ours" / "record.jsonl"
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match=rf"^{setting}.*: .*pt: is another run's: it has .*, this"):
        train(ours, tmp_path / "ours", resume=True, progress=False)
    assert record.read_text() == "".join(lines[:-1])


@pytest.mark.parametrize("how", [{"resume": True}, {"overwrite": True}])
def test_a_run_that_is_under_way_is_left_alone(how: dict[str, bool], tmp_path: Path) -> None:
    """By another process, that is: a second `surefoot train` with the same --out."""
    experiment = _experiment(*METHODS["SGD"], steps=2)
    train(experiment, tmp_path, progress=False)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    code = (
        "import sys; from pathlib import Path; from surefoot_lab.records.lock import alone\n"
        "with alone(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process is at work here"):
            train(experiment, tmp_path, progress=False, **how)
    finally:
        other.communicate("")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    train(experiment, tmp_path, progress=False, overwrite=True)
