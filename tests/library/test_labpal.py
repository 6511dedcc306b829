"""LABPAL's clock: when it measures, how batches grow, what it reuses."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from surefoot import LABPAL, Status, StepOutcome, noise_factor

published = functools.partial(LABPAL, rule="published")


def statuses(optimizer: LABPAL, loss: Any, steps: int) -> list[str]:
    seen = []
    for _ in range(steps):
        optimizer.step(loss)
        assert optimizer.last is not None
        status = optimizer.last.status
        seen.append("M" if status.measured else {"reused": "r", "collecting": "c"}.get(status, "a"))
    return seen


def bowl() -> tuple[nn.Parameter, Any]:
    p = nn.Parameter(torch.tensor([30.0, -4.0], dtype=torch.float64))
    scale = torch.tensor([1.0, 3.0], dtype=torch.float64)

    def loss() -> Tensor:
        return (scale * p.square()).sum()

    return p, loss


def test_measures_at_the_start_after_the_burn_in_and_every_reuse_updates() -> None:
    p, loss = bowl()
    optimizer = published([p], step_multiplier=0.1, measuring_batches=2, reuse=6, burn_in=3)
    #    updates:  1     2    3    4    5 (first after the burn-in: measured anew)
    expected = "cMrrrcMrrrrrcMrrrrrcM"
    assert "".join(statuses(optimizer, loss, len(expected))) == expected


def test_a_measurement_of_one_batch_has_no_collecting() -> None:
    p, loss = bowl()
    optimizer = published([p], step_multiplier=0.1, measuring_batches=1, reuse=3, burn_in=0)
    assert "".join(statuses(optimizer, loss, 7)) == "MrrMrrM"


def test_batches_grow_and_the_rate_is_measured_anew() -> None:
    p, loss = bowl()
    optimizer = published(
        [p], step_multiplier=0.1, measuring_batches=2, reuse=100, burn_in=0, total_steps=40,
        batch_growth=((0, 1), (0.25, 2), (30, 3)),
    )  # fmt: skip
    seen = "".join(statuses(optimizer, loss, 40))
    assert seen[:10] == "cM" + "r" * 8
    # from step 10: two batches an update; a measurement of 2·2 batches, the first only gathered
    assert seen[10:20] == "accM" + "ar" * 3
    assert seen[30:39] == "aacccM" + "aar"


def test_grown_updates_use_the_mean_gradient() -> None:
    p = nn.Parameter(torch.tensor([3.0], dtype=torch.float64))
    optimizer = published(
        [p],
        step_multiplier=1.0,
        mode="sgd",
        measuring_batches=1,
        reuse=100,
        batch_growth=((0, 2),),
        max_length=99.0,
    )

    def loss(slope: float) -> Tensor:
        return slope * p.sum() + 0.5 * p.square().sum()

    for _ in range(2):
        optimizer.step(lambda: loss(1.0))
    rate = optimizer.memory.rate
    assert rate == pytest.approx(1.0, rel=1e-8)
    before = float(p.detach())
    optimizer.step(lambda: loss(2.0))
    optimizer.step(lambda: loss(5.0))
    assert float(p.detach()) == pytest.approx(before - rate * (3.5 + before), rel=1e-8)


def test_the_noise_factor_multiplies_the_schedule() -> None:
    assert noise_factor(40_000, 128) == 1.0
    assert noise_factor(40_000, 8) == 16.0
    p, loss = bowl()
    optimizer = published(
        [p], step_multiplier=0.1, measuring_batches=1, burn_in=0, batch_growth=((0, 1),),
        dataset_size=40_000, batch_size=32,
    )  # fmt: skip
    assert "".join(statuses(optimizer, loss, 8)) == "aaaMaaar"


def test_trusted_measurements_are_averaged() -> None:
    """Curvature 1, 2, 4: minima along the line at distance ‖g‖/curvature; their mean."""
    p = nn.Parameter(torch.tensor([0.0], dtype=torch.float64))
    optimizer = published(
        [p],
        step_multiplier=0.0,
        mode="sgd",
        measuring_batches=1,
        reuse=1,
        burn_in=0,
        max_length=9.0,
    )
    rates = []
    for curvature in (1.0, 2.0, 4.0):
        optimizer.step(lambda: 3.0 * p.sum() + 0.5 * curvature * p.square().sum())  # noqa: B023
        rates.append(optimizer.memory.rate)
    assert rates == pytest.approx([1.0, 0.75, 1.75 / 3], rel=1e-8)


def test_the_measured_loss_is_the_mean_over_all_batches() -> None:
    p = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    seen: list[StepOutcome] = []
    optimizer = LABPAL([p], measuring_batches=3, on_measure=seen.append)
    for offset in (1.0, 2.0, 6.0):
        optimizer.step(lambda: offset + p.square().sum())  # noqa: B023
    assert [o.status for o in seen] == [Status.MINIMUM]
    assert seen[0].value0 == pytest.approx(4.0)
    assert seen[0].parabola is not None
    assert seen[0].parabola.curvature == pytest.approx(2.0, rel=1e-9)


def test_sgd_mode_never_moves_further_than_the_cap() -> None:
    p = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = LABPAL([p], step_multiplier=2.0, mode="sgd", measuring_batches=1, max_length=0.5)
    optimizer.step(lambda: p.square().sum())
    optimizer.step(lambda: 1e6 * p.sum())  # a sudden gradient
    assert optimizer.last is not None
    assert optimizer.last.length == pytest.approx(1.0)


def test_no_memory_is_kept_between_updates() -> None:
    """Plain SGD between measurements: no momentum, no kept batch, no kept direction."""
    p, loss = bowl()
    optimizer = published([p], measuring_batches=3, reuse=50)
    for _ in range(5):
        optimizer.step(loss)
    assert not any(optimizer.state[p])


def test_intervals_follow_the_length_of_the_run() -> None:
    p, _ = bowl()
    for total, reuse, burn_in in [
        (None, 1000, 400),
        (3120, 104, 41),
        (10**6, 1000, 400),
        (9, 1, 0),
    ]:
        group = published([p], total_steps=total).param_groups[0]
        assert (group["reuse"], group["burn_in"]) == (reuse, burn_in)


def test_pooled_lines_are_added_up_and_the_older_forgotten() -> None:
    """Slope −9, curvatures 9, 18 and 36 per unit of the rate; 0.8 of each is kept."""
    p = nn.Parameter(torch.tensor([0.0], dtype=torch.float64))
    optimizer = LABPAL(
        [p], step_multiplier=0.0, mode="sgd", measuring_batches=1, reuse=1, measuring_length=1.0
    )
    rates = []
    for curvature in (1.0, 2.0, 4.0):
        optimizer.step(lambda: 3.0 * p.sum() + 0.5 * curvature * p.square().sum())  # noqa: B023
        optimizer.state[p].clear()  # no momentum
        rates.append(optimizer.memory.rate)
    assert rates == pytest.approx([1.0, 1.8 / 2.8, 2.44 / 6.24], rel=1e-8)


def test_a_pooled_rate_at_most_doubles_or_halves_at_a_measurement() -> None:
    p = nn.Parameter(torch.tensor([0.0], dtype=torch.float64))
    optimizer = LABPAL(
        [p], step_multiplier=0.0, mode="sgd", measuring_batches=1, reuse=1, momentum=0.0
    )
    rates = []
    for curvature in (1.0, 1e-6, -1.0, 1e3):
        optimizer.step(lambda: p.sum() + 0.5 * curvature * p.square().sum())  # noqa: B023
        rates.append(optimizer.memory.rate)
    first = rates[0]
    assert first is not None
    assert rates[1:3] == pytest.approx([2.0 * first, 4.0 * first])
    assert rates[3] == pytest.approx(2.0 * first)


def test_nothing_waits_before_a_tenth_of_the_steps_is_earned() -> None:
    p, loss = bowl()
    optimizer = LABPAL([p], step_multiplier=0.1)
    seen = "".join(statuses(optimizer, loss, 300))
    assert seen.startswith("MMMMMM")
    assert all(seen[: i + 1].count("c") <= 0.1 * (i + 1) for i in range(300))
    assert seen.count("c") >= 20


def test_an_update_changes_no_part_of_a_network_much() -> None:
    """Flat far ahead: every minimum is beyond the bound."""
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)).double()
    x = torch.randn(16, 8, dtype=torch.float64)
    optimizer = LABPAL(model, momentum=0.0)
    norm = float(sum(p.detach().square().sum() for p in model.parameters()).sqrt())
    for update in range(40):
        optimizer.step(lambda: model(x).sum())
        share = min(0.04, 0.002 * (update + 1))
        assert optimizer.last is not None
        assert optimizer.last.length <= share * 3.0 * norm


def classify(bad: Any, steps: int = 120, **settings: Any) -> tuple[LABPAL, list[str], float]:
    """A small net on separable data; ``bad`` says which steps have a batch of ignored labels."""
    torch.manual_seed(1)
    x = torch.randn(320, 10)
    y = (x @ torch.randn(10, 3)).argmax(1)
    model = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 3))
    optimizer = LABPAL(model, **settings)
    seen = []
    for i in range(steps):
        rows = torch.arange(32 * i, 32 * i + 32) % 320
        labels = torch.full((32,), -100) if bad(i) else y[rows]
        optimizer.step(lambda: nn.functional.cross_entropy(model(x[rows]), labels))  # noqa: B023
        assert optimizer.last is not None
        seen.append(str(optimizer.last.status))
    return optimizer, seen, float((model(x).argmax(1) == y).float().mean())


@pytest.mark.parametrize(
    "settings", [{}, {"rule": "published", "measuring_length": 0.1, "reuse": 20}]
)
@pytest.mark.parametrize("bad", [lambda i: i % 10 == 9, lambda i: i % 3 == 1, lambda i: i == 0])
def test_batches_without_a_loss_take_no_part(bad: Any, settings: Any) -> None:
    optimizer, seen, accuracy = classify(bad, total_steps=120, **settings)
    assert accuracy > 0.75
    assert seen.count("non_finite") > 0
    assert optimizer.memory.rate is not None


def test_a_measurement_is_that_of_its_good_batches() -> None:
    p = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    seen: list[StepOutcome] = []
    optimizer = LABPAL([p], measuring_batches=3, on_measure=seen.append)
    for offset in (1.0, float("nan"), 2.0, float("inf"), 6.0):
        optimizer.step(lambda: offset + p.square().sum())  # noqa: B023
    assert seen[-1].status is Status.MINIMUM
    assert seen[-1].value0 == pytest.approx(4.0)
    assert [o.status for o in seen[:-1]] == [Status.NON_FINITE] * 2


def test_a_measurement_does_not_wait_for_ever_for_good_batches() -> None:
    p = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = LABPAL([p], measuring_batches=4)
    for offset in (1.0, *4 * [float("nan")]):
        optimizer.step(lambda: offset + p.square().sum())  # noqa: B023
    assert float(p.detach()) != 1.0


def hill() -> tuple[nn.Parameter, Any]:
    p = nn.Parameter(torch.tensor([1e-3, 1e-3], dtype=torch.float64))

    def loss() -> Tensor:
        return -p[0].square() + 0.01 * p[1].square()

    return p, loss


def test_where_the_loss_only_falls_it_moves_and_says_that_there_is_no_minimum() -> None:
    p, loss = hill()
    optimizer = LABPAL([p])
    with pytest.warns(UserWarning, match="found no minimum in"):
        seen = statuses(optimizer, loss, 200)
    assert seen.count("c") <= 200 / 10
    assert abs(float(p.detach()[0])) > 10.0
    assert optimizer.memory.probe_length > 1.0  # type: ignore[operator]


@pytest.mark.parametrize("distance", [1e-4, 1e4])
def test_the_measuring_length_follows_the_minimum(distance: float) -> None:
    p = nn.Parameter(torch.tensor([0.6, 0.8], dtype=torch.float64) * distance)
    optimizer = LABPAL(
        [p], step_multiplier=0.1, mode="sgd", measuring_batches=1, reuse=1, max_length=1e9,
        momentum=0.0,
    )  # fmt: skip
    for _ in range(40):
        optimizer.step(lambda: 30.0 * p.square().sum())
    assert optimizer.memory.rate == pytest.approx(1 / 60, rel=1e-6)
    there = float(p.detach().norm())
    assert optimizer.memory.probe_length == pytest.approx(2.0 * there, rel=0.2)


def test_where_probes_are_not_finite_it_measures_nearer() -> None:
    """The loss ends at a distance of 0.01 from the minimum's line; every step stays within."""
    p = nn.Parameter(torch.tensor([0.004, 0.003], dtype=torch.float64))

    def loss() -> Tensor:
        outside = float(p.detach().norm()) > 0.01
        return p.square().sum() * (float("nan") if outside else 1.0)

    for settings in ({}, {"measuring_length": 0.1, "measuring_batches": 3}):
        with torch.no_grad():
            p.copy_(torch.tensor([0.004, 0.003]))
        optimizer = LABPAL([p], step_multiplier=0.5, **settings)
        for _ in range(60):
            optimizer.step(loss)
            assert torch.isfinite(loss())
        assert float(p.detach().norm()) < 0.0025


