"""Full disks, files in the way, errors, NaN, damaged records: the rest goes on, and says so."""

from __future__ import annotations

import json
import os
import pickle
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from surefoot_lab.cli import main
from surefoot_lab.compare.summary import summarize_run
from surefoot_lab.errors import UserError
from surefoot_lab.parse import parse_words
from surefoot_lab.records import RecordWriter, read_run, read_runs
from surefoot_lab.report import write_report
from surefoot_lab.training import train
from surefoot_lab.training.checkpoint import load_checkpoint, save_checkpoint
from surefoot_lab.training.stepping import Stepper

BASE = """\
steps: 12
batch_size: 64
model: {class_path: mlp, init_args: {widths: [8]}}
optimizer: {class_path: SGD, init_args: {lr: 0.05}}
train: {device: cpu, tensorboard: false, log_every: 4, eval_every: 6, checkpoint_every: 5}
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "experiment.yaml"
    path.write_text(BASE)
    return str(path)


def _end(run: Path) -> tuple[str, str]:
    end = read_run(run).end
    assert end is not None
    return end["reason"], str(end["message"])


def _one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What the user reads of an error."""
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert said.startswith("surefoot: error: ")
    return said


@contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    """This process may write files of so many bytes only."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# A disk that is full


def test_a_checkpoint_that_does_not_fit_ends_the_run_and_says_so(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoint.tmp").symlink_to("/dev/full")  # writing there is writing to a full disk
    assert main(["train", file, "--out", str(run)]) != 0
    assert "No space left on device" in _one_line(capsys)
    reason, message = _end(run)
    assert reason == "failed"
    assert "No space left on device" in message
    assert read_run(run).problems == []
    assert "save_checkpoint" in (run / "traceback.txt").read_text()
    assert main(["train", "--out", str(run), "--resume"]) == 0  # there is room again
    assert _end(run)[0] == "finished"


def test_the_last_whole_checkpoint_outlives_one_that_does_not_fit(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"step": 1})
    (tmp_path / "checkpoint.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        save_checkpoint(tmp_path, {"step": 2})
    state = load_checkpoint(tmp_path)
    assert state is not None
    assert state["step"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt"]


def test_files_that_may_not_grow_end_the_command_in_one_line(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every write is real and fails in the system: here, in the middle of a line of the record."""
    run = tmp_path / "run"
    with _files_of_at_most(4000):
        assert main(["train", file, "--out", str(run), "--train.log_every", "1"]) != 0
    assert "File too large" in _one_line(capsys)
    record = (run / "record.jsonl").read_bytes()
    assert record.endswith(b"}\n")
    assert len(record) <= 4000
    assert read_run(run).problems == []
    again = train(parse_words([file, "--train.log_every", "1"]).experiment, run, resume=True)
    assert again.end is not None
    assert again.end["reason"] == "finished"
    assert [line["step"] for line in again.steps] == list(range(1, 13))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A file system of half a megabyte, mounted where it is wanted."""
    mounted: list[Path] = []

    def mount(name: str) -> Path:
        place = tmp_path / name
        place.mkdir(parents=True)
        words = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)]
        if subprocess.run(words, capture_output=True).returncode:
            pytest.skip("may not mount here; the tests above fill a disk by other means")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _fill(disk: Path, leave: int) -> None:
    room = os.statvfs(disk)
    (disk / "other").write_bytes(bytes(room.f_bavail * room.f_bsize - leave))


def test_a_record_on_a_full_disk_still_says_how_its_run_ended(
    small_disk: Callable[[str], Path],
) -> None:
    disk = small_disk("disk")
    with RecordWriter(disk / "run") as record:
        record.start({"name": "n", "label": "l", "seed": 0, "a": 1}, {"b": 2})
        _fill(disk, leave=0)
        with pytest.raises(OSError, match="No space left"):
            record.write("step", step=1, note="x" * 20_000)
        record.end(1000, "failed", "No space left on device")
    run = read_run(disk / "run")
    assert run.problems == []
    assert run.end is not None
    assert run.end["message"] == "No space left on device"
    assert sorted(path.name for path in (disk / "run").iterdir()) == ["record.jsonl"]


@pytest.mark.parametrize("leave", [0, 4096, 12288, 65536])
def test_training_on_a_full_disk_ends_in_one_line_and_goes_on_when_there_is_room(
    leave: int,
    small_disk: Callable[[str], Path],
    file: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    disk = small_disk("disk")
    _fill(disk, leave)
    words = ["train", file, "--out", str(disk / "run"), "--train.tensorboard", "true"]
    words += ["--model.init_args.widths", "[200]"]
    assert main(words) != 0
    assert "No space left on device" in _one_line(capsys)
    if leave >= 12288:
        assert _end(disk / "run")[0] == "failed"
    (disk / "other").unlink()
    had_record = (disk / "run" / "record.jsonl").exists()
    assert main([*words, "--resume"] if had_record else words) == 0
    assert _end(disk / "run")[0] == "finished"


# A directory that nothing can be written to


def test_a_directory_that_is_read_only_is_named_in_one_line(
    small_disk: Callable[[str], Path], file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = small_disk("disk")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for words in (["train"], ["sweep"]):
        given = file
        if words == ["sweep"]:
            given = str(Path(file).with_name("sweep.yaml"))
            Path(given).write_text(BASE + "grid: {seed: [0]}\n")
        assert main([*words, given, "--out", str(disk / "run")]) != 0
        said = _one_line(capsys)
        assert "Read-only file system" in said
        assert str(disk / "run") in said


@pytest.mark.parametrize("place", ["file", "file/deeper"])
def test_a_file_in_the_way_is_named_in_one_line(
    place: str, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("of somebody else")
    for command, given in (("train", file), ("sweep", str(tmp_path / "sweep.yaml"))):
        (tmp_path / "sweep.yaml").write_text(BASE + "grid: {seed: [0]}\n")
        assert main([command, given, "--out", str(tmp_path / place)]) != 0
        assert str(tmp_path / "file") in _one_line(capsys)
    assert (tmp_path / "file").read_text() == "of somebody else"


def test_a_report_that_cannot_be_written_leaves_the_old_one(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RecordWriter(tmp_path / "run") as record:
        record.start({"name": "n", "label": "l", "seed": 0}, {})
    (tmp_path / "file").write_text("old")
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "file" / "report.html")]) != 0
    assert "Not a directory" in _one_line(capsys)
    assert (tmp_path / "file").read_text() == "old"
    assert not list(tmp_path.glob(".*part"))


# A run that goes wrong


def test_a_run_that_raises_leaves_its_reason_and_its_traceback(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(self: Stepper, batch: Any) -> Any:
        raise ZeroDivisionError("of all\nthings" + "!" * 5000)

    monkeypatch.setattr(Stepper, "step", raising)
    with pytest.raises(ZeroDivisionError):
        train(parse_words([file]).experiment, tmp_path / "run", progress=False)
    reason, message = _end(tmp_path / "run")
    assert reason == "failed"
    assert message.startswith("ZeroDivisionError: of all things!!!")
    assert len(message) < 1100
    assert "in raising" in (tmp_path / "run" / "traceback.txt").read_text()


def test_the_command_says_in_one_line_that_a_run_raised_and_where_the_rest_stands(
    file: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def raising(self: Stepper, batch: Any) -> Any:
        raise ZeroDivisionError("of all\nthings")

    monkeypatch.setattr(Stepper, "step", raising)
    assert main(["train", file, "--out", str(tmp_path / "run")]) == 1
    line = _one_line(capsys)
    assert "the run failed: ZeroDivisionError: of all things (see " in line
    assert str(tmp_path / "run" / "traceback.txt") in line


def test_a_loss_that_is_not_finite_ends_with_a_code_that_is_not_0(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--out", str(tmp_path / "run"), "--optimizer.init_args.lr", "1e30"]
    assert main(["train", file, *words]) == 1
    assert "the training loss is not finite at step" in capsys.readouterr().out
    assert _end(tmp_path / "run")[0] == "non_finite"


# A record that is damaged


def _record(folder: Path, label: str, seed: int = 0) -> Path:
    path = folder / f"{label}-{seed}"
    with RecordWriter(path) as record:
        optimizer = {"class_path": "SGD", "init_args": {"lr": 0.1}}
        named = {"name": "n", "label": label, "seed": seed}
        record.start({**named, "optimizer": optimizer}, {"cpu": "c"})
        for step in (1, 2, 3):
            spent = {"forwards": step, "backwards": step, "seconds": step / 10}
            record.write("step", step=step, train_loss=1.0 / step, effective_lr=0.1, **spent)
            record.evaluation(step=step, split="validation", loss=1.0, accuracy=0.5, **spent)
        record.evaluation(step=3, split="test", loss=1.0, accuracy=0.25 * (1 + seed), **spent)
        record.end(3, "finished")
    return path / "record.jsonl"


def _line(kind: str, **fields: Any) -> bytes:
    return json.dumps({"kind": kind, **fields}).encode() + b"\n"


START = {"schema": 1, "name": "n", "label": "l", "seed": 0, "experiment": {}, "environment": {}}
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda b: b[: len(b) // 2],
    "cut to nothing": lambda b: b"",
    "garbage in the middle": lambda b: b[:700] + bytes(range(256)) * 3 + b[1100:],
    "zeros at the end": lambda b: b + bytes(4096),
    "not UTF-8": lambda b: b.replace(b'"step": 2', b'"step": 2, "x": "\xff\xfe"'),
    "UTF-16": lambda b: b.decode().encode("utf-16"),
    "half a character": lambda b: b.replace(b'"label": "', b'"label": "\\ud800'),
    "lines twice": lambda b: b.replace(b"\n", b"\n" + b.splitlines(keepends=True)[3], 6),
    "the file twice": lambda b: b + b,
    "lines in disorder": lambda b: b"".join(reversed(b.splitlines(keepends=True))),
    "no start": lambda b: b[b.index(b"\n") + 1 :],
    "a start of other types": lambda b: (
        _line("start", **{**START, "label": ["l"], "seed": "0", "experiment": [], "name": None})
        + b[b.index(b"\n") + 1 :]
    ),
    "an environment of another type": lambda b: (
        _line("start", **{**START, "environment": "here"}) + b[b.index(b"\n") + 1 :]
    ),
    "a sweep of another type": lambda b: (
        _line("start", **START, sweep={"method": {}, "cell": [1]}) + b[b.index(b"\n") + 1 :]
    ),
    "deep": lambda b: b + b"[" * 100_000 + b"\n",
    "steps of other types": lambda b: (
        b + _line("step", step=True) + _line("step", step=10**400) + _line("step", step="4")
    ),
}
# numbers that cannot be: left out of the figures, but a program may have written such a line
ODD_VALUES: dict[str, dict[str, Any]] = {
    "huge": {"train_loss": 10**400, "effective_lr": [10**400], "seconds": 1e308},
    "huge floats": {"train_loss": 1e308, "effective_lr": 1e308, "forwards": 1e308},
    "words": {"train_loss": "low", "effective_lr": {"a": 1}, "forwards": [], "seconds": "2"},
    "odd": {"train_loss": [1.0], "status": {}, "epoch": None, "non_finite": "yes"},
}


def _damage(folder: Path, damage: str) -> Path:
    """A run's directory, damaged in the way of that name."""
    bad = _record(folder, damage.replace(" ", "-"))
    if damage == "a directory":
        bad.unlink()
        bad.mkdir()
    elif damage == "a device":
        bad.unlink()
        bad.symlink_to("/dev/full")
    elif damage in ODD_VALUES:
        lines = bad.read_bytes().splitlines(keepends=True)
        odd = _line("step", step=4, **ODD_VALUES[damage])
        test = _line("evaluation", step=4, split="test", accuracy=1e308, loss="low")
        bad.write_bytes(b"".join([*lines[:-1], odd, test, lines[-1]]))
    else:
        bad.write_bytes(DAMAGES[damage](bad.read_bytes()))
    return bad.parent


