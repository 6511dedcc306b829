"""The record of a run: strict JSON, no step twice, readable in whatever state it was left."""

import json
from pathlib import Path

import pytest

from surefoot_lab.records import RecordWriter, describe_environment, read_run, read_runs

NAN = float("nan")


def _no_constants(name: str) -> None:
    raise AssertionError(f"{name} is not strict JSON")


def _write_start(record: RecordWriter, name: str = "digits", seed: int = 3) -> None:
    record.start({"name": name, "label": "PAL", "seed": seed, "steps": 9}, {"a": 1})


def test_every_line_is_strict_json_and_says_where_a_number_was_not_finite(tmp_path: Path) -> None:
    with RecordWriter(tmp_path) as record:
        _write_start(record)
        record.write("step", step=1, train_loss=NAN, effective_lr=[0.1, float("inf")])
        record.write("measure", step=2, parabola={"curvature": -float("inf")}, t=0.5)
        record.evaluation(step=2, split="test", loss=1.5, accuracy=None)
    lines = (tmp_path / "record.jsonl").read_text().splitlines()
    parsed = [json.loads(line, parse_constant=_no_constants) for line in lines]
    assert [line["kind"] for line in parsed] == ["start", "step", "measure", "evaluation"]
    assert parsed[1] == {
        "kind": "step",
        "step": 1,
        "train_loss": None,
        "effective_lr": [0.1, None],
        "non_finite": True,
    }
    assert parsed[2]["parabola"]["curvature"] is None
    assert parsed[2]["non_finite"] is True
    assert "non_finite" not in parsed[3]
    assert parsed[0]["schema"] == 1


def test_every_line_is_in_the_file_before_the_writer_is_closed(tmp_path: Path) -> None:
    record = RecordWriter(tmp_path)
    record.write("step", step=1)
    assert (tmp_path / "record.jsonl").read_text().endswith('"step": 1}\n')
    record.close()


def test_reading_gives_back_what_was_written(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "run") as record:
        _write_start(record)
        record.write("step", step=1, train_loss=2.0)
        record.write("measure", step=1, t=0.1)
        record.evaluation(step=1, split="validation", loss=1.0, accuracy=0.5)
        record.end(1, "finished")
    run = read_run(tmp_path / "run")
    assert (run.name, run.label, run.seed) == ("digits", "PAL", 3)
    assert run.experiment["steps"] == 9
    assert run.environment == {"a": 1}
    assert run.path == tmp_path / "run"
    assert [line["train_loss"] for line in run.steps] == [2.0]
    assert [line["t"] for line in run.measurements] == [0.1]
    assert [line["accuracy"] for line in run.evaluations] == [0.5]
    assert run.end == {"kind": "end", "step": 1, "reason": "finished", "message": None}
    assert run.problems == []


def test_a_resume_voids_later_lines_and_the_former_end(tmp_path: Path) -> None:
    with RecordWriter(tmp_path) as record:
        _write_start(record)
        for step in (1, 2, 3):
            record.write("step", step=step, train_loss=float(step))
            record.write("measure", step=step)
            record.evaluation(step=step, split="validation")
        record.end(3, "interrupted")
        record.resume(2, {"a": 2})
        record.write("step", step=3, train_loss=30.0)
    run = read_run(tmp_path)
    assert [line["train_loss"] for line in run.steps] == [1.0, 2.0, 30.0]
    assert [line["step"] for line in run.measurements] == [1, 2]
    assert [line["step"] for line in run.evaluations] == [1, 2]
    assert run.end is None
    assert run.environment == {"a": 2}


@pytest.mark.parametrize("torn", ['{"kind": "step", "st', '{"kind": "step"', "{", "\x00\x00"])
def test_a_torn_last_line_is_reported_and_repaired_by_the_next_writer(
    tmp_path: Path, torn: str
) -> None:
    with RecordWriter(tmp_path) as record:
        _write_start(record)
        record.write("step", step=1)
    with open(tmp_path / "record.jsonl", "a") as file:
        file.write(torn)
    run = read_run(tmp_path)
    assert [line["step"] for line in run.steps] == [1]
    assert len(run.problems) == 1
    assert "line 3" in run.problems[0]
    with RecordWriter(tmp_path) as record:
        record.write("step", step=2)
    run = read_run(tmp_path)
    assert [line["step"] for line in run.steps] == [1, 2]
    assert run.problems == []


def test_a_whole_last_line_without_its_line_end_is_kept(tmp_path: Path) -> None:
    with RecordWriter(tmp_path) as record:
        _write_start(record)
    with open(tmp_path / "record.jsonl", "a") as file:
        file.write('{"kind": "step", "step": 1}')
    with RecordWriter(tmp_path) as record:
        record.write("step", step=2)
    assert [line["step"] for line in read_run(tmp_path).steps] == [1, 2]


def test_a_file_that_holds_only_a_torn_line_becomes_empty(tmp_path: Path) -> None:
    (tmp_path / "record.jsonl").write_text('{"kind": "sta')
    RecordWriter(tmp_path).close()
    assert (tmp_path / "record.jsonl").read_bytes() == b""


def test_corrupt_lines_are_left_out_and_named(tmp_path: Path) -> None:
    with RecordWriter(tmp_path) as record:
        _write_start(record)
    with open(tmp_path / "record.jsonl", "a") as file:
        file.write('garbage\n[1, 2]\n{"kind": "step", "step": NaN}\n{"kind": "stop"}\n')
        file.write('{"kind": "step"}\n{"kind": "step", "step": 7}\n')
    run = read_run(tmp_path)
    assert [line["step"] for line in run.steps] == [7]
    assert [problem.split(":")[0] for problem in run.problems] == [
        f"line {number}" for number in (2, 3, 4, 5, 6)
    ]


def test_a_record_without_start_and_one_of_another_schema_are_reported(tmp_path: Path) -> None:
    (tmp_path / "record.jsonl").write_text("")
    assert "no start line" in read_run(tmp_path).problems[0]
    (tmp_path / "record.jsonl").write_text('{"kind": "start", "schema": 99, "name": "x"}\n')
    assert "schema 99" in read_run(tmp_path).problems[0]


def test_runs_are_found_below_folders_each_once(tmp_path: Path) -> None:
    for name in ("b/two", "a/one", "a/deep/er"):
        with RecordWriter(tmp_path / name) as record:
            _write_start(record, name=name)
    runs = read_runs([tmp_path / "b" / "two", tmp_path])
    assert [run.name for run in runs] == ["b/two", "a/deep/er", "a/one"]


def test_paths_without_runs_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_runs([tmp_path / "nowhere"])
    with pytest.raises(FileNotFoundError, match="holds no run"):
        read_runs([tmp_path])
    with pytest.raises(FileNotFoundError, match="not a run directory"):
        read_run(tmp_path)


def test_the_environment_is_complete_and_plain() -> None:
    found = describe_environment()
    assert json.loads(json.dumps(found)) == found
    import torch

    assert found["torch"] == torch.__version__
    assert found["device"] == "cpu"
    assert found["cores"] >= 1
    assert found["threads"] == torch.get_num_threads()
    assert {"surefoot", "python", "platform", "cpu", "gpu", "commit", "packages"} <= found.keys()
