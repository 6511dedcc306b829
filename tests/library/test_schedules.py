"""Torch's own schedulers with measured bounds: the papers' rates, step by step, and the traps."""

from __future__ import annotations

import copy
import io
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from surefoot.lr_range import (
    NoSuggestion,
    Ramp,
    RangeCurve,
    Suggestion,
    cyclic,
    one_cycle,
    resume_schedule,
)


def parameters(groups: int = 1) -> list[dict[str, Any]]:
    return [{"params": [nn.Parameter(torch.zeros(2))]} for _ in range(groups)]


def sgd(momentum: float = 0.9, lr: float = 0.7) -> torch.optim.SGD:
    return torch.optim.SGD(parameters(), lr=lr, momentum=momentum)


def walk(optimizer: torch.optim.Optimizer, scheduler: Any, steps: int) -> list[dict[str, Any]]:
    """The groups as each of the next ``steps`` optimizer steps sees them."""
    seen = []
    for _ in range(steps):
        seen.append({k: v for k, v in optimizer.param_groups[0].items() if k != "params"})
        optimizer.step()
        scheduler.step()
    return seen


def measured(ramp: Ramp | None = None) -> RangeCurve:
    ramp = ramp or Ramp((1e-4,), (10.0,), 60, "exp")
    lr = [ramp.rates(i)[ramp.reference] for i in range(ramp.num_iter)]
    losses = []
    for rate in lr:
        x = math.log10(rate)
        losses.append(2.3 - 1.2 / (1.0 + math.exp(-6.0 * (x + 1.5))) + 30.0 * max(0.0, x) ** 2)
    return RangeCurve(lr=lr, loss=losses, ramp=ramp)


def line(a: float, b: float, share: float) -> float:
    return a + (b - a) * share


def one_cycle_by_the_paper(
    k: int, total: int, top: float, div: float, final: float, share: float
) -> tuple[float, float]:
    """Rate and momentum of step k: up and down on straight lines, then down by magnitudes.

    The turning points are torch's: the shares are rounded to places between steps.
    """
    up, down, end = share / 2 * total - 1, share * total - 2, total - 1
    low = top / div
    if k <= up:
        return line(low, top, k / up), line(0.95, 0.85, k / up)
    if k <= down:
        s = (k - up) / (down - up)
        return line(top, low, s), line(0.85, 0.95, s)
    return line(low, low / final, (k - down) / (end - down)), 0.95


@pytest.mark.parametrize("total", [100, 57, 312])
@pytest.mark.parametrize(("div", "final", "share"), [(10.0, 1000.0, 0.9), (3.0, 100.0, 0.85)])
def test_one_cycle_follows_the_paper_step_by_step(
    total: int, div: float, final: float, share: float
) -> None:
    optimizer = sgd()
    scheduler = one_cycle(
        optimizer,
        total_steps=total,
        max_lr=2.0,
        div_factor=div,
        final_div_factor=final,
        cycle_share=share,
    )
    assert type(scheduler) is torch.optim.lr_scheduler.OneCycleLR
    for k, group in enumerate(walk(optimizer, scheduler, total)):
        rate, momentum = one_cycle_by_the_paper(k, total, 2.0, div, final, share)
        assert group["lr"] == pytest.approx(rate, rel=1e-9), k
        assert group["momentum"] == pytest.approx(momentum, rel=1e-9), k


def test_the_defaults_are_within_the_papers_advice() -> None:
    optimizer = sgd()
    scheduler = one_cycle(optimizer, total_steps=200, max_lr=1.0)
    rates = [group["lr"] for group in walk(optimizer, scheduler, 200)]
    assert 3.0 <= max(rates) / rates[0] <= 20.0
    assert rates[0] / rates[-1] >= 100.0
    in_cycle = sum(rate >= rates[0] for rate in rates) / 200
    assert 0.85 <= in_cycle <= 0.91


def clr_by_the_paper(
    k: int, base: float, top: float, step: float, mode: str, gamma: float
) -> float:
    """1506.01186, the code of its section 3.2, with the three policies of its section 3.1."""
    cycle = math.floor(1 + k / (2 * step))
    x = abs(k / step - 2 * cycle + 1)
    scale = {"triangular": 1.0, "triangular2": 1 / 2 ** (cycle - 1), "exp_range": gamma**k}[mode]
    return base + (top - base) * max(0.0, 1.0 - x) * scale


