"""The command `surefoot range-test`: a picture, the curve, the suggestions; then training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from surefoot.lr_range import RangeCurve
from surefoot_lab.cli import main
from surefoot_lab.parse import parse_words
from surefoot_lab.range_tests.measure import measure
from surefoot_lab.records import read_run
from surefoot_lab.training.assemble import assemble

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
    assert [point.iteration for point in points][:3] == [1, 3, 5]
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
    experiment = parse_words(SMALL).experiment
    parts = assemble(experiment)
    before = parts.loader.state_dict()
    batches = iter(parts.loader)
    first = next(batches)
    next(batches)
    parts.loader.load_state_dict(before)
    assert torch.equal(next(iter(parts.loader))[0], first[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--then=two_cycles"], "argument --then: invalid choice"),
        (["--num-iter=0"], "num_iter must be 2 or more, got 0"),
        (["--start-lr=3", "--end-lr=1"], "start_lr must lie below end_lr"),
        (["--optimizer.class_path=LABPAL"], "LABPAL measures its own step"),
        (["--optimizer.class_path=NoSuch"], "optimizer.class_path: no 'NoSuch'"),
        (["--nm-iter=3"], "no such setting"),
        (["--out=run"], "belongs to the training of --then one_cycle"),
        (["--then=one_cycle", "--resume", "--out=run"], "resume: no such setting"),
        (["--then=one_cycle", "--steps=20"], "steps: the range test has used"),
        (["--validate", "--data.validation=0"], "the experiment has no validation images"),
        (["missing.yaml"], "missing.yaml: cannot be read (No such file"),
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
    experiment = parse_words(SMALL).experiment
    one, steps = measure(experiment, num_iter=10)
    two, _ = measure(experiment, num_iter=10)
    assert one.loss == two.loss
    assert steps == assemble(experiment).extent.total_steps


# ---- a grid of batch sizes and weight decays ----------------------------------------------------

GRID = ["--batch-sizes", "32", "128", "--weight-decays", "0", "1e-4", "0.5"]


def test_a_grid_leaves_a_curve_a_pair_one_picture_and_a_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["range-test", *SMALL, *TEST, *GRID]) == 0
    stem = "range-test-digits-mlp-sgd-seed0"
    pairs = [(size, decay) for size in (32, 128) for decay in ("0", "0.0001", "0.5")]
    files = {pair: Path(f"{stem}-bs{pair[0]}-wd{pair[1]}.json") for pair in pairs}
    assert {path.name for path in Path().iterdir()} == {
        f"{stem}-grid.png",
        *(path.name for path in files.values()),
    }
    curves = {pair: RangeCurve.from_json(path) for pair, path in files.items()}
    # each is the curve that the experiment with these settings gives alone
    for size, decay in [(32, "0"), (128, "0.5")]:
        setting = [f"--batch_size={size}", f"--optimizer.init_args.weight_decay={decay}"]
        assert main(["range-test", *SMALL, *TEST, *setting]) == 0
        assert curves[size, decay].loss == RangeCurve.from_json(Path(f"{stem}.json")).loss
    shown = capsys.readouterr().out
    rows = [[cell.strip() for cell in row.split("│")] for row in shown.splitlines()]
    for (size, decay), curve in curves.items():
        (row,) = (row for row in rows if row[1:3] == [str(size), decay])
        rate = curve.suggest().rate
        assert row[3] == ("-" if rate is None else f"{rate:.3g}")
    assert Path(f"{stem}-grid.png").read_bytes()[:4] == b"\x89PNG"


def test_batch_sizes_alone_keep_the_weight_decay_of_the_experiment() -> None:
    words = ["--optimizer.init_args.weight_decay=0.5", "--batch-sizes", "64"]
    assert main(["range-test", *SMALL, *TEST, *words]) == 0
    (path,) = Path().glob("*-bs64.json")
    alone = [*words[:1], "--batch_size=64"]
    assert main(["range-test", *SMALL, *TEST, *alone]) == 0
    (other,) = Path().glob("*-seed0.json")
    assert RangeCurve.from_json(path).loss == RangeCurve.from_json(other).loss


def test_a_grid_without_any_answer_says_so() -> None:
    assert main(["range-test", *SMALL, "--num-iter=4", "--weight-decays", "0"]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch-sizes", "64", "0"], "batch_sizes.1: must be at least 1, not '0'"),
        (["--batch-sizes", "64", "1000000"], "batch_size: 1000000 is more than"),
        (["--batch-sizes", "64", "64"], "batch_sizes: 64 is given twice"),
        (["--batch-sizes"], "--batch-sizes: expected at least one argument"),
        (["--batch-sizes", "many"], "batch_sizes.0: must be a whole number, not 'many'"),
        (["--weight-decays", "0", "-1"], "weight_decays.1: must be at least 0, not '-1'"),
        (["--weight-decays", "nan"], "weight_decays.0: must be a number, not 'nan'"),
        (["--weight-decays", "0", "0.0"], "weight_decays: 0.0 is given twice"),
        (
            ["--weight-decays", "0", "--optimizer.class_path=LBFGS"],
            "weight_decay: LBFGS has no such argument",
        ),
        (["--weight-decays", "0", "--optimizer.class_path=NoSuch"], "optimizer.class_path: no"),
        (["--weight-decays", "0", "--then=one_cycle"], "--then: takes the rate of one range test"),
    ],
)
def test_a_grid_that_cannot_be_measured_is_refused_in_one_line_before_anything_is_written(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = SMALL[2:] if any("--optimizer" in word for word in words) else SMALL
    assert main(["range-test", *base, *TEST, *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert list(Path().iterdir()) == []
