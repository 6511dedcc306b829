"""The recipes of cyclical rates and super-convergence run as they stand, for a few steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from surefoot_lab.parse import parse_train
from surefoot_lab.records import read_run
from surefoot_lab.train import train

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
FOLDERS = (
    "cyclical-rates",
    "super-convergence",
    "momentum-cycled",
    "weight-decay-under-a-large-rate",
)
RECIPES = sorted(path for folder in FOLDERS for path in (EXPERIMENTS / folder).glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
@pytest.mark.filterwarnings("ignore:.*too short for a cycle:UserWarning")
def test_a_recipe_trains_for_a_few_steps(recipe: Path, image_root: Path, tmp_path: Path) -> None:
    small = ["--data.name=imagefolder", "--data.root", str(image_root), "--data.validation=10"]
    length = ["--steps=5", "--batch_size=2", "--train.tensorboard=false", "--train.device=cpu"]
    experiment = parse_train([str(recipe), *small, *length]).experiment
    train(experiment, tmp_path / "run", progress=False)
    run = read_run(tmp_path / "run")
    assert run.end is not None
    assert (run.end["reason"], run.end["step"]) == ("finished", 5)


@pytest.mark.parametrize("folder", FOLDERS)
def test_recipes_of_a_question_differ_only_in_what_is_asked(folder: str) -> None:
    """Same data, same seeds; labels that tell them apart."""
    experiments = [
        parse_train([str(path)]).experiment
        for path in sorted((EXPERIMENTS / folder).glob("*.yaml"))
    ]
    assert len({e.label + e.name for e in experiments}) == len(experiments)
    assert len({str(e.data) for e in experiments}) == 1
    readme = (EXPERIMENTS / folder / "README.md").read_text()
    assert "**Prediction.**" in readme
    assert "**Result.**" in readme
