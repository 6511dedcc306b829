"""Every recipe under experiments/, found by itself: can it be used as it stands, and does it run?

The quick version of a recipe is the recipe, through the command it is meant for, on a few batches
of small files in the format that it names.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
import re
import subprocess
import textwrap
from collections.abc import Collection, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import _formats
import pytest
import torch
import yaml

from surefoot.lr_range import RangeCurve
from surefoot.shape import LineRecords
from surefoot_lab.cli import COMMANDS
from surefoot_lab.config import Experiment, ModelConfig
from surefoot_lab.errors import UserError
from surefoot_lab.lines.run import OTHERS, RECORDS, LinesConfig
from surefoot_lab.models import build_model
from surefoot_lab.parse import SWEEP_KEYS, parse_words
from surefoot_lab.records import RunRecord, read_run
from surefoot_lab.sweep.cells import trials_of
from surefoot_lab.sweep.command import read_sweep
from surefoot_lab.sweep.trial import run_trial
from surefoot_lab.training.optimizers import Extent, build_optimizer, build_scheduler
from surefoot_lab.values import validated

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
RECIPES = sorted(p for p in EXPERIMENTS.rglob("*") if p.suffix in (".yaml", ".yml"))
FOLDERS = sorted({path.parent for path in RECIPES})
SECTIONS = {**dict.fromkeys(SWEEP_KEYS, "sweep"), "lines": "lines"}


def _images(classes: int, channels: int, side: int) -> dict[str, Any]:
    return {"num_classes": classes, "in_channels": channels, "image_size": (side, side)}


STEPS = 5  # a cycle needs as many
SMALL = {
    "steps": STEPS,
    "batch_size": 4,
    "data.validation": 8,
    "train.device": "cpu",
    "train.log_every": 1,
    "train.tensorboard": "false",
}
# Beyond that: photographs are large, and rows of a table or a text come without a folder of images.
SMALLER = {
    "imagenet": {"data.image_size": 32},
    "text": {"data.validation": 0.2, "data.test": 0.2},
    "friedman": {"data.test": 0.001},
    "digits": {"data.test": 8},
}
BUILT_IN = ("digits", "friedman")
# What the data sets really are: examples to train and validate with, and what networks ask for.
TRUE_SIZES: dict[str, tuple[int, dict[str, Any]]] = {
    "imagefolder": (50_000, _images(10, 3, 32)),
    "fashion-mnist": (60_000, _images(10, 1, 28)),
    "cifar10": (50_000, _images(10, 3, 32)),
    "cifar100": (50_000, _images(100, 3, 32)),
    "svhn": (73_257, _images(10, 3, 32)),
    "imagenet": (1_281_167, _images(1000, 3, 224)),
    "digits": (1_438, _images(10, 1, 8)),
    "friedman": (16_512, _images(1, 1, 8)),
    "text": (40_000, {"num_classes": 84, "sequence_length": 50}),
}


# Networks that take long to train for a few steps; tests of the networks take those steps. Here
# they stand for smaller ones, but for the first cell of a sweep.
LARGE = re.compile(r"torchvision\..*|resnet\d{2,}|mobilenet.*|densenet.*|efficientnet|wrn.*")
STAND_IN = "convnet"
MODEL = ("model.class_path", "model.init_args")


def _id(path: Path) -> str:
    return str(path.relative_to(EXPERIMENTS).with_suffix(""))


def is_small(path: Path) -> bool:
    """Whether a recipe asks its folder's question at a size that fits two cores."""
    return path.stem.startswith("small")


