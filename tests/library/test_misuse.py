"""What people write by mistake: one clear line, before anything has changed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from _problems import Quadratic, assert_same, batches, closure_for, noisy, snapshot
from torch import nn
from torch.nn.functional import cross_entropy

from surefoot import (
    GOLS,
    LABPAL,
    PAL,
    PLS,
    SLS,
    ExactLineSearch,
    FullBatchPAL,
    LineSearch,
    LineSearchOptimizer,
    MeasuredAdamW,
    MeasuredLR,
    MeasuredMuon,
    Status,
    cyclic,
    one_cycle,
    range_test,
    sample_line,
)
from surefoot.directions import HeavyBall
from surefoot.searches import ArmijoSearch

MAKERS: dict[str, Callable[..., LineSearchOptimizer]] = {
    c.__name__: c for c in (PAL, LABPAL, SLS, GOLS, PLS, ExactLineSearch, FullBatchPAL)
}
every = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


@every
def test_an_optimizer_in_place_of_the_model(make: Any) -> None:
    with pytest.raises(TypeError, match=r"takes the model.*MeasuredLR\(optimizer, model\)"):
        make(torch.optim.SGD(noisy().parameters(), lr=0.1))
    with pytest.raises(TypeError, match="takes the model, its parameters or groups, got float"):
        make(0.1)


@every
def test_the_loss_in_place_of_a_closure(make: Any) -> None:
    model, (batch,) = noisy(), batches(1)
    optimizer, loss = make(model), closure_for(model, batch)()
    before = snapshot(model)
    for wrong in (loss, 0.5):
        with pytest.raises(TypeError, match=r"instead of a closure(.|\n)*def closure\(\):"):
            optimizer.step(wrong)
    with pytest.raises(TypeError, match="instead of a closure"):
        optimizer.check_closure(loss)
    assert_same(snapshot(model), before)


@every
def test_a_loss_that_is_a_float(make: Any) -> None:
    model, (batch,) = noisy(), batches(1)
    with pytest.raises(TypeError, match=r"without \.item\(\)"):
        make(model).step(lambda: float(closure_for(model, batch)().detach()))


@every
def test_a_float_is_fine_where_the_closure_calls_backward(make: Any) -> None:
    model, (batch,) = noisy(), batches(1)
    optimizer = make(model)

    def closure() -> float:
        loss = closure_for(model, batch)()
        optimizer.zero_grad()
        loss.backward()
        return loss.item()

    for _ in range(4):
        optimizer.step(closure)
    assert optimizer.cost.backwards >= 4


@every
def test_a_loss_that_counts(make: Any) -> None:
    with pytest.raises(TypeError, match=r"one number, but returned .*int64"):
        make(noisy()).step(lambda: torch.tensor(3))


@every
def test_a_model_of_other_parameters(make: Any) -> None:
    with pytest.raises(ValueError, match="none of the optimizer's parameters belongs"):
        make(noisy().parameters(), model=noisy())


def test_a_range_test_of_a_model_that_is_not_the_optimizers() -> None:
    sgd = torch.optim.SGD(noisy().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="none of the optimizer's parameters belongs"):
        range_test(noisy(), sgd, batches(2), nn.functional.cross_entropy)


@every
@pytest.mark.parametrize("unscaled", [False, True])
def test_a_scaler_that_calls_step_is_refused_before_the_closure_runs(
    make: Any, unscaled: bool
) -> None:
    model, calls = noisy(), 0
    optimizer, scaler = make(model), torch.amp.GradScaler("cpu")
    scaler.scale(closure_for(model, batches(1)[0])()).backward()
    if unscaled:
        scaler.unscale_(optimizer)

    def closure() -> None:
        nonlocal calls
        calls += 1

    for arguments in ((closure,), ()):
        with pytest.raises(RuntimeError, match="grad_scaler=scaler"):
            scaler.step(optimizer, *arguments)
    assert calls == 0
    with pytest.raises(TypeError, match="GradScaler, got bool"):
        make(model, grad_scaler=True)


@pytest.mark.parametrize("make", [PAL, LABPAL, SLS, lambda m: MeasuredLR(torch.optim.AdamW(m), m)])
def test_a_range_test_refuses_what_measures_itself(make: Any) -> None:
    model = noisy()
    optimizer = (
        make(model)
        if make in (PAL, LABPAL, SLS)
        else MeasuredLR(torch.optim.AdamW(model.parameters()), model)
    )
    calls = []
    with pytest.raises(TypeError, match="measures"):
        range_test(model, optimizer, batches(2), lambda *_: calls.append(0))
    assert not calls


class Relative(torch.optim.SGD):
    """Chooses its steps itself, as Adafactor does."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, lr=0.1)
        for group in self.param_groups:
            group["lr"] = None


