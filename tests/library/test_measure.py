"""Figures of shape from lines of known shape; lines to disk and back; runs that are killed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import multiprocessing
import os
import random
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import _killed_run
import numpy as np
import pytest
import torch
from _problems import batches, noisy
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from surefoot.shape import (
    LineRecords,
    LineSample,
    SampledLine,
    batch_size_effect,
    default_lengths,
    fit_errors,
    gradient_direction,
    is_convex,
    proportionality,
    sample_line,
    sample_run,
    shape_distance,
    steps_on_line,
    tuned_rate,
)

GRID = default_lengths(41, 1.0)


def line(f: Any, grid: Any = GRID, **more: Any) -> LineSample:
    """A line of one batch with the loss ``f``."""
    return LineSample(tuple(grid), (tuple(f(s) for s in grid),), (10,), **more)


def valley(minimum: float, curvature: float = 2.0, height: float = 0.3) -> Any:
    return lambda s: height + 0.5 * curvature * (s - minimum) ** 2


class TestLineSample:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"lengths": ()},
            {"lengths": (0.1, 0.2), "batch_losses": ((1.0, 2.0),)},
            {"lengths": (0.2, 0.0), "batch_losses": ((1.0, 2.0),)},
            {"batch_sizes": (1, 2)},
            {"batch_losses": ((1.0,),)},
            {"batch_losses": ()},
            {"own_losses": (1.0,)},
        ],
    )
    def test_rows_that_do_not_fit_are_refused(self, wrong: dict[str, Any]) -> None:
        good: dict[str, Any] = {
            "lengths": (0.0, 1.0),
            "batch_losses": ((1.0, 2.0),),
            "batch_sizes": (4,),
        }
        LineSample(**good)
        with pytest.raises(ValueError, match=r"sample|batch"):
            LineSample(**{**good, **wrong})

    @settings(max_examples=50, deadline=None)
    @given(minimum=st.floats(-0.9, 0.9), curvature=st.floats(0.01, 100.0), at=st.floats(-1.0, 1.0))
    def test_between_the_places_a_parabola_is_exact(
        self, minimum: float, curvature: float, at: float
    ) -> None:
        f = valley(minimum, curvature)
        sample = line(f, sorted({-1.0, -0.35, 0.0, 0.1, 0.62, 1.0}))
        assert sample.loss_at(at) == pytest.approx(f(at), rel=1e-9, abs=1e-9)
        assert sample.slope_at(at) == pytest.approx(curvature * (at - minimum), rel=1e-7, abs=1e-7)
        found = sample.exact_minimum()
        if not found.at_border:
            assert found.length == pytest.approx(minimum, abs=1e-7)

    def test_outside_nothing_is_known(self) -> None:
        sample = line(valley(0.2))
        assert math.isnan(sample.loss_at(1.01))
        assert math.isnan(sample.loss_at(-1.01))

    def test_a_minimum_at_the_border_says_so(self) -> None:
        found = line(valley(3.0)).exact_minimum()
        assert (found.length, found.at_border, found.standard_error) == (1.0, True, None)

    def test_the_lowest_finite_place_counts(self) -> None:
        sample = line(lambda s: math.nan if s > 0.5 else (s - 0.2) ** 2)
        assert sample.exact_minimum().length == pytest.approx(0.2)
        edge = line(lambda s: math.nan if s > 0.1 else (s - 0.2) ** 2).exact_minimum()
        assert edge.at_border
        with pytest.raises(ValueError, match="finite"):
            line(lambda s: math.nan).exact_minimum()

    def test_standard_errors_are_numpys_for_batches_of_one_size(self) -> None:
        rows = np.random.default_rng(0).normal(size=(9, 3))
        sample = LineSample((0.0, 1.0, 2.0), tuple(map(tuple, rows.tolist())), (5,) * 9)
        assert sample.standard_errors == pytest.approx(rows.std(axis=0, ddof=1) / 3)
        assert sample.losses == pytest.approx(rows.mean(axis=0))
        assert sample.subset([2]).standard_errors is None
        assert sample.subset([4, 2]).batch_losses[0] == pytest.approx(rows[4])

    def test_the_fitted_parabola_is_numpys(self) -> None:
        rows = np.random.default_rng(1).normal(size=len(GRID))
        sample = line(dict(zip(GRID, rows.tolist(), strict=True)).__getitem__)
        for window in (None, 0.4):
            inside = [i for i, s in enumerate(GRID) if window is None or abs(s) <= window]
            a, b, c = np.polyfit([GRID[i] for i in inside], rows[inside], 2)
            fit = sample.parabola(window)
            assert (fit.curvature, fit.slope0, fit.value0) == pytest.approx((2 * a, b, c))


class TestFigures:
    def test_fit_errors_are_those_of_numpys_polynomials(self) -> None:
        rows = np.random.default_rng(2).normal(size=len(GRID))
        sample = line(dict(zip(GRID, rows.tolist(), strict=True)).__getitem__)
        for window in (None, 0.5):
            inside = [i for i, s in enumerate(GRID) if window is None or abs(s) <= window]
            x, y = np.array([GRID[i] for i in inside]), rows[inside]
            expected = [np.abs(np.polyval(np.polyfit(x, y, k), x) - y).mean() for k in (0, 1, 2)]
            assert fit_errors(sample, window) == pytest.approx(expected)

    def test_a_parabola_has_no_error_of_degree_two(self) -> None:
        constant, linear, quadratic = fit_errors(line(valley(0.3)))
        assert constant > linear > 0.1
        assert quadratic < 1e-14
        with pytest.raises(ValueError, match="three places"):
            fit_errors(line(valley(0.0)), window=0.01)

    def test_convex_and_not(self) -> None:
        convex = [valley(0.3), math.exp, lambda s: abs(s - 0.1), lambda s: -2.0 * s]
        concave = [lambda s: -s * s, math.cos, lambda s: (s * s - 0.25) ** 2]
        assert all(is_convex(line(f)) for f in convex)
        assert not any(is_convex(line(f)) for f in concave)
        assert is_convex(line(lambda s: (s * s - 0.25) ** 2 if s > 0 else 9.0), window=0.0)

    def test_rounding_does_not_make_a_line_concave(self) -> None:
        noise = random.Random(1)
        assert is_convex(line(lambda s: 1.0 - s + 1e-7 * noise.random()))
        assert not is_convex(line(lambda s: 1.0 - s + 1e-4 * noise.random()))

    def test_distance_of_shapes(self) -> None:
        a, b = line(valley(0.2)), line(valley(0.2, height=5.0))
        assert shape_distance(a, b) == pytest.approx(0.0, abs=1e-12)
        c = line(valley(0.2, curvature=4.0))
        expected = np.mean([(s - 0.2) ** 2 for s in GRID])
        assert shape_distance(a, c) == pytest.approx(expected)
        coarse = line(valley(0.2), grid=GRID[::2])
        assert shape_distance(a, coarse) == pytest.approx(0.0, abs=1e-12)
        with pytest.raises(ValueError, match="in common"):
            shape_distance(line(lambda s: math.nan), a)


class TestSteps:
    """Full batch: minimum at 0.4. The direction's own batch: minimum at 0.6, steeper."""

    full, own = staticmethod(valley(0.4, 2.0)), staticmethod(valley(0.6, 3.0))

    def sample(self, **more: Any) -> LineSample:
        return line(
            self.full,
            direction_norm=4.0,
            slope0=-1.8,
            own_losses=tuple(self.own(s) for s in GRID),
            **more,
        )

    def test_where_everybody_goes_on_parabolas(self) -> None:
        steps = steps_on_line(self.sample(), rates={"SGD 0.05": 0.05, "SGD 0.2": 0.2})
        expected = {
            "minimum": 0.4,
            "SGD 0.05": 0.2,
            "SGD 0.2": 0.8,
            "FBPAL": 0.4,
            "LABPAL": 0.4,
            "PAL": 0.6,
            "own batch": 0.6,
        }
        assert {name: step.length for name, step in steps.items()} == pytest.approx(expected)
        for step in steps.values():
            assert step.loss == pytest.approx(self.full(step.length))
            assert step.beyond_minimum == pytest.approx(step.length - 0.4)
            assert step.gain == pytest.approx(self.full(0.0) - self.full(step.length))

    def test_labpal_sees_only_its_batches(self) -> None:
        rows = (tuple(valley(0.2)(s) for s in GRID), tuple(valley(0.6)(s) for s in GRID))
        sample = LineSample(GRID, rows, (5, 5))
        assert steps_on_line(sample, labpal_batches=1)["LABPAL"].length == pytest.approx(0.2)
        steps = steps_on_line(sample, labpal_batches=2)
        assert steps["LABPAL"].length == pytest.approx(0.4)
        assert "PAL" not in steps

    def test_beyond_the_grid_the_loss_is_unknown(self) -> None:
        step = steps_on_line(self.sample(), rates={"far": 9.0})["far"]
        assert step.length == 36.0
        assert math.isnan(step.loss)

    def test_a_sampled_line_answers_as_the_sample(self) -> None:
        walk = SampledLine(self.sample())
        assert walk.value_and_slope(0.3) == pytest.approx((self.full(0.3), -0.2))
        assert walk.slope0 == pytest.approx(-0.8)
        assert SampledLine(self.sample(), slope0=-5.0).slope0 == -5.0


