"""The command `surefoot range-test`: a picture, the curve, the suggestions; then training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from surefoot.lr_range import RangeCurve
from surefoot_lab.cli import main
from surefoot_lab.parse import parse_train
from surefoot_lab.range_test import Stream, measure
from surefoot_lab.records import read_run
from surefoot_lab.train.assemble import assemble

SGD = ["--optimizer.class_path=SGD", "--optimizer.init_args.momentum=0.9", "--train.device=cpu"]
SMALL = [*SGD, "--model.class_path=mlp", "--batch_size=32", "--train.tensorboard=false"]
TEST = ["--num-iter=40", "--start-lr=1e-4"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def test_it_leaves_a_picture_and_the_curve_here_and_a_table_on_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["range-test", *SMALL, *TEST, "--seed=3"]) == 0
    assert sorted(path.name for path in Path().iterdir()) == [
        "range-test-digits-mlp-sgd-seed3.json",
        "range-test-digits-mlp-sgd-seed3.png",
    ]
    curve = RangeCurve.from_json(Path("range-test-digits-mlp-sgd-seed3.json"))
    assert curve.ramp.starts == (1e-4,)
    assert curve.optimizer == "SGD"
    assert not curve.validation
    shown = capsys.readouterr().out
    assert curve.message in shown
    for name, suggestion in curve.suggestions().items():
        row = next(line for line in shown.splitlines() if f" {name} " in line)
        assert suggestion.rate is None or f"{suggestion.rate:.3g}" in row
    assert Path("range-test-digits-mlp-sgd-seed3.png").read_bytes()[:4] == b"\x89PNG"


def test_validation_is_measured_if_asked() -> None:
    assert main(["range-test", *SMALL, *TEST, "--validate"]) == 0
    (path,) = Path().glob("*.json")
    points = RangeCurve.from_json(path).validation
    assert [point.iteration for point in points][:3] == [4, 9, 14]
    assert all(point.accuracy is not None for point in points)


def test_then_one_cycle_trains_with_the_measured_rate_within_the_budget() -> None:
    words = [*SMALL, *TEST, "--steps=120", "--then=one_cycle", "--rule=valley", "--out=run"]
    assert main(["range-test", *words]) == 0
    curve = RangeCurve.from_json(Path("run/range_test.json"))
    run = read_run("run")
    assert run.end is not None
    assert run.end["reason"] == "finished"
    assert run.end["step"] == 120 - curve.cost.backwards
    assert run.label == "SGD + measured 1cycle"
    highest = max(line["effective_lr"] for line in run.steps)
    assert highest == pytest.approx(curve.suggestion("valley"), rel=0.15)
    assert run.experiment["scheduler"]["init_args"]["max_lr"] == curve.suggestion("valley")
    # the run's own file says it all: it can be trained again without a range test
    assert main(["train", "run/experiment.yaml", "--out", "again"]) == 0
    losses = [[line["train_loss"] for line in read_run(path).steps] for path in ("run", "again")]
    assert losses[0] == losses[1]


def test_a_scheduler_of_the_experiment_is_left_out() -> None:
    words = ["--scheduler.class_path=OneCycleLR", "--scheduler.init_args.max_lr=0.1"]
    assert main(["range-test", *SMALL, *TEST, *words]) == 0


def test_the_stream_goes_back_to_its_place() -> None:
    experiment = parse_train(SMALL).experiment
    parts = assemble(experiment)
    before = parts.loader.state_dict()
    stream = Stream(parts.loader)
    batches = iter(stream)
    first = next(batches)
    next(batches)
    stream.load_state_dict(before)
    assert torch.equal(next(iter(stream))[0], first[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--then=two_cycles"], "argument --then: invalid choice"),
        (["--num-iter=0"], "num_iter must be a whole number of at least 2, got 0"),
        (["--start-lr=3", "--end-lr=1"], "start_lr must lie below end_lr"),
        (["--optimizer.class_path=LABPAL"], "LABPAL measures its own step"),
        (["--optimizer.class_path=NoSuch"], "optimizer.class_path: no 'NoSuch'"),
        (["--nm-iter=3"], "no such setting"),
        (["--out=run"], "belongs to the training of --then one_cycle"),
        (["--then=one_cycle", "--resume", "--out=run"], "surefoot train --resume"),
        (["--then=one_cycle", "--steps=20"], "steps: the range test has used"),
        (["--validate", "--data.validation=0"], "the experiment has no validation images"),
        (["missing.yaml"], "missing.yaml: no such experiment file"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = [word for word in SMALL if not word.startswith("--optimizer")]
    optimizer = [] if any("--optimizer" in word for word in words) else SMALL[:2]
    assert main(["range-test", *base, *optimizer, *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not Path("run").exists()


def test_a_curve_without_an_answer_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SMALL, "--num-iter=4", "--then=one_cycle"]
    assert main(["range-test", *words]) == 1
    assert "4 finite points" in capsys.readouterr().err
    assert json.loads(next(Path().glob("*.json")).read_text())["schema"] == 1


def test_measuring_leaves_the_parts_as_they_were() -> None:
    from surefoot_lab.range_test import _parser

    options = _parser().parse_args(["--num-iter", "10"])
    experiment = parse_train(SMALL).experiment
    one, steps = measure(experiment, options)
    two, _ = measure(experiment, options)
    assert one.loss == two.loss
    assert steps == assemble(experiment).extent.total_steps
