"""MeasuredLR: leaves the wrapped optimizer as it is, measures what it says, stays in its budget."""

from __future__ import annotations

import copy
import io
import itertools
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import schedulefree
import torch
from _problems import Quadratic, assert_same, batches, closure_for, noisy, snapshot
from torch import Tensor, nn
from torch.optim.lr_scheduler import LinearLR, OneCycleLR, StepLR

from surefoot import LABPAL, PAL, MeasuredLR, Status
from surefoot.measured._trial import next_move

Factory = Callable[[nn.Module], torch.optim.Optimizer]


def matrices(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.dim() == 2]


BASES: dict[str, Factory] = {
    "sgd": lambda m: torch.optim.SGD(m.parameters(), 0.05),
    "momentum": lambda m: torch.optim.SGD(m.parameters(), 0.05, 0.9, weight_decay=1e-3),
    "nesterov": lambda m: torch.optim.SGD(m.parameters(), 0.05, 0.9, nesterov=True),
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), 1e-3),
    "adamw-amsgrad": lambda m: torch.optim.AdamW(m.parameters(), 1e-3, amsgrad=True),
    "adamw-capturable-rate": lambda m: torch.optim.AdamW(m.parameters(), torch.tensor(1e-3)),
    "rmsprop": lambda m: torch.optim.RMSprop(m.parameters(), 1e-3, momentum=0.5, centered=True),
    "adagrad": lambda m: torch.optim.Adagrad(m.parameters(), 1e-2),
    "radam": lambda m: torch.optim.RAdam(m.parameters(), 1e-3),
    "schedulefree": lambda m: schedulefree.AdamWScheduleFree(m.parameters(), 1e-2, warmup_steps=5),
    "schedulefree-sgd": lambda m: schedulefree.SGDScheduleFree(m.parameters(), 0.5),
}
if hasattr(torch.optim, "Muon"):
    BASES["muon"] = lambda m: torch.optim.Muon(matrices(m), 1e-2)


def rivals_muon(model: nn.Module) -> torch.optim.Optimizer:
    pytorch_optimizer = pytest.importorskip("pytorch_optimizer")
    rest = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "use_muon": True, "lr": 1e-2},
        {"params": rest, "use_muon": False, "lr": 1e-3},
    ]
    return pytorch_optimizer.Muon(groups)


BASES["pytorch_optimizer-muon"] = rivals_muon


def build(name: str, **options: Any) -> tuple[nn.Module, torch.optim.Optimizer, MeasuredLR]:
    model = noisy()
    base = BASES[name](model)
    if hasattr(base, "train"):
        base.train()
    torch.manual_seed(5)
    return model, base, MeasuredLR(base, model, **options)


def walk(model: nn.Module, optimizer: MeasuredLR, data: list[tuple[Tensor, Tensor]]) -> list[float]:
    return [float(optimizer.step(closure_for(model, batch))) for batch in data]


def walk_plain(
    model: nn.Module, base: torch.optim.Optimizer, data: list[tuple[Tensor, Tensor]]
) -> list[float]:
    losses = []
    for batch in data:
        base.zero_grad()
        loss = closure_for(model, batch)()
        loss.backward()
        base.step()
        losses.append(float(loss.detach()))
    return losses


def plain(state: dict[str, Any]) -> dict[str, Any]:
    """A base's state_dict, without what MeasuredLR publishes in the groups."""
    groups = [
        {k: v for k, v in group.items() if k != "effective_lr"} for group in state["param_groups"]
    ]
    return {"state": state["state"], "param_groups": groups}


def assert_equal(a: Any, b: Any, where: str = "") -> None:
    if isinstance(a, Tensor):
        assert torch.equal(a, b), where
        assert a.dtype == b.dtype, where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


