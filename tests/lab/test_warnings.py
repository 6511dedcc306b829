"""What is warned of while a network trains stands in its record and on the page."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from _records import end, evaluation, step, write_run

from surefoot_lab.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainConfig
from surefoot_lab.records import RunRecord, read_run
from surefoot_lab.report import write_report
from surefoot_lab.training import train

HEADS = "the loss adds up the losses of 3 heads"

pytestmark = pytest.mark.filterwarnings("default")


class Talkative(torch.optim.SGD):
    """Says the same at every step."""

    def step(self, closure=None):
        warnings.warn("two\n  lines", stacklevel=1)
        return super().step(closure)


def experiment(optimizer: OptimizerConfig, **settings) -> Experiment:
    return Experiment(
        data=DataConfig(name="digits"),
        model=ModelConfig("experiments.several_heads.SeveralHeads"),
        optimizer=optimizer,
        train=TrainConfig(device="cpu", tensorboard=False, checkpoint_every=2, eval_every=2),
        batch_size=16,
        **{"steps": 4, **settings},
    )


def messages(run: RunRecord) -> list[tuple[int, str]]:
    return [(line["step"], line["message"][: len(HEADS)]) for line in run.warnings]


def test_a_line_search_with_several_heads_says_so_in_its_record(tmp_path: Path) -> None:
    """A second run of the same process says it as well."""
    for name in ("one", "two"):
        with pytest.warns(UserWarning, match=HEADS):
            run = train(experiment(OptimizerConfig("LABPAL")), tmp_path / name, progress=False)
        assert messages(run) == [(0, HEADS)]
        assert run.problems == []


def test_the_measured_rate_has_nothing_to_say(tmp_path: Path) -> None:
    base = {"optimizer": {"class_path": "AdamW"}}
    run = train(experiment(OptimizerConfig("MeasuredLR", base)), tmp_path, progress=False)
    assert run.warnings == []


def test_the_same_words_stand_there_once_also_after_a_resume(tmp_path: Path) -> None:
    talkative = experiment(OptimizerConfig("test_warnings.Talkative", {"lr": 0.01}))

    def stop(place: dict) -> None:
        if place["step"] == 4:
            raise RuntimeError("stop")

    with pytest.warns(UserWarning, match="two"), pytest.raises(RuntimeError, match="stop"):
        train(talkative, tmp_path, progress=False, observe=stop)
    assert messages(read_run(tmp_path)) == [(0, "two lines")]
    with pytest.warns(UserWarning, match="two"):  # from step 2 on
        again = train(talkative, tmp_path, progress=False, resume=True)
    assert messages(again) == [(0, "two lines")]
    assert again.end is not None
    assert again.end["reason"] == "finished"


def test_a_resume_voids_what_is_going_to_be_said_again(tmp_path: Path) -> None:
    lines = [
        {"kind": "warning", "step": 1, "message": "early"},
        {"kind": "warning", "step": 2, "message": "late"},
        {"kind": "resume", "step": 2, "environment": {}, "node": {}},
        {"kind": "warning", "step": 2, "message": "late"},
    ]
    run = read_run(write_run(tmp_path, "a", 0, lines))
    assert [line["message"] for line in run.warnings] == ["early", "late"]


@pytest.mark.parametrize("wrong", [{"step": -1}, {"step": "x"}, {"message": 3}, {"message": None}])
def test_a_damaged_warning_is_left_out_and_told(tmp_path: Path, wrong: dict) -> None:
    line = {"kind": "warning", "step": 1, "message": "hm", **wrong}
    run = read_run(write_run(tmp_path, "a", 0, [line, end(1)]))
    assert run.warnings == []
    assert len(run.problems) == 1


def test_the_page_says_once_what_several_runs_were_warned_of(tmp_path: Path) -> None:
    said = {"kind": "warning", "step": 6, "message": "<b>so</b>"}
    for seed in range(3):
        lines = [step(1, 1.0), *([said] if seed else []), evaluation(1, "test", 0.5), end(1)]
        write_run(tmp_path, "a", seed, lines)
    runs = [read_run(path) for path in sorted(tmp_path.glob("run*"))]
    page = write_report(runs, tmp_path / "page.html").read_text()
    assert page.count("&lt;b&gt;so&lt;/b&gt;") == 1
    assert "(2 runs, step 7 at the earliest: a)" in page
    assert json.dumps("<b>so</b>") not in page
