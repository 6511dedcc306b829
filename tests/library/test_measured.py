"""MeasuredLR: leaves the wrapped optimizer as it is, measures what it says, stays in its budget."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _measured import (
    BASES,
    WAYS,
    QuadraticModel,
    assert_equal,
    build,
    build_plain,
    loop_step,
    measure_now,
    plain,
    walk,
)
from _problems import assert_same, batches, noisy, snapshot
from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR, LinearLR, OneCycleLR, StepLR

from surefoot import LABPAL, PAL, MeasuredLR, Status, is_measuring

# some optimizers write into the gradients
pytestmark = pytest.mark.filterwarnings("ignore:.*so slopes are measured from losses")

# Nothing but the rate is changed


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", BASES)
def test_with_the_rate_frozen_training_is_the_plain_optimizers_to_the_bit(
    name: str, way: str
) -> None:
    """Weights, buffers, random numbers, losses, the optimizer's state; measured all the while."""
    data = batches(12)
    model, base = build_plain(name)
    losses = walk(model, base, data)
    random = torch.get_rng_state()
    other, wrapped, optimizer = build(name, frozen=True, overhead=3.0)
    assert walk(other, optimizer, data, way) == losses
    assert optimizer.cost.probes >= 12
    assert optimizer.rate.value is not None
    assert_same(snapshot(model), snapshot(other))
    assert torch.equal(random, torch.get_rng_state())
    assert_equal(plain(base.state_dict()), plain(wrapped.state_dict()))


@pytest.mark.parametrize("way", [way for way in WAYS if way != "loop"])
@pytest.mark.parametrize("name", ["momentum", "adamw", "schedulefree", "pytorch_optimizer-muon"])
def test_every_way_to_drive_it_takes_the_same_steps_to_the_bit(name: str, way: str) -> None:
    found = []
    for each in ("loop", way):
        model, _, optimizer = build(name, total_steps=30, overhead=0.3)
        losses = walk(model, optimizer, batches(20), each)
        assert optimizer.cost.probes >= 8
        found.append((losses, snapshot(model), optimizer.rate, torch.get_rng_state()))
    assert_equal(*found)


def test_a_measured_step_is_the_bases_step_at_the_measured_rate() -> None:
    """A plain twin that is told each rate walks the same way: to the bit between measurements."""
    model, base, optimizer = build("momentum", total_steps=60)
    exact = 0
    for batch in batches(40):
        twin, twin_base = copy.deepcopy((model, base))
        random = torch.get_rng_state()
        walk(model, optimizer, [batch])
        torch.set_rng_state(random)
        for group in twin_base.param_groups:
            group["lr"] = group["effective_lr"] = base.param_groups[0]["effective_lr"]
        walk(twin, twin_base, [batch])
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
        assert optimizer.last is not None
        if not optimizer.last.status.measured:
            assert_same(snapshot(model), snapshot(twin))
            exact += 1
    assert exact > 15


@pytest.mark.parametrize("name", ["momentum", "adamw", "schedulefree"])
def test_hooks_of_the_base_see_one_step_a_step(name: str) -> None:
    model, base, optimizer = build(name, overhead=9.0)
    calls: list[str] = []
    base.register_step_pre_hook(lambda *_: calls.append("before"))
    base.register_step_post_hook(lambda *_: calls.append("after"))
    walk(model, optimizer, batches(4))
    assert optimizer.cost.probes >= 4
    assert calls == ["before", "after"] * 4


def test_between_measurements_the_model_has_no_hooks() -> None:
    model, _, optimizer = build("adamw", total_steps=200)
    bare = 0
    for batch in batches(200):
        hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
        walk(model, optimizer, [batch])
        assert optimizer.last is not None
        assert (hooks > 0) == optimizer.last.status.measured
        bare += hooks == 0
    assert bare > 120


# What is measured

MAKERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 1e-4),
    "far-too-long": lambda p: torch.optim.SGD(p, 1.0),
    "momentum": lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-4, weight_decay=0.3),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-4),
    "adagrad": lambda p: torch.optim.Adagrad(p, 1e-3),
}


def parabola_of_the_next_step(
    model: QuadraticModel, base: torch.optim.Optimizer
) -> tuple[float, float, float]:
    """Slope, curvature and length of a plain optimizer's next step, from the matrix."""
    twin, twin_base = copy.deepcopy((model, base))
    before = twin.theta
    loop_step(twin_base, twin.loss)
    d = twin.theta - before
    slope = float(twin.problem.gradient(before) @ d)
    return slope, float(d @ twin.problem.A @ d), float(d.norm())


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", MAKERS)
def test_what_is_measured_is_the_minimum_along_the_bases_own_step(name: str, frozen: bool) -> None:
    """With all of its memory, at every step, however much of the step is taken."""
    model = QuadraticModel()
    base = MAKERS[name](model.parameters())
    optimizer = MeasuredLR(
        base, model, averaging=False, overhead=99.0, frozen=frozen and name != "far-too-long"
    )
    for _ in range(12):
        measure_now(optimizer)
        slope, curvature, length = parabola_of_the_next_step(model, base)
        loop_step(optimizer, model.loss)
        last = optimizer.last
        assert last is not None
        assert last.parabola is not None
        assert last.parabola.vertex == pytest.approx(-slope / curvature, rel=1e-6)
        assert last.parabola.slope0 == pytest.approx(slope, rel=1e-6)
        assert last.direction_norm == pytest.approx(length, rel=1e-9)
        assert last.length == pytest.approx(last.t * length, rel=1e-9)


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop", "far-too-long"])
def test_the_first_rate_is_that_minimum_and_is_walked_to_in_eighths(name: str) -> None:
    model = QuadraticModel()
    base = MAKERS[name](model.parameters())
    slope, curvature, _ = parabola_of_the_next_step(model, base)
    optimizer = MeasuredLR(base, model, averaging=False, step_adaptation=1.0)
    loop_step(optimizer, model.loss)
    assert optimizer.rate.value == pytest.approx(-slope / curvature, rel=1e-6)
    assert optimizer.last is not None
    assert optimizer.last.status is Status.MINIMUM
    # one measurement leaves all doubt: half of the rate, of that an eighth
    assert optimizer.last.t == pytest.approx(optimizer.rate.value / 16, rel=1e-6)


def test_of_a_heavy_ball_the_rate_is_that_of_a_filled_buffer() -> None:
    """In the first step the update is a tenth of what the same gradient will do."""
    model = QuadraticModel()
    base = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    slope, curvature, _ = parabola_of_the_next_step(model, base)
    optimizer = MeasuredLR(base, model, averaging=False)
    loop_step(optimizer, model.loss)
    assert optimizer.rate.value == pytest.approx(-slope / curvature / 10, rel=0.05)


def test_every_measurement_is_reported() -> None:
    told: list[Any] = []
    model, _, optimizer = build("adamw", on_measure=told.append)
    kept = []
    for batch in batches(30):
        walk(model, optimizer, [batch])
        kept.append(optimizer.last)
    assert told == [outcome for outcome in kept if outcome is not None and outcome.status.measured]
    assert 5 <= len(told) < 30


# What it costs


class Passes:
    """Forward passes of a model, replays among them, and backward passes, counted by hooks."""

    def __init__(self, model: nn.Module) -> None:
        self.forwards = self.replays = self.backwards = 0
        model.register_forward_hook(self._forward)
        next(model.parameters()).register_hook(self._backward)

    def _forward(self, *_: Any) -> None:
        self.forwards += 1
        self.replays += is_measuring()

    def _backward(self, _: Tensor) -> None:
        self.backwards += 1

    @property
    def equivalents(self) -> int:
        return self.forwards + 2 * self.backwards


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["momentum", "schedulefree"])
def test_the_budget_is_kept_and_counted_by_others(name: str, way: str) -> None:
    model, _, optimizer = build(name, total_steps=200)
    passes = Passes(model)
    walk(model, optimizer, batches(200, size=4), way)
    assert passes.forwards == optimizer.cost.forwards
    assert passes.backwards == optimizer.cost.backwards == 200
    assert passes.replays == optimizer.cost.probes == passes.forwards - 200
    assert 1.015 * 600 < passes.equivalents <= 1.03 * 600