WAYS: dict[str, dict[str, Any]] = {
    "update": {},
    "share": {"line": "share"},
    "fresh": {"batch": "fresh"},
    "hessian": {"curvature": "hessian"},
    "several": {"places": (0.5, 1.0, 1.5)},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", BASES)
def test_with_the_rate_frozen_training_is_the_plain_optimizers_to_the_bit(
    name: str, way: str
) -> None:
    """Weights, buffers, random numbers, losses, the optimizer's state; measured all the while."""
    data = batches(12)
    model, base, _ = build(name)
    losses = walk_plain(model, base, data)
    random = torch.get_rng_state()
    other, wrapped, optimizer = build(name, frozen=True, overhead=1.0, **WAYS[way])
    assert walk(other, optimizer, data) == losses
    assert optimizer.cost.probes >= 7
    assert_same(snapshot(model), snapshot(other))
    assert torch.equal(random, torch.get_rng_state())
    assert_equal(plain(base.state_dict()), plain(wrapped.state_dict()))


@pytest.mark.parametrize(
    ("options", "expected", "falls"),
    [
        ({"total_steps": 40}, 1.0, True),  # the model has BatchNorm
        ({}, 1.0, False),
        ({"total_steps": 40, "horizon": "none"}, 1.0, False),
        ({"total_steps": 40, "step_adaptation": 0.5}, 0.5, True),
        ({"step_adaptation": 0.5}, 0.5, False),
    ],
)
def test_steps_go_beyond_the_minimum_only_where_a_horizon_takes_it_back(
    options: dict[str, Any], expected: float, falls: bool
) -> None:
    model, base, optimizer = build(
        "sgd", overhead=9.0, precision=1e-9, max_change=math.inf, **options
    )
    for step, batch in enumerate(batches(40)):
        optimizer.step(closure_for(model, batch))
        horizon = 1.0 - step / 40 if falls else 1.0
        scale = optimizer._gauge.memory["scale"] or 1.0
        unit = optimizer._gauge.memory["reference"][0]
        applied = base.param_groups[0]["effective_lr"]
        assert applied == pytest.approx(expected * horizon * scale * unit)


def test_without_batch_norm_steps_go_beyond_the_minimum_under_a_horizon() -> None:
    x, y = torch.randn(64, 3), torch.randn(64, 1)
    model = nn.Linear(3, 1)
    base = torch.optim.SGD(model.parameters(), 0.1)
    optimizer = MeasuredLR(base, model, total_steps=40, max_change=math.inf)
    for step in range(40):
        optimizer.step(lambda: nn.functional.mse_loss(model(x), y))
        scale = optimizer._gauge.memory["scale"] or 1.0
        expected = 0.1 * 3.0 * (1.0 - step / 40) * scale
        assert base.param_groups[0]["effective_lr"] == pytest.approx(expected)


def test_a_measurement_never_touches_the_state_tensors() -> None:
    """The very same objects with the very same versions: nothing was even written and put back."""
    model, base, optimizer = build("adamw", frozen=True, overhead=1.0)
    walk(model, optimizer, batches(2))
    tensors = {
        (i, key): value
        for i, p in enumerate(model.parameters())
        for key, value in base.state[p].items()
    }
    versions = {k: t._version for k, t in tensors.items()}
    gauge = optimizer._gauge
    seen: list[bool] = []
    look = gauge.look

    def watched(visit: Any) -> Any:
        found = look(visit)
        for i, p in enumerate(model.parameters()):
            for key, value in base.state[p].items():
                assert value is tensors[i, key]
                assert value._version == versions[i, key]
        seen.append(found is not None)
        return found

    gauge.look = watched  # type: ignore[method-assign]
    walk(model, optimizer, batches(1))
    assert seen == [True]


class WithViews(torch.optim.Optimizer):
    """Heavy ball that adds to one tensor of its state and moves by another that is a view of it."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.05})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for p in self.param_groups[0]["params"]:
            state = self.state[p]
            if not state:
                state["flat"] = torch.zeros(p.numel())
                state["shaped"] = state["flat"].view_as(p)
            state["flat"].mul_(0.5).add_(p.grad.flatten())
            p.sub_(self.param_groups[0]["lr"] * state["shaped"])


def test_a_trial_knows_state_tensors_that_share_memory() -> None:
    weight = nn.Parameter(torch.linspace(-1.0, 1.0, 6).reshape(2, 3))
    base = WithViews([weight])

    def backward() -> None:
        weight.grad = None
        (weight**4).sum().backward()

    for _ in range(3):
        backward()
        base.step()
    backward()
    flat, before = base.state[weight]["flat"].clone(), weight.detach().clone()
    (move,) = next_move(base, [weight], [0.05], 1.0)
    assert torch.equal(base.state[weight]["flat"], flat)
    assert torch.equal(weight, before)
    base.step()
    assert torch.equal(weight - before, move)


@pytest.mark.parametrize("name", ["momentum", "adamw", "schedulefree"])
def test_hooks_of_the_base_see_steps_and_no_trials(name: str) -> None:
    model, base, optimizer = build(name, overhead=1.0)
    calls: list[str] = []
    base.register_step_pre_hook(lambda *_: calls.append("before"))
    base.register_step_post_hook(lambda *_: calls.append("after"))
    walk(model, optimizer, batches(4))
    assert optimizer.cost.probes >= 4
    assert calls == ["before", "after"] * 4


def minimum_along(problem: Quadratic, base: torch.optim.Optimizer) -> float:
    """Where the loss is least along the next step of a plain optimizer, as a multiple of it."""
    before = problem.theta
    problem.loss().backward()
    base.step()
    move = problem.theta - before
    return float(-(problem.gradient(before) @ move) / (move @ problem.A @ move))


@pytest.mark.parametrize("place", [None, 1.0])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 1e-4),
        lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9),
        lambda p: torch.optim.AdamW(p, 1e-4, weight_decay=0.3),
        lambda p: torch.optim.AdamW(p, 10.0, weight_decay=0.0),
        lambda p: torch.optim.RMSprop(p, 1e-4),
    ],
)
def test_the_first_rate_is_the_exact_minimum_along_the_update(
    make: Callable[[Any], torch.optim.Optimizer], place: float | None
) -> None:
    twin = Quadratic()
    expected = minimum_along(twin, make(twin.parts))
    problem = Quadratic()
    optimizer = MeasuredLR(make(problem.parts), measuring_length=place)
    optimizer.step(problem.loss)
    assert optimizer.rate.value == pytest.approx(expected, rel=1e-6)
    assert optimizer.last is not None
    assert optimizer.last.status is Status.MINIMUM


def test_the_line_is_the_bases_own_next_update_with_its_memory() -> None:
    """Fourth step of Nesterov: slope and curvature from a plain twin and the matrix."""
    twin = Quadratic()
    plain_sgd = torch.optim.SGD(twin.parts, 1e-3, momentum=0.9, nesterov=True)
    problem = Quadratic()
    base = torch.optim.SGD(problem.parts, 1e-3, momentum=0.9, nesterov=True)
    optimizer = MeasuredLR(base, frozen=True, overhead=1.0)
    for _ in range(3):
        plain_sgd.zero_grad()
        twin.loss().backward()
        plain_sgd.step()
        optimizer.step(problem.loss)
    optimizer.step(problem.loss)
    before = twin.theta
    plain_sgd.zero_grad()
    twin.loss().backward()
    plain_sgd.step()
    move = twin.theta - before
    assert optimizer.last is not None
    parabola = optimizer.last.parabola
    assert parabola is not None
    assert parabola.slope0 == pytest.approx(float(twin.gradient(before) @ move), rel=1e-9)
    assert parabola.curvature == pytest.approx(float(move @ twin.A @ move), rel=1e-6)
    assert optimizer.last.direction_norm == pytest.approx(float(move.norm()), rel=1e-9)
    assert optimizer.last.length == pytest.approx(float(move.norm()), rel=1e-9)


@pytest.mark.parametrize(
    ("make", "factor"),
    [
        (lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9), 0.1),
        (lambda p: torch.optim.SGD(p, 1e-3), 1.0),
    ],
)
def test_a_batchs_share_is_what_its_gradient_does_in_the_long_run(
    make: Callable[[Any], torch.optim.Optimizer], factor: float
) -> None:
    """For heavy-ball SGD the share is lr · g / (1 − β), whatever the buffer holds."""
    problem = Quadratic()
    optimizer = MeasuredLR(make(problem.parts), line="share", frozen=True, overhead=1.0)
    for _ in range(4):
        g = problem.gradient(problem.theta)
        optimizer.step(problem.loss)
    assert optimizer.last is not None
    assert optimizer.last.direction_norm == pytest.approx(1e-3 / factor * float(g.norm()), rel=1e-9)
    minimum = float(g @ g / (g @ problem.A @ g))
    assert optimizer.last.parabola is not None
    assert optimizer.last.parabola.vertex == pytest.approx(minimum * factor / 1e-3, rel=1e-6)


def test_the_hessian_gives_the_curvature_at_the_start() -> None:
    """On a loss that is no parabola, against the whole Hessian."""
    p = nn.Parameter(torch.tensor([0.3, -0.8, 1.1], dtype=torch.float64))

    def of(theta: Tensor) -> Tensor:
        return (theta**4).sum() + theta[0] * theta[1] + theta.exp().sum()

    optimizer = MeasuredLR(torch.optim.SGD([p], 0.1), curvature="hessian")
    start = p.detach().clone()
    optimizer.step(lambda: of(p))
    d = -0.1 * torch.func.grad(of)(start)
    expected = float(d @ torch.autograd.functional.hessian(of, start) @ d)
    assert optimizer.last is not None
    assert optimizer.last.parabola is not None
    assert optimizer.last.parabola.curvature == pytest.approx(expected, rel=1e-12)
    assert optimizer.cost.forward_equivalents == 3 + 5


def test_a_fresh_batch_judges_the_update_before_from_its_own_start() -> None:
    """Two batches with different minima: the parabola is the second's along the first's update."""
    p = nn.Parameter(torch.tensor([4.0, -2.0], dtype=torch.float64))
    scales = [torch.tensor(s, dtype=torch.float64) for s in ([1.0, 3.0], [2.0, 5.0])]
    optimizer = MeasuredLR(torch.optim.SGD([p], 0.01), batch="fresh", overhead=9.0, frozen=True)
    optimizer.step(lambda: (scales[0] * p.square()).sum())  # own batch: there is no rate yet
    start = p.detach().clone()
    optimizer.step(lambda: (scales[0] * p.square()).sum())
    assert optimizer.last is not None
    assert optimizer.last.status is Status.FIXED
    optimizer.step(lambda: (scales[1] * p.square()).sum())
    move = -0.01 * 2 * scales[0] * start
    parabola = optimizer.last.parabola
    assert parabola is not None
    assert parabola.slope0 == pytest.approx(float((2 * scales[1] * start) @ move), rel=1e-9)
    assert parabola.curvature == pytest.approx(float((2 * scales[1] * move) @ move), rel=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw", "schedulefree"])
@pytest.mark.parametrize("way", WAYS)
def test_the_budget_is_kept_and_counted_by_others(name: str, way: str) -> None:
    """Forwards counted by a hook of the model, backwards by one of the loss."""
    model, _, optimizer = build(name, total_steps=300, **WAYS[way])
    counts = {"forward": 0, "backward": 0}

    def count(key: str) -> None:
        counts[key] += 1

    model.register_forward_hook(lambda *_: count("forward"))
    conv = model.get_submodule("conv").weight
    handle = conv.register_hook(lambda _: count("backward"))
    for x, y in batches(300, size=4):
        optimizer.step(lambda: nn.functional.cross_entropy(model(x), y))  # noqa: B023
    handle.remove()
    assert counts["forward"] == optimizer.cost.forwards
    if way != "hessian":  # whose second backward pass goes through the first, not to the weights
        assert counts["backward"] == optimizer.cost.backwards
    assert 1.015 * 900 < optimizer.cost.forward_equivalents <= 1.03 * 900


def test_closures_that_call_backward_keep_the_budget_too() -> None:
    model, base, optimizer = build("adamw", total_steps=300)
    for x, y in batches(300, size=4):

        def closure() -> Tensor:
            base.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)  # noqa: B023
            loss.backward()
            return loss

        optimizer.step(closure)
    assert optimizer.cost.backwards == optimizer.cost.forwards > 300
    assert optimizer.cost.forward_equivalents <= 1.03 * 900


def test_groups_keep_their_ratios() -> None:
    model = noisy()
    base = torch.optim.AdamW(
        [
            {"params": model.get_submodule("conv").parameters(), "lr": 1e-3},
            {"params": model.get_submodule("head").parameters(), "lr": 1e-4},
        ]
    )
    optimizer = MeasuredLR(base, model, total_steps=40)
    for batch in batches(20):
        optimizer.step(closure_for(model, batch))
        first, second = (group["effective_lr"] for group in optimizer.param_groups)
        assert first == pytest.approx(10 * second, rel=1e-12)
    assert [group["lr"] for group in base.param_groups] == [1e-3, 1e-4]
    optimizer.add_param_group({"params": model.get_submodule("norm").parameters(), "lr": 2e-3})
    walk(model, optimizer, batches(2))
    assert optimizer.param_groups[2]["effective_lr"] == pytest.approx(
        2 * optimizer.param_groups[0]["effective_lr"]
    )


def test_a_measured_step_is_the_bases_step_at_the_measured_rate() -> None:
    """Bit for bit: a plain twin that is told each rate walks the same way."""
    data = batches(20)
    model, base, optimizer = build("momentum", total_steps=30)
    rates = []
    for batch in data:
        optimizer.step(closure_for(model, batch))
        rates.append(base.param_groups[0]["effective_lr"])
    twin, plain_base, _ = build("momentum")
    for rate, batch in zip(rates, data, strict=True):
        plain_base.param_groups[0]["lr"] = rate
        walk_plain(twin, plain_base, [batch])
    assert len(set(rates)) > 15
    assert_same(snapshot(model), snapshot(twin))


def test_the_rate_falls_linearly_to_nothing() -> None:
    problem = Quadratic()
    base = torch.optim.SGD(problem.parts, 1e-3)
    # one measurement, at the start
    optimizer = MeasuredLR(base, total_steps=10, overhead=0.0, max_change=math.inf)
    rates = []
    for _ in range(10):
        optimizer.step(problem.loss)
        rates.append(base.param_groups[0]["effective_lr"])
    assert rates == pytest.approx([rates[0] * (1 - k / 10) for k in range(10)], rel=1e-12)
    before = problem.theta
    with pytest.warns(UserWarning, match="total_steps=10"):
        optimizer.step(problem.loss)
    assert torch.equal(before, problem.theta)
    optimizer.total_steps = 20
    optimizer.step(problem.loss)
    assert not torch.equal(before, problem.theta)


def test_schedulers_multiply_the_measured_rate() -> None:
    ends = []
    for scheduled in (False, True):
        problem = Quadratic()
        base = torch.optim.SGD(problem.parts, 1e-3)
        optimizer = MeasuredLR(base, overhead=0.0, max_change=math.inf)
        scheduler = StepLR(optimizer, 2, 0.5) if scheduled else None
        rates = []
        for _ in range(6):
            optimizer.step(problem.loss)
            rates.append(base.param_groups[0]["effective_lr"])
            if scheduler is not None:
                scheduler.step()
        ends.append(rates)
    assert ends[1] == pytest.approx(
        [r * f for r, f in zip(ends[0], [1, 1, 0.5, 0.5, 0.25, 0.25], strict=True)]
    )


def test_a_schedulers_factor_does_not_disturb_what_is_measured() -> None:
    found = []
    for factor in (1.0, 0.01):
        problem = Quadratic()
        base = torch.optim.SGD(problem.parts, 1e-3)
        optimizer = MeasuredLR(base, max_change=math.inf)
        LinearLR(optimizer, factor, total_iters=100)
        optimizer.step(problem.loss)
        found.append((optimizer.rate.value, base.param_groups[0]["effective_lr"]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert found[1][1] == pytest.approx(0.01 * found[0][1], rel=1e-6)


def test_one_cycle_takes_it_for_an_optimizer() -> None:
    model, _, optimizer = build("adamw", horizon="none")
    scheduler = OneCycleLR(optimizer, max_lr=1e-3, total_steps=20)
    for batch in batches(20):
        optimizer.step(closure_for(model, batch))
        scheduler.step()
    assert optimizer.last is not None
    assert optimizer.last.effective_lr > 0.0


def post(model: nn.Module, optimizer: MeasuredLR) -> Any:
    file = io.BytesIO()
    parts = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
    }
    torch.save(parts, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("way", ["update", "fresh"])
@pytest.mark.parametrize("name", ["momentum", "adamw", "schedulefree"])
def test_resumes_to_the_bit(name: str, way: str, dtype: torch.dtype) -> None:
    data = [(x.to(dtype), y) for x, y in batches(24)]
    options = {**WAYS[way], "total_steps": 40, "overhead": 0.3}
    for k in (1, 2, 3, 10):
        model, optimizer = fresh(name, dtype, options)
        walk(model, optimizer, data[:k])
        saved = post(model, optimizer)
        walk(model, optimizer, data[k:])
        other, resumed = fresh(name, dtype, options)
        other.load_state_dict(saved["model"])
        resumed.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["random"])
        walk(other, resumed, data[k:])
        assert optimizer.cost.probes > 5
        assert_same(snapshot(model), snapshot(other))
        assert_equal(optimizer.state_dict(), resumed.state_dict())
        assert optimizer.cost == resumed.cost
        assert optimizer.rate == resumed.rate


def fresh(name: str, dtype: torch.dtype, options: Any) -> tuple[nn.Module, MeasuredLR]:
    model = noisy().to(dtype)
    base = BASES[name](model)
    if hasattr(base, "train"):
        base.train()
    torch.manual_seed(5)
    return model, MeasuredLR(base, model, **options)


def test_a_checkpoint_of_the_plain_optimizer_can_be_loaded() -> None:
    model, base, _ = build("adamw")
    walk_plain(model, base, batches(3))
    saved = copy.deepcopy(base.state_dict())
    other, wrapped, optimizer = build("adamw")
    optimizer.load_state_dict(saved)
    assert_equal(plain(saved), plain(wrapped.state_dict()))
    walk(other, optimizer, batches(2))
    # and back: what it saves is a plain optimizer's checkpoint with one more entry
    BASES["adamw"](noisy()).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on_as_the_original(duplicate: Callable[[Any], Any]) -> None:
    model, _, optimizer = build("adamw", overhead=0.5)
    walk(model, optimizer, batches(5))
    twin, copied = duplicate((model, optimizer))
    state = torch.get_rng_state()
    walk(model, optimizer, batches(5))
    torch.set_rng_state(state)
    walk(twin, copied, batches(5))
    assert_same(snapshot(model), snapshot(twin))
    assert copied.cost == optimizer.cost


def test_trains_under_bf16_autocast() -> None:
    model, _, optimizer = build("adamw", total_steps=60, loss_precision=0.004)
    (x, y) = batches(1)[0]

    def closure() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return nn.functional.cross_entropy(model(x), y)

    losses = [float(optimizer.step(closure)) for _ in range(60)]
    assert all(p.dtype is torch.float32 for p in model.parameters())
    assert losses[-1] < 0.5 * losses[0]


def test_works_when_prepared_by_accelerate() -> None:
    """Same steps as without accelerate, with a closure that uses its backward pass."""
    accelerate = pytest.importorskip("accelerate")
    from accelerate.state import AcceleratorState

    data = batches(8)
    model, _, optimizer = build("adamw", total_steps=10)
    base = optimizer.optimizer
    for x, y in data:

        def plain_closure() -> Tensor:
            base.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)  # noqa: B023
            loss.backward()
            return loss

        optimizer.step(plain_closure)
    other, _, wrapped = build("adamw", total_steps=10)
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(cpu=True)
    scheduler = StepLR(wrapped, 1000)
    prepared, accelerated, scheduler = accelerator.prepare(other, wrapped, scheduler)
    torch.manual_seed(5)
    for x, y in data:

        def closure() -> Tensor:
            accelerated.zero_grad()
            loss = nn.functional.cross_entropy(prepared(x), y)  # noqa: B023
            accelerator.backward(loss)
            return loss

        accelerated.step(closure)
        scheduler.step()
    assert_same(snapshot(model), snapshot(other))
    assert accelerated.param_groups[0]["effective_lr"] > 0.0


def test_an_exception_leaves_no_trace() -> None:
    model, base, optimizer = build("adamw", overhead=1.0)
    walk(model, optimizer, batches(3))
    for at in (1, 2):
        before, state = snapshot(model), copy.deepcopy(base.state_dict())
        random, memory = torch.get_rng_state(), copy.deepcopy(optimizer.state_dict())
        calls = 0

        def closure() -> Tensor:
            nonlocal calls
            calls += 1
            loss = closure_for(model, batches(1)[0])()
            if calls == at:  # noqa: B023
                raise KeyboardInterrupt
            return loss

        with pytest.raises(KeyboardInterrupt):
            optimizer.step(closure)
        assert_same(before, snapshot(model))
        assert_equal(state, base.state_dict())
        assert_equal(memory["measured"], optimizer.state_dict()["measured"])
        assert torch.equal(random, torch.get_rng_state())


def bowl() -> nn.Parameter:
    return nn.Parameter(torch.tensor([3.0, -1.0], dtype=torch.float64))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_moves_nothing(bad: float) -> None:
    p = bowl()
    optimizer = MeasuredLR(torch.optim.AdamW([p], 0.1), overhead=1.0)
    for _ in range(3):
        optimizer.step(lambda: p.square().sum())
    before, state = p.detach().clone(), copy.deepcopy(optimizer.optimizer.state_dict())
    optimizer.step(lambda: p.square().sum() * bad)
    assert optimizer.last is not None
    assert optimizer.last.status is Status.NON_FINITE
    assert torch.equal(before, p)
    assert_equal(plain(state), plain(optimizer.optimizer.state_dict()))
    for _ in range(200):
        optimizer.step(lambda: p.square().sum())
    assert p.detach().square().sum() < 0.1


def test_a_cliff_behind_the_minimum_is_not_jumped_into() -> None:
    """The loss is no number beyond a distance that the first probe would overstep."""
    p = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))

    def loss() -> Tensor:
        return torch.where(p < 0.995, torch.nan, p * 100.0).sum()

    for length in (None, 0.5):
        optimizer = MeasuredLR(torch.optim.SGD([p], 1.0), measuring_length=length, overhead=9.0)
        for _ in range(60):
            optimizer.step(loss)
            assert torch.isfinite(loss())


def test_where_the_loss_has_no_minimum_the_rate_grows_step_by_step() -> None:
    p = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = MeasuredLR(torch.optim.SGD([p], 1e-3), overhead=9.0)
    rates = []
    for _ in range(6):
        optimizer.step(lambda: p.sum())
        assert optimizer.last is not None
        assert optimizer.last.status in (Status.NOT_CONVEX, Status.MINIMUM, Status.CAPPED)
        rates.append(optimizer.last.effective_lr)
    assert all(0.0 < b <= 2.0 * a * (1 + 1e-12) for a, b in itertools.pairwise(rates))


def test_losses_that_are_no_parabola_are_told_by_warning_and_status() -> None:
    def statuses(kinked: bool) -> list[Status]:
        p = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
        base = torch.optim.SGD([p], 1e-6)
        options: dict[str, Any] = {"measuring_length": 1.0, "check_every": 1, "frozen": True}
        optimizer = MeasuredLR(base, overhead=9.0, **options)
        told = []
        for _ in range(5):
            optimizer.step(lambda: p.abs().sqrt().sum() if kinked else p.square().sum())
            assert optimizer.last is not None
            told.append(optimizer.last.status)
        return told

    with pytest.warns(UserWarning, match="no parabola"):
        told = statuses(kinked=True)
    assert told.index(Status.MISFIT) == 2  # three of four checks
    assert set(told[2:]) == {Status.MISFIT}
    assert Status.MISFIT.measured
    assert Status.MISFIT not in statuses(kinked=False)


def test_a_flat_loss_leaves_the_bases_own_rate() -> None:
    p = bowl()
    optimizer = MeasuredLR(torch.optim.SGD([p], 1e-3), measuring_length=0.01)
    optimizer.step(lambda: 1e9 + 1e-9 * p.square().sum())
    assert optimizer.last is not None
    assert optimizer.last.status is Status.FLAT
    assert optimizer.last.effective_lr == 1e-3


def test_a_loss_that_is_no_parabola_is_told_once() -> None:
    p = nn.Parameter(torch.tensor([-2.0], dtype=torch.float64))

    def kinked() -> Tensor:
        return (p - 5.0).abs().sum()

    optimizer = MeasuredLR(torch.optim.SGD([p], 1e-5), overhead=9.0, check_every=1, frozen=True)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(30):
            optimizer.step(kinked)
    assert [str(w.message)[:33] for w in seen] == ["the loss along the updates is no "]
    calm = bowl()
    optimizer = MeasuredLR(torch.optim.SGD([calm], 1e-2), overhead=9.0, check_every=1)
    for _ in range(30):  # warnings are errors
        optimizer.step(lambda: calm.square().sum())


def test_a_loss_out_of_its_range_halves_the_rate_at_once() -> None:
    p = bowl()
    optimizer = MeasuredLR(torch.optim.SGD([p], 1e-3), overhead=0.0, max_change=math.inf)
    for _ in range(12):
        optimizer.step(lambda: p.square().sum() + 10.0)
    assert optimizer.last is not None
    before = optimizer.last.effective_lr
    optimizer.step(lambda: p.square().sum() + 1000.0)
    assert optimizer.last.effective_lr == pytest.approx(0.5 * before)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda m: PAL(m), {}, "measures its steps already"),
        (lambda m: LABPAL(m), {}, "measures its steps already"),
        (lambda m: m, {}, "must be a torch optimizer, got Linear"),
        (lambda m: torch.optim.LBFGS(m.parameters()), {}, "LBFGS"),
        (lambda m: torch.optim.SGD(m.parameters(), 0.0), {}, "every lr is 0"),
        (None, {"horizon": "cosine"}, 'horizon must be "linear" or "none"'),
        (None, {"batch": "fresh", "line": "share"}, "fresh"),
        (None, {"overhead": -1.0}, "overhead must be finite and 0 or more"),
        (None, {"precision": 0.0}, "precision must be finite and greater than 0"),
        (None, {"confidence": 1.0}, "confidence must be below 1"),
        (None, {"places": ()}, "places"),
        (None, {"total_steps": 1.5}, "total_steps must be a whole number"),
        (None, {"growth": 1.0}, "growth must be finite and greater than 1"),
    ],
)
def test_misuse_is_named(make: Any, options: Any, message: str) -> None:
    model = nn.Linear(2, 1)
    base = torch.optim.SGD(model.parameters(), 0.1) if make is None else make(model)
    with pytest.raises((TypeError, ValueError), match=message):
        MeasuredLR(base, model, **options)


def test_steps_without_what_they_need_are_refused() -> None:
    model = nn.Embedding(4, 2, sparse=True)
    optimizer = MeasuredLR(torch.optim.SGD(model.parameters(), 0.1), model)
    with pytest.raises(TypeError, match="closure"):
        optimizer.step()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step(lambda: model(torch.tensor([1])).sum())
    linear = nn.Linear(2, 1)
    optimizer = MeasuredLR(
        torch.optim.SGD(linear.parameters(), 0.1), linear, curvature="hessian", overhead=9.0
    )

    def closure() -> Tensor:
        loss = linear(torch.ones(1, 2)).square().sum()
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="without backward"):
        optimizer.step(closure)


def test_every_measurement_is_reported() -> None:
    told: list[Any] = []
    model, _, optimizer = build("adamw", on_measure=told.append)
    kept = []
    for batch in batches(30):
        optimizer.step(closure_for(model, batch))
        assert optimizer.last is not None
        kept.append(optimizer.last)
    assert told == [outcome for outcome in kept if outcome.status.measured]
    assert 5 <= len(told) < 30


# No step changes the weights by more than a share of their norm


def _change(optimizer: torch.optim.Optimizer, closure: Callable[[], Tensor]) -> tuple[float, float]:
    """How far a step moved the weights, and their norm, PyTorch's initial one at least."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    before = torch.cat([p.detach().flatten().clone() for p in params])
    optimizer.step(closure)
    after = torch.cat([p.detach().flatten() for p in params])
    initial = math.sqrt(sum(p.shape[0] for p in params if p.dim() >= 2) / 3)
    return float((after - before).norm()), max(float(before.norm()), initial)


def _far(model: nn.Module) -> Callable[[], Tensor]:
    """A loss whose minimum along the gradient is far away."""
    return lambda: -sum(p.sum() for p in model.parameters())  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["sgd", "adamw", "pytorch_optimizer-muon"])
