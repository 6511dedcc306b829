"""Whatever stands in a file or on the command line: one line on stderr, code 2, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from surefoot_lab.cli import main

SMALL = "data: {name: digits}\nmodel: {class_path: mlp}\nsteps: 2\ntrain: {tensorboard: false}\n"

# What stands in the file (as text or bytes), the words after it, and what the line must name.
TRAIN: dict[str, tuple[str | bytes, list[str], str]] = {
    "empty": ("", [], "must hold settings"),
    "only a comment": ("# to do\n", [], "must hold settings"),
    "a list": ("- steps: 3\n", [], "must hold settings"),
    "a word": ("fast", [], "must hold settings"),
    "two documents": (SMALL + "---\n" + SMALL, [], "not valid YAML"),
    "tabs": ("data:\n\tname: digits\n", [], "line 2"),
    "an open bracket": (SMALL + "optimizer: {class_path: SGD\n", [], "not valid YAML"),
    "an unknown alias": (SMALL + "seed: *seed\n", [], "not valid YAML"),
    "a mapping in itself": (SMALL + "optimizer: &a {init_args: {x: *a}}\n", [], "holds itself"),
    "aliases of aliases": (
        "a0: &a0 [1]\n"
        + "".join(f"a{k + 1}: &a{k + 1} [*a{k}, *a{k}, *a{k}]\n" for k in range(30)),
        [],
        "its aliases stand for more than 100000 values",
    ),
    "a section of no kind": ("defaults: {lr: 1}\n", [], "known: name, label, seed, steps"),
    "an argument beside its class": (
        SMALL + "optimizer: {class_path: SGD, lr: 0.1}\n",
        [],
        "its arguments into optimizer.init_args",
    ),
    "a variable of the shell": (
        SMALL + "optimizer: {class_path: SGD, init_args: {lr: '${LR}'}}\n",
        [],
        "lr is the text '${LR}'",
    ),
    "null for a number": (
        SMALL + "optimizer: {class_path: SGD, init_args: {lr: null}}\n",
        [],
        "(lr is null)",
    ),
    "one number for two": (
        SMALL + "optimizer: {class_path: Adam, init_args: {betas: 0.9}}\n",
        [],
        "(betas is 0.9)",
    ),
    "a word for a truth": (
        SMALL + "optimizer: {init_args: {frozen: 'no'}}\n",
        [],
        "MeasuredAdamW: frozen must be True or False, got 'no'\n",
    ),
    "no closure": (
        "data: {name: digits}\nmodel: {class_path: mlp}\noptimizer: {class_path: PAL}\n"
        "train: {closure: none}\n",
        [],
        "train.closure: PAL cannot step without one",
    ),
    "a schedule that is too short": (
        SMALL + "optimizer: {class_path: SGD}\n"
        "scheduler: {class_path: OneCycleLR, init_args: {max_lr: 1, total_steps: 1}}\n",
        [],
        "OneCycleLR ends after 1 steps, the run after 2",
    ),
    "a schedule that cannot step": (
        SMALL + "scheduler: {class_path: CosineAnnealingLR, init_args: {T_max: 0}}\n",
        [],
        "scheduler.init_args: CosineAnnealingLR fails at a step: integer modulo by zero",
    ),
    "yes for a number": (
        SMALL + "optimizer: {class_path: SGD, init_args: {lr: yes}}\n",
        [],
        "optimizer.init_args.lr: SGD takes a number, not true",
    ),
    "a length without sequences": (
        "data: {sequence_length: 9}\n",
        [],
        "data.sequence_length: is for text, not for digits",
    ),
    "python objects": (SMALL + "name: !!python/object/apply:os.getcwd []\n", [], "not valid YAML"),
    "latin1": ("name: Stra\xdfe\n".encode("latin1"), [], "is not UTF-8 text"),
    "nothing but zeros": (b"\0" * 40, [], "holds zero bytes"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), [], "is not UTF-8 text"),
    "seed twice": (SMALL + "seed: 1\nseed: 1\n", [], "line 6: 'seed'"),
    "lr twice, inside": (SMALL + "optimizer: {init_args: {lr: 1, lr: 2}}\n", [], "'lr'"),
    "a section twice": (SMALL + "steps: 3\n", [], "line 5: 'steps'"),
    "a number as key": (SMALL + "3: 4\n", [], "line 5: 3 is no name"),
    "null as key": (SMALL + "optimizer: {init_args: {null: 4}}\n", [], "null is no name"),
    "a word of yes as key": (SMALL + "optimizer: {init_args: {on: 4}}\n", [], "true is no name"),
    "a decimal comma": (SMALL + "optimizer: {init_args: {lr: 0,1}}\n", [], "0.1 and not 0,1"),
    "a decimal comma alone": (
        SMALL + "optimizer:\n  class_path: SGD\n  init_args:\n    lr: 0,1\n",
        [],
        "lr is the text '0,1'",
    ),
    "a tuple in braces": (SMALL + "optimizer: {init_args: {b: (1, 2)}}\n", [], "[0.9, 0.999]"),
    "no seed": (SMALL + "seed:\n", [], "seed: must be a whole number, not null"),
    "no epochs": (SMALL + "epochs:\n", [], "epochs: must be a number, not null"),
    "no name of data": ("data: {name: }\n", [], "data.name: must be one of"),
    "no model": ("model: {class_path: }\n", [], "model.class_path: must be a text"),
    "a model without words": ("model: 3\n", [], "model: must hold its settings"),
    "a list of arguments": ("optimizer: {init_args: [lr]}\n", [], "must be a mapping"),
    "a date as argument": (
        "optimizer: {class_path: PAL, init_args: {step_multiplier: 2024-01-02}}\n",
        [],
        "step_multiplier must be a number, got '2024-01-02'",
    ),
    "minutes": ("batch_size: 1:30\n", [], "batch_size: must be a whole number, not '1:30'"),
    "nan as argument": ("optimizer: {init_args: {lr: .nan}}\n", [], "must not be nan"),
    "a name that is a number": ("name: 1.10\n", [], "must be a text (in quotes"),
    "half a step": ("steps: 2.5\n", [], "steps: must be a whole number, not 2.5"),
    "no steps": ("steps: 0\n", [], "steps: must be at least 1"),
    "true steps": ("steps: true\n", [], "steps: must be a whole number, not true"),
    "a list of seeds": ("seed: [0, 1]\n", [], "seed: must be a whole number, not [0, 1]"),
    "a huge seed": (f"seed: {2**64}\n", [], "seed: must be below 92233"),
    "a huge seed of splits": (
        f"data: {{split_seed: {2**63}}}\n",
        [],
        "data.split_seed: must be be",
    ),
    "epochs beyond counting": ("epochs: 1e308\n", [], "epochs: must be below"),
    "endless epochs": ("epochs: .inf\n", [], "epochs: must be below"),
    "epochs of no number": ("epochs: .nan\n", [], "epochs: must be above 0"),
    "a negative crop": ("data: {crop: -1}\n", [], "data.crop: must be at least 0"),
    "a sweep": (SMALL + "grid: {seed: [0]}\n", [], "use surefoot sweep"),
    "a misspelt key": (SMALL + "sede: 3\n", [], "did you mean 'seed'"),
    "a wrapped optimizer of the wrong kind": (
        SMALL + "optimizer: {class_path: MeasuredLR, init_args: {optimizer: SGD}}\n",
        [],
        "optimizer: must hold its settings",
    ),
    "a wrapped number in words": (
        SMALL + "optimizer: {class_path: MeasuredLR, init_args: {optimizer: {class_path: SGD, "
        "init_args: {lr: fast}}}}\n",
        [],
        "optimizer.init_args.optimizer: SGD:",
    ),
    "a data set besides a data set": (
        "data: {name: mnist, class_path: a.B}\n",
        [],
        "data.name: mnist is given beside data.class_path",
    ),
    "arguments of no data set": ("data: {init_args: {n: 3}}\n", [], "without data.class_path"),
    "arguments of no loss": ("loss: {init_args: {n: 3}}\n", [], "without loss.class_path"),
    "a loss that is none": ("loss: {class_path: Linear}\n", [], "loss.init_args.in_features"),
    "a data set nowhere": (
        "data: {class_path: no.such}\n",
        [],
        "data.class_path: cannot import no",
    ),
    "header without a table": ("data: {header: true}\n", [], "data.header: is for table"),
    "a device as text": ("data: {name: text, root: /dev/zero}\n", [], "it is no file"),
    "a folder as table": ("data: {name: table, root: /}\n", [], "it is no file"),
    "two files": (SMALL, ["other.yaml"], "one experiment file at a time"),
    "an option without value": (SMALL, ["--seed"], "--seed: needs a value"),
    "an option of nothing": (SMALL, ["--steps="], "--steps=: needs a value"),
    "a flag with a value": (SMALL, ["--overwrite=yes"], "--overwrite: ignored explicit argument"),
    "one dash": (SMALL, ["-seed", "3"], "unrecognized"),
    "an unknown option": (SMALL, ["--sed", "3"], "did you mean 'seed'"),
    "an argument of no class": (SMALL, ["--seed.init_args.x", "3"], "no such setting"),
    "a class in a number": (
        SMALL,
        ["--optimizer.class_path=PAL", "--optimizer.init_args.step_multiplier.x", "3"],
        "step_multiplier must be a number",
    ),
    "half a list": (SMALL, ["--optimizer.init_args.lr", "[1"], "not valid YAML"),
    "no folder": (SMALL, ["--out", ""], "--out: names no directory"),
    "a folder with a zero": (SMALL, ["--out", "a\0b"], "--out: names no directory"),
    "an endless folder": (SMALL, ["--out", "x" * 300], "x: File name too long"),
    "nothing to resume": (SMALL, ["--resume"], "nothing to resume"),
    "a misspelt option": (SMALL, ["--stesp", "3"], "stesp: no such setting; did you mean 'steps'?"),
    "a misspelt option inside": (SMALL, ["--data.nmae=x"], "did you mean 'data.name'?"),
    "a misspelt key inside": ("data: {name: digits, flp: true}\n", [], "mean 'data.flip'?"),
    "steps in words": (SMALL, ["--steps", "many"], "steps: must be a whole number, not 'many'"),
    "a seed below zero": (SMALL, ["--seed", "-1"], "seed: must be at least 0"),
    "epochs below zero": (SMALL, ["--epochs", "-2"], "epochs: must be above 0"),
    "perhaps": (SMALL, ["--data.flip", "perhaps"], "data.flip: must be true or false"),
    "no data of that name": (SMALL, ["--data.name", "mnits"], "data.name: must be one of"),
    "a share in words": (SMALL, ["--data.validation", "x"], "data.validation: must be a number"),
    "another precision": (SMALL, ["--train.precision=fp16"], "must be one of 'fp32' or 'bf16'"),
    "another closure": (SMALL, ["--train.closure", "x"], "train.closure: must be one of"),
    "a number of arguments": (SMALL, ["--optimizer.init_args", "3"], "must be a mapping"),
    "a class without a word": (SMALL, ["--optimizer.class_path"], "class_path: needs a value"),
    "both": (SMALL, ["--resume", "--overwrite"], "--overwrite: not allowed with argument --resume"),
}

SWEEP: dict[str, tuple[str, list[str], str]] = {
    "grid is null": ("grid:\n", [], "grid: must hold its settings one a line, not null"),
    "grid is a list": ("grid: [1]\n", [], "grid: must hold its settings"),
    "grid twice": ("grid: {seed: [0]}\ngrid: {seed: [1]}\n", [], "'grid'"),
    "a key twice in grid": ("grid: {seed: [0], seed: [1]}\n", [], "'seed'"),
    "a number as key": ("grid: {1: [0]}\n", [], "1 is no name"),
    "an empty key": ("grid: {'': [0]}\n", [], "line 5: '' is no name"),
    "an unknown key": ("grid: {lr: [0.1]}\n", [], "grid.lr: no such setting"),
    "no values": ("grid: {seed: []}\n", [], "grid.seed: must be a list of values, not []"),
    "null for values": ("grid: {seed: }\n", [], "grid.seed: must be a list of values, not null"),
    "one value": ("grid: {seed: 3}\n", [], "grid.seed: must be a list of values, not 3"),
    "null among the values": ("grid: {seed: [0, null]}\n", [], "seed: must be a whole number, not"),
    "twice the same": ("grid: {seed: [1, 1]}\n", [], "twice the same run"),
    "twice the same, as text": ("grid: {seed: [1, '1']}\n", [], "twice the same run"),
    "a huge seed": (
        f"grid: {{seed: [0, {2**70}]}}\n",
        [],
        "seed: must be below 92233",
    ),
    "a section as word": ("grid: {optimizer: [SGD]}\n", [], "optimizer: must hold its settings"),
    "a key inside a number": (
        "optimizer: {class_path: SGD, init_args: {lr: 0.1}}\n"
        "grid: {optimizer.init_args.lr.x: [1]}\n",
        [],
        "optimizer.init_args.lr is 0.1",
    ),
    "a label": ("grid: {label: [a]}\n", [], "grid.label: follows from the cell"),
    "no samples": ("random: {seed: 3}\n", [], "random.samples: is missing"),
    "true samples": ("random: {samples: true}\n", [], "random.samples: must be a whole number"),
    "a list as seed": ("random: {samples: 2, seed: [1]}\n", [], "random.seed: must be a whole"),
    "the wrong way round": (
        "random: {samples: 2, epochs: {uniform: [3, 1]}}\n",
        [],
        "3 is above 1",
    ),
    "endless": (
        "random: {samples: 2, epochs: {uniform: [1, .inf]}}\n",
        [],
        "uniform.1: must be finite",
    ),
    "words": (
        "random: {samples: 2, epochs: {uniform: [a, b]}}\n",
        [],
        "uniform.0: must be a number",
    ),
    "half numbers": (
        "random: {samples: 2, batch_size: {integer: [0.5, 9]}}\n",
        [],
        "integer.0: must be a whole number",
    ),
    "cores in words": ("cpus_per_trial: many\n", [], "cpus_per_trial: must be a number"),
    "no cores": ("cpus_per_trial:\n", [], "cpus_per_trial: must be a number, not null"),
    "cores of no number": ("gpus_per_trial: .nan\n", [], "gpus_per_trial: must be at least 0"),
    "stopping misspelt": ("early_stopping: {metrc: loss}\n", [], "mean 'early_stopping.metric'"),
    "stopping in words": ("early_stopping: yes\n", [], "early_stopping: must hold its settings"),
    "stopping by halves": (
        "early_stopping: {reduction_factor: 1}\n",
        [],
        ": must be above 1",
    ),
    "stopping by nothing": (
        "early_stopping: {metric: }\n",
        [],
        "early_stopping.metric: must be one of 'accuracy' or 'loss'",
    ),
    "a size of none": ("grid: {batch_size: [0]}\n", [], "batch_size: must be at least 1, not 0"),
    "a size in words": ("grid: {batch_size: [many]}\n", [], "batch_size: must be a whole number"),
    "no range": ("random: {samples: 1, epochs: 3}\n", [], "random.epochs: must hold its settings"),
    "half a range": ("random: {samples: 1, epochs: {uniform: [3]}}\n", [], "uniform.1: is missing"),
    "no logarithm": (
        "random: {samples: 1, epochs: {log_uniform: [0, 1]}}\n",
        [],
        "log_uniform: must be above 0, not 0",
    ),
    "an option of train": ("grid: {seed: [0]}\n", ["--overwrite"], "overwrite: no such setting"),
    "no runs at a time": ("grid: {seed: [0]}\n", ["--concurrent", "0"], "--concurrent: must be at"),
    "runs in words": ("grid: {seed: [0]}\n", ["--concurrent", "all"], "--concurrent"),
    "two files": ("grid: {seed: [0]}\n", ["other.yaml"], "one experiment file at a time"),
    "no cluster": ("grid: {seed: [0]}\n", ["--address", "127.0.0.1:1"], "no cluster there"),
}


# Words alone; what else a class or a data set refuses is tested beside it.
WORDS: list[tuple[list[str], str]] = [
    (["trian"], "trian: no such command; did you mean 'train'?"),
    (["--loud"], "unrecognized"),
    (["sweep", "--steps=3"], "sweep: needs an experiment file"),
    (["train", "nowhere.yaml"], "nowhere.yaml: cannot be read (No such file"),
    (["train", "--optimizer.class_path=LABPAL", "--optimizer.init_args.mode=x"], "mode must be"),
    (["train", "--data.name=imagefolder", "--data.root=nowhere"], "nowhere: no such folder"),
    (["train", "--data.name=imagefolder", "--data.root=."], "no images in it"),
    (["train", "--data.name=cifar10", "--data.root=."], "set data.root"),
    (["train", "--data.name=fashion-mnist", "--data.root=."], "data.download: true"),
]


def _check(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(Path().rglob("*"))
    assert main(words) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.err.startswith("surefoot: error: ")
    assert told.err.count("\n") == 1
    assert told.out == ""
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(("words", "message"), WORDS)
def test_words(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    _check(words, message, capsys)


@pytest.mark.parametrize("case", TRAIN)
def test_train(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text, words, message = TRAIN[case]
    Path("x.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    _check(["train", "x.yaml", *words], message, capsys)


@pytest.mark.parametrize("case", SWEEP)
def test_sweep(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text, words, message = SWEEP[case]
    Path("x.yaml").write_text(SMALL + text)
    _check(["sweep", "x.yaml", *words], message, capsys)


def test_a_folder_in_place_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    _check(["train", "run", "--resume"], "is a folder; to go on with a run: --out run", capsys)