@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
@pytest.mark.parametrize(("per_epoch", "epochs"), [(7, 16), (5, 24), (3, 6)])
def test_cyclic_follows_the_paper_step_by_step(mode: str, per_epoch: int, epochs: int) -> None:
    optimizer = sgd()
    scheduler = cyclic(
        optimizer,
        steps_per_epoch=per_epoch,
        epochs=epochs,
        base_lr=0.1,
        max_lr=0.6,
        mode=mode,
        gamma=0.99,
    )
    assert type(scheduler) is torch.optim.lr_scheduler.CyclicLR
    step = scheduler.total_size / 2
    assert 2 * per_epoch <= step <= 10 * per_epoch if epochs > 6 else step == epochs * per_epoch / 2
    total = per_epoch * epochs
    assert (total / (2 * step)).is_integer()  # the run ends with a cycle
    groups = walk(optimizer, scheduler, total)
    for k, group in enumerate(groups):
        expected = clr_by_the_paper(k, 0.1, 0.6, step, mode, 0.99)
        assert group["lr"] == pytest.approx(expected, rel=1e-9), k
        assert group["momentum"] == 0.9
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("epochs", "wanted", "expected"),
    [
        (16, None, 4.0),
        (24, None, 4.0),
        (24, 6.0, 6.0),
        (10, None, 5.0),
        (100, 10.0, 10.0),
        (5, 2.0, 2.5),
    ],
)
def test_step_sizes_make_whole_cycles(epochs: int, wanted: float | None, expected: float) -> None:
    scheduler = cyclic(
        sgd(),
        steps_per_epoch=10,
        epochs=epochs,
        step_size_epochs=wanted,
        base_lr=0.1,
        max_lr=0.2,
    )
    assert scheduler.total_size == 20 * expected


def test_a_run_too_short_for_a_cycle_says_so() -> None:
    with pytest.warns(UserWarning, match="3 epochs are too short"):
        scheduler = cyclic(sgd(), steps_per_epoch=10, epochs=3, base_lr=0.1, max_lr=0.2)
    assert scheduler.total_size == 30


def test_bounds_come_from_the_curve() -> None:
    curve = measured()
    optimizer = sgd()
    scheduler = cyclic(optimizer, curve, steps_per_epoch=10)
    assert scheduler.base_lrs == [curve.suggestion("smith_base")]
    assert scheduler.max_lrs == [curve.suggestion("smith_max")]
    assert optimizer.param_groups[0]["lr"] == curve.suggestion("smith_base")
    assert scheduler.total_size == 80
    one_cycle(optimizer, curve, total_steps=100)
    assert optimizer.param_groups[0]["max_lr"] == curve.suggestion()


def test_one_cycle_takes_a_suggestion_and_cyclic_falls_back_to_a_quarter() -> None:
    optimizer = sgd()
    one_cycle(optimizer, total_steps=100, max_lr=measured().suggest("minimum_tenth"))
    assert optimizer.param_groups[0]["max_lr"] == measured().suggestion("minimum_tenth")
    scheduler = cyclic(optimizer, steps_per_epoch=10, max_lr=0.8)
    assert scheduler.base_lrs == [0.2]


def test_groups_keep_the_ratios_that_were_measured() -> None:
    curve = measured(Ramp((1e-4, 1e-5), (10.0, 1.0), 60, "exp"))
    optimizer = torch.optim.SGD(parameters(2), lr=0.3)
    one_cycle(optimizer, curve, total_steps=100, max_lr=1.0)
    assert [group["max_lr"] for group in optimizer.param_groups] == pytest.approx([1.0, 0.1])
    one_cycle(optimizer, total_steps=100, max_lr=[1.0, 0.5])
    assert [group["max_lr"] for group in optimizer.param_groups] == [1.0, 0.5]


# -- traps ----------------------------------------------------------------------------------------


def silent(optimizer: torch.optim.Optimizer, key: str = "momentum") -> Any:
    return optimizer.param_groups[0].get(key)


