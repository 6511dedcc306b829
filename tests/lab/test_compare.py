"""Figures of a comparison against figures worked out by hand or by NumPy."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from _records import ENVIRONMENT, end, evaluation, plain_run, step, write_run
from rich.console import Console

from surefoot_lab.compare import advise, summarize, summarize_run, terminal_table
from surefoot_lab.compare.columns import method_columns
from surefoot_lab.compare.curves import curve, mean_band
from surefoot_lab.compare.settings import environments, settings
from surefoot_lab.compare.summary import State, level_with_best
from surefoot_lab.records import read_run, read_runs


def _terminal(methods: list, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(terminal_table(methods))
    return console.file.getvalue()


# ---- one run ---------------------------------------------------------------------------------


def test_final_figures_are_of_the_last_evaluation_and_best_is_the_highest(tmp_path: Path) -> None:
    lines = [
        step(10, 1.0),
        evaluation(10, "validation", 0.8),
        evaluation(10, "test", 0.99),
        step(20, 0.5),
        evaluation(20, "validation", 0.9),
        step(30, 0.25),
        evaluation(30, "validation", 0.7, 0.6),
        evaluation(30, "test", 0.75, 0.7),
        end(30),
    ]
    run = summarize_run(read_run(write_run(tmp_path, "SGD", 3, lines)))
    assert run.test_accuracy == 0.75
    assert run.test_loss == 0.7
    assert run.validation_accuracy == 0.7
    assert run.validation_loss == 0.6
    assert run.best_validation_accuracy == 0.9
    assert run.train_loss == 0.25
    assert (run.steps, run.seed, run.state) == (30, 3, State.FINISHED)
    assert run.seconds == pytest.approx(0.3)


@pytest.mark.parametrize(("forwards", "ratio"), [(1, 1.0), (2, 4 / 3), (11, 13 / 3)])
def test_cost_is_forwards_and_twice_the_backwards_over_three_a_batch(
    tmp_path: Path, forwards: int, ratio: float
) -> None:
    run = summarize_run(
        read_run(write_run(tmp_path, "PAL", 0, [step(50, 1.0, forwards=forwards), end(50)]))
    )
    assert run.forward_equivalents == 50 * forwards + 2 * 50
    assert run.relative_cost == pytest.approx(ratio)


@pytest.mark.parametrize(
    ("lines", "state"),
    [
        ([step(10, 1.0), end(10)], State.FINISHED),
        ([step(10, None), end(10, "non_finite", "the loss is NaN")], State.NON_FINITE),
        ([step(10, 1.0), step(20, None), end(20)], State.NON_FINITE),  # trained on with NaN
        ([step(10, None), step(20, 1.0), end(20)], State.FINISHED),  # rejected and recovered
        ([step(10, 1.0), end(10, "interrupted")], State.INTERRUPTED),
        ([step(10, 1.0)], State.UNFINISHED),
        ([], State.UNFINISHED),
    ],
)
def test_state_tells_how_a_run_ended(tmp_path: Path, lines: list, state: State) -> None:
    assert summarize_run(read_run(write_run(tmp_path, "SGD", 0, lines))).state is state


def test_a_rate_is_measured_when_the_record_holds_measurements(tmp_path: Path) -> None:
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.001}}
    bare = {"class_path": "torch.optim.Adam", "init_args": {}}
    cases = [
        (write_run(tmp_path, "a", 0, [step(1, 1.0, status="minimum")], optimizer=adam), "measured"),
        (write_run(tmp_path, "b", 0, [{"kind": "measure", "step": 1, "t": 0.1}]), "measured"),
        (write_run(tmp_path, "c", 0, [step(1, 1.0)], optimizer=adam), "0.001"),
        (write_run(tmp_path, "d", 0, [step(1, 1.0)], optimizer=bare), "default"),
        (
            write_run(tmp_path, "e", 0, [step(1, 1.0)], scheduler="torch.optim.x.OneCycleLR"),
            "0.1, OneCycleLR",
        ),
    ]
    assert [str(summarize_run(read_run(path)).rate) for path, _ in cases] == [c for _, c in cases]


def test_an_empty_record_is_a_row_without_figures(tmp_path: Path) -> None:
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "record.jsonl").write_text('{"kind": "sta', encoding="utf-8")
    methods = summarize(read_runs([tmp_path]))
    assert methods[0].label == "torn"
    assert methods[0].runs[0].problems
    assert methods[0].failures == {State.UNFINISHED: 1}
    assert methods[0].spread("test_accuracy") is None
    assert "0 of 1" in _terminal(methods)


# ---- methods ---------------------------------------------------------------------------------


def test_mean_and_spread_over_seeds_are_numpys(tmp_path: Path) -> None:
    test = [0.91, 0.94, 0.975]
    best = [0.93, 0.99, 0.96]
    for seed in (2, 0, 1):
        plain_run(tmp_path, "SGD 0.1", seed, test[seed], [0.5, best[seed], 0.9])
    (method,) = summarize(read_runs([tmp_path]))
    assert [run.seed for run in method.runs] == [0, 1, 2]
    for figure, values in (("test_accuracy", test), ("best_validation_accuracy", best)):
        spread = method.spread(figure)
        assert spread is not None
        assert spread.n == 3
        assert spread.mean == pytest.approx(np.mean(values))
        assert spread.sd == pytest.approx(np.std(values, ddof=1))


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    plain_run(tmp_path, "SGD", 0, 0.9, [0.9])
    (method,) = summarize(read_runs([tmp_path]))
    assert method.spread("test_accuracy").sd is None
    assert "90.0 %" in _terminal([method])


def test_order_is_by_mean_test_accuracy_and_failures_come_last(tmp_path: Path) -> None:
    for label, values in {"low": (0.5, 0.6), "high": (0.9, 0.8), "middle": (0.6, 0.7)}.items():
        for seed, value in enumerate(values):
            plain_run(tmp_path, label, seed, value, [value])
    plain_run(tmp_path, "lucky", 0, 0.99, [0.99])
    write_run(tmp_path, "lucky", 1, [step(10, None), end(10, "non_finite")])
    methods = summarize(read_runs([tmp_path]))
    assert [method.label for method in methods] == ["high", "middle", "low", "lucky"]


def test_a_failed_run_is_counted_and_shown_but_not_averaged(tmp_path: Path) -> None:
    plain_run(tmp_path, "SGD 1.0", 0, 0.9, [0.9])
    lines = [step(10, 3.0), evaluation(10, "validation", 0.1), evaluation(10, "test", 0.1)]
    write_run(tmp_path, "SGD 1.0", 1, [*lines, step(20, None), end(20, "non_finite", "NaN")])
    write_run(tmp_path, "SGD 1.0", 2, [*lines, end(10, "interrupted")])
    (method,) = summarize(read_runs([tmp_path]))
    assert (len(method.runs), method.finished) == (3, 1)
    assert method.failures == {State.NON_FINITE: 1, State.INTERRUPTED: 1}
    assert method.spread("test_accuracy").values == (0.9,)
    assert method.spread("relative_cost").n == 3  # what a batch costs is known all the same
    text = _terminal([method])
    assert "1 of 3" in text
    assert "SGD 1.0: 1 non-finite, 1 interrupted of 3" in text


def _several(folder: Path, values: dict[str, tuple[float, ...]], **more: dict) -> list:
    for label, seeds in values.items():
        for seed, value in enumerate(seeds):
            plain_run(folder, label, seed, value, [value], **more.get(label, {}))
    return read_runs([folder])


def test_level_with_the_best_is_an_interval_by_seed_that_holds_zero(tmp_path: Path) -> None:
    values = {
        "best": (0.96, 0.97, 0.98),
        "near": (0.97, 0.95, 0.96),  # as often above as below
        "behind": (0.950, 0.959, 0.971),  # always a point behind: not chance
        "single": (0.969,),
    }
    methods = summarize(_several(tmp_path, values))
    expected = []
    for label in ("near", "behind"):
        differences = np.subtract(values[label], values["best"])
        half = 4.302653 * differences.std(ddof=1) / math.sqrt(3)  # Student's t, 2 degrees
        if differences.mean() - half < 0 < differences.mean() + half:
            expected.append(label)
    assert expected == ["near"]
    assert [m.label for m in level_with_best(methods, "test_accuracy")] == expected
    text = _terminal(methods)
    assert "≈ 96.0" in text
    assert text.count("≈") == 2  # the cell and its explanation


MEASURED = {"class_path": "surefoot.MeasuredLR", "init_args": {"total_steps": None}}
WITH_LENGTH = {"class_path": "surefoot.PAL", "init_args": {"total_steps": 30}}


def test_the_advice_is_the_method_within_noise_that_asks_for_least(tmp_path: Path) -> None:
    values = {
        "SGD": (0.96, 0.97, 0.98),
        "Measured": (0.97, 0.96, 0.965),
        "PAL": (0.96, 0.965, 0.972),
        "far": (0.5, 0.5, 0.51),
    }
    for label, seeds in values.items():
        status = {} if label in ("SGD", "far") else {"status": "minimum"}
        named = {"Measured": MEASURED, "PAL": WITH_LENGTH}.get(label)
        for seed, value in enumerate(seeds):
            lines = [step(30, 0.1, **status), evaluation(30, "test", value), end(30)]
            write_run(tmp_path, label, seed, lines, optimizer=named)
    runs = read_runs([tmp_path])
    found = advise(runs, summarize(runs))
    assert found.method.label == "Measured"
    assert {m.label for m in found.level} == {"SGD", "Measured", "PAL"}
    assert found.sentence == (
        "On this task use Measured, because its test accuracy, 96.5 ± 0.5 %, is within noise of "
        "the best (SGD, 97.0 ± 1.0 %) and nothing was chosen for it; PAL is within noise, too."
    )


def test_a_clear_winner_is_advised_whatever_it_asks_for(tmp_path: Path) -> None:
    runs = _several(tmp_path, {"tuned": (0.96, 0.97, 0.98), "other": (0.5, 0.51, 0.53)})
    found = advise(runs, summarize(runs))
    assert found.method.label == "tuned"
    assert found.sentence == (
        "On this task use tuned, because it has the best test accuracy, 97.0 ± 1.0 %."
    )


def test_one_run_a_method_advises_nothing(tmp_path: Path) -> None:
    runs = _several(tmp_path, {"first": (0.96,), "second": (0.5,)})
    found = advise(runs, summarize(runs))
    assert found.method is None
    assert "at least two seeds" in found.sentence
    assert advise(runs[:1], summarize(runs[:1])) is None


def test_columns_without_accuracy_show_losses(tmp_path: Path) -> None:
    lines = [
        step(10, 0.4),
        evaluation(10, "validation", None, 0.3),
        evaluation(10, "test", None, 2),
    ]
    write_run(tmp_path, "regression", 0, [*lines, end(10)])
    plain_run(tmp_path / "other", "classes", 0, 0.9, [0.9])
    losses = [c.figure for c in method_columns(summarize(read_runs([tmp_path / "run000"])))]
    assert losses == ["test_loss", "validation_loss", "relative_cost", "seconds"]
    accuracies = [c.figure for c in method_columns(summarize(read_runs([tmp_path / "other"])))]
    assert accuracies == ["test_accuracy", "best_validation_accuracy", "relative_cost", "seconds"]


def test_the_terminal_table_fits_80_columns_and_takes_no_markup_from_labels(tmp_path: Path) -> None:
    for label in ("[bold red]x[/]", "LABPAL-NSGD", "a label of more than thirty letters"):
        for seed in range(3):
            plain_run(tmp_path, label, seed, 0.97 + seed / 1000, [0.98])
    text = _terminal(summarize(read_runs([tmp_path])))
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "[bold red]x[/]" in text
    assert text.count("97.1 ± 0.1 %") == 3
    assert text.count("1.00 ×") == 3
    assert "…" not in text


# ---- curves ----------------------------------------------------------------------------------


def test_a_curve_holds_all_three_axes_and_leaves_out_what_is_not_finite(tmp_path: Path) -> None:
    lines = [step(10, 2.0, forwards=2), step(20, None), step(30, 1.0, forwards=2, lr=[0.1, 0.4])]
    run = read_run(write_run(tmp_path, "PAL", 0, lines))
    loss = curve(run, "train_loss")
    assert loss["step"].tolist() == [10, 30]
    assert loss["cost"].tolist() == [40, 120]
    assert loss["seconds"].tolist() == pytest.approx([0.1, 0.3])
    assert loss["value"].tolist() == [2.0, 1.0]
    assert curve(run, "effective_lr")["value"].tolist() == [0.1, 0.1, 0.4]  # largest of groups
    assert len(curve(run, "test_loss")) == 0


def test_thinning_keeps_every_point_in_some_bin(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random(1000)
    run = read_run(write_run(tmp_path, "SGD", 0, [step(i + 1, v) for i, v in enumerate(values)]))
    thin = curve(run, "train_loss", limit=100)
    assert len(thin) == 100
    assert thin["value"].to_numpy() == pytest.approx(values.reshape(100, 10).mean(axis=1))
    steps = np.arange(1, 1001).reshape(100, 10).mean(axis=1)
    assert thin["step"].to_numpy() == pytest.approx(steps)
    assert len(curve(run, "train_loss", limit=1000)) == 1000


def test_the_band_is_mean_lowest_and_highest_at_each_step(tmp_path: Path) -> None:
    def run(seed: int, steps: list[int], values: list[float]) -> object:
        lines = [step(n, v) for n, v in zip(steps, values, strict=True)]
        return curve(read_run(write_run(tmp_path, "SGD", seed, lines)), "train_loss")

    curves = [
        run(0, [10, 20, 30, 40], [4.0, 3.0, 2.0, 1.0]),
        run(1, [10, 30], [8.0, 6.0]),  # logged less often, and broke off
    ]
    band = mean_band(curves)
    assert band["step"].tolist() == [10, 20, 30, 40]
    assert band["value"].tolist() == [6.0, 5.0, 4.0, 1.0]
    assert band["low"].tolist() == [4.0, 3.0, 2.0, 1.0]
    assert band["high"].tolist() == [8.0, 7.0, 6.0, 1.0]
    assert band["n"].tolist() == [2, 2, 2, 1]
    assert band["seconds"].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert mean_band([]) is None


# ---- settings and environments ---------------------------------------------------------------


def test_settings_are_split_into_common_and_differing(tmp_path: Path) -> None:
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.001}}
    for seed in (0, 1):
        write_run(tmp_path, "SGD", seed, [])
    write_run(tmp_path, "Adam", 0, [], optimizer=adam)
    found = settings(read_runs([tmp_path]))
    assert found.common == {"epochs": "10", "data.name": "digits"}
    assert found.differing == {
        "SGD": {
            "optimizer.class_path": "torch.optim.SGD",
            "optimizer.init_args.lr": "0.1",
            "optimizer.init_args.momentum": "0.9",
        },
        "Adam": {
            "optimizer.class_path": "torch.optim.Adam",
            "optimizer.init_args.lr": "0.001",
        },
    }


def test_environments_are_told_apart_and_counted(tmp_path: Path) -> None:
    for seed in range(3):
        threads = 1 if seed < 2 else 8
        write_run(tmp_path, "SGD", seed, [], environment={**ENVIRONMENT, "threads": threads})
    found = environments(read_runs([tmp_path]))
    assert [one["threads"] for one in found.differing.values()] == ["1", "8"]
    assert list(found.runs.values()) == [2, 1]
    assert found.common["torch"] == ENVIRONMENT["torch"]