@pytest.mark.parametrize(
    "use",
    [
        lambda m, o: range_test(m, o, batches(2), nn.functional.cross_entropy),
        lambda m, o: one_cycle(o, total_steps=50, max_lr=0.1),
        lambda m, o: one_cycle(o, total_steps=50, max_lr=[0.1]),
        lambda m, o: cyclic(o, steps_per_epoch=5, epochs=8, base_lr=0.1, max_lr=0.5),
    ],
)
def test_an_optimizer_without_a_rate(use: Any) -> None:
    model = noisy()
    with pytest.raises(ValueError, match=r"group 0 of Relative has lr=None.*give it a number"):
        use(model, Relative(model.parameters()))


NUMBERS = [np.int64(40), np.array(40), torch.tensor(40)]


@pytest.mark.parametrize("steps", NUMBERS, ids=["int64", "array", "tensor"])
def test_whole_numbers_of_other_kinds(steps: Any) -> None:
    model = noisy()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = LABPAL(model, total_steps=steps, reuse=np.int32(3), measuring_batches=steps)
    group = optimizer.param_groups[0]
    assert [type(group[k]) for k in ("total_steps", "reuse", "measuring_batches")] == 3 * [int]
    optimizer.total_steps = steps
    assert type(optimizer.total_steps) is int
    scheduler = one_cycle(sgd, total_steps=steps, max_lr=np.float32(0.5))
    assert scheduler.total_steps == 40
    cyclic(sgd, steps_per_epoch=steps, epochs=np.int16(8), base_lr=0.1, max_lr=np.float64(0.5))
    data = batches(4)
    curve = range_test(
        model, sgd, data, nn.functional.cross_entropy, num_iter=steps,
        start_lr=np.float32(1e-4), end_lr=np.array([1e-2]), accumulation_steps=np.int64(1),
        val_loader=data, val_every=np.uint8(20),
    )  # fmt: skip
    assert type(curve.from_json(curve.to_json()).ramp.num_iter) is int


@pytest.mark.parametrize("wrong", [np.float64(40.0), np.bool_(True), True, "40", Fraction(40)])
def test_what_is_no_whole_number_stays_none(wrong: Any) -> None:
    with pytest.raises(TypeError, match="whole number"):
        PAL(noisy(), total_steps=wrong)
    with pytest.raises(TypeError, match="whole number"):
        one_cycle(torch.optim.SGD(noisy().parameters()), total_steps=wrong, max_lr=0.1)


def test_numpy_settings_load_with_weights_only(tmp_path: Any) -> None:
    model = noisy()
    groups = [{"params": [*model.parameters()], "lr": np.float32(0.5)}]
    optimizer = SLS(groups, start=np.float64(0.5), weight_decay=np.float32(0.01), model=model)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert loaded["param_groups"][0]["lr"] == 0.5


def test_a_length_that_cannot_be_is_refused_later_too() -> None:
    optimizer = PAL(noisy(), total_steps=5)
    with pytest.raises(ValueError, match="total_steps must be 1 or more"):
        optimizer.total_steps = 0


@pytest.mark.parametrize("factor", [1e20, 1e-20])
@pytest.mark.parametrize("make", [PAL, ExactLineSearch, FullBatchPAL, partial(LABPAL, reuse=2)])
def test_losses_whose_squares_leave_float32(make: Any, factor: float) -> None:
    """The walk does not depend on the unit of the loss."""
    ends = []
    for unit in (1.0, factor):
        problem = Quadratic()
        parts = [nn.Parameter(p.detach().float()) for p in problem.parts]
        a, b = problem.A.float(), problem.b.float()

        def loss() -> torch.Tensor:
            theta = torch.cat(parts)  # noqa: B023
            return unit * (0.5 * theta @ a @ theta - b @ theta + 100.0)  # noqa: B023

        optimizer = make(parts)
        for _ in range(4):
            optimizer.step(loss)
        assert optimizer.last.status is not Status.NON_FINITE
        ends.append(torch.cat([p.detach() for p in parts]))
    assert torch.allclose(*ends, rtol=1e-2, atol=1e-3)