@pytest.mark.parametrize("build", [one_cycle, cyclic])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.RMSprop])
def test_momentum_is_never_switched_on(build: Any, make: Any) -> None:
    optimizer = make(parameters(), lr=0.1)
    length = {"total_steps": 40} if build is one_cycle else {"steps_per_epoch": 5, "epochs": 8}
    extra = {} if build is one_cycle else {"base_lr": 0.01, "momentum": (0.85, 0.95)}
    scheduler = build(optimizer, max_lr=0.1, **length, **extra)
    assert all(group["momentum"] == 0 for group in walk(optimizer, scheduler, 40))


def test_momentum_is_cycled_only_in_the_groups_that_use_it() -> None:
    groups = parameters(2)
    groups[1]["momentum"] = 0.0
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    scheduler = one_cycle(optimizer, total_steps=40, max_lr=0.1)
    lowest = 1.0
    for _ in range(40):
        lowest = min(lowest, optimizer.param_groups[0]["momentum"])
        assert optimizer.param_groups[1]["momentum"] == 0.0
        optimizer.step()
        scheduler.step()
    assert lowest == pytest.approx(0.85, abs=0.01)


def test_beta1_is_cycled_upside_down_and_beta2_left_alone() -> None:
    optimizer = torch.optim.AdamW(parameters(), lr=0.1)
    scheduler = one_cycle(optimizer, total_steps=100, max_lr=0.1)
    betas = [group["betas"] for group in walk(optimizer, scheduler, 100)]
    assert betas[0] == (0.95, 0.999)
    assert betas[44] == pytest.approx((0.85, 0.999))
    assert {b2 for _, b2 in betas} == {0.999}
    optimizer = torch.optim.AdamW(parameters(), lr=0.1)
    scheduler = one_cycle(optimizer, total_steps=100, max_lr=0.1, momentum=None)
    assert {group["betas"] for group in walk(optimizer, scheduler, 100)} == {(0.9, 0.999)}


@pytest.mark.parametrize("build", [one_cycle, cyclic])
def test_what_an_earlier_scheduler_left_does_not_count(build: Any) -> None:
    """Torch's CyclicLR starts at the old initial_lr here, not at its own base_lr."""
    optimizer = sgd(lr=0.1)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    optimizer.param_groups[0]["initial_lr"] = 0.1
    trap = torch.optim.lr_scheduler.CyclicLR(copy.deepcopy(optimizer), base_lr=0.001, max_lr=0.01)
    assert trap.get_last_lr() == [0.1]
    if build is one_cycle:
        build(optimizer, total_steps=50, max_lr=0.01)
    else:
        build(optimizer, steps_per_epoch=5, base_lr=0.001, max_lr=0.01)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.001)
    assert optimizer.param_groups[0]["initial_lr"] == pytest.approx(0.001)


def test_one_step_past_the_end_holds_the_minimum_and_the_next_is_an_error() -> None:
    optimizer = sgd()
    scheduler = one_cycle(optimizer, total_steps=50, max_lr=1.0)
    last = walk(optimizer, scheduler, 50)[-1]["lr"]
    assert last == pytest.approx(1e-4)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(last, rel=1e-9)
    optimizer.step()
    with pytest.raises(ValueError, match="Tried to step 51 times"):
        scheduler.step()


def save(*objects: Any) -> list[Any]:
    """What a checkpoint on disk would hold: no shared tensors or lists."""
    return [copy.deepcopy(o.state_dict()) for o in objects]


