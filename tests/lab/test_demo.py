"""The demo, short: every method runs, the page appears, nobody's files are touched."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from surefoot_lab import demo
from surefoot_lab.cli import main
from surefoot_lab.config import OptimizerConfig
from surefoot_lab.records import read_runs


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def short_demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The demo with one seed and one epoch: the directory it ran in, and what it printed."""
    here, printed = tmp_path_factory.mktemp("demo").resolve(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.chdir(here)
        patch.setenv("COLUMNS", "100")
        assert main(["demo", "--seeds", "1", "--epochs", "1"]) == 0
    return here, printed.getvalue()


@pytest.mark.slow
def test_the_demo_ends_with_a_table_and_a_page(short_demo: tuple[Path, str]) -> None:
    here, printed = short_demo
    assert sorted(path.name for path in here.iterdir()) == ["report.html", "surefoot-demo"]
    assert str(here / "report.html") in printed
    runs = read_runs([here / "surefoot-demo"])
    assert sorted(run.label for run in runs) == sorted(demo.METHODS)
    assert [run.end["reason"] for run in runs] == ["finished"] * len(demo.METHODS)
    rows = {label: line for label in demo.METHODS for line in printed.splitlines()
            if line.split("  ")[0].strip() == label}  # fmt: skip
    assert set(rows) == set(demo.METHODS)
    for label, row in rows.items():
        assert ("measured" in row) == ("PAL" in label or label.startswith("Measured"))
        assert ("1.33 ×" in row) == (label == "PAL")
    assert "one run a method tells no difference from chance" in " ".join(printed.split())
    assert printed.splitlines()[-1] == f"{len(runs)} runs: {here / 'report.html'}"


def _figures(path: Path) -> list[dict]:
    """The record without what a clock or the place decides."""
    lines = [json.loads(line) for line in (path / "record.jsonl").read_text().splitlines()]
    clock = ("seconds", "time", "environment")
    return [{key: value for key, value in line.items() if key not in clock} for line in lines]


@pytest.mark.parametrize("label", ["Measured AdamW", "LABPAL", "SGD 0.1"])
def test_a_seed_gives_the_same_run_again(
    tmp_path: Path, label: str, short_demo: tuple[Path, str]
) -> None:
    """In another process than the first time."""
    trials = demo._trials(short_demo[0] / "surefoot-demo", 1, 1)
    ((run_dir, experiment),) = (trial for trial in trials.items() if trial[1].label == label)
    first = _figures(run_dir)
    demo._run(tmp_path / "again", dataclasses.replace(experiment, seed=8))
    (tmp_path / "again" / "my-own").write_text("stays")
    assert _figures(tmp_path / "again")[1:] != first[1:]
    demo._run(tmp_path / "again", experiment)  # replaces the other
    assert _figures(tmp_path / "again") == first
    assert (tmp_path / "again" / "my-own").exists()


def test_nobody_elses_report_is_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    victim = here / "report.html"
    victim.write_text("mine", encoding="utf-8")
    assert main(["demo", "--seeds", "1", "--epochs", "1"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "choose --out DIR" in error
    assert [path.name for path in here.iterdir()] == ["report.html"]
    assert victim.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("option", ["--seeds", "--epochs"])
def test_a_demo_of_nothing_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert main(["demo", option, "0"]) == 2
    assert f"{option[2:]}: must be at least 1" in capsys.readouterr().err
    assert list(here.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "runs").write_text("mine")
    assert main(["demo", "--out", "runs"]) == 2
    assert "runs: is a file; choose another --out" in capsys.readouterr().err
    assert (here / "runs").read_text() == "mine"


def test_a_trial_that_raises_is_told_and_the_others_go_on(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {"SGD 0.1": demo.METHODS["SGD 0.1"], "None": OptimizerConfig("torch.optim.NoSuch")}
    monkeypatch.setattr(demo, "METHODS", broken)
    # The workers are new processes that know nothing of the patch, so the trials run here.
    monkeypatch.setattr(demo, "ProcessPoolExecutor", _InThisProcess)
    assert main(["demo", "--seeds", "1", "--epochs", "1", "--out", "elsewhere"]) == 1
    printed = capsys.readouterr().out
    assert "failed: None, seed 0: UserError: optimizer" in printed
    (run,) = read_runs([here / "elsewhere"])
    assert run.label == "SGD 0.1"
    assert (here / "elsewhere" / "report.html").is_file()
    assert not (here / "report.html").exists()


class _InThisProcess:
    """As much of an executor as the demo uses, without processes."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def submit(self, function, *arguments):  # type: ignore[no-untyped-def]
        from concurrent.futures import Future

        future: Future[None] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, **_: object) -> None:
        pass


@pytest.mark.slow
def test_the_experiment_of_a_trial_is_the_method_as_listed(short_demo: tuple[Path, str]) -> None:
    runs = read_runs([short_demo[0] / "surefoot-demo"])
    (optimizer,) = (run.experiment["optimizer"] for run in runs if run.label == "Measured SGD")
    assert optimizer["class_path"] == "MeasuredSGD"
    assert optimizer["init_args"] == {"total_steps": None}  # averaged weights: nothing is chosen


@pytest.mark.slow
def test_ctrl_c_ends_the_demo_at_once_and_quietly(here: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "surefoot_lab", "demo"],
        start_new_session=True,  # Ctrl-C reaches the whole group, workers too
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not list(here.glob("surefoot-demo/*/record.jsonl")):  # until a run is under way
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in printed
    assert "Traceback" not in printed
    assert not (here / "report.html").exists()
