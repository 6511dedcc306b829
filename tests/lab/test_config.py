"""From YAML and command line to an experiment: what wins, what is refused, what is explained."""

from pathlib import Path

import pytest
import yaml

from surefoot_lab.cli import main
from surefoot_lab.config import DataConfig, Experiment
from surefoot_lab.parse import parse_words, to_yaml
from surefoot_lab.values import fields_of

EXPERIMENT = """
name: study
seed: 4
steps: 30
data: {name: fashion-mnist, validation: 5000}
optimizer:
  class_path: PAL
  init_args: {lr: 1e-3, total_steps: null, growth: [[0, 1], [0.5, 2]]}
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "experiment.yaml"
    path.write_text(EXPERIMENT)
    return str(path)


def test_a_file_is_read_and_the_rest_stays_default(file: str) -> None:
    found = parse_words([file]).experiment
    assert (found.name, found.seed, found.steps) == ("study", 4, 30)
    assert (found.data.name, found.data.validation) == ("fashion-mnist", 5000)
    assert found.optimizer.init_args == {
        "lr": 0.001,
        "total_steps": None,
        "growth": [[0, 1], [0.5, 2]],
    }
    assert found.batch_size == Experiment().batch_size
    assert found.data.crop == DataConfig().crop


def test_overrides_win_wherever_they_stand(file: str) -> None:
    first = ["--steps", "7", "--optimizer.init_args.lr=-1e-2", "--data.flip", "true"]
    last = ["--optimizer.init_args.mode", "sgd", "--seed=9", "--data.validation", "0.5"]
    found = parse_words([*first, file, *last]).experiment
    assert (found.steps, found.seed, found.data.flip, found.data.validation) == (7, 9, True, 0.5)
    assert found.optimizer.init_args == {
        "lr": -0.01,
        "total_steps": None,
        "growth": [[0, 1], [0.5, 2]],
        "mode": "sgd",
    }


def test_values_that_look_like_options_are_values(file: str) -> None:
    found = parse_words([file, "--optimizer.init_args.lr", "-1e-3"]).experiment
    assert found.optimizer.init_args["lr"] == -0.001


def test_without_a_file_there_is_a_complete_experiment() -> None:
    assert parse_words([]).experiment == Experiment()


def test_names_and_directories_follow_from_the_parts() -> None:
    words = ["--model.class_path", "resnet8", "--optimizer.class_path", "torch.optim.SGD"]
    found = parse_words([*words, "--scheduler.class_path", "OneCycleLR", "--seed", "3"]).experiment
    assert found.name == "digits-resnet8"
    assert found.label == "SGD + OneCycleLR"
    assert found.run_dir == Path("runs/digits-resnet8/sgd-onecyclelr-seed3")
    assert Experiment(name="../up", label="α!").run_dir == Path("runs/up/α-seed0")


def test_every_setting_is_documented_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    settings = fields_of(Experiment)
    assert all(len(setting.help) > 10 for setting in settings)
    text = to_yaml(Experiment(), comments=True)
    assert yaml.safe_load(text) == Experiment().to_dict()
    for setting in settings:
        assert setting.help.split()[0] in text
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    for setting in settings:
        assert f"--{setting.key}" in shown


def test_what_is_written_is_what_is_read(tmp_path: Path, file: str) -> None:
    experiment = parse_words([file, "--train.log_every", "3"]).experiment
    for comments in (False, True):
        path = tmp_path / f"again{comments}.yaml"
        path.write_text(to_yaml(experiment, comments=comments))
        assert parse_words([str(path)]).experiment == experiment


def test_a_run_directory_alone_is_enough_to_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = Experiment(seed=8, name="kept")
    (tmp_path / "experiment.yaml").write_text(to_yaml(experiment))
    for out in (["--out", str(tmp_path)], [f"--out={tmp_path}"]):
        assert main(["train", *out, "--resume", "--print-config"]) == 0
        assert yaml.safe_load(capsys.readouterr().out) == experiment.to_dict()
    assert main(["train", "--resume", "--out", str(tmp_path / "elsewhere")]) == 2
    assert "nothing to resume" in capsys.readouterr().err
