"""What a run shows in Python and in a notebook."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from _records import end, evaluation, step, write_run

from surefoot_lab import Experiment, OptimizerConfig, read_run, train

LINES = [
    step(10, 2.0),
    step(20, 0.5),
    evaluation(20, "validation", 0.9),
    evaluation(20, "test", 0.875),
    end(20),
]


def test_a_run_in_a_line(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, "SGD", 3, LINES))
    assert repr(run) == (
        "RunRecord(digits-convnet, SGD, seed 3: finished at step 20, validation accuracy 90.0%, "
        "test accuracy 87.5%, 0.2 s of training)"
    )


def test_a_run_in_a_notebook_is_harmless_and_holds_its_curve(tmp_path: Path) -> None:
    html = read_run(write_run(tmp_path, "<script>x</script>", 3, LINES))._repr_html_()
    assert "<script>" not in html
    assert "test accuracy 87.5%" in html
    (points,) = re.findall(r'points="([^"]*)"', html)
    (x0, y0), (x1, y1) = (map(float, pair.split(",")) for pair in points.split())
    assert (x0, x1) == (0.0, 240.0)
    assert y0 < y1  # the loss falls, and SVG counts downwards


def test_a_run_as_a_data_frame(tmp_path: Path) -> None:
    table = read_run(write_run(tmp_path, "SGD", 3, LINES)).to_pandas()
    assert list(table["step"]) == [10, 20, 20, 20]
    assert list(table.query("kind == 'step'")["train_loss"]) == [2.0, 0.5]
    assert list(table.query("split == 'test'")["accuracy"]) == [0.875]


def test_an_unfinished_and_empty_run_is_shown(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, "SGD", 3, []))
    assert "not finished at step 0" in repr(run)
    assert "<svg" not in run._repr_html_()
    assert len(run.to_pandas()) == 0


def test_training_from_python(tmp_path: Path) -> None:
    experiment = Experiment(steps=2, optimizer=OptimizerConfig("MeasuredAdamW"))
    run = train(experiment, tmp_path / "run", progress=False)
    assert (run.label, run.end["reason"]) == ("Measured AdamW", "finished")


def test_importing_the_lab_is_cheap() -> None:
    code = "import sys, surefoot_lab; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