def test_a_bounded_step_changes_the_layers_by_its_share_in_the_root_mean_square() -> None:
    """A large embedding over a small layer: what is divided is each layer by its own norm."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(400, 8), nn.Linear(8, 4, bias=False))
    optimizer = LABPAL(model)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step(lambda: -1e6 * model(torch.arange(16)).sum())  # it falls for ever
    change = [
        float((p.detach() - b).norm() / b.norm())
        for p, b in zip(model.parameters(), before, strict=True)
    ]
    assert math.sqrt(sum(c * c for c in change) / 2) == pytest.approx(0.002, rel=0.1)


@pytest.mark.parametrize(("total_steps", "share"), [(400, 0.04), (2500, 0.02)])
def test_many_updates_change_the_layers_less_each(total_steps: int, share: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 4, bias=False))
    optimizer, longest = LABPAL(model, total_steps=total_steps, momentum=0.0), 0.0
    for _ in range(30):
        norms = [float(p.detach().norm()) for p in model.parameters()]
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.step(lambda: 1e6 * model(torch.eye(8)).sum())  # it falls for ever
        change = [
            float((p.detach() - b).norm() / norm)
            for p, b, norm in zip(model.parameters(), before, norms, strict=True)
        ]
        longest = max(longest, math.sqrt(sum(c * c for c in change) / 2))
    assert longest == pytest.approx(share, rel=0.1)