@pytest.mark.parametrize("damage", [*DAMAGES, "a directory", "a device"])
def test_a_damaged_record_is_read_as_far_as_it_goes(damage: str, tmp_path: Path) -> None:
    run = read_run(_damage(tmp_path, damage))
    assert run.problems
    assert all("\n" not in problem for problem in run.problems)
    summary = summarize_run(run)
    assert summary.problems == tuple(run.problems)
    steps = [line["step"] for line in run.steps]
    assert steps == sorted(set(steps))


def test_damaged_records_are_named_on_the_page_and_the_other_runs_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, page = tmp_path / "runs", tmp_path / "report.html"
    for seed in (0, 1):
        _record(runs, "sound", seed)
    damages = [*DAMAGES, "a directory", "a device"]
    names = [_damage(runs, damage).name for damage in damages]
    for odd in ODD_VALUES:
        _damage(runs, odd)
    assert main(["report", str(runs), "--out", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "37.5 ± 17.7 %" in text  # of the sound ones: 25 % and 50 %
    warned = text[text.index("Read with care") : text.index('id="result"')]
    said = capsys.readouterr().out
    for name in names:
        assert f"<strong>{name}</strong>" in warned
        assert name in said
    assert "sound-" not in warned
    data = text[text.index('id="data">') + len('id="data">') :]
    json.loads(data[: data.index("</script>")], parse_constant=pytest.fail)


def test_lines_written_twice_count_once(tmp_path: Path) -> None:
    path = _record(tmp_path, "twice")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:4], *lines[1:]]))
    run = read_run(path.parent)
    assert [line["step"] for line in run.steps] == [1, 2, 3]
    assert [(line["split"], line["step"]) for line in run.evaluations] == [
        *(("validation", step) for step in (1, 2, 3)),
        ("test", 3),
    ]
    assert len(run.problems) == 3