class TestManyLines:
    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.tuples(st.floats(0.05, 0.9), st.floats(0.1, 10.0)), min_size=1, max_size=9))
    def test_the_tuned_rate_has_the_least_total_distance(self, pairs: Any) -> None:
        samples = [line(valley(m), direction_norm=n) for m, n in pairs]
        rate = tuned_rate(samples)

        def distance(eta: float) -> float:
            return sum(abs(eta * n - m) for m, n in pairs)

        candidates = [m / n for m, n in pairs]
        assert distance(rate) <= min(map(distance, candidates)) + 1e-6

    def test_proportional_steps(self) -> None:
        norms = [1.0, 2.0, 4.0, 5.0, 8.0]
        exact = proportionality([line(valley(0.1 * n), direction_norm=n) for n in norms])
        assert exact.n == 5
        assert exact.rate == pytest.approx(0.1)
        assert exact.correlation == pytest.approx(1.0)
        assert exact.ratio_spread == pytest.approx(0.0, abs=1e-9)
        assert exact.step_spread == pytest.approx(np.std(norms, ddof=1) / 4.0)
        constant = proportionality([line(valley(0.4), direction_norm=n) for n in norms])
        assert constant.step_spread == pytest.approx(0.0, abs=1e-9)
        assert constant.ratio_spread > 0.5
        with pytest.raises(ValueError, match="fewer than two"):
            proportionality([line(valley(0.4)), line(valley(7.0))])

    def test_a_larger_batch_acts_like_a_smaller_rate(self) -> None:
        """Gradient norm ∝ 1/√B with the same minimum: the optimal rate grows with √B."""
        samples = {
            size: [line(valley(0.4), direction_norm=8.0 / math.sqrt(size)) for _ in range(3)]
            for size in (64, 16, 256)
        }
        rows = batch_size_effect(samples)
        assert [row.batch_size for row in rows] == [16, 64, 256]
        assert [row.rate_ratio for row in rows] == pytest.approx([1.0, 2.0, 4.0])
        assert [row.norm_ratio for row in rows] == pytest.approx([1.0, 0.5, 0.25])
        assert rows[0].full_slope == pytest.approx(-0.8)
        assert (rows[0].n, rows[0].optimal_length) == (3, pytest.approx(0.4))
        with pytest.raises(ValueError, match="batch size 8"):
            batch_size_effect({8: [line(valley(7.0))]})