def test_no_step_changes_the_weights_by_more_than_a_share_of_their_norm(name: str) -> None:
    changes = {}
    for share in (math.inf, 0.25):
        model, base, optimizer = build(name, max_change=share)
        changes[share], began = [], math.inf
        for _ in range(6):
            moved, norm = _change(optimizer, _far(model))
            began = min(began, norm)  # the weights grow, what they may change by does not
            changes[share].append(moved / began)
            assert optimizer.last is not None
            assert optimizer.last.effective_lr == base.param_groups[0]["effective_lr"]
    assert max(changes[math.inf]) > 0.5
    assert changes[0.25][-1] == pytest.approx(0.25, rel=1e-4)
    assert max(changes[0.25]) <= 0.25 * (1 + 1e-4)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_bound_is_3_percent_where_there_is_no_batch_norm(batch_norm: bool) -> None:
    torch.manual_seed(0)
    between = nn.BatchNorm1d(4) if batch_norm else nn.Identity()
    model = nn.Sequential(nn.Linear(4, 4), between, nn.Linear(4, 4))
    optimizer = MeasuredLR(torch.optim.SGD(model.parameters(), 1.0), model)
    moves, norms = zip(*(_change(optimizer, _far(model)) for _ in range(6)), strict=True)
    smallest = itertools.accumulate(norms, min)
    largest = max(moved / norm for moved, norm in zip(moves, smallest, strict=True))
    if batch_norm:
        assert largest > 0.1
    else:
        assert largest == pytest.approx(0.03)