@every
def test_a_run_of_nothing_but_nan_is_told(make: Any) -> None:
    model, (batch,) = noisy(), batches(1)
    optimizer = make(model)
    for _ in range(49):
        optimizer.step(lambda: closure_for(model, batch)() * float("nan"))
    with pytest.warns(UserWarning, match="refused.*not finite"):
        optimizer.step(lambda: closure_for(model, batch)() * float("nan"))
    optimizer.step(lambda: closure_for(model, batch)() * float("nan"))


def test_a_scripted_model_is_refused_and_one_around_it_is_trained() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        scripted = torch.jit.script(nn.Linear(3, 1))
    with pytest.raises(TypeError, match=r"nn\.Sequential\(model\)"):
        MeasuredLR(torch.optim.AdamW(scripted.parameters()), scripted)
    model = nn.Sequential(scripted)
    optimizer = MeasuredLR(torch.optim.AdamW(model.parameters()), model)
    for _ in range(8):
        loss = model(torch.ones(4, 3)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert optimizer.last is not None
    assert optimizer.last.status.measured
    assert model(torch.ones(4, 3)).square().mean() < loss


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def _measured(model: nn.Module, **options: Any) -> MeasuredLR:
    return MeasuredLR(torch.optim.AdamW(model.parameters()), model, **options)


X, Y = torch.randn(16, 4, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 3
CROSS_ENTROPY = nn.functional.cross_entropy
# What somebody writes, given a model, and what it is answered.
SLIPS: dict[str, tuple[Callable[[nn.Module], Any], str]] = {
    "the class of an optimizer": (
        lambda m: MeasuredLR(torch.optim.AdamW, m),
        "got the class AdamW: MeasuredLR",
    ),
    "arguments turned round": (
        lambda m: MeasuredLR(m, torch.optim.AdamW(m.parameters())),
        r"must be a torch optimizer, got Sequential: MeasuredLR\(torch",
    ),
    "frozen in words": (lambda m: _measured(m, frozen="no"), "frozen must be True or False"),
    "averaging in words": (lambda m: _measured(m, averaging="yes"), "averaging must be True or"),
    "no function": (lambda m: _measured(m, on_measure=3), "on_measure must be a function, got int"),
    "watch a loss": (
        lambda m: _measured(m).watch(CROSS_ENTROPY(m(X), Y)),
        "watch.* takes a function that returns the loss",
    ),
    "watch nothing": (lambda m: _measured(m).watch(lambda: None), "takes a function that returns"),
    "check a loss": (
        lambda m: _measured(m).check_closure(CROSS_ENTROPY(m(X), Y)),
        "takes a function that returns the loss",
    ),
    "predict back": (lambda m: _measured(m, advice=True).predict(-1), "steps must be 1 or more"),
    "no batch": (lambda m: _measured(m, advice=True).advice(0), "batch_size must be 1 or more"),
    "of no parameter": (
        lambda m: _measured(m).step(lambda: torch.ones((), requires_grad=True) * 2),
        "does not depend on any parameter",
    ),
    "a model for parameters": (
        lambda m: MeasuredAdamW(m),
        r"MeasuredAdamW\(model.parameters\(\)\)",
    ),
    "an optimizer for them": (
        lambda m: MeasuredMuon(torch.optim.SGD(m.parameters(), 0.1)),
        "takes no SGD",
    ),
    "a class of directions": (
        lambda m: LineSearch(m, search=ArmijoSearch(), direction=HeavyBall),
        "direction must be of surefoot.directions",
    ),
    "a search for a direction": (
        lambda m: LineSearch(m, search=ArmijoSearch(), direction=ArmijoSearch()),
        "direction must be of surefoot.directions",
    ),
    "a number for a loss": (
        lambda m: LineSearch(m, search=ArmijoSearch(), full_loss=3.0),
        "full_loss must be a function, got float",
    ),
    "growth of a number": (lambda m: LABPAL(m, batch_growth=3), "must be a list of pairs"),
    "a rate for a curve": (
        lambda m: one_cycle(torch.optim.SGD(m.parameters(), 0.1), 0.5, total_steps=10),
        "got float; pass rates as max_lr",
    ),
    "a class to schedule": (
        lambda m: one_cycle(torch.optim.SGD, max_lr=0.5, total_steps=10),
        "got the class SGD",
    ),
    "a line of a function": (
        lambda m: sample_line(CROSS_ENTROPY, m, [(X, Y)]),
        "model must be a torch.nn.Module, got function",
    ),
    "a class of losses": (
        lambda m: sample_line(m, nn.CrossEntropyLoss, [(X, Y)]),
        r"make one, CrossEntropyLoss\(\.\.\.\)",
    ),
    "one length": (
        lambda m: sample_line(m, CROSS_ENTROPY, [(X, Y)], lengths=1.0),
        "lengths must be a list of numbers",
    ),
    "a direction in words": (
        lambda m: sample_line(m, CROSS_ENTROPY, [(X, Y)], direction="gradient"),
        "direction must be a surefoot.directions.Direction",
    ),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_named_and_nothing_has_changed(slip: str) -> None:
    model = _net()
    before = snapshot(model)
    write, message = SLIPS[slip]
    with pytest.raises((TypeError, ValueError, RuntimeError), match=message):
        write(model)
    assert_same(snapshot(model), before)
    assert all(p.grad is None for p in model.parameters())


@every
def test_a_class_in_place_of_a_model_and_a_model_that_is_none(make: Any) -> None:
    with pytest.raises(TypeError, match=r"takes the model.*got the class Linear"):
        make(nn.Linear)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got int"):
        make(_net().parameters(), model=3)
    with pytest.raises(TypeError, match="on_measure must be a function"):
        make(_net(), on_measure=3)


@every
def test_a_loss_of_another_model_is_named(make: Any) -> None:
    """An optimizer that was copied without its model, a model that was built anew."""
    model = _net()
    optimizer = make(copy.deepcopy(model))
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="does not depend on any parameter of this optimizer"):
        for _ in range(20):
            optimizer.step(lambda: CROSS_ENTROPY(model(X), Y))
    assert_same(snapshot(model), before)


@every
def test_a_run_that_never_moves_is_told(make: Any) -> None:
    model = _net()
    optimizer = make(model)
    with pytest.warns(UserWarning, match=r"the first 50 steps found nothing to do") as told:
        for _ in range(120):
            optimizer.step(lambda: 1.0 + 0.0 * model(X).sum())
    assert len(told) == 1


@pytest.mark.parametrize("factor", [1e-38, 1e-30])
def test_a_search_does_not_leave_the_numbers(factor: float) -> None:
    model = _net()
    optimizer = ExactLineSearch(model)
    for _ in range(4):
        optimizer.step(lambda: factor * CROSS_ENTROPY(model(X), Y))
    assert all(p.isfinite().all() for p in model.parameters())


def test_steps_without_a_gradient_are_told() -> None:
    model = _net()
    optimizer = _measured(model)
    with pytest.warns(UserWarning, match=r"no gradient 10 times: call loss.backward\(\) before"):
        for _ in range(30):
            CROSS_ENTROPY(model(X), Y).backward()
            optimizer.zero_grad()
            optimizer.step()


def test_a_length_from_a_tensor_is_a_number() -> None:
    assert type(_measured(_net(), total_steps=torch.tensor(10)).total_steps) is int


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has none yet")
def test_muon_takes_named_parameters() -> None:
    model = _net()
    plain, named = MeasuredMuon(model.parameters()), MeasuredMuon(model.named_parameters())
    for one, other in zip(plain.param_groups, named.param_groups, strict=True):
        assert [id(p) for p in one["params"]] == [id(p) for p in other["params"]]


@every
def test_the_peak_of_a_schedule_that_is_meant_as_a_rate_is_told(make: Any) -> None:
    model = _net()
    optimizer = make(model)
    one_cycle(optimizer, max_lr=1e-3, total_steps=100)
    with pytest.warns(UserWarning, match=r"max_lr=0\.001 is no learning rate here"):
        optimizer.step(lambda: CROSS_ENTROPY(model(X), Y))
    optimizer = make(model)
    one_cycle(optimizer, max_lr=1.8, total_steps=100)
    optimizer.step(lambda: CROSS_ENTROPY(model(X), Y))


GROUPED: dict[str, Callable[[nn.Module], Any]] = {**MAKERS, "MeasuredLR": _measured}


@pytest.mark.parametrize("lr", [-1.0, float("nan"), None, "0.1"])
@pytest.mark.parametrize("name", GROUPED)
def test_a_group_that_is_refused_is_not_left_behind(name: str, lr: Any) -> None:
    model = _net()
    optimizer = GROUPED[name](model)
    with pytest.raises((TypeError, ValueError), match=r"^lr must be"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))], "lr": lr})
    assert len(optimizer.param_groups) == 1
    optimizer.step(lambda: CROSS_ENTROPY(model(X), Y))