every_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=_id)
every_folder = pytest.mark.parametrize("folder", FOLDERS, ids=_id)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Generated data, by the name that recipes use."""
    place = tmp_path_factory.mktemp("data")
    made = {
        "imagefolder": _formats.write_image_folder(place / "images", test=1),
        "fashion-mnist": _formats.write_fashion_mnist(place / "fashion", test=10),
        "cifar10": _formats.write_cifar10(place),
        "cifar100": _formats.write_cifar100(place, train=50, test=10),
        "svhn": _formats.write_svhn(place),
        "imagenet": _formats.write_imagenet(place / "imagenet"),
        "text": _formats.write_text(place / "text.txt"),
    }
    with pytest.MonkeyPatch.context() as patch:
        _formats.publish(patch, place)
        yield made


def command_of(recipe: Path) -> tuple[str, list[str]]:
    """The command that a recipe is meant for, and its options: by its sections and its header.

    Raises:
        LookupError: there is no quick version for it.
    """
    text = recipe.read_text(encoding="utf-8")
    sections = {SECTIONS[key] for key in _values(recipe) if key in SECTIONS}
    said = re.findall(rf"^# +surefoot (\S+) \S*/{re.escape(recipe.name)}(.*)$", text, re.MULTILINE)
    commands = sections | {command for command, _ in said} or {"train"}
    if len(commands) != 1 or not commands <= RUNNERS.keys():
        raise LookupError(f"{recipe}: no quick version for {sorted(commands)}")
    return commands.pop(), said[0][1].split() if said else []


def _values(recipe: Path) -> dict[str, Any]:
    """What stands in a recipe; whoever gets it may change it."""
    return copy.deepcopy(_read_values(recipe))


@functools.cache
def _read_values(recipe: Path) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    values: dict[str, Any] = yaml.load(recipe.read_text(encoding="utf-8"), Loader=loader)
    return values


@functools.cache
def experiments_of(recipe: Path) -> list[Experiment]:
    """What a recipe stands for, in full: one experiment, or those of all its cells."""
    command, _ = command_of(recipe)
    if command == "sweep":
        return [trial.experiment for trial in trials_of(*read_sweep([str(recipe)]))]
    if command == "lines":
        experiment, _, sections = parse_words([str(recipe)], ("lines",))
        validated(LinesConfig, sections["lines"])
        return [experiment]
    return [parse_words([str(recipe)]).experiment]


def small(name: str, roots: dict[str, Path]) -> list[str]:
    """The words that make an experiment on a data set small."""
    values: dict[str, Any] = {**SMALL, **SMALLER.get(name, {})}
    if name in roots:
        values["data.root"] = roots[name]
    elif name not in BUILT_IN:
        raise LookupError(f"no generated files for data.name: {name}")
    return [f"--{key}={value}" for key, value in values.items()]


# As they stand


@every_recipe
def test_a_recipe_can_be_used_as_it_stands(recipe: Path) -> None:
    """All its settings are known, and all that they name can be built, without a warning."""
    experiments = experiments_of(recipe)
    heads = re.findall(r"(\d+) (?:cells|runs)\b", recipe.read_text(encoding="utf-8").split("\n")[0])
    assert heads in ([], [str(len(experiments))])
    for experiment in experiments:
        count, facts = TRUE_SIZES[experiment.data.name]
        held_out = experiment.data.validation
        count -= int(held_out if held_out >= 1 else held_out * count)
        steps = count // experiment.batch_size
        total = experiment.steps or round(experiment.epochs * steps)
        extent = Extent(total, steps, count, experiment.batch_size)
        optimizer, _ = build_optimizer(experiment.optimizer, torch.nn.Linear(2, 2), extent)
        build_scheduler(experiment.scheduler, optimizer, extent)
    models = {str(experiment.model): experiment.model for experiment in experiments}
    with torch.device("meta"):  # everything but the numbers
        for model in models.values():
            build_model(model, SimpleNamespace(facts=facts))


SAY_IT = 'surefoot() { echo "$PWD" "$@"; }'


@every_folder
def test_what_a_folder_says_to_run_is_there_and_meant_for_that_command(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    block = re.findall(r"^    .*", text[text.index("**How to run**") :], re.MULTILINE)
    script = textwrap.dedent("\n".join([f"    {SAY_IT}", *block]))
    done = subprocess.run(["bash", "-eu", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""
    said = [line.split() for line in done.stdout.splitlines()]
    recipes = [(place, words) for place, *words in said if words[0] != "report"]
    assert recipes
    for place, words in recipes:
        (file,) = (word for word in words if word.endswith(".yaml"))
        command, options = command_of(Path(place, file))
        assert words[0] == command
        assert set(options) <= set(words)


@every_folder
def test_recipes_of_a_question_share_their_data_and_differ_in_their_labels(folder: Path) -> None:
    found = {path: experiments_of(path) for path in RECIPES if path.parent == folder}
    labels = [{f"{e.name}: {e.label}" for e in experiments} for experiments in found.values()]
    assert len(set.union(*labels)) == sum(map(len, labels))
    # of each data set, one; but the small ones have small images, and lines need no others
    kinds = {path: (is_small(path), command_of(path)[0]) for path in found}
    for kind in set(kinds.values()):
        of_kind = [experiments for path, experiments in found.items() if kinds[path] == kind]
        ways = {(e.data.name, str(e.data)) for experiments in of_kind for e in experiments}
        assert len(ways) == len({name for name, _ in ways})


METHODS = ("fashion-mnist-convnet", "cifar10-resnet8", "cifar10-resnet20", "cifar10-comparison")


@pytest.mark.parametrize("folder", METHODS)
def test_methods_are_compared_with_everything_else_equal(folder: str) -> None:
    terms = []
    for recipe in (path for path in RECIPES if path.parent.name == folder and not is_small(path)):
        for experiment in experiments_of(recipe):
            values = experiment.to_dict()
            for key in ("label", "optimizer", "scheduler"):
                del values[key]
            terms.append(values)
    assert all(values == terms[0] for values in terms)
    assert (terms[0]["name"], terms[0]["batch_size"], terms[0]["seed"]) == (folder, 128, 0)
    assert terms[0]["data"]["validation"] == 10_000
    if folder.startswith("cifar10"):
        data = terms[0]["data"]
        assert (data["crop"], data["flip"], terms[0]["epochs"]) == (4, True, 10)


def test_there_are_the_recipes_that_are_promised() -> None:
    promised = {f"{folder}/{m}" for folder in METHODS[:3] for m in ("pal", "labpal", "sgd-1cycle")}
    assert promised <= {_id(path) for path in RECIPES}


@pytest.mark.parametrize(
    ("recipe", "count"),
    [
        ("pal-grid/pal", 24),
        ("pal-grid/sgd", 12),
        ("pal-grid/adam", 8),
        ("labpal-grid/labpal", 18),
        ("labpal-grid/rivals", 45),
        ("labpal-grid/sgd", 54),
    ],
)
def test_the_papers_grids_have_their_cells(recipe: str, count: int) -> None:
    experiments = experiments_of(EXPERIMENTS / f"{recipe}.yaml")
    assert len(experiments) == count
    for experiment in experiments:
        assert experiment.steps == 150_000
        assert (experiment.data.name, experiment.model.class_path) == ("cifar100", "mobilenetv2")


# Quick versions


def _flat(values: Any, key: str = "") -> dict[str, Any]:
    if not isinstance(values, dict) or not values:
        return {key: values}
    parts = [_flat(value, f"{key}.{name}".strip(".")) for name, value in values.items()]
    return {name: value for part in parts for name, value in part.items()}


def _check_run(
    run: RunRecord, full: Experiment, steps: int = STEPS, free: Collection[str] = ()
) -> None:
    """The run came to its end, and it was the recipe but for what makes it small."""
    assert run.problems == []
    assert run.end is not None
    assert (run.end["reason"], run.end["step"]) == ("finished", steps)
    assert [line["step"] for line in run.steps] == list(range(1, steps + 1))
    assert all(math.isfinite(line["train_loss"]) for line in run.steps)
    scores = {line["split"]: line for line in run.evaluations if line["step"] == steps}
    assert scores.keys() == {"validation", "test"}
    right = [line["accuracy"] for line in scores.values()]
    if full.data.name == "friedman":  # numbers are neither right nor wrong
        assert right == [None, None]
    else:
        assert all(0 <= share <= 1 for share in right)
    assert json.loads(json.dumps(run.experiment)) == run.experiment
    ran = _flat(parse_words([str(run.path / "experiment.yaml")]).experiment.to_dict())
    changed = {key for key, value in _flat(full.to_dict()).items() if ran.get(key, key) != value}
    assert changed <= {*SMALL, *SMALLER.get(full.data.name, {}), "data.root", *free}


def _train(recipe: Path, full: list[Experiment], words: list[str], place: Path) -> None:
    run_dir = place / "run"
    large = "wrn" in full[0].model.class_path
    own = ["--model.class_path=wrn16-1"] if large else []
    assert COMMANDS["train"].run([str(recipe), *words, *own, f"--out={run_dir}"]) == 0
    _check_run(read_run(run_dir), *full, free=MODEL if large else ())


def _sweep(recipe: Path, full: list[Experiment], words: list[str], place: Path) -> None:
    """The first cell and the last of every optimizer, as the ordinary runs that Ray starts."""
    values = _values(recipe)
    sizes = values.get("grid", {}).get("batch_size", [])
    if sizes:
        values["grid"]["batch_size"] = [size // 4 for size in sizes]
    file = place / f"small-{recipe.name}"
    text = yaml.safe_dump(values, sort_keys=False)
    file.write_text(text, encoding="utf-8")
    steps = STEPS if "one_cycle" in text else 3
    trials = trials_of(*read_sweep([str(file), *words, f"--steps={steps}"]))
    last = {trial.experiment.optimizer.class_path: number for number, trial in enumerate(trials)}
    if is_small(recipe):  # the optimizers are those of the recipes beside it
        last = {}
    for number in sorted({0, *last.values()}):
        trial, free = trials[number], ["label"] if sizes else []
        if number and LARGE.fullmatch(trial.experiment.model.class_path):
            small_one = dataclasses.replace(trial.experiment, model=ModelConfig(STAND_IN))
            trial, free = dataclasses.replace(trial, experiment=small_one), [*free, *MODEL]
        run = run_trial(trial, place / trial.fingerprint)
        _check_run(run, full[number], steps=steps, free=free)


def _lines(recipe: Path, full: list[Experiment], words: list[str], place: Path) -> None:
    sections = parse_words([str(recipe), *words], ("lines",)).sections
    asked = validated(LinesConfig, sections["lines"])
    sizes = [2, 8][: len(asked.batch_sizes)]
    own = ["--every=2", "--images=8", *(["--batch-sizes", *map(str, sizes)] if sizes else [])]
    assert COMMANDS["lines"].run([str(recipe), f"--out={place}", *own, *words]) == 0
    for name in (RECORDS, *map(OTHERS.format, sizes)):
        lines = LineRecords(place / name).read()
        assert [line.step for line in lines] == [0, 2, 4]
        assert all(line.lengths == tuple(sorted({0.0, *asked.lengths})) for line in lines)
        assert all(sum(line.batch_sizes) == 8 for line in lines)
    assert json.loads((place / "findings.json").read_text(encoding="utf-8"))["lines"] == 3
    assert (place / "lines.html").is_file()


def _range_test(recipe: Path, full: list[Experiment], words: list[str], place: Path) -> None:
    """With all images in a batch, since the loss has to fall: noise is learnt by heart only."""
    command, own = command_of(recipe)
    run_dir = place / "run"
    length = ["--batch_size=32", "--num-iter=40", "--steps=50", f"--out={run_dir}"]
    assert COMMANDS[command].run([str(recipe), *own, *words, *length]) == 0
    curve = RangeCurve.from_json(run_dir / "range_test.json")
    run = read_run(run_dir)
    measured = {"label", "scheduler.class_path", "scheduler.init_args"}
    _check_run(run, *full, steps=50 - curve.cost.backwards, free=measured)
    assert run.experiment["scheduler"]["init_args"]["max_lr"] == curve.suggestion()


RUNNERS = {"train": _train, "sweep": _sweep, "lines": _lines, "range-test": _range_test}


@pytest.mark.slow
@every_recipe
@pytest.mark.filterwarnings("ignore:.*too short for a cycle:UserWarning")  # five steps are
@pytest.mark.filterwarnings("ignore:a step of length:UserWarning")  # noise is learnt by heart
@pytest.mark.filterwarnings("ignore:the loss adds up the losses of .* heads:UserWarning")
def test_the_quick_version_runs(
    recipe: Path, roots: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    full = experiments_of(recipe)
    command, _ = command_of(recipe)
    RUNNERS[command](recipe, full, small(full[0].data.name, roots), tmp_path)


# What must be refused


def _keys(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all keys in nested mappings and lists."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield (*path, key)
            yield from _keys(value, (*path, key))
    elif isinstance(values, list):
        for number, value in enumerate(values):
            yield from _keys(value, (*path, number))


@functools.cache
def _each_key_once() -> dict[str, tuple[Path, tuple[Any, ...]]]:
    """For every key that recipes use: one of these recipes, and its place there."""
    found: dict[str, tuple[Path, tuple[Any, ...]]] = {}
    for recipe in RECIPES:
        values = _values(recipe)
        class_path = values.get("optimizer", {}).get("class_path", "")
        for place in _keys(values):
            name = ".".join(str(key) for key in place if isinstance(key, str))
            of = f" of {class_path}" if name.startswith("optimizer.init_args.") else ""
            found.setdefault(f"{name}{of}", (recipe, place))
    return found


@pytest.mark.parametrize("key", _each_key_once())
def test_a_misspelt_key_is_refused_by_name_before_a_step_is_taken(
    key: str, roots: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe, place = _each_key_once()[key]
    text = recipe.read_text(encoding="utf-8")
    values = _values(recipe)
    *parents, last = place
    inside = functools.reduce(lambda part, step: part[step], parents, values)
    inside[f"{last}x"] = inside.pop(last)
    for name, cells in values.get("grid", {}).items():  # the cell that holds it is enough
        number = place[2] if len(place) > 2 and name == place[1] else 0
        values["grid"][name] = cells[number : number + 1]
    head = "".join(f"{line}\n" for line in text.splitlines() if line.startswith("#"))
    file = tmp_path / recipe.name
    file.write_text(head + yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    full = experiments_of(recipe)
    with pytest.raises(UserError, match=rf"\b{last}x?\b"):
        RUNNERS[command_of(recipe)[0]](file, full, small(full[0].data.name, roots), tmp_path)
    runs = [read_run(path.parent) for path in tmp_path.rglob("record.jsonl")]
    assert all(run.steps == run.evaluations == [] for run in runs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# surefoot demo made/up.yaml", "no quick version for .*demo"),
        ("# surefoot train made/up.yaml\ngrid: {seed: [0]}", "no quick version for .*sweep.*train"),
        ("lines: {every: 1}\ngrid: {seed: [0]}", "no quick version for .*lines.*sweep"),
        ("data: {name: mnist}", "no generated files for data.name: mnist"),
    ],
)
def test_a_recipe_that_nobody_taught_this_file_to_run_fails(
    text: str, message: str, roots: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "up.yaml").write_text(f"{text}\nsteps: 1\n", encoding="utf-8")
    with pytest.raises(LookupError, match=message):
        small(experiments_of(tmp_path / "up.yaml")[0].data.name, roots)
