"""The command `surefoot`: one clear line for bad input, nothing half-written, quick to answer."""

import io
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from surefoot_lab.cli import main
from surefoot_lab.config import Experiment
from surefoot_lab.records import read_run
from surefoot_lab.values import fields_of

SMALL = ["--steps=6", "--batch_size=32", "--train.device=cpu", "--train.tensorboard=false"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def _everything() -> list[Path]:
    return sorted(Path().rglob("*"))


def test_a_run_from_a_file_ends_with_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "e.yaml").write_text("name: try\nmodel: {class_path: mlp}\n")
    assert main(["train", str(tmp_path / "e.yaml"), *SMALL, "--seed=2"]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[-1] == "finished at step 6: runs/try/measured-adamw-seed2"
    figures = r"step 6/6  validation loss \d\.\d+  accuracy \d+\.\d+%  lr "
    assert re.match(f"Measured AdamW  {figures}", lines[0])
    assert "test loss" in lines[1]
    assert len(lines) == 3
    assert shown.err == ""
    run = read_run("runs/try/measured-adamw-seed2")
    assert (run.name, run.seed, run.end is not None) == ("try", 2, True)


def test_a_terminal_gets_a_bar_with_all_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["train", *SMALL, "--train.eval_every=3", "--train.log_every=1"]) == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().out)
    bars = [line for line in re.split(r"[\r\n]", shown) if "━" in line]
    assert re.search(
        r"Measured AdamW .*6/6 loss \d\.\d+  lr \S+  validation \d+\.\d+% .*\d", bars[-1]
    )


def test_resuming_a_finished_run_says_so_and_changes_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", *SMALL, "--out", "run"]) == 0
    before = Path("run/record.jsonl").read_bytes()
    capsys.readouterr()
    assert main(["train", "--out", "run", "--resume"]) == 0
    assert capsys.readouterr().out == "finished at step 6: run\n"
    assert Path("run/record.jsonl").read_bytes() == before


def test_a_diverged_run_ends_with_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--optimizer.class_path=SGD", "--optimizer.init_args.lr=1e30"]
    assert main(["train", *SMALL, *words, "--out=run"]) == 1
    assert re.search(
        r"^non_finite at step \d \(.*not finite.*\): run$", capsys.readouterr().out, re.M
    )


def test_an_unreadable_image_is_one_line(
    image_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (image_root / "train" / "frog" / "0001.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    assert main(["train", "--data.name=imagefolder", f"--data.root={image_root}"]) == 2
    shown = capsys.readouterr().err
    assert "0001.jpg: not a readable image" in shown
    assert shown.count("\n") == 1
    assert _everything() == []


def test_a_run_that_is_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *SMALL, "--out=run"]) == 0
    before = Path("run/record.jsonl").read_bytes()
    assert main(["train", *SMALL, "--out=run"]) == 2
    assert "run: holds a run already; go on with --resume" in capsys.readouterr().err
    assert Path("run/record.jsonl").read_bytes() == before
    assert main(["train", *SMALL, "--out=run", "--overwrite"]) == 0


def test_a_resume_with_other_settings_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *SMALL, "--out=run"]) == 0
    before = Path("run/record.jsonl").read_bytes()
    assert main(["train", *SMALL, "--out=run", "--resume", "--batch_size=16"]) == 2
    assert "batch_size: the run to resume has 32, this experiment 16" in capsys.readouterr().err
    assert Path("run/record.jsonl").read_bytes() == before


def test_a_resume_may_find_the_data_elsewhere(image_root: Path) -> None:
    words = ["train", "--steps=4", "--batch_size=8", "--data.name=imagefolder", "--out=run"]
    assert main([*words, f"--data.root={image_root}"]) == 0
    moved = image_root.rename(image_root.parent / "moved")
    record = Path("run/record.jsonl")
    record.write_text("".join(record.read_text().splitlines(keepends=True)[:-1]))  # no end
    assert main([*words, "--resume", f"--data.root={moved}"]) == 0
    run = read_run("run")
    assert run.end is not None
    assert run.end["reason"] == "finished"


def test_a_damaged_checkpoint_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *SMALL, "--out=run"]) == 0
    record = Path("run/record.jsonl")
    record.write_text("".join(record.read_text().splitlines(keepends=True)[:-1]))  # no end
    Path("run/checkpoint.pt").write_bytes(b"damaged")
    before = record.read_bytes()
    assert main(["train", "--out=run", "--resume"]) == 2
    assert "checkpoint.pt: cannot be loaded" in capsys.readouterr().err
    assert record.read_bytes() == before


def test_the_commented_experiment_is_printed_and_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--print-config", "--steps=5"]) == 0
    text = capsys.readouterr().out
    assert "\nsteps: 5\n" in text
    assert _everything() == []
    (tmp_path / "printed.yaml").write_text(text)
    assert main(["train", str(tmp_path / "printed.yaml"), "--out=run"]) == 0


def test_help_and_version_are_quick_and_need_no_torch() -> None:
    program = (
        "import sys; from surefoot_lab.cli import main; code = main(sys.argv[1:]); "
        "print('torch' in sys.modules, code)"
    )
    for words in (["--help"], ["--version"], ["train", "--help"], ["train", "--print-config"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == "False 0"
        assert done.stderr == ""


def test_the_options_are_these() -> None:
    """Frozen: a change here is a change for users and belongs in the changelog."""
    assert [setting.key for setting in fields_of(Experiment)] == [
        *["name", "label", "seed", "steps", "epochs", "batch_size"],
        *["data.name", "data.class_path", "data.init_args"],
        *["data.root", "data.download", "data.validation", "data.test"],
        *["data.split_seed", "data.crop", "data.flip", "data.image_size"],
        *["data.in_memory", "data.normalize", "data.sequence_length", "data.header"],
        *["model.class_path", "model.init_args"],
        *["loss.class_path", "loss.init_args"],
        *["optimizer.class_path", "optimizer.init_args"],
        *["scheduler.class_path", "scheduler.init_args"],
        *["train.closure", "train.device", "train.precision", "train.channels_last"],
        "train.accumulate",
        *["train.eval_every", "train.eval_batch_size", "train.log_every", "train.checkpoint_every"],
        "train.tensorboard",
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_after_the_step_with_code_130_and_a_run_to_resume(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", *SMALL, "--steps=100000", "--train.log_every=1", "--out=run"]
    record = Path("run/record.jsonl").absolute()

    def interrupt_after_some_steps() -> None:
        while not (record.exists() and record.read_text().count('"step"') > 20):
            pass
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt_after_some_steps)
    thread.start()
    assert main(words) == 130
    thread.join()
    assert "interrupted at step" in capsys.readouterr().out
    run = read_run("run")
    assert run.end is not None
    assert run.end["reason"] == "interrupted"
    assert run.end["step"] == run.steps[-1]["step"]
    import torch

    assert torch.load("run/checkpoint.pt", weights_only=True)["step"] == run.end["step"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_names_that_the_terminal_cannot_show_end_nothing(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr("sys.stdout", stream)
    assert main(["train", *SMALL, "--label=méthode ∞ 数据", "--out=run"]) == 0
    assert main(["ls", "run"]) == 0
    stream.flush()
    assert b"finished at step" in stream.buffer.getvalue()  # type: ignore[attr-defined]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device on this system")
def test_an_output_that_takes_no_more_is_one_line() -> None:
    assert main(["train", *SMALL, "--out=run"]) == 0
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "surefoot_lab", "ls", "run"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("surefoot: error: what is printed cannot be written: No space")
    assert done.stderr.count("\n") == 1