@pytest.mark.parametrize("place", [1, 20, 45, 60, 77])
def test_a_resumed_run_equals_an_uninterrupted_one(place: int) -> None:
    def build() -> tuple[torch.optim.Optimizer, Any]:
        optimizer = sgd()
        return optimizer, one_cycle(optimizer, total_steps=80, max_lr=1.0)

    whole = walk(*build(), 80)
    optimizer, scheduler = build()
    walk(optimizer, scheduler, place)
    state = save(optimizer, scheduler)
    optimizer = sgd()
    optimizer.load_state_dict(state[0])
    scheduler = one_cycle(optimizer, total_steps=80, max_lr=1.0)
    kept = copy.deepcopy(state[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resume_schedule(scheduler, state[1])
        rest = walk(optimizer, scheduler, 80 - place)
    assert rest == whole[place:]
    assert state[1] == kept


def test_a_resumed_cyclic_run_equals_an_uninterrupted_one() -> None:
    def build(optimizer: torch.optim.Optimizer) -> Any:
        return cyclic(
            optimizer, steps_per_epoch=5, epochs=8, base_lr=0.1, max_lr=0.5, momentum=(0.85, 0.95)
        )

    optimizer = sgd()
    whole = walk(optimizer, build(optimizer), 40)
    optimizer = sgd()
    scheduler = build(optimizer)
    walk(optimizer, scheduler, 13)
    state = save(optimizer, scheduler)
    for _ in range(2):  # the same saved state serves twice
        optimizer = sgd()
        optimizer.load_state_dict(state[0])
        scheduler = build(optimizer)
        resume_schedule(scheduler, state[1])
        assert walk(optimizer, scheduler, 27) == whole[13:]


def test_a_longer_schedule_keeps_its_length_when_resumed() -> None:
    """Torch's load_state_dict would take the old length over and fail at the old end."""
    optimizer = sgd()
    scheduler = one_cycle(optimizer, total_steps=20, max_lr=1.0)
    walk(optimizer, scheduler, 12)
    state = save(optimizer, scheduler)

    optimizer = sgd()
    optimizer.load_state_dict(state[0])
    scheduler = one_cycle(optimizer, total_steps=40, max_lr=1.0)
    resume_schedule(scheduler, state[1])
    rates = [group["lr"] for group in walk(optimizer, scheduler, 28)]
    fresh = sgd()
    expected = [
        group["lr"] for group in walk(fresh, one_cycle(fresh, total_steps=40, max_lr=1.0), 40)
    ]
    assert rates == expected[12:]

    with pytest.raises(ValueError, match="had made 12 steps, this schedule has 10"):
        resume_schedule(one_cycle(sgd(), total_steps=10, max_lr=1.0), state[1])
    other = torch.optim.lr_scheduler.StepLR(sgd(), 3)
    with pytest.raises(TypeError, match="not StepLR"):
        resume_schedule(other, state[1])  # type: ignore[arg-type]


def test_schedulers_can_be_saved_without_pickling_code(tmp_path: Any) -> None:
    scheduler = one_cycle(sgd(), total_steps=50, max_lr=1.0)
    path = tmp_path / "scheduler.pt"
    torch.save(scheduler.state_dict(), path)
    assert torch.load(path, weights_only=True)["total_steps"] == 50


def test_rates_kept_as_tensors_stay_tensors() -> None:
    rate = torch.tensor(0.5)
    optimizer = torch.optim.SGD(parameters(), lr=rate, momentum=0.9, foreach=False)
    one_cycle(optimizer, total_steps=50, max_lr=1.0)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(0.1)
    cyclic(optimizer, steps_per_epoch=5, base_lr=0.25, max_lr=1.0)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(0.25)


FLAT = RangeCurve(
    [0.1 * 2**i for i in range(9)], [1.0, 1.1] * 4 + [1.0], Ramp((0.1,), (25.6,), 9, "exp")
)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "pass a range curve, or the rate itself"),
        ({"curve": FLAT}, "no learning rate from rule"),
        ({"max_lr": Suggestion(None, "valley", "too few points")}, "too few points"),
        ({"max_lr": -1.0}, "0 or more"),
        ({"max_lr": math.nan}, "must be finite"),
        ({"max_lr": [1.0, 2.0]}, "2 rates for 1 param groups"),
        ({"max_lr": 1.0, "total_steps": 3}, "at least 4 steps for the cycle"),
        ({"max_lr": 1.0, "total_steps": 50.0}, "total_steps must be a whole number"),
        ({"max_lr": 1.0, "cycle_share": 1.0}, "cycle_share must lie between 0 and 1"),
        ({"max_lr": 1.0, "div_factor": 1.0}, "must be above 1"),
        ({"max_lr": 1.0, "momentum": (0.95, 0.85)}, r"\(lowest, highest\)"),
    ],
)
def test_bad_settings_of_one_cycle_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        one_cycle(sgd(), **{"total_steps": 100, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps_per_epoch": 0}, "steps_per_epoch must be"),
        ({"epochs": 0}, "epochs must be"),
        ({"step_size_epochs": 1.0}, "between 2 and 10"),
        ({"base_lr": 1.0, "max_lr": 0.5}, "base_lr 1 must lie below max_lr 0.5"),
        ({"mode": "square"}, 'mode must be "triangular"'),
    ],
)
def test_bad_settings_of_cyclic_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cyclic(sgd(), **{"steps_per_epoch": 5, "max_lr": 1.0, **settings})


