"""Rates by group, weight decay that belongs to the rate, noise, and the end of a run."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from _measured import assert_equal, build, walk
from _problems import batches
from torch import Tensor, nn

from surefoot import MeasuredLR
from surefoot.measured.advice import predict
from surefoot.measured.decay import TIMES, decay_gain
from surefoot.measured.noise import own_share
from surefoot.measured.ratios import GroupLine, Ratios, drawn, estimate

ALL_ON: dict[str, Any] = {"groups": "measured", "weight_decay": "measured", "advice": True}


class Valley(nn.Module):
    """½ (θ − e)ᵀ H (θ − e) over two groups of the same size that need different rates."""

    def __init__(self, steep: float, coupling: float = 0.0, size: int = 8) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.full((size,), 2.0))
        self.second = nn.Parameter(torch.full((size,), 2.0))
        self.steep, self.coupling = steep, coupling

    def forward(self, noise: Tensor) -> Tensor:
        x, y = self.first - noise[0], self.second - noise[1]
        own = 0.5 * (x @ x + self.steep * y @ y)
        return own + self.coupling * math.sqrt(self.steep) * x @ y

    def groups(self, lr: float = 0.01) -> list[dict[str, Any]]:
        return [{"params": [p], "lr": lr} for p in (self.first, self.second)]


def descend(
    optimizer: MeasuredLR, model: nn.Module, steps: int, noise: float = 0.3, size: int = 8
) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        model(noise * torch.randn(2, size, generator=generator)).backward()
        optimizer.step()
        optimizer.zero_grad()


def lines_of(
    bends: Tensor,
    minimum: Tensor,
    n: int,
    noise: float = 0.0,
    seed: int = 0,
    multiples: Sequence[float] | None = None,
) -> list[GroupLine]:
    """Lines of a quadratic whose minimum, in multiples by group, is known."""
    generator = torch.Generator().manual_seed(seed)
    size, lines = len(minimum), []
    for i in range(n):
        h = bends * (1.0 + noise * float(torch.randn(1, generator=generator)))
        a = -bends @ minimum * (1.0 + noise * torch.randn(size, generator=generator).double())
        moved = drawn(i, size)
        ends = multiples or (1.0,) * size
        every = torch.tensor(ends).double()
        some = torch.tensor(moved).double() * every
        whole, part = float(every @ h @ every), float(some @ h @ some)
        lines.append(GroupLine(i, tuple(a.tolist()), tuple(ends), moved, whole, part))
    return lines


@pytest.mark.parametrize("coupling", [0.0, 0.5, -0.3])
def test_ratios_are_those_of_the_minimum_of_all_groups_together(coupling: float) -> None:
    bends = torch.tensor([[4.0, coupling * 4.0], [coupling * 4.0, 4.0]]).double()
    minimum = torch.tensor([0.5, 1.5]).double()
    logs, errors, shares = estimate(lines_of(bends, minimum, 32))
    assert logs[1] - logs[0] == pytest.approx(math.log(3.0), abs=0.2)  # half a line of assumption
    assert max(errors) < 0.1
    if coupling:
        assert math.copysign(1.0, shares[0]) == math.copysign(1.0, coupling)


@pytest.mark.slow
def test_the_interval_of_a_ratio_covers_the_truth() -> None:
    bends = torch.tensor([[4.0, 1.0], [1.0, 2.0]]).double()
    minimum = torch.tensor([0.6, 1.2]).double()
    covered = 0
    for seed in range(60):
        ratios = Ratios((1.0, 1.0), tuple(lines_of(bends, minimum, 32, noise=0.5, seed=seed)))
        first, _ = ratios.told()
        covered += first.low <= math.sqrt(0.5) <= first.high
    assert covered >= 51  # 95 % of 60, less what the assumption of no difference pulls


def test_groups_that_do_not_differ_keep_their_ratio() -> None:
    bends = torch.tensor([[4.0, 1.0], [1.0, 4.0]]).double()
    ratios = Ratios()
    for line in lines_of(bends, torch.ones(2).double(), 40, noise=0.5):
        ratios = ratios.learned(line)
    assert ratios.applied == pytest.approx((1.0, 1.0), rel=0.15)
    assert not any(r.differs for r in ratios.told())
    assert "no evidence" in str(ratios.told()[0])


def test_a_group_whose_curvature_is_not_positive_keeps_its_ratio() -> None:
    bends = torch.tensor([[4.0, 0.0], [0.0, -1.0]]).double()
    lines = [
        GroupLine(i, (-4.0, -1.0), (1.0, 1.0), moved, 3.0, 4.0 if moved[0] else -1.0)
        for i, moved in enumerate(drawn(i, 2) for i in range(20))
    ]
    assert float(bends[1, 1]) < 0.0
    logs, _, _ = estimate(lines)
    # the second stays where the common minimum is; nothing sends it far
    assert abs(logs[1] - logs[0]) <= math.log(4.0)


@pytest.mark.parametrize("rests", [1, pytest.param(40, marks=pytest.mark.slow)])
def test_a_group_that_rests_keeps_its_ratio(rests: int) -> None:
    """As one does whose rate a schedule holds at 0."""
    bends = torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0]]).double()
    minimum, ratios = torch.full((3,), 0.01).double(), Ratios()
    for n, multiples in ((20, (0.01, 0.01, 0.01)), (rests, (0.01, 0.01, 0.0))):
        for line in lines_of(bends, minimum, n, multiples=multiples):
            ratios = ratios.learned(line)
    assert ratios.applied == pytest.approx((1.0, 1.0, 1.0), rel=0.1)


def test_a_steep_group_gets_the_smaller_rate() -> None:
    model = Valley(steep=100.0)
    optimizer = MeasuredLR(
        torch.optim.SGD(model.groups()), model, averaging=False, overhead=1.0, groups="measured"
    )
    descend(optimizer, model, 60)
    first, second = optimizer.ratios
    assert 0.003 < second.value / first.value < 0.03
    assert second.applied < 0.2 * first.applied
    assert second.differs
    groups = optimizer.param_groups
    ratio = groups[1]["effective_lr"] / groups[0]["effective_lr"]
    assert ratio == pytest.approx(second.applied / first.applied)


def test_many_groups_cost_no_more_than_two() -> None:
    costs = []
    for n in (2, 8):
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(n)))
        base = torch.optim.SGD([{"params": m.parameters(), "lr": 0.01} for m in model])
        optimizer = MeasuredLR(
            base, model, total_steps=60, overhead=0.3, groups="measured", max_change=math.inf
        )
        for _ in range(60):
            (model(torch.randn(16, 6)) - 1.0).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        costs.append(optimizer.cost.probes)
        assert len(optimizer.ratios) == n
    assert abs(costs[0] - costs[1]) <= 3


@pytest.mark.parametrize("averaging", [False, True])
def test_all_of_it_on_costs_no_more_than_three_percent(averaging: bool) -> None:
    model, _, optimizer = build("adamw", averaging=averaging, total_steps=400, **ALL_ON)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a net this small is moved as far as the bound allows
        walk(model, optimizer, batches(400))
    assert optimizer.cost.forward_equivalents <= 1.03 * 3 * 400
    assert optimizer.cost.probes > 10


@pytest.mark.parametrize("options", [{"total_steps": 60}, {"averaging": True}, {"total_steps": 30}])
def test_a_checkpoint_with_all_of_it_on_resumes_to_the_bit(options: dict[str, Any]) -> None:
    def made() -> tuple[nn.Module, MeasuredLR]:
        model, _, optimizer = build("momentum", overhead=0.5, **{**options, **ALL_ON})
        return model, optimizer

    data = batches(40)
    model, optimizer = made()
    walk(model, optimizer, data[:20])
    if options == {"total_steps": 30}:
        optimizer.finish(40)
    other_model, other = made()
    other_model.load_state_dict(copy.deepcopy(model.state_dict()))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert other.total_steps == optimizer.total_steps
    for net, each in ((model, optimizer), (other_model, other)):
        torch.manual_seed(7)
        walk(net, each, data[20:])
    assert_equal(model.state_dict(), other_model.state_dict())
    assert optimizer.ratios == other.ratios


# Weight decay


@pytest.mark.parametrize(
    ("base", "gain"),
    [
        (lambda p: torch.optim.AdamW(p), 1.0),
        (lambda p: torch.optim.SGD(p, lr=0.1), 1.0),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 10.0),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), 10.0),
        (lambda p: torch.optim.Adam(p, decoupled_weight_decay=True), 1.0),
    ],
)
def test_how_decay_shrinks_the_weights_is_found_out(base: Any, gain: float) -> None:
    assert decay_gain(base(nn.Linear(5, 4).parameters())) == pytest.approx(gain, rel=0.01)


@pytest.mark.parametrize("base", [torch.optim.Adam, torch.optim.RMSprop])
def test_a_decay_that_is_no_time_is_refused(base: Any) -> None:
    model = nn.Linear(5, 4)
    with pytest.raises(ValueError, match="no decay time to hold"):
        MeasuredLR(base(model.parameters()), model, weight_decay="measured")


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_weights_without_a_gradient_are_forgotten_once_a_run(momentum: float) -> None:
    # with a gradient of zero only decay moves a weight: by exp(−½ · TIMES) under a linear horizon
    model = Valley(steep=1.0)
    idle = nn.Parameter(torch.ones(3))
    model.register_parameter("idle", idle)
    groups = [*model.groups(), {"params": [idle], "lr": 0.01}]
    steps = 400
    optimizer = MeasuredLR(
        torch.optim.SGD(groups, momentum=momentum),
        model,
        total_steps=steps,
        weight_decay="measured",
    )
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        (model(torch.randn(2, 8, generator=generator)) + 0.0 * idle.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(idle.detach()[0]) == pytest.approx(math.exp(-0.5 * TIMES), rel=0.05)
    assert optimizer.param_groups[0]["weight_decay"] == 0


def test_a_group_that_was_not_to_decay_does_not() -> None:
    model = Valley(steep=1.0)
    groups = [{**g, "weight_decay": d} for g, d in zip(model.groups(), (0.1, 0.0), strict=True)]
    optimizer = MeasuredLR(
        torch.optim.AdamW(groups), model, total_steps=50, weight_decay="measured"
    )
    descend(optimizer, model, 10)
    first, second = optimizer.param_groups
    assert first["effective_weight_decay"] > 0.0
    assert second["effective_weight_decay"] == 0.0
    shrink = first["effective_weight_decay"] * first["effective_lr"]
    assert shrink == pytest.approx(TIMES * (1 - 9 / 50) ** 1 / 50, rel=0.02)


# Noise


@pytest.mark.parametrize(
    ("base", "share"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), 1.0),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 0.1),
        (lambda p: torch.optim.AdamW(p), 0.1),
        (lambda p: torch.optim.AdamW(p, betas=(0.0, 0.999)), 1.0),
    ],
)
def test_the_last_gradients_share_of_an_update(base: Any, share: float) -> None:
    assert own_share(base(nn.Linear(5, 4).parameters())) == pytest.approx(share, rel=0.1)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9")
def test_an_update_of_fixed_length_tells_no_noise() -> None:
    assert own_share(torch.optim.Muon([nn.Parameter(torch.randn(5, 4))])) is None


@pytest.mark.slow
def test_the_noise_scale_of_a_quadratic_is_found() -> None:
    model = Valley(steep=2.0, size=16)
    base = torch.optim.SGD(model.groups(1e-4))
    fresh = MeasuredLR(base, model, advice=True, overhead=9.0, frozen=True)
    sigma, covered = 1.0, 0
    for seed in range(20):
        net, optimizer = copy.deepcopy((model, fresh))
        generator = torch.Generator().manual_seed(seed)
        for _ in range(60):
            net(sigma * torch.randn(2, 16, generator=generator)).backward()
            optimizer.step()
            optimizer.zero_grad()
        noise = sigma**2 * 16 * (1.0 + 2.0**2)
        signal = float(
            net.first.detach().square().sum() + (2.0 * net.second.detach()).square().sum()
        )
        scale = optimizer.advice().noise_scale
        assert scale.value is not None
        covered += scale.low <= noise / signal <= scale.high
    assert covered >= 17
    words = str(optimizer.advice(batch_size=32))
    assert "returns diminish" in words
    diminishing = optimizer.advice(batch_size=32).diminishing
    assert diminishing == pytest.approx(32 * optimizer.advice().noise_scale.value)


def test_advice_does_not_change_the_run() -> None:
    data = batches(40)
    model, _, optimizer = build("adamw", total_steps=60, overhead=0.5)
    walk(model, optimizer, data)
    other, _, advised = build("adamw", total_steps=60, overhead=0.5, advice=True)
    walk(other, advised, data)
    assert_equal(model.state_dict(), other.state_dict())
    with pytest.raises(RuntimeError, match="advice=True"):
        optimizer.advice()


# The end of a run


def test_finish_lets_the_rate_fall_to_zero_from_where_it_is() -> None:
    model, _, optimizer = build("adamw", horizon="none", overhead=0.3)
    data = batches(60)
    walk(model, optimizer, data[:20])
    optimizer.finish(40)
    assert optimizer.total_steps == 60
    for i, batch in enumerate(data[20:]):
        in_use = optimizer._stepper.rate.in_use
        assert in_use is not None
        measures = optimizer._stepper.is_due
        walk(model, optimizer, [batch])
        if not measures:
            rate = optimizer.param_groups[0]["effective_lr"]
            assert rate <= 1e-3 * in_use * (1.0 - i / 40) * 1.0001  # the bound may shorten it
    assert rate < 0.05 * 1e-3 * in_use


def test_more_steps_go_on_from_the_rate_of_the_moment() -> None:
    model, _, optimizer = build("adamw", horizon="none", overhead=0.3)
    walk(model, optimizer, batches(10))
    optimizer.finish(20)
    walk(model, optimizer, batches(10))
    left = optimizer._stepper.settings.left
    before = left(20)
    optimizer.total_steps = 60
    assert optimizer._stepper.settings.left(20) == pytest.approx(before)
    assert optimizer._stepper.settings.left(40) == pytest.approx(0.5 * before)


def test_an_average_goes_on_as_it_is() -> None:
    states = []
    for ends in (False, True):
        model, _, optimizer = build("adamw", averaging=True, overhead=0.3)
        walk(model, optimizer, batches(20))
        if ends:
            optimizer.finish(10)
        walk(model, optimizer, batches(10))
        states.append(model.state_dict())
    assert_equal(*states)


def test_a_prediction_from_losses_in_a_line_of_the_logarithm_is_exact() -> None:
    losses = [(s, 5.0 - 0.5 * math.log(s + 1.0)) for s in range(0, 400, 10)]
    found = predict(losses, 0.1, 400, 100)
    assert found is not None
    assert found.loss == pytest.approx(5.0 - 0.5 * math.log(451.0) - 0.1)
    assert found.low < found.loss < found.high
    assert predict(losses[:5], 0.1, 400, 100) is None


@pytest.mark.parametrize(
    "wrong", [{"groups": "best"}, {"weight_decay": "best"}, {"weight_decay": 0.1}]
)
def test_wrong_words_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        build("adamw", **wrong)