def test_parameters_without_memory_do_not_stop_a_measurement() -> None:
    """Those of a part that is never used, made on the meta device."""
    model = _net()
    optimizer = _measured(model)
    optimizer.add_param_group({"params": nn.Linear(2, 2, device="meta").parameters()})
    for _ in range(3):
        CROSS_ENTROPY(model(X), Y).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert optimizer.last is not None
    assert optimizer.last.status.measured


@pytest.mark.parametrize("lr", [-1.0, float("nan"), float("inf"), "0.1", None])
@pytest.mark.parametrize("name", GROUPED)
def test_a_rate_that_a_schedule_left_wrong_moves_nothing(name: str, lr: Any) -> None:
    model = _net()
    optimizer = GROUPED[name](model)
    optimizer.step(lambda: CROSS_ENTROPY(model(X), Y))
    before, kept = snapshot(model), optimizer.param_groups[0]["lr"]
    optimizer.param_groups[0]["lr"] = lr
    with pytest.raises((TypeError, ValueError), match="lr of a group must be"):
        optimizer.step(lambda: CROSS_ENTROPY(model(X), Y))
    assert_same(snapshot(model), before)
    optimizer.param_groups[0]["lr"] = kept
    optimizer.step(lambda: CROSS_ENTROPY(model(X), Y))