@pytest.mark.parametrize("overhead", [0.01, 0.1])
@pytest.mark.parametrize("steps", [60, 1000])
def test_runs_short_and_long_keep_their_budget(steps: int, overhead: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    base = torch.optim.AdamW(model.parameters())
    optimizer = MeasuredLR(base, model, total_steps=steps, overhead=overhead, max_change=math.inf)
    passes = Passes(model)
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    for _ in range(steps):
        loop_step(optimizer, lambda: nn.functional.mse_loss(model(x), y))
    first = 8  # the first measurement is made whatever it costs
    assert passes.equivalents <= max((1 + overhead) * 3 * steps, 3 * steps + first)
    assert passes.replays == optimizer.cost.probes >= 1


def test_with_accumulation_a_replay_is_one_micro_batchs() -> None:
    model, _, optimizer = build("adamw", total_steps=100)
    passes = Passes(model)
    data = batches(400, size=4)
    for k in range(0, 400, 4):
        for x, y in data[k : k + 4]:
            (nn.functional.cross_entropy(model(x), y) / 4).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert passes.forwards == optimizer.cost.forwards
    assert passes.backwards == optimizer.cost.backwards == 400
    assert 0 < passes.replays == passes.forwards - 400
    assert passes.equivalents <= 1.03 * 1200


def test_no_budget_is_one_measurement() -> None:
    model, _, optimizer = build("sgd", overhead=0.0)
    walk(model, optimizer, batches(20))
    probes = optimizer.cost.probes
    walk(model, optimizer, batches(20))
    assert optimizer.cost.probes == probes >= 1


# Groups


def test_groups_keep_their_ratios() -> None:
    model = noisy()
    parts = {name: model.get_submodule(name).parameters() for name in ("conv", "head", "norm")}
    base = torch.optim.AdamW(
        [{"params": parts["conv"], "lr": 1e-3}, {"params": parts["head"], "lr": 1e-4}]
    )
    optimizer = MeasuredLR(base, model, total_steps=40)
    for batch in batches(20):
        walk(model, optimizer, [batch])
        first, second = (group["effective_lr"] for group in optimizer.param_groups)
        assert first == pytest.approx(10 * second, rel=1e-12)
    assert [group["lr"] for group in base.param_groups] == [1e-3, 1e-4]


@pytest.mark.parametrize("at", ["wrapper", "base"])
def test_a_group_may_be_added_later_to_either(at: str) -> None:
    model = noisy()
    head = model.get_submodule("head")
    base = torch.optim.AdamW(model.get_submodule("conv").parameters(), 1e-3)
    optimizer = MeasuredLR(base, model, averaging=False, overhead=0.5)
    walk(model, optimizer, batches(6))
    before = snapshot(head)
    added = optimizer if at == "wrapper" else base
    added.add_param_group({"params": head.parameters(), "lr": 2e-3})
    probes = optimizer.cost.probes
    for batch in batches(12):
        walk(model, optimizer, [batch])
        first, second = (group["effective_lr"] for group in base.param_groups)
        assert second == pytest.approx(2 * first, rel=1e-12)
        assert first > 0.0
    assert optimizer.cost.probes > probes
    assert not torch.equal(before["weight"], head.weight)


def test_layers_may_be_frozen_and_thawed() -> None:
    model, _, optimizer = build("adamw", overhead=1.0)
    conv = model.get_submodule("conv")
    walk(model, optimizer, batches(4))
    conv.requires_grad_(False)
    before, probes = snapshot(conv), optimizer.cost.probes
    walk(model, optimizer, batches(6))
    assert_same(before, snapshot(conv))
    assert optimizer.cost.probes > probes
    conv.requires_grad_(True)
    walk(model, optimizer, batches(4))
    assert not torch.equal(before["weight"], conv.weight)


# Horizon and schedulers


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(
    ("options", "alpha", "falls"),
    [
        ({"total_steps": 40}, None, True),
        ({}, 1.0, False),
        ({"total_steps": 40, "horizon": "none"}, 1.0, False),
        ({"total_steps": 40, "step_adaptation": 0.5}, 0.5, True),
        ({"step_adaptation": 0.5}, 0.5, False),
    ],
)
def test_what_is_applied_between_measurements(
    options: dict[str, Any], alpha: float | None, falls: bool, batch_norm: bool
) -> None:
    """lr · α · ebb · horizon · the rate in use; α is 3 where a horizon takes it back."""
    torch.manual_seed(0)
    x, y = torch.randn(64, 3), torch.randn(64, 1)
    norm = nn.BatchNorm1d(3) if batch_norm else nn.Identity()
    model = nn.Sequential(norm, nn.Linear(3, 1))
    base = torch.optim.SGD(model.parameters(), 0.1)
    optimizer = MeasuredLR(base, model, **{"averaging": False, "max_change": math.inf, **options})
    expected = (1.0 if batch_norm else 3.0) if alpha is None else alpha
    between = 0
    for step in range(40):
        in_use = optimizer._stepper.rate.in_use
        loop_step(optimizer, lambda: nn.functional.mse_loss(model(x), y))
        ebb = optimizer._stepper.rate.ebb
        assert optimizer.last is not None
        if step > 4 and not optimizer.last.status.measured:
            left = 1.0 - step / 40 if falls else 1.0
            applied = base.param_groups[0]["effective_lr"]
            assert applied == pytest.approx(0.1 * expected * ebb * left * in_use)
            assert optimizer.last.effective_lr == applied
            between += 1
    assert between > 10


def once(problem: QuadraticModel, **options: Any) -> MeasuredLR:
    """One measurement, at the start; no bound."""
    base = torch.optim.SGD(problem.parameters(), 1e-3)
    return MeasuredLR(base, problem, averaging=False, overhead=0.0, max_change=math.inf, **options)


def test_the_rate_falls_linearly_to_nothing() -> None:
    model = QuadraticModel()
    optimizer = once(model, total_steps=10, step_adaptation=1.0)
    rates = []
    for _ in range(10):
        loop_step(optimizer, model.loss)
        rates.append(optimizer.param_groups[0]["effective_lr"])
    approach = [1 / 8, 1 / 8, 1 / 4, 1 / 2, *(6 * [1.0])]
    expected = [8 * rates[0] * share * (1 - k / 10) for k, share in enumerate(approach)]
    assert rates == pytest.approx(expected, rel=1e-9)
    before = model.theta
    with pytest.warns(UserWarning, match="total_steps=10"):
        loop_step(optimizer, model.loss)
    assert torch.equal(before, model.theta)
    optimizer.total_steps = 20
    loop_step(optimizer, model.loss)
    assert not torch.equal(before, model.theta)


def test_schedulers_multiply_the_measured_rate() -> None:
    ends = []
    for scheduled in (False, True):
        model = QuadraticModel()
        optimizer = once(model)
        scheduler = StepLR(optimizer, 2, 0.5) if scheduled else None
        rates = []
        for _ in range(6):
            loop_step(optimizer, model.loss)
            rates.append(optimizer.param_groups[0]["effective_lr"])
            if scheduler is not None:
                scheduler.step()
        ends.append(rates)
    expected = [r * f for r, f in zip(ends[0], [1, 1, 0.5, 0.5, 0.25, 0.25], strict=True)]
    assert ends[1] == pytest.approx(expected)


def test_a_schedulers_factor_does_not_disturb_what_is_measured() -> None:
    found = []
    for factor in (1.0, 0.01):
        model = QuadraticModel()
        optimizer = once(model)
        LinearLR(optimizer, factor, total_iters=100)
        loop_step(optimizer, model.loss)
        found.append((optimizer.rate.value, optimizer.param_groups[0]["effective_lr"]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert found[1][1] == pytest.approx(0.01 * found[0][1], rel=1e-6)


@pytest.mark.parametrize("name", ["adamw", "adamw-capturable-rate"])
def test_one_cycle_takes_it_for_an_optimizer(name: str) -> None:
    """Its peak, given in the group's own unit, is the measured rate."""
    model, base, optimizer = build(name, horizon="none", overhead=0.0)
    scheduler = OneCycleLR(optimizer, max_lr=1e-3, total_steps=20, cycle_momentum=False)
    for batch in batches(20):
        factor, in_use = float(base.param_groups[0]["lr"]) / 1e-3, optimizer._stepper.rate.in_use
        walk(model, optimizer, [batch])
        if optimizer._stepper.steps > 5:
            applied = base.param_groups[0]["effective_lr"]
            assert applied == pytest.approx(1e-3 * factor * in_use, rel=1e-6)
        scheduler.step()


# No step changes the weights by more than a share of their norm


def _change(optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> tuple[float, float]:
    """How far a step moved the weights, and their norm, PyTorch's initial one at least."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    before = torch.cat([p.detach().flatten().clone() for p in params])
    loop_step(optimizer, loss)
    after = torch.cat([p.detach().flatten() for p in params])
    initial = math.sqrt(sum(p.shape[0] for p in params if p.dim() >= 2) / 3)
    return float((after - before).norm()), max(float(before.norm()), initial)


class Far(nn.Module):
    """Two layers, perhaps with BatchNorm, and a loss whose minimum is far away."""

    def __init__(self, batch_norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(4) if batch_norm else nn.Identity()
        self.inner = nn.Sequential(nn.Linear(4, 4), norm, nn.Linear(4, 4))

    def forward(self) -> Tensor:
        return torch.stack([p.sum() for p in self.parameters()])

    def loss(self) -> Tensor:
        return 1e3 - self().sum()


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_no_step_changes_the_weights_by_more_than_a_share_of_their_norm(make: Any) -> None:
    changes = {}
    for share in (math.inf, 0.05):
        model = Far()
        base = make(model.parameters(), lr=1e-3)
        optimizer = MeasuredLR(base, model, averaging=False, max_change=share, overhead=9.0)
        changes[share], began = [], math.inf
        for _ in range(16):
            size = optimizer._stepper.rate.size  # today's norm is the one measured last
            moved, norm = _change(optimizer, model.loss)
            began = min(began, norm)  # the weights grow, what they may change by half as fast
            changes[share].append(moved / math.sqrt(began * min(size, norm)))
            assert optimizer.last is not None
            assert optimizer.last.effective_lr == base.param_groups[0]["effective_lr"]
    assert max(changes[math.inf]) > 0.08
    assert changes[0.05][-1] == pytest.approx(0.05, rel=2e-3)
    assert max(changes[0.05]) <= 0.05 * (1 + 2e-3)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_bound_is_3_percent_where_there_is_no_batch_norm(batch_norm: bool) -> None:
    model = Far(batch_norm)
    optimizer = MeasuredLR(
        torch.optim.SGD(model.parameters(), 1e-3), model, averaging=False, overhead=9.0
    )
    moves, norms = zip(*(_change(optimizer, model.loss) for _ in range(16)), strict=True)
    smallest = itertools.accumulate(norms, min)
    halfway = [math.sqrt(now * least) for now, least in zip(norms, smallest, strict=True)]
    largest = max(moved / norm for moved, norm in zip(moves, halfway, strict=True))
    if batch_norm:
        assert largest > 0.06
    else:
        assert largest == pytest.approx(0.03, rel=2e-3)


def test_the_bound_falls_with_the_horizon_and_with_a_scheduler() -> None:
    model = Far()
    base = torch.optim.SGD(model.parameters(), 1e-3)
    optimizer = MeasuredLR(base, model, max_change=0.01, total_steps=40, overhead=9.0)
    ConstantLR(optimizer, factor=0.5, total_iters=100)
    changes = [_change(optimizer, model.loss) for _ in range(30)]
    began = min(norm for _, norm in changes)
    assert changes[29][0] / began == pytest.approx(0.5 * 0.01 * 11 / 40, rel=2e-3)
    base.param_groups[0]["lr"] *= 100.0  # a schedule that raises the rate does not raise the bound
    moved, norm = _change(optimizer, model.loss)
    assert moved / min(began, norm) == pytest.approx(0.01 * 10 / 40, rel=2e-3)


def test_a_capped_step_says_so_and_a_run_of_them_is_told_once() -> None:
    model = Far()
    optimizer = MeasuredLR(
        torch.optim.SGD(model.parameters(), 1e-3), model, averaging=False, max_change=0.001
    )
    statuses = []

    def train() -> None:
        for _ in range(150):
            loop_step(optimizer, model.loss)
            assert optimizer.last is not None
            statuses.append(optimizer.last.status)

    with pytest.warns(UserWarning, match="most of the last 50 steps were shortened") as seen:
        train()
    assert len(seen) == 1
    assert set(statuses[20:]) == {Status.CAPPED}


def test_weights_that_begin_at_zero_may_leave_it() -> None:
    p = nn.Parameter(torch.zeros(3, 4))
    model = nn.ParameterList([p])
    optimizer = MeasuredLR(torch.optim.SGD([p], 1.0), model, averaging=False, max_change=0.1)
    moves = [
        _change(optimizer, lambda: optimizer.watch(lambda: ((p - 100.0) ** 2).sum()))[0]
        for _ in range(8)
    ]
    assert moves[-1] == pytest.approx(0.1, rel=1e-3)  # of √(3 / 3), PyTorch's initial norm


# What is refused


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda m: PAL(m), {}, "measures its steps already"),
        (lambda m: LABPAL(m), {}, "measures its steps already"),
        (lambda m: MeasuredLR(torch.optim.SGD(m.parameters()), m), {}, "measures its steps"),
        (lambda m: m, {}, "must be a torch optimizer, got Linear"),
        (lambda m: torch.optim.LBFGS(m.parameters()), {}, "LBFGS"),
        (lambda m: torch.optim.SGD(m.parameters(), 0.0), {}, "every lr of SGD is 0"),
        (lambda m: torch.optim.SGD(nn.Linear(2, 1).parameters()), {}, "belongs to the model"),
        (None, {"model": "mlp"}, "model must be a torch.nn.Module, got str"),
        (None, {"horizon": "cosine"}, 'horizon must be "linear" or "none"'),
        (None, {"overhead": -1.0}, "overhead must be finite and 0 or more"),
        (None, {"step_adaptation": 0.0}, "step_adaptation must be finite and greater than 0"),
        (None, {"max_change": 0.0}, "max_change must be finite and greater than 0"),
        (None, {"total_steps": 1.5}, "total_steps must be a whole number"),
        (None, {"total_steps": 0}, "total_steps must be 1 or more"),
    ],
)
def test_misuse_is_named(make: Any, options: Any, message: str) -> None:
    model = nn.Linear(2, 1)
    base = torch.optim.SGD(model.parameters(), 0.1) if make is None else make(model)
    with pytest.raises((TypeError, ValueError), match=message):
        MeasuredLR(base, **{"model": model, **options})


def test_a_length_that_cannot_be_is_refused_later_too() -> None:
    _, _, optimizer = build("sgd", total_steps=5)
    with pytest.raises(ValueError, match="total_steps must be 1 or more"):
        optimizer.total_steps = 0