def test_the_bound_falls_with_the_horizon_and_with_a_scheduler() -> None:
    model, base, optimizer = build("sgd", max_change=0.1, total_steps=8)
    torch.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=100)
    changes = [_change(optimizer, _far(model)) for _ in range(8)]
    began = min(norm for _, norm in changes)
    assert changes[6][0] / began == pytest.approx(0.5 * 0.1 * 2 / 8, rel=1e-4)
    base.param_groups[0]["lr"] *= 100.0  # a schedule that raises the rate does not raise the bound
    optimizer.total_steps = 16
    moved, norm = _change(optimizer, _far(model))
    assert moved / min(began, norm) == pytest.approx(0.1 * 8 / 16, rel=1e-4)


def test_the_norm_that_bounds_steps_is_in_the_checkpoint() -> None:
    model, _, optimizer = build("sgd", max_change=0.1)
    changes = [_change(optimizer, _far(model)) for _ in range(6)]
    resumed_model, _, resumed = build("sgd", max_change=0.1)
    resumed_model.load_state_dict(model.state_dict())
    resumed.load_state_dict(optimizer.state_dict())
    moved, norm = _change(resumed, _far(resumed_model))
    began = min(norm for _, norm in changes)
    assert moved / began == pytest.approx(0.1, rel=1e-4)
    assert norm > 1.05 * began