def test_a_resumed_run_whose_first_line_is_damaged_is_whole_again(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = parse_words([file]).experiment
    step, calls = Stepper.step, iter(range(9))

    def nine(self: Stepper, batch: Any) -> Any:
        if next(calls, None) is None:
            raise ZeroDivisionError
        return step(self, batch)

    monkeypatch.setattr(Stepper, "step", nine)
    with pytest.raises(ZeroDivisionError):
        train(experiment, tmp_path, progress=False)
    monkeypatch.setattr(Stepper, "step", step)
    record = tmp_path / "record.jsonl"
    record.write_bytes(b"garbage" + record.read_bytes()[7:])
    run = train(experiment, tmp_path, resume=True, progress=False)  # from step 5
    assert run.problems == ["line 1: not valid JSON, left out"]
    assert run.experiment["batch_size"] == 64
    assert [line["step"] for line in run.steps] == [4, 8, 12]
    assert run.end is not None
    assert run.end["reason"] == "finished"


# Files of strangers


class _Evil:
    """Unpickled, it would leave a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("how", ["torch", "torch, as of old", "pickle"])
def test_a_checkpoint_with_foreign_objects_is_refused_and_nothing_of_it_runs(
    how: str, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    mark, run = tmp_path / "executed", tmp_path / "run"
    evil = {"schema": 2, "step": 5, "model": _Evil(mark)}
    assert main(["train", file, "--out", str(run), "--steps", "6"]) == 0
    capsys.readouterr()
    record = run / "record.jsonl"
    record.write_bytes(b"".join(record.read_bytes().splitlines(keepends=True)[:-1]))
    if how == "pickle":
        (run / "checkpoint.pt").write_bytes(pickle.dumps(evil))
    else:
        zipped = how == "torch"
        torch.save(evil, run / "checkpoint.pt", _use_new_zipfile_serialization=zipped)
    assert main(["train", "--out", str(run), "--resume"]) != 0
    assert "checkpoint.pt: cannot be loaded" in _one_line(capsys)
    assert not mark.exists()
    pickle.loads(pickle.dumps(evil))
    assert mark.exists()  # as it would have been


def test_files_of_settings_make_no_objects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = tmp_path / "executed"
    file = tmp_path / "evil.yaml"
    file.write_text(f"name: !!python/object/apply:os.mkdir [{mark}]\n")
    for command in ("train", "sweep"):
        assert main([command, str(file)]) != 0
        _one_line(capsys)
    assert not mark.exists()


def test_records_are_read_as_plain_text(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    bad = _record(tmp_path, "a")
    bad.write_bytes(pickle.dumps(_Evil(mark)))
    write_report(read_runs([tmp_path]), tmp_path / "report.html")
    assert not mark.exists()
    assert "damaged" not in (tmp_path / "report.html").read_text()


def test_what_is_no_run_to_resume_is_refused(file: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to resume"):
        train(parse_words([file]).experiment, tmp_path / "none", resume=True)
