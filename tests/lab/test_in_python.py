"""What a run shows in Python and in a notebook."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from _records import end, evaluation, step, write_run

from surefoot_lab import DataConfig, Experiment, OptimizerConfig, read_run, read_runs, train
from surefoot_lab.cli import main
from surefoot_lab.errors import UserError
from surefoot_lab.training import progress

LINES = [
    step(10, 2.0),
    step(20, 0.5),
    evaluation(20, "validation", 0.9),
    evaluation(20, "test", 0.875),
    end(20),
]


def test_a_run_in_a_line(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, "SGD", 3, LINES))
    assert repr(run) == (
        "RunRecord(digits-convnet, SGD, seed 3: finished at step 20, validation accuracy 90.0%, "
        "test accuracy 87.5%, 0.2 s of training)"
    )


def test_a_run_in_a_notebook_is_harmless_and_holds_its_curve(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, "<script>x</script>", 3, LINES))
    html = run._repr_html_()
    assert "<script>" not in html
    assert "test accuracy 87.5%" in html
    run.problems.append("long" * 40)
    assert "long" * 40 in run._repr_html_()
    (points,) = re.findall(r'<path aria-label="step[^>]* d="M([^"]*)"', html)
    (x0, y0), (x1, y1) = (map(float, pair.split(",")) for pair in points.split("L"))
    assert (x0, x1) == (0.0, 240.0)
    assert y0 < y1  # the loss falls, and SVG counts downwards


def test_a_run_as_a_data_frame(tmp_path: Path) -> None:
    table = read_run(write_run(tmp_path, "SGD", 3, LINES)).to_pandas()
    assert list(table["step"]) == [10, 20, 20, 20]
    assert list(table.query("kind == 'step'")["train_loss"]) == [2.0, 0.5]
    assert list(table.query("split == 'test'")["accuracy"]) == [0.875]


def test_an_unfinished_and_empty_run_is_shown(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, "SGD", 3, []))
    assert "not finished at step 0" in repr(run)
    assert "<svg" not in run._repr_html_()
    assert len(run.to_pandas()) == 0


def test_training_from_python(tmp_path: Path) -> None:
    experiment = Experiment(steps=2, optimizer=OptimizerConfig("MeasuredAdamW"))
    run = train(experiment, tmp_path / "run", progress=False)
    assert (run.label, run.end["reason"]) == ("Measured AdamW", "finished")


@pytest.mark.parametrize("section", ["data", "model", "loss", "optimizer", "scheduler", "train"])
def test_a_section_may_be_a_mapping_and_nothing_else(section: str) -> None:
    plain = getattr(Experiment(), section)
    assert getattr(Experiment(**{section: {}}), section) == plain
    assert getattr(Experiment(**{section: None}), section) == plain
    for wrong in ("SGD", 3, list, ["SGD"]):
        with pytest.raises(UserError, match=rf"^{section}: must be \w+Config\(\.\.\.\), not"):
            Experiment(**{section: wrong})
    with pytest.raises(UserError, match=rf"^{section}\.clas_path: no such setting"):
        Experiment(**{section: {"clas_path": "SGD"}})


def test_slips_in_python_are_named(tmp_path: Path) -> None:
    for wrong in ({"steps": 2}, "x.yaml", Experiment):
        with pytest.raises(TypeError, match="must be an Experiment, got"):
            train(wrong, tmp_path / "run")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="choose one"):
        train(Experiment(), tmp_path / "run", resume=True, overwrite=True)
    assert not (tmp_path / "run").exists()


def test_paths_are_texts_and_one_is_a_list(tmp_path: Path) -> None:
    config = DataConfig("text", root=tmp_path / "book.txt")  # type: ignore[arg-type]
    experiment = Experiment(data=config)
    experiment.check()
    assert experiment.to_dict()["data"]["root"] == str(tmp_path / "book.txt")
    place = write_run(tmp_path, "SGD", 3, LINES)
    for paths in (place, str(place), [place]):
        assert [run.label for run in read_runs(paths)] == ["SGD"]


def test_importing_the_lab_is_cheap() -> None:
    code = "import sys, surefoot_lab; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_the_command_says_what_it_needs_where_the_library_alone_is_installed() -> None:
    code = (
        "import sys; sys.modules['pydantic'] = None; from surefoot_lab.__main__ import run; run()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr == (
        "surefoot: error: the command needs pydantic: pip install 'surefoot[lab]'\n"
    )


def test_runs_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = write_run(tmp_path, "SGD [0.1]", 3, LINES)
    write_run(tmp_path, "PAL", 0, [])
    assert main(["ls", str(tmp_path)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{place}: ")
    for part in ("SGD [0.1]", "finished at step 20", "87.5%"):
        assert part in first
    assert "PAL, seed 0: not finished" in second
    assert main(["ls", str(tmp_path / "nowhere")]) == 2
    assert "no such directory" in capsys.readouterr().err


def test_a_log_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    display = progress.ProgressDisplay("SGD", 100, wanted=True)
    for number in range(1, 61):
        clock[0] += 1.0
        display.step(number, 0.5, 0.1)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"SGD  step {n}/100  loss 0.5000  lr 0.1" for n in (30, 60)]


def test_a_resumed_bar_starts_where_the_run_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with progress.ProgressDisplay("SGD", 100, wanted=True, done=40):
        pass
    assert "40/100" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().out)