def test_a_bounded_step_is_the_plain_one_made_shorter() -> None:
    ends, starts, rates = {}, {}, {}
    for share in (math.inf, 0.01):
        model, base, optimizer = build("sgd", max_change=share)
        starts[share] = [p.detach().clone() for p in model.parameters()]
        optimizer.step(_far(model))
        ends[share] = [p.detach() for p in model.parameters()]
        rates[share] = base.param_groups[0]["effective_lr"]
    part = rates[0.01] / rates[math.inf]
    assert 0.0 < part < 1.0
    for start, free, held in zip(starts[math.inf], ends[math.inf], ends[0.01], strict=True):
        torch.testing.assert_close(held - start, part * (free - start))


def test_weights_that_begin_at_zero_may_leave_it() -> None:
    p = nn.Parameter(torch.zeros(3, 4))
    optimizer = MeasuredLR(torch.optim.SGD([p], 1.0), max_change=0.1)
    moved, _ = _change(optimizer, lambda: ((p - 100.0) ** 2).sum())
    assert moved == pytest.approx(0.1)  # of √(3 / 3), the norm that PyTorch would have given it


def test_optimizers_with_two_sets_of_weights_are_not_bounded() -> None:
    model, _, optimizer = build("schedulefree", max_change=1e-9)
    moved, _ = _change(optimizer, _far(model))
    assert moved > 1e-3
