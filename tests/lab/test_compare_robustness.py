"""Intervals, pairs, targets and grids against numbers worked out by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from _records import end, evaluation, step, write_run

from surefoot_lab.compare import interval, summarize
from surefoot_lab.compare.intervals import paired_difference
from surefoot_lab.compare.milestones import (
    common_target,
    milestones,
    time_to_target,
)
from surefoot_lab.compare.robustness import robustness
from surefoot_lab.records import RunRecord, read_run
from surefoot_lab.report import render_report


def test_the_interval_of_a_mean_is_students() -> None:
    values = [0.71, 0.74, 0.70, 0.77]
    found = interval(values)
    spread = scipy.stats.sem(values)
    low, high = scipy.stats.t.interval(0.95, df=3, loc=np.mean(values), scale=spread)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.mean, found.n) == (pytest.approx(0.73), 4)
    # t(0.975, 1) = 12.706: two seeds say very little
    two = interval([0.0, 2.0])
    assert two.high == pytest.approx(1.0 + 12.706 * math.sqrt(2) / math.sqrt(2), rel=1e-4)


def test_one_value_has_no_interval() -> None:
    found = interval([0.5])
    assert (found.mean, found.low, found.high, found.n) == (0.5, None, None, 1)
    assert not found.excludes_zero
    with pytest.raises(ValueError, match="at least one value"):
        interval([])


def test_pairs_take_out_what_the_seed_does_to_both() -> None:
    seeds = {0: 0.50, 1: 0.70, 2: 0.90, 9: 0.1}  # the seeds differ far more than the methods
    better = {0: 0.52, 1: 0.72, 2: 0.93}
    found = paired_difference(better, seeds)
    assert found is not None
    # differences 0.02, 0.02, 0.03: mean 0.02333, sd 0.005774, half-width 4.3027 · sd / sqrt(3)
    assert found.n == 3
    assert found.mean == pytest.approx(0.0233333, rel=1e-5)
    assert found.low == pytest.approx(0.0233333 - 4.302653 * 0.0057735 / math.sqrt(3), rel=1e-4)
    assert found.excludes_zero
    alone = interval(list(better.values()))
    assert alone.high is not None
    assert alone.high - alone.mean > 10 * (found.high - found.mean)  # type: ignore[operator]
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def _run(folder: Path, accuracies: Sequence[float | None], **sweep: Any) -> RunRecord:
    """An evaluation every 10 steps: cost 30 a line (2 forwards, one backward a step), 0.1 s."""
    lines = [
        line
        for place, accuracy in enumerate(accuracies, start=1)
        for line in (
            step(10 * place, 1.0, forwards=1),
            evaluation(10 * place, "validation", accuracy, forwards=1),
        )
    ]
    last = 10 * len(accuracies)
    reason = sweep.pop("reason", "finished")
    lines += [evaluation(last, "test", accuracies[-1])] if reason == "finished" else []
    path = write_run(
        folder, sweep.pop("label", "m"), sweep.pop("seed", 0), [*lines, end(last, reason)]
    )
    if sweep:
        text = (path / "record.jsonl").read_text().splitlines()
        start = {**json.loads(text[0]), "sweep": sweep}
        (path / "record.jsonl").write_text("\n".join([json.dumps(start), *text[1:]]) + "\n")
    return read_run(path)


def test_time_to_target_is_the_first_evaluation_that_meets_it(tmp_path: Path) -> None:
    run = _run(tmp_path, [0.3, 0.6, 0.55, 0.8])
    found = time_to_target(run, 0.6)
    assert found is not None
    assert (found["step"], found["cost"], found["seconds"]) == (20, 60, 0.2)
    assert time_to_target(run, 0.61)["step"] == 40  # type: ignore[index]
    assert time_to_target(run, 0.81) is None


@pytest.fixture
def grid(tmp_path: Path) -> list[RunRecord]:
    """Two methods: a 2 × 2 grid with two seeds, one run of it diverged; and a single cell."""
    cells = {(0.1, 0.0): (0.5, 0.7), (0.1, 0.9): (0.9, 0.8), (1.0, 0.0): (0.4, 0.4)}
    runs = []
    for (rate, momentum), accuracies in cells.items():
        for seed, accuracy in enumerate(accuracies):
            cell = {"lr": rate, "momentum": momentum}
            runs.append(_run(tmp_path, [0.1, accuracy], seed=seed, method="SGD", cell=cell))
    last = {"method": "SGD", "cell": {"lr": 1.0, "momentum": 0.9}}
    runs.append(_run(tmp_path, [0.1, 0.6], seed=0, **last))
    runs.append(_run(tmp_path, [0.9], seed=1, reason="non_finite", **last))
    runs.append(_run(tmp_path, [0.1, 0.75], method="PAL", cell={}))
    runs.append(_run(tmp_path, [1.0], label="no trial of a sweep"))
    return runs


def test_a_grid_is_summed_up_by_its_best_middle_and_worst_cell(grid: list[RunRecord]) -> None:
    sgd, pal = robustness(grid)
    assert (sgd.method, pal.method) == ("SGD", "PAL")
    # cell means 0.6, 0.85, 0.4 and, with the diverged run as 0, (0.6 + 0) / 2 = 0.3
    assert sorted(sgd.cells["test_accuracy"]) == pytest.approx([0.3, 0.4, 0.6, 0.85])
    assert sgd.cells["settings"].iloc[0] == {"lr": 0.1, "momentum": 0.9}
    assert sgd.chosen is not None
    assert sorted(sgd.chosen.values) == [0.8, 0.9]
    assert sgd.unfinished == 1
    assert sgd.keys == ["lr", "momentum"]
    assert list(pal.cells["test_accuracy"]) == [0.75]
    assert pal.keys == []


def test_the_search_is_paid_for(grid: list[RunRecord]) -> None:
    sgd, pal = robustness(grid)
    # a run of 20 steps: 20 forwards, 20 backwards, 60 forward-equivalents; the diverged one 30
    assert sgd.tuning_factor == pytest.approx((7 * 60 + 30) / 60)
    assert pal.tuning_factor == 1.0


def test_a_heat_map_shows_the_best_over_what_it_does_not(grid: list[RunRecord]) -> None:
    sgd = robustness(grid)[0]
    found = sgd.heat_map("lr", "momentum")
    assert (list(found.columns), list(found.index)) == (["0.1", "1.0"], ["0.0", "0.9"])
    assert found.to_numpy().tolist() == [
        [pytest.approx(0.6), pytest.approx(0.4)],
        [pytest.approx(0.85), pytest.approx(0.3)],
    ]
    over = sgd.heat_map("lr", "nothing")
    assert over.to_numpy().tolist() == [[pytest.approx(0.85), pytest.approx(0.4)]]


def test_milestones_are_taken_seed_by_seed_against_the_first(tmp_path: Path) -> None:
    runs = [
        _run(tmp_path, [0.5, 0.8, 0.9], label="best", seed=0),
        _run(tmp_path, [0.5, 0.6, 0.8], label="best", seed=1),
        _run(tmp_path, [0.2, 0.3, 0.7], label="late", seed=0),
        _run(tmp_path, [0.2, 0.3, 0.6], label="late", seed=1),
        _run(tmp_path, [0.2, 0.3, 0.4], label="never", seed=5),
    ]
    methods = summarize(runs)
    target = common_target(methods)
    assert target == 0.65  # of the means 0.85, 0.65 and 0.4 of the best validations
    best, late, never = milestones(runs, methods, target)
    assert [m.label for m in (best, late, never)] == ["best", "late", "never"]
    assert [reached["step"] for reached in best.reached] == [20, 30]
    assert best.spent("step").mean == 25  # type: ignore[union-attr]
    assert best.behind is None
    assert [reached["step"] for reached in late.reached] == [30]
    assert late.runs == 2
    assert late.behind is not None
    assert late.behind.mean == pytest.approx(((0.7 - 0.9) + (0.6 - 0.8)) / 2)
    assert (never.reached, never.spent("step"), never.behind) == ((), None, None)


def test_the_page_shows_the_grid_and_what_was_not_finished(grid: list[RunRecord]) -> None:
    for run in grid[:8]:
        run.sweep["method"] = "<script>alert(1)</script>"
    page = render_report(grid)
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert 'id="grids"' in page
    assert 'class="heat"' in page
    assert ">30.0<" in page  # the cell with the diverged run: (0.6 + 0) / 2
    assert "7 ×" in page or "8 ×" in page
