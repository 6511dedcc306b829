"""Momentum is found on a toy, whatever it is called, and left out where weights are averaged."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from _measured import loop_step
from benchmarks.any_optimizer import compared
from torch import Tensor, nn
from torch.optim import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
)

from surefoot import MeasuredLR
from surefoot.measured.linear import respond
from surefoot.measured.momentum import carried, leave_out_momentum

pytestmark = pytest.mark.filterwarnings("ignore:most of the last 50 steps were shortened")


class Plain(Optimizer):
    """Steps that a subclass tells, parameter by parameter."""

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-3, **settings: Any) -> None:
        super().__init__(params, {"lr": lr, **settings})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(group["lr"] * self.update(group, self.state[p], p.grad))

    def update(self, group: dict[str, Any], state: dict[str, Any], g: Tensor) -> Tensor:
        raise NotImplementedError

    @staticmethod
    def mean(state: dict[str, Any], name: str, value: Tensor, beta: float) -> Tensor:
        state[name] = beta * state.get(name, 0.0 * value) + (1.0 - beta) * value
        return state[name]


class Lion(Plain):
    """The sign of a mean, which the second of its betas makes."""

    def update(self, group: dict[str, Any], state: dict[str, Any], g: Tensor) -> Tensor:
        first, second = group["betas"]
        step = (first * state.get("m", 0.0 * g) + (1.0 - first) * g).sign()
        self.mean(state, "m", g, second)
        return step


class Differences(Plain):
    """A mean of gradients and one of their differences, as Adan has them."""

    def update(self, group: dict[str, Any], state: dict[str, Any], g: Tensor) -> Tensor:
        first, second, third = group["betas"]
        change = g - state.get("last", g)
        state["last"] = g.clone()
        both = self.mean(state, "m", g, first) + second * self.mean(state, "d", change, second)
        return both / (self.mean(state, "v", g.square(), third).sqrt() + 1e-8)


class Belief(Plain):
    """By how far a gradient is from the mean of them: without that, by nothing."""

    def update(self, group: dict[str, Any], state: dict[str, Any], g: Tensor) -> Tensor:
        first, second = group["betas"]
        m = self.mean(state, "m", g, first)
        return m / (self.mean(state, "v", (g - m).square(), second).sqrt() + 1e-12)


class Stubborn(Plain):
    """Momentum that no setting turns off."""

    def update(self, group: dict[str, Any], state: dict[str, Any], g: Tensor) -> Tensor:
        return self.mean(state, "m", g, 0.95)


class Waiting(Plain):
    """Adam that stands still for five steps, as some RAdams do."""

    def update(self, group: dict[str, Any], state: dict[str, Any], g: Tensor) -> Tensor:
        state["steps"] = state.get("steps", 0) + 1
        m, v = self.mean(state, "m", g, 0.0), self.mean(state, "v", g.square(), 0.999)
        return (state["steps"] > 5) * m / ((v / (1.0 - 0.999 ** state["steps"])).sqrt() + 1e-8)


PAIR, TRIPLE = (0.9, 0.999), (0.98, 0.92, 0.99)
LEFT_OUT: dict[str, tuple[Callable[[Any], Optimizer], dict[str, Any]]] = {
    "sgd": (lambda p: SGD(p, 0.1), {"momentum": 0}),
    "nesterov": (
        lambda p: SGD(p, 0.1, momentum=0.9, nesterov=True),
        {"momentum": 0.0, "nesterov": False},
    ),
    "adam": (Adam, {"betas": (0.0, 0.999)}),
    "adamw": (AdamW, {"betas": (0.0, 0.999)}),
    "nadam": (NAdam, {"betas": (0.0, 0.999)}),
    "radam": (RAdam, {"betas": (0.0, 0.999)}),
    "adamax": (Adamax, {"betas": (0.0, 0.999)}),
    "adagrad": (Adagrad, {}),
    "adadelta": (Adadelta, {"rho": 0.9}),
    "rmsprop": (lambda p: RMSprop(p, momentum=0.9), {"momentum": 0.0, "alpha": 0.99}),
    "lion": (lambda p: Lion(p, betas=(0.9, 0.99)), {"betas": (0.0, 0.99)}),
    "differences": (lambda p: Differences(p, betas=TRIPLE), {"betas": (0.0, 0.0, 0.99)}),
}
KEPT: dict[str, tuple[Callable[[Any], Optimizer], dict[str, Any]]] = {
    "belief": (lambda p: Belief(p, betas=PAIR), {"betas": PAIR}),
    "stubborn": (Stubborn, {}),
}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))


@pytest.mark.parametrize("name", LEFT_OUT)
def test_the_fewest_settings_are_set_to_nothing(name: str) -> None:
    make, expected = LEFT_OUT[name]
    base = make(net().parameters())
    assert leave_out_momentum(base)
    assert {key: base.param_groups[0][key] for key in expected} == expected
    after = carried(base)
    assert after is not None
    assert after.share < 1e-6


@pytest.mark.parametrize("name", KEPT)
def test_settings_that_do_not_help_stay_as_they_are(name: str) -> None:
    make, expected = KEPT[name]
    base = make(net().parameters())
    before = copy.deepcopy(base.state_dict())
    assert leave_out_momentum(base) is None
    assert base.state_dict() == before
    assert {key: base.param_groups[0][key] for key in expected} == expected


def test_how_much_is_carried_is_what_momentum_says() -> None:
    for beta in (0.5, 0.9):
        found = carried(SGD(net().parameters(), 0.1, momentum=beta, dampening=beta))
        assert found is not None
        # what is left of the last mean, beside the last gradient's own part
        assert found.share == pytest.approx(beta, rel=0.02)


@pytest.mark.parametrize("name", [*LEFT_OUT, *KEPT])
def test_it_trains_with_nothing_given(name: str) -> None:
    model = net()
    base = {**LEFT_OUT, **KEPT}[name][0](model.parameters())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        optimizer = MeasuredLR(base, model)
    assert [("averaging=True" in str(w.message)) for w in told] == [True] * (name in KEPT)
    assert (optimizer._stepper.averages is None) == (name in KEPT)
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    y = x[:, :1] - x[:, 1:2] * x[:, 2:3]
    first, *_ = [loop_step(optimizer, lambda: (model(x) - y).square().mean()) for _ in range(200)]
    model.eval()
    assert float((model(x) - y).square().mean().detach()) < 0.15 * first


@pytest.mark.parametrize("base", [AdamW, lambda p: SGD(p, 1e-3, momentum=0.9)])
def test_momentum_that_comes_back_is_left_out_again(base: Any) -> None:
    """By a scheduler that cycles it, a checkpoint of the plain optimizer, a group that joins."""
    model = net()
    optimizer = MeasuredLR(base(model[0].parameters()), model)
    optimizer.add_param_group({"params": model[2].parameters()})
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=30)
    x = torch.randn(64, 6)

    def step() -> None:
        loop_step(optimizer, lambda: (model(x) - x[:, :1]).square().mean())
        for group in optimizer.param_groups:
            assert group.get("momentum", group.get("betas", (0.0,))[0]) == 0.0

    for _ in range(20):
        step()
        schedule.step()
        assert any(g.get("momentum") or g.get("betas", (0,))[0] for g in optimizer.param_groups)
    plain = base(model[0].parameters())
    plain.add_param_group({"params": model[2].parameters()})
    optimizer.load_state_dict(plain.state_dict())
    step()


def test_averaging_that_is_asked_for_is_made_whatever_the_momentum() -> None:
    model = net()
    optimizer = MeasuredLR(Stubborn(model.parameters()), model, averaging=True)
    assert optimizer._stepper.averages is not None


def test_what_is_refused_keeps_its_settings() -> None:
    class Own(Plain):
        """A step that its rate does not lengthen."""

        def update(self, group: dict[str, Any], state: dict[str, Any], g: Tensor) -> Tensor:
            return self.mean(state, "m", g, group["betas"][0]) / group["lr"]

    model = net()
    base = Own(model.parameters(), betas=PAIR)
    with pytest.raises(TypeError, match="does not follow lr"):
        MeasuredLR(base, model)
    assert base.param_groups[0]["betas"] == PAIR


@pytest.mark.parametrize("options", [{}, {"total_steps": 100}], ids=str)
def test_an_optimizer_that_warms_up_without_moving_is_waited_for(options: Any) -> None:
    model = net()
    base = Waiting(model.parameters())
    assert [respond(base).idle(k) for k in (0, 3, 5, 40)] == [5, 2, 0, 0]
    optimizer = MeasuredLR(base, model, **options)
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    start = [p.detach().clone() for p in model.parameters()]
    for step in range(100):
        loss = loop_step(optimizer, lambda: (model(x) - x[:, :1]).square().mean())
        if step == 4:
            assert all(map(torch.equal, start, model.parameters()))
            assert optimizer._stepper.rate.trial == 1.0
    assert loss < 0.1


@pytest.mark.filterwarnings("ignore")
def test_one_optimizer_is_compared_and_one_refused() -> None:
    best, measured = compared(AdamW, steps=60)
    assert isinstance(measured, float)
    assert measured < 2.0 * best
    _, refused = compared(torch.optim.ASGD, steps=2)
    assert "does not follow lr" in str(refused)
