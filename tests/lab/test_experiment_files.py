"""Experiment files and command lines as people write them; parts of one's own."""

from __future__ import annotations

import importlib.abc
import json
import os
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from surefoot_lab.cli import main
from surefoot_lab.config import (
    DataConfig,
    Experiment,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    SweepConfig,
    TrainConfig,
)
from surefoot_lab.data.examples import Examples, hold_out
from surefoot_lab.data.loader import Normalizer, TrainLoader
from surefoot_lab.errors import UserError
from surefoot_lab.lines.run import LinesConfig
from surefoot_lab.parse import parse_words, to_yaml
from surefoot_lab.records import RecordWriter, read_run
from surefoot_lab.sweep.cells import trials_of
from surefoot_lab.training import train
from surefoot_lab.training.assemble import seed_everything
from surefoot_lab.values import validated

QUIET = TrainConfig(device="cpu", tensorboard=False)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:  # modules of this folder are gone with it
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


def _parsed(text: str | bytes, *words: str) -> Experiment:
    Path("x.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return parse_words(["x.yaml", *words]).experiment


# Values


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_file_may_have_any_encoding_that_its_first_bytes_name(encoding: str) -> None:
    assert _parsed("name: Straße\r\nseed: 3\r\n".encode(encoding)).name == "Straße"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_read() -> None:
    """As the shell's <(...) and /dev/stdin are."""
    os.mkfifo("pipe")
    writer = threading.Thread(target=lambda: Path("pipe").write_text("seed: 3\n"))
    writer.start()
    assert parse_words(["pipe"]).experiment.seed == 3
    writer.join()


@pytest.mark.parametrize(
    "text",
    [
        "optimizer:\n  class_path: SGD\n  init_args:\n    # lr: 0.1\n",
        "optimizer: {class_path: SGD, init_args: null}\n",
        "optimizer: {class_path: SGD}\nmodel:\ntrain:\nscheduler: {init_args: }\ndata:\nloss:\n",
    ],
)
def test_what_is_empty_is_the_default(text: str) -> None:
    expected = Experiment(optimizer=OptimizerConfig("SGD"))
    assert _parsed(text) == expected


def test_numbers_in_quotes_tuples_and_powers_of_ten_are_read_at_any_depth() -> None:
    inner = {"class_path": "AdamW", "init_args": {"lr": "1e-3", "betas": "(0.9, 0.99)", "eps": 1}}
    text = yaml.safe_dump(
        {
            "steps": 1e3,
            "seed": "7",
            "optimizer": {"class_path": "MeasuredLR", "init_args": {"optimizer": inner}},
        }
    )
    found = _parsed(text + "scheduler: {init_args: {a: !!python/tuple [1, 2], b: [.5e1, '3']}}\n")
    assert (found.steps, found.seed) == (1000, 7)
    arguments = found.optimizer.init_args["optimizer"]["init_args"]
    assert arguments == {"lr": 0.001, "betas": [0.9, 0.99], "eps": 1}
    assert found.scheduler.init_args == {"a": [1, 2], "b": [5.0, 3]}
    words = ["--optimizer.init_args.optimizer.init_args.betas", "(0.5, 0.6)"]
    found = _parsed(text, *words)
    assert found.optimizer.init_args["optimizer"]["init_args"]["betas"] == [0.5, 0.6]


def test_numbers_are_what_they_look_like_and_names_what_they_are() -> None:
    text = "name: 007\nlabel: 2024-01-05\nbatch_size: 010\nsteps: 1_000\nepochs: 1e1\nseed: 0x1F\n"
    found = _parsed(text + "optimizer: {init_args: {a: 1., b: -.5, c: +1e-3, d: .inf, e: -2}}\n")
    assert (found.name, found.label) == ("007", "2024-01-05")
    assert (found.batch_size, found.steps, found.epochs, found.seed) == (10, 1000, 10.0, 31)
    assert list(found.optimizer.init_args.values()) == [1.0, -0.5, 0.001, float("inf"), -2]


@pytest.mark.parametrize("number", [np.int64, np.int32, np.uint8, np.float32, np.float64])
def test_numbers_of_numpy_are_numbers(number: Any, tmp_path: Path) -> None:
    experiment = Experiment(
        seed=number(3),
        steps=number(2),
        batch_size=number(32),
        epochs=number(2),
        data=DataConfig(validation=number(100), split_seed=number(1)),
        model=ModelConfig("mlp", {"widths": np.array([8, 4])}),
        optimizer=OptimizerConfig("SGD", {"lr": number(1), "momentum": np.float32(0.5)}),
        train=TrainConfig(device="cpu", tensorboard=False, log_every=number(1)),
    )
    assert "!!" not in to_yaml(experiment)
    run = train(experiment, tmp_path / "run", progress=False)
    assert run.seed == 3
    assert run.experiment["model"]["init_args"] == {"widths": [8, 4]}
    again = parse_words([str(tmp_path / "run" / "experiment.yaml")]).experiment
    assert again.to_dict() == experiment.to_dict()
    train(experiment, tmp_path / "run", progress=False, resume=True)


def test_the_parts_of_a_run_take_numbers_of_numpy() -> None:
    everything = Examples(torch.arange(20.0).view(20, 1), torch.zeros(20))
    for count in (np.int64(5), np.float32(0.25)):
        rest, held_out = hold_out(everything, count, np.uint8(3), "data.test")
        assert (len(rest), len(held_out)) == (15, 5)
    settings = {"batch_size": np.int64(4), "seed": np.int64(3)}
    loader = TrainLoader(everything, Normalizer(None, torch.device("cpu")), **settings)
    plain = TrainLoader(everything, Normalizer(None, torch.device("cpu")), batch_size=4, seed=3)
    assert torch.equal(loader.next_batch()[0], plain.next_batch()[0])
    seed_everything(np.int64(3))
    drawn = torch.rand(3)
    seed_everything(3)
    assert torch.equal(torch.rand(3), drawn)


def test_sweeps_lines_and_records_take_numbers_of_numpy(tmp_path: Path) -> None:
    rates = np.logspace(-3, -1, 3)
    sweep = SweepConfig(grid={"optimizer.init_args.lr": rates, "seed": range(2)})
    base = Experiment(optimizer=OptimizerConfig("SGD"))
    plain = SweepConfig(grid={"optimizer.init_args.lr": rates.tolist(), "seed": [0, 1]})
    assert trials_of(base, sweep) == trials_of(base, plain)
    lines = validated(LinesConfig, {"every": np.int64(3), "lengths": np.array([-1.0, 1.0])})
    assert (lines.every, lines.lengths) == (3, (-1.0, 1.0))
    with RecordWriter(tmp_path) as record:
        record.write("step", step=np.int64(1), train_loss=np.float32("nan"), rates=np.ones(2))
    line = json.loads((tmp_path / "record.jsonl").read_text())
    assert (line["step"], line["train_loss"], line["rates"]) == (1, None, [1.0, 1.0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 2**63}, f"seed: must be below {2**63}"),
        ({"seed": None}, "seed: must be a whole number, not null"),
        ({"steps": 2.5}, "steps: must be a whole number, not 2.5"),
        ({"batch_size": "many"}, "batch_size: must be a whole number, not 'many'"),
        (
            {"optimizer": OptimizerConfig("SGD", {"lr": torch.float32})},
            "init_args: lr must be a nu",
        ),
        ({"optimizer": OptimizerConfig(None)}, "optimizer.class_path: must be a text"),  # type: ignore[arg-type]
        ({"data": DataConfig("mnits")}, "data.name: must be one of"),  # type: ignore[arg-type]
    ],
)
def test_values_given_in_python_are_checked_as_those_of_a_file(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        train(Experiment(**settings), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


# Overrides

WRAPPED = """
optimizer:
  class_path: MeasuredLR
  init_args:
    share: 0.1
    optimizer: {class_path: AdamW, init_args: {lr: 0.1, weight_decay: 0.5}}
"""
INNER = "--optimizer.init_args.optimizer"


def test_an_override_reaches_into_a_wrapped_optimizer() -> None:
    found = _parsed(WRAPPED, f"{INNER}.init_args.weight_decay", "1e-4").optimizer.init_args
    assert found == {
        "share": 0.1,
        "optimizer": {"class_path": "AdamW", "init_args": {"lr": 0.1, "weight_decay": 1e-4}},
    }


@pytest.mark.parametrize("turned", [False, True])
def test_another_class_leaves_the_old_ones_arguments_out_wherever_it_stands(turned: bool) -> None:
    words = [f"{INNER}.class_path=SGD", f"{INNER}.init_args.weight_decay=1e-4"]
    found = _parsed(WRAPPED, *(reversed(words) if turned else words)).optimizer.init_args
    inner = {"class_path": "SGD", "init_args": {"weight_decay": 1e-4}}
    assert found == {"share": 0.1, "optimizer": inner}
    words = ["--optimizer.class_path=Adam", "--optimizer.init_args.lr=0.5"]
    found = _parsed(WRAPPED, *(reversed(words) if turned else words)).optimizer
    assert found == OptimizerConfig("Adam", {"lr": 0.5})


def test_the_same_class_keeps_its_arguments() -> None:
    for path in ("SGD", "torch.optim.SGD"):
        text = "optimizer: {class_path: SGD, init_args: {lr: 0.1}}\n"
        found = _parsed(text, "--optimizer.class_path", path).optimizer
        assert found.init_args == {"lr": 0.1}
    text = "optimizer: {init_args: {overhead: 0.1}}\n"  # of the default
    assert _parsed(text, "--optimizer.class_path=SGD").optimizer.init_args == {}
    same = "--optimizer.class_path=surefoot.MeasuredAdamW"
    assert _parsed(text, same).optimizer.init_args == {"overhead": 0.1}


def test_sections_and_wrapped_optimizers_can_be_given_as_a_whole() -> None:
    words = ["--optimizer={class_path: MeasuredLR}", f"{INNER}={{class_path: SGD}}"]
    found = parse_words([*words, f"{INNER}.init_args.lr=2"]).experiment.optimizer
    inner = {"class_path": "SGD", "init_args": {"lr": 2}}
    assert found == OptimizerConfig("MeasuredLR", {"optimizer": inner})


def test_a_sweeps_own_options_do_not_take_the_experiments_values(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("s.yaml").write_text("model: {class_path: mlp}\ngrid: {seed: [0, 1]}\n")
    assert main(["sweep", "--steps", "7", "--list", "s.yaml"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


# Where a run lies


def test_the_folder_of_a_run_tells_data_of_ones_own_apart() -> None:
    def folder(**data: Any) -> str:
        return str(Experiment(data=DataConfig(**data), model=ModelConfig("mlp")).run_dir)

    found = [
        folder(name="table", root="a/Houses.csv"),
        folder(name="table", root="b/cars.csv"),
        folder(name="text", root="faust.txt"),
        folder(name="imagefolder", root="pets/"),
        folder(class_path="mine.Pets"),
        folder(name="mnist", root="/data/mnist"),
    ]
    names = ["table-houses", "table-cars", "text-faust", "imagefolder-pets", "pets", "mnist"]
    assert found == [f"runs/{name}-mlp/measured-adamw-seed0" for name in names]
    long = [Experiment(name="x" * 300 + end).run_dir.parent.name for end in "ab"]
    assert len(set(long)) == 2
    assert all(len(name) < 200 for name in long)


def test_a_sweeps_cell_is_the_same_wherever_its_data_lie() -> None:
    def mark(**data: Any) -> str:
        labpal = OptimizerConfig("LABPAL")
        base = Experiment(data=DataConfig(**data), model=ModelConfig("mlp"), optimizer=labpal)
        return trials_of(base, SweepConfig(grid={"seed": [0]}))[0].fingerprint

    assert mark(name="table", root="a.csv") == mark(name="table", root="b/c.csv")
    assert mark(name="digits") == "4ba7f5ae546b"  # as before there were settings to leave out
    assert mark(class_path="mine.Data") != mark(class_path="mine.Other")


# Parts of one's own

MINE = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, num_classes):
            super().__init__()
            self.layer = nn.LazyLinear(num_classes)

        def forward(self, inputs):
            return self.layer(inputs.flatten(1).float())

    class Points(torch.utils.data.Dataset):
        classes = ["low", "high"]

        def __init__(self, count=60, kind="tensor"):
            self.count, self.kind = count, kind

        def __len__(self):
            return self.count

        def __getitem__(self, place):
            if self.kind == "broken" and place == 7:
                raise KeyError("seven")
            label = place % 2
            value = torch.full((3, 4, 4), float(label))
            if self.kind == "bytes":
                value = (200 * value).to(torch.uint8)
            if self.kind == "numpy":
                value = value.numpy()
            if self.kind == "ragged" and place == 5:
                value = value[:2]
            if self.kind == "numbers":
                label = float(label)
            if self.kind == "negative":
                label -= 1
            if self.kind == "gaps":
                label *= 10**9
            return value, label

    def parts(**settings):
        return {"train": Points(**settings), "test": Points(10, **settings)}

    def power(outputs, labels, exponent=1.0):
        right = outputs.softmax(-1).gather(1, labels[:, None])
        return (1 - right).pow(exponent).mean()

    def each(outputs, labels):
        return outputs.sum(-1)

    def fails(outputs, labels):
        raise RuntimeError("not today")

    def seven():
        raise RuntimeError("seven times")
"""


@pytest.fixture
def mine() -> None:
    Path("mine_of_the_test.py").write_text(textwrap.dedent(MINE))


OWN = [
    *["train", "--data.class_path=mine_of_the_test.Points", "--steps=4", "--batch_size=8"],
    *["--model.class_path=mine_of_the_test.Net", "--train.tensorboard=false", "--out=run"],
    *["--train.log_every=1", "--optimizer.class_path=SGD", "--optimizer.init_args.lr=0.5"],
]


@pytest.mark.parametrize("kind", ["tensor", "bytes", "numpy"])
@pytest.mark.usefixtures("mine")
def test_a_data_set_and_a_network_of_the_current_folder(kind: str) -> None:
    assert main([*OWN, f"--data.init_args.kind={kind}"]) == 0
    run = read_run("run")
    assert run.name == "Points-Net"
    assert run.steps[-1]["train_loss"] < run.steps[0]["train_loss"]
    assert run.evaluations[-1]["accuracy"] == 1.0
    assert main(["train", "--out=run", "--resume"]) == 0


@pytest.mark.usefixtures("mine")
def test_a_data_set_in_parts_and_numbers_to_predict() -> None:
    own = [word.replace("Points", "parts") for word in OWN]
    assert main([*own, "--loss.class_path=HuberLoss", "--data.init_args.kind=numbers"]) == 0
    run = read_run("run")
    assert run.evaluations[-1]["accuracy"] is None
    assert run.experiment["loss"] == {"class_path": "HuberLoss", "init_args": {}}


@pytest.mark.usefixtures("mine")
def test_a_loss_of_ones_own_is_minimized_and_the_datas_judges() -> None:
    words = ["--loss.class_path=mine_of_the_test.power", "--loss.init_args.exponent=2"]
    assert main([*OWN, *words]) == 0
    run = read_run("run")
    from mine_of_the_test import Net, Points, power

    torch.manual_seed(0)
    assert 0 < run.steps[-1]["train_loss"] < 0.5  # a cross-entropy of a coin is 0.69
    assert run.evaluations[-1]["split"] == "test"
    state = torch.load("run/checkpoint.pt", weights_only=True)["model"]
    network = Net(2)
    network.load_state_dict(state)
    pairs = [Points()[place] for place in range(2)]
    outputs = network(torch.stack([value for value, _ in pairs])).detach()
    entropy = torch.nn.functional.cross_entropy(outputs, torch.tensor([0, 1]))
    assert run.evaluations[-1]["loss"] != pytest.approx(float(power(outputs, torch.tensor([0, 1]))))
    assert 0.5 * float(entropy) < run.evaluations[-1]["loss"] < 2 * float(entropy)


def test_a_loss_of_torch_is_what_the_steps_show(tmp_path: Path) -> None:
    found = {}
    for smoothing in (0.0, 0.5):
        loss = LossConfig("CrossEntropyLoss", {"label_smoothing": smoothing})
        experiment = Experiment(
            steps=2,
            loss=loss,
            model=ModelConfig("mlp"),
            optimizer=OptimizerConfig("SGD", {"lr": 1.0}),
            train=QUIET,
        )
        run = train(experiment, tmp_path / str(smoothing), progress=False)
        found[smoothing] = run.steps[0]["train_loss"], run.evaluations[0]["loss"]
    experiment.loss = LossConfig()
    run = train(experiment, tmp_path / "plain", progress=False)
    assert (run.steps[0]["train_loss"], run.evaluations[0]["loss"]) == found[0.0]
    assert found[0.0][0] != found[0.5][0]
    assert found[0.0][1] != found[0.5][1]


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.init_args.kind=broken"], "train: example 7 is no pair of input and label"),
        (["--data.init_args.kind=ragged"], "train: example 5 has an input of"),
        (["--data.init_args.kind=negative"], "a label is negative"),
        (["--data.init_args.kind=gaps"], "a label is 1000000000; number classes from 0"),
        (["--data.init_args.count=0"], "train is empty"),
        (["--data.init_args.number=0"], "data.init_args.number: Points has no such argument"),
        (["--data.class_path=mine_of_the_test.seven"], "data: seven: seven times"),
        (["--data.class_path=mine_of_the_test.Point"], "did you mean 'Points'"),
        (["--data.class_path=Points"], "data.class_path: 'Points' must be an import path"),
        (["--data.crop=2"], "data.crop, data.flip: are for images"),
        (["--loss.class_path=mine_of_the_test.each"], "gives (2,); one number is needed"),
        (["--loss.class_path=mine_of_the_test.fails"], "mine_of_the_test.fails: not today"),
        (["--loss.class_path=CrossEntropyLos"], "did you mean 'CrossEntropyLoss'"),
        (["--loss.class_path=mine_of_the_test.power", "--loss.init_args.x=1"], "no such argument"),
        (["--model.class_path=mine_of_the_test.seven"], "model: seven: seven times"),
    ],
)
def test_what_is_wrong_with_ones_own_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*OWN, *words]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not Path("run").exists()


@pytest.mark.parametrize("text", ["def net(:\n", "1 / 0\n", "import no_such_module_at_all\n"])
def test_a_module_that_cannot_be_imported_is_one_line(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("half_written.py").write_text(text)
    assert main(["train", "--model.class_path=half_written.Net"]) == 2
    told = capsys.readouterr().err
    assert "model.class_path: cannot import half_written (" in told
    assert told.count("\n") == 1


def test_a_file_of_the_folder_does_not_take_the_place_of_pythons_own() -> None:
    Path("queue.py").write_text("1 / 0\n")
    assert main(["--version"]) == 0
    here = sys.path.index(str(Path.cwd()))
    assert any(Path(path, "queue.py").is_file() for path in sys.path[:here])


# What is not installed


class _Without(importlib.abc.MetaPathFinder):
    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] == self._name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(
    ("package", "words", "extra"),
    [
        ("torchvision", ["train", "--data.name=cifar10"], "lab"),
        ("sklearn", ["train"], "lab"),
        ("pandas", ["train", "--data.name=table", "--data.root=t.csv"], "lab"),
        ("yaml", ["train", "x.yaml"], "lab"),
        ("docstring_parser", ["train", "--help"], "lab"),
        ("ray", ["sweep", "x.yaml"], "sweep"),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_extra(
    package: str,
    words: list[str],
    extra: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from surefoot_lab.values import fields_of

    Path("x.yaml").write_text("grid: {seed: [0]}\n" if words[0] == "sweep" else "seed: 1\n")
    Path("t.csv").write_text("1,2\n3,4\n")
    fields_of.cache_clear()
    for name in [n for n in sys.modules if n.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Without(package), *sys.meta_path])
    assert main(words) == 2
    told = capsys.readouterr().err
    assert f"pip install 'surefoot[{extra}]'" in told
    assert told.count("\n") == 1
    assert sorted(p.name for p in Path().iterdir()) == ["t.csv", "x.yaml"]


# What went wrong before


def test_an_error_does_not_point_to_the_traceback_of_an_older_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from surefoot_lab.training import loop
    from surefoot_lab.training.stepping import Stepper

    words = ["train", "--steps=3", "--model.class_path=mlp", "--train.tensorboard=false"]
    words += ["--out=run"]

    def fail(self: Stepper, batch: Any) -> Any:
        raise KeyError("of the first")

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", fail)
        assert main(words) == 1
    assert "(see run/traceback.txt)" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(loop, "assemble", lambda *a: fail(None, None))  # type: ignore[arg-type]
        with pytest.raises(KeyError):  # nothing was written about it: Python tells all there is
            main([*words, "--overwrite"])
    assert "traceback.txt" not in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    assert not Path("run/traceback.txt").exists()


def test_a_record_from_before_there_were_these_settings_is_resumed(tmp_path: Path) -> None:
    experiment = Experiment(steps=4, model=ModelConfig("mlp"), train=QUIET)
    train(experiment, tmp_path / "run", progress=False)
    record = tmp_path / "run" / "record.jsonl"
    start, *lines, _ = record.read_text().splitlines(keepends=True)
    content = json.loads(start)
    del content["experiment"]["loss"]
    for key in ("class_path", "init_args", "header"):
        del content["experiment"]["data"][key]
    record.write_text(json.dumps(content) + "\n" + "".join(lines))
    again = train(experiment, tmp_path / "run", progress=False, resume=True)
    assert again.end is not None
    assert again.end["reason"] == "finished"
    experiment.loss = LossConfig("CrossEntropyLoss")
    with pytest.raises(UserError, match=r"loss\.class_path: the run to resume has None"):
        train(experiment, tmp_path / "run", progress=False, resume=True)