def test_a_curve_without_an_answer_raises_its_own_error_and_changes_nothing() -> None:
    optimizer = sgd()
    before = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
    with pytest.raises(NoSuggestion):
        one_cycle(optimizer, FLAT, total_steps=100)
    assert {k: v for k, v in optimizer.param_groups[0].items() if k != "params"} == before


LATE: dict[str, Callable[..., Any]] = {
    "one_cycle": lambda o, tops: one_cycle(o, total_steps=40, max_lr=tops, momentum=(0.8, 0.9)),
    "cyclic": lambda o, tops: cyclic(
        o,
        steps_per_epoch=5,
        epochs=8,
        base_lr=[t / 4 for t in tops],
        max_lr=tops,
        momentum=(0.8, 0.9),
    ),
}


@pytest.mark.parametrize("name", LATE)
@pytest.mark.parametrize("first", ["optimizer", "scheduler"])
@pytest.mark.parametrize("lr", [0.05, None])
def test_a_group_added_later_walks_as_if_it_had_always_been_there(
    name: str, first: str, lr: float | None
) -> None:
    """Its lr is its maximum; without one, it walks as the first."""
    early, late = (nn.Parameter(torch.ones(2)) for _ in range(2))
    sgd = torch.optim.SGD([early], lr=0.1, momentum=0.85)
    scheduler = LATE[name](sgd, [2.0])
    twin = torch.optim.SGD([{"params": [early]}, {"params": [late]}], lr=0.1, momentum=0.85)
    whole = LATE[name](twin, [2.0, 2.0 if lr is None else lr])
    for i in range(39):
        if i == 17:
            sgd.add_param_group({"params": [late], **({} if lr is None else {"lr": lr})})
        if not (i == 17 and first == "scheduler"):  # torch wants the optimizer first; not all do it
            sgd.step()
        twin.step()
        scheduler.step()
        whole.step()
        for ours, theirs in zip(sgd.param_groups, twin.param_groups, strict=False):
            assert ours["lr"] == pytest.approx(theirs["lr"], rel=1e-9)
            assert ours["momentum"] == pytest.approx(theirs["momentum"], rel=1e-9)
        assert scheduler.get_last_lr() == [group["lr"] for group in sgd.param_groups]
    assert len(sgd.param_groups) == 2


@pytest.mark.parametrize("name", LATE)
def test_a_resumed_schedule_takes_late_groups_along(name: str) -> None:
    early, late = (nn.Parameter(torch.ones(2)) for _ in range(2))
    sgd = torch.optim.SGD([early], lr=0.1, momentum=0.85)
    scheduler = LATE[name](sgd, [2.0])
    for _ in range(9):
        sgd.step()
        scheduler.step()
    sgd.add_param_group({"params": [late], "lr": 0.5})
    place, state = [group["lr"] for group in sgd.param_groups], scheduler.state_dict()
    fresh = torch.optim.SGD([early], lr=0.1, momentum=0.85)
    again = LATE[name](fresh, [2.0])
    fresh.add_param_group({"params": [late], "lr": 0.5})
    resume_schedule(again, state)
    assert [group["lr"] for group in fresh.param_groups] == pytest.approx(place)


def test_a_later_schedule_replaces_the_earlier_ones_hand() -> None:
    early, late = (nn.Parameter(torch.ones(2)) for _ in range(2))
    sgd = torch.optim.SGD([early], lr=0.1)
    old = one_cycle(sgd, total_steps=40, max_lr=9.0)
    new = one_cycle(sgd, total_steps=40, max_lr=2.0)
    sgd.add_param_group({"params": [late]})
    assert sgd.param_groups[1]["max_lr"] == 2.0
    assert len(old.base_lrs) == 1
    assert len(new.base_lrs) == 2


def test_an_optimizer_with_a_schedule_is_copied_and_pickled_as_before() -> None:
    sgd = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    scheduler = one_cycle(sgd, total_steps=40, max_lr=2.0)
    for twin in (copy.deepcopy(sgd), pickle.loads(pickle.dumps(sgd))):
        assert twin.param_groups[0]["lr"] == sgd.param_groups[0]["lr"]
        twin.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    torch.save(scheduler.state_dict(), io.BytesIO())
    assert len(sgd.param_groups) == 1