class TestRecords:
    def sample(self, step: int = 3, **more: Any) -> LineSample:
        return LineSample(
            lengths=(-0.1, 0.0, 0.25),
            batch_losses=((1.0, 0.1 + 0.2, math.nan), (3.0, math.inf, -1e-300)),
            batch_sizes=(7, 5),
            direction_norm=2.5,
            kind="gradient",
            slope0=-2.5,
            own_losses=(1.0, 2.0, 3.0),
            step=step,
            info={"rates": [0.1], "name": "nan"},
            **more,
        )

    def test_there_and_back(self, tmp_path: Path) -> None:
        records = LineRecords(tmp_path / "deep" / "lines.jsonl")
        assert records.read() == []
        kept = [self.sample(step) for step in (1, 2, 3)]
        for sample in kept:
            records.append(sample)
        for ours, theirs in zip(kept, records, strict=True):
            for field in dataclasses.fields(LineSample):
                a, b = getattr(ours, field.name), getattr(theirs, field.name)
                assert (a is b is None) or repr(a) == repr(b), field.name
        for text in records.path.read_text().splitlines():
            json.loads(text, parse_constant=lambda c: pytest.fail(f"{c} is not strict JSON"))

    def test_a_last_line_cut_short_is_ignored_and_replaced(self, tmp_path: Path) -> None:
        records = LineRecords(tmp_path / "lines.jsonl")
        records.append(self.sample(1))
        whole = records.path.read_bytes()
        records.path.write_bytes(whole + whole[: len(whole) // 2])
        assert len(records.read()) == 1
        records.append(self.sample(2))
        assert [sample.step for sample in records] == [1, 2]

    @pytest.mark.parametrize("damage", ["{}", "null", "[1]", "not json", '{"record": "step"}'])
    def test_damage_elsewhere_is_named(self, tmp_path: Path, damage: str) -> None:
        records = LineRecords(tmp_path / "lines.jsonl")
        records.append(self.sample(1))
        with records.path.open("a") as file:
            file.write(damage + "\n")
        records.append(self.sample(2))
        with pytest.raises(ValueError, match="line 2"):
            records.read()

    def test_cutting_off(self, tmp_path: Path) -> None:
        records = LineRecords(tmp_path / "lines.jsonl")
        assert records.cut(0) == 0
        for step in range(5):
            records.append(self.sample(step))
        assert records.cut(3) == 2
        assert [sample.step for sample in records] == [0, 1, 2]


class TestRuns:
    def start(self, folder: Path, seed: int) -> tuple[Any, Connection]:
        # all are forked from one process that has imported torch; the library is one of its own
        os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["_killed_run"])
        ours, theirs = context.Pipe()
        process = context.Process(target=_killed_run.run, args=(str(folder), seed, theirs))
        process.start()
        theirs.close()
        return process, ours

    def end(self, process: Any, told: Connection) -> list[Any]:
        """All that is still told, until the process ends."""
        heard = []
        with contextlib.suppress(EOFError):
            while True:
                heard.append(told.recv())
        process.join()
        return heard

    @pytest.mark.slow
    def test_killed_at_random_and_resumed_it_writes_the_same_records(self, tmp_path: Path) -> None:
        whole = self.start(tmp_path / "whole", 0)
        moments = random.Random()  # any moment will do, so every run of this test tries others
        for fewest in (1, 1, 3):  # the third line is written after the first checkpoint
            process, told = self.start(tmp_path / "killed", 0)
            for _ in range(moments.randrange(fewest, 6)):
                told.recv()
            time.sleep(moments.random() * 0.02)
            process.kill()
            process.join()
        # resumed weights come from the checkpoint, not from the seed of this process
        assert self.end(*self.start(tmp_path / "killed", 99))[-1] == "done"
        assert self.end(*whole)[-1] == "done"
        ours = (tmp_path / "killed" / "lines.jsonl").read_bytes()
        assert ours == (tmp_path / "whole" / "lines.jsonl").read_bytes()
        assert [line.step for line in LineRecords(tmp_path / "whole" / "lines.jsonl")] == list(
            range(0, 40, 2)
        )

    def test_sampling_does_not_change_the_training(self, tmp_path: Path) -> None:
        data = batches(5)
        ends = []
        for every in (1, 1000):
            model = noisy()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
            torch.manual_seed(3)
            records = sample_run(
                model,
                optimizer,
                cross_entropy,
                lambda step: data[step],
                data[:2],
                steps=5,
                every=every,
                folder=tmp_path / str(every),
                lengths=(0.1,),
            )
            ends.append([p.detach() for p in model.parameters()])
        assert all(map(torch.equal, *ends))
        assert len(records.read()) == 1

    def test_the_lines_are_those_of_the_steps(self, tmp_path: Path) -> None:
        """Trained by hand up to the third step, then sampled by hand."""
        data = batches(4)
        model, twin = noisy(), noisy()
        torch.manual_seed(3)
        records = sample_run(
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            cross_entropy,
            lambda step: data[step],
            data,
            steps=3,
            every=2,
            folder=tmp_path,
            lengths=(0.2,),
        )
        torch.manual_seed(3)
        sgd = torch.optim.SGD(twin.parameters(), lr=0.1)
        for x, y in data[:2]:
            sgd.zero_grad()
            cross_entropy(twin(x), y).backward()
            sgd.step()
        direction = gradient_direction(twin, cross_entropy, data[2])
        expected = sample_line(
            twin, cross_entropy, data, direction=direction, own_batch=data[2], lengths=(0.2,)
        )
        first, third = records
        assert (first.step, third.step) == (0, 2)
        assert third.info == {"rates": [0.1]}
        assert third.batch_losses == expected.batch_losses
        assert third.own_losses == expected.own_losses
        assert third.direction_norm == expected.direction_norm

    def test_nonsense_is_refused(self, tmp_path: Path) -> None:
        model = noisy()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with pytest.raises(ValueError, match="1 or more"):
            sample_run(
                model,
                optimizer,
                cross_entropy,
                batches(1).__getitem__,
                [],
                steps=0,
                folder=tmp_path,
            )


def test_measures_of_a_real_line_are_sane() -> None:
    """A trained-for-nothing net: finite numbers, a minimum ahead, everybody's step."""
    model, data = noisy().eval(), batches(6)
    sample = sample_line(model, cross_entropy, data)
    constant, linear, quadratic = fit_errors(sample)
    assert constant > linear > quadratic > 0.0
    steps = steps_on_line(sample, rates={"SGD": 0.1})
    assert steps["minimum"].gain >= max(s.gain for s in steps.values()) - 1e-6
    assert steps["own batch"].length > 0.0