@pytest.mark.parametrize("name", GROUPED)
def test_a_schedule_may_end_a_rounding_error_below_zero(name: str) -> None:
    """As torch's LinearLR does."""
    model = _net()
    optimizer = GROUPED[name](model)
    optimizer.step(lambda: CROSS_ENTROPY(model(X), Y))
    optimizer.param_groups[0]["lr"] = -3e-17
    before = [p.clone() for p in model.parameters()]
    optimizer.step(lambda: CROSS_ENTROPY(model(X), Y))
    for p, old in zip(model.parameters(), before, strict=True):
        assert torch.allclose(p, old, rtol=0.0, atol=1e-6)


def test_a_loss_that_nothing_holds_from_below_is_told() -> None:
    """Each update leads down ever more steeply, so no rate is the best of its line."""
    model = _net()
    optimizer = _measured(model)
    with pytest.warns(UserWarning, match="the loss has no minimum"):
        for _ in range(24):
            (-model(X).square().mean()).backward()
            optimizer.step()
            optimizer.zero_grad()


@every
def test_gradients_that_a_closure_changes_after_backward_are_told(make: Any) -> None:
    """Not those of several backward passes, nor where nothing was cut."""

    def step(change: Callable[[nn.Module], None]) -> None:
        model, data = noisy(), batches(2)
        optimizer = make(model)

        def closure() -> Any:
            optimizer.zero_grad()
            losses = [cross_entropy(model(x), y) / 2 for x, y in data]
            for loss in losses:
                loss.backward()
            change(model)
            return sum(losses)

        optimizer.step(closure)

    reads_slopes = make not in (LABPAL, ExactLineSearch, FullBatchPAL)
    for clip in (nn.utils.clip_grad_norm_, nn.utils.clip_grad_value_):
        step(lambda m, clip=clip: clip(m.parameters(), 1e9))
        cut = partial(lambda m, clip: clip(m.parameters(), 0.01), clip=clip)
        if reads_slopes:
            with pytest.warns(match="changes its gradients after backward"):
                step(cut)
        else:
            step(cut)
