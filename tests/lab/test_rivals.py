"""Rivals: found by name and by their authors' import path, right by their papers, resumable."""

import importlib.util
import io
import math
import time
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.rivals.hypergradient import SGDHD
from torch import nn

from surefoot_lab.config import Experiment, ModelConfig, OptimizerConfig, TrainConfig
from surefoot_lab.errors import UserError
from surefoot_lab.rivals import RIVALS
from surefoot_lab.training.assemble import Parts, assemble
from surefoot_lab.training.evaluate import evaluation_mode
from surefoot_lab.training.optimizers import Extent, build_optimizer
from surefoot_lab.training.stepping import closure_mode, effective_lr

GEN, SALSA = "benchmarks.rivals.gen.GeN", "benchmarks.rivals.salsa_search.SaLSA"
ALIG, HYPERGRADIENT = "benchmarks.rivals.alig.AliG", "benchmarks.rivals.hypergradient.SGDHD"
DOG, LDOG = (f"benchmarks.rivals.distance.Averaged{name}" for name in ("DoG", "LDoG"))
MOMO, MOMO_ADAM = (f"benchmarks.rivals.momentum_models.{name}" for name in ("Momo", "MomoAdam"))
EXTENT = Extent(total_steps=8, steps_per_epoch=10, dataset_size=100, batch_size=10)
TORCHS = {
    "SGD": {"lr": 0.1},
    "Adam": {},
    "AdamW": {},
    "RMSprop": {"lr": 1e-3},
    "Adagrad": {},
    "Adadelta": {},
}
SETTINGS: dict[str, dict[str, Any]] = {
    **TORCHS,
    **{name: {} for name in RIVALS},
    "SGDScheduleFree": {"lr": 0.5},
    DOG: {"reps_rel": 1e-3},  # or nothing is to be seen within a few steps
    LDOG: {"reps_rel": 1e-3},
    MOMO: {},
    MOMO_ADAM: {},
    GEN: {"every": 3},
    SALSA: {},
    ALIG: {},
    HYPERGRADIENT: {"lr": 0.05},
}
WITH_LOSS = {MOMO, MOMO_ADAM, SALSA, GEN, ALIG}


def _experiment(name: str, model: str = "lab_nets.NoisyNet", **settings: Any) -> Experiment:
    return Experiment(
        steps=12,
        batch_size=64,
        model=ModelConfig(model, {"widths": [16]} if model == "mlp" else {}),
        optimizer=OptimizerConfig(name, SETTINGS[name]),
        train=TrainConfig(tensorboard=False, device="cpu", log_every=4),
        **settings,
    )


def _build(name: str, weights: list[torch.Tensor], **settings: Any) -> torch.optim.Optimizer:
    model = nn.Module()
    for place, weight in enumerate(weights):
        model.register_parameter(f"weight{place}", weight)
    return build_optimizer(OptimizerConfig(name, settings), model, EXTENT)[0]


def _step(parts: Parts, count: int) -> list[float]:
    return [float(parts.stepper.step(parts.loader.next_batch())) for _ in range(count)]


@pytest.mark.parametrize("name", SETTINGS)
def test_each_trains_digits_is_evaluated_and_goes_on(name: str) -> None:
    parts = assemble(_experiment(name))
    before = {key: value.clone() for key, value in parts.model.state_dict().items()}
    losses = _step(parts, 5)
    trained = [p.detach().clone() for p in parts.model.parameters()]
    with evaluation_mode(parts.model, parts.optimizer, parts.loader):
        assert not parts.model.training
    assert parts.model.training
    for weight, kept in zip(parts.model.parameters(), trained, strict=True):
        assert torch.allclose(weight, kept, atol=1e-5)  # schedule-free comes back up to rounding
    losses += _step(parts, 1)
    assert all(map(math.isfinite, losses))
    still = {key for key, p in parts.model.named_parameters() if torch.equal(p, before[key])}
    assert still <= {"layers.0.bias"}  # before BatchNorm, its gradient is zero up to rounding
    forwards, backwards = parts.stepper.cost
    searches = {SALSA, GEN}
    assert backwards == 6
    assert forwards > 6 if name in searches else forwards == 6
    rate = effective_lr(parts.optimizer)
    silent = {MOMO_ADAM, LDOG, "COCOB"}
    if name == "Muon":  # matrices, and the rest by AdamW
        assert rate == [0.02, 0.002]
    else:
        assert rate is None if name in silent else isinstance(rate, float)


@pytest.mark.parametrize("name", SETTINGS)
def test_each_goes_on_from_a_checkpoint_to_the_bit(name: str) -> None:
    parts = assemble(_experiment(name, model="mlp"))
    _step(parts, 4)
    buffer = io.BytesIO()
    state = {"model": parts.model.state_dict(), "optimizer": parts.optimizer.state_dict()}
    torch.save({**state, "loader": parts.loader.state_dict()}, buffer)
    expected = _step(parts, 4)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    other = assemble(_experiment(name, model="mlp", seed=1))
    other.model.load_state_dict(saved["model"])
    other.optimizer.load_state_dict(saved["optimizer"])
    other.loader.load_state_dict(saved["loader"])
    assert _step(other, 4) == expected
    for found, wanted in zip(other.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.equal(found, wanted)


def test_only_those_that_need_the_loss_are_given_a_closure() -> None:
    for name in SETTINGS:
        weight = torch.zeros(2, 1, requires_grad=True)
        optimizer = _build(name, [nn.Parameter(weight)], **SETTINGS[name])
        wanted = "backward" if name in WITH_LOSS else "none"
        assert closure_mode(optimizer, "auto") == wanted, name


def test_a_package_that_is_not_there_is_named_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"Muon needs the package 'pytorch_.*'; pip install .*rivals"
    ):
        _build("Muon", [nn.Parameter(torch.zeros(1))])


# By their papers


def _quadratic(weight: torch.Tensor, curvature: float, offset: float = 0.0) -> Any:
    """A closure of ½ c ||w||² + offset that runs the backward pass."""

    def closure(backwards: bool = True) -> torch.Tensor:
        loss = 0.5 * curvature * (weight**2).sum() + offset
        if backwards and torch.is_grad_enabled():
            weight.grad = None
            loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_hd_is_the_papers_recursion(momentum: float) -> None:
    start = [1.0, -2.0, 0.5]
    curvatures = [1.0, 3.0, 0.2]
    weight = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = SGDHD([weight], lr=0.05, hypergrad_lr=0.001, momentum=momentum)
    scale = torch.tensor(curvatures, dtype=torch.float64)
    position, rate = list(start), 0.05
    velocity, former = [0.0] * 3, None
    for _ in range(12):
        optimizer.zero_grad()
        (0.5 * scale * weight**2).sum().backward()
        optimizer.step()
        gradient = [c * w for c, w in zip(curvatures, position, strict=True)]
        if former is not None:
            rate += 0.001 * sum(g * d for g, d in zip(gradient, former, strict=True))
        velocity = [momentum * v + g for v, g in zip(velocity, gradient, strict=True)]
        former = [g + momentum * v for g, v in zip(gradient, velocity, strict=True)]
        position = [w - rate * d for w, d in zip(position, former, strict=True)]
        assert weight.tolist() == pytest.approx(position, rel=1e-12)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate, rel=1e-12)


def test_sgd_hd_has_one_rate_a_group_and_refuses_negative_settings() -> None:
    weights = [torch.ones(1, requires_grad=True) for _ in range(2)]
    groups = [{"params": [weights[0]]}, {"params": [weights[1]], "hypergrad_lr": 0.0}]
    optimizer = SGDHD(groups, lr=0.1, hypergrad_lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        sum((weight**2).sum() for weight in weights).backward()
        optimizer.step()
    assert optimizer.param_groups[0]["lr"] > 0.1
    assert optimizer.param_groups[1]["lr"] == 0.1
    with pytest.raises(ValueError, match="hypergrad_lr must not be negative"):
        SGDHD(weights, hypergrad_lr=-1.0)


@pytest.mark.parametrize(("max_lr", "expected"), [(None, 0.25), (0.1, 0.1), (0.3, 0.25)])
def test_ali_g_steps_by_loss_over_squared_gradient_at_most_max_lr(
    max_lr: float | None, expected: float
) -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = _build(ALIG, [weight], max_lr=max_lr)
    loss = optimizer.step(_quadratic(weight, 2.0))  # loss 25, gradient (6, 8), its square 100
    assert float(loss.detach()) == 25.0
    assert effective_lr(optimizer) == pytest.approx(expected, rel=1e-6)
    assert weight.tolist() == pytest.approx([3 - expected * 6, 4 - expected * 8], rel=1e-6)


@pytest.mark.parametrize(("lr", "expected"), [(1.0, 0.35), (0.2, 0.2)])
def test_momos_first_step_is_polyaks_capped_and_published(lr: float, expected: float) -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = _build(MOMO, [weight], lr=lr)
    optimizer.step(_quadratic(weight, 2.0, offset=10.0))  # loss 35, squared gradient 100
    assert weight.tolist() == pytest.approx([3 - expected * 6, 4 - expected * 8], rel=1e-5)
    assert effective_lr(optimizer) == pytest.approx(expected, rel=1e-5)


def test_momo_accepts_parameters_that_take_no_part() -> None:
    used, unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    optimizer = _build(MOMO, [used, unused])
    optimizer.step(_quadratic(used, 1.0))
    assert unused.tolist() == [1.0, 1.0]
    assert used.tolist() != [1.0, 1.0, 1.0]


def test_dogs_rate_and_average_are_the_papers() -> None:
    start = torch.tensor([3.0, 4.0], dtype=torch.float64)
    weight = nn.Parameter(start.clone())
    optimizer = _build(DOG, [weight], reps_rel=0.01, eps=1e-8, gamma=8.0)
    position, farthest, squares = start.clone(), 0.01 * (1 + 5.0), 1e-8
    average = torch.zeros_like(start)
    for step in range(1, 11):
        optimizer.zero_grad()
        (weight**2).sum().backward()
        optimizer.step()
        gradient = 2 * position
        farthest = max(farthest, float((position - start).norm()))
        squares += float(gradient @ gradient)
        rate = farthest / math.sqrt(squares)
        position = position - rate * gradient
        share = (8 + 1) / (8 + step)
        average = (1 - share) * average + share * position
        assert effective_lr(optimizer) == pytest.approx(rate, rel=1e-6)
    assert weight.tolist() == pytest.approx(position.tolist(), rel=1e-6)
    trained = weight.detach().clone()
    optimizer.eval()
    optimizer.eval()
    assert weight.tolist() == pytest.approx(average.tolist(), rel=1e-6)
    with pytest.raises(RuntimeError, match=r"train\(\)"):
        optimizer.state_dict()
    optimizer.train()
    assert torch.equal(weight, trained)


def test_ldog_has_a_rate_a_tensor() -> None:
    weights = [nn.Parameter(torch.full((2,), value)) for value in (1.0, 10.0)]
    optimizer = _build(LDOG, weights, reps_rel=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        sum((weight**2).sum() for weight in weights).backward()
        optimizer.step()
    small, large = (float(eta) for eta in optimizer.param_groups[0]["eta"])
    assert small != large


def _dropout_loss(weight: torch.Tensor, seen: list[torch.Tensor]) -> Any:
    def closure(backwards: bool = True) -> torch.Tensor:
        mask = torch.rand(weight.shape)
        seen.append(mask)
        loss = ((weight * mask) ** 2).sum()
        if backwards and torch.is_grad_enabled():
            weight.grad = None
            loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("name", [SALSA, GEN])
def test_all_evaluations_of_a_step_see_the_same_random_numbers(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = []
    for clock in (1e9, 2e9):
        monkeypatch.setattr(time, "time", lambda clock=clock: clock)
        weight = nn.Parameter(torch.linspace(1, 2, 40).view(8, 5))
        optimizer = _build(name, [weight], **({"every": 1} if name == GEN else {}))
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        numpy_before = np.random.get_state()[1].tolist()  # noqa: NPY002
        masks = []
        for _ in range(3):
            seen: list[torch.Tensor] = []
            optimizer.step(_dropout_loss(weight, seen))
            assert len(seen) > 1
            assert all(torch.equal(mask, seen[0]) for mask in seen)
            masks.append(seen[0])
        torch.manual_seed(0)  # as if each step had been one forward pass
        assert all(torch.equal(mask, torch.rand(8, 5)) for mask in masks)
        assert np.random.get_state()[1].tolist() == numpy_before  # noqa: NPY002
        ends.append(weight.detach().clone())
    assert torch.equal(*ends)  # whatever the clock says


def test_salsas_steps_satisfy_its_smoothed_condition() -> None:
    """With decay 0, the averages are the values themselves, and the condition is Armijo's."""
    generator = torch.Generator().manual_seed(3)
    weight = nn.Parameter(torch.randn(6, 4, generator=generator))
    optimizer = _build(SALSA, [weight], momentum=[0.9, 0.999, 0.0], speed_up=False)
    squares = torch.zeros(6, 4)
    for step in range(1, 9):
        before = weight.detach().clone()
        optimizer.step(_quadratic(weight, 3.0))
        gradient = 3.0 * before
        squares = 0.999 * squares + 0.001 * gradient**2
        scaled = squares / (1 - 0.999 ** (step + 1))
        direction = gradient / (scaled.sqrt() + 1e-8)
        length = effective_lr(optimizer)
        assert torch.allclose(weight, before - length * direction, rtol=1e-4, atol=1e-5)
        decrease = 1.5 * float((before**2).sum() - (weight.detach() ** 2).sum())
        assert decrease >= 0.5 * length * float((gradient * direction).sum()) * (1 - 1e-4)


@pytest.mark.parametrize(
    ("lr", "curvature", "target"), [(0.1, 8.0, 0.125), (0.1, 1.0, 0.2), (0.1, 50.0, 0.05)]
)
def test_gen_moves_the_rate_a_tenth_of_the_way_to_the_parabolas(
    lr: float, curvature: float, target: float
) -> None:
    """The minimum along the gradient of ½ c ||w||² is at 1/c; at most twice, at least half lr."""
    weight = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    optimizer = _build(GEN, [weight], lr=lr, base="SGD", every=2, total_steps=None)
    optimizer.step(_quadratic(weight, curvature))
    assert weight.tolist() == pytest.approx([3 * (1 - lr * curvature), 4 * (1 - lr * curvature)])
    before = weight.detach().clone()
    optimizer.step(_quadratic(weight, curvature))
    rate = 0.9 * lr + 0.1 * target
    assert effective_lr(optimizer) == pytest.approx(rate, rel=1e-4)
    assert weight.tolist() == pytest.approx((before * (1 - rate * curvature)).tolist(), rel=1e-4)


def test_gens_horizon_makes_a_measured_rate_count_less() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    optimizer = _build(GEN, [weight], lr=0.1, base="SGD", every=6)  # step 6 of 8 is measured
    for _ in range(6):
        optimizer.step(_quadratic(weight, 8.0))
    assert effective_lr(optimizer) == pytest.approx(0.09 + 0.1 * 0.125 * (1 - 6 / 8), rel=1e-4)


def test_gen_names_a_base_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"init_args\.base: no 'SDG' .*did you mean 'SGD'"):
        _build(GEN, [nn.Parameter(torch.zeros(1))], base="SDG")


def test_schedule_free_is_evaluated_at_its_average() -> None:
    parts = assemble(_experiment("SGDScheduleFree", model="mlp"))
    _step(parts, 5)
    optimizer = parts.optimizer
    beta = optimizer.param_groups[0]["momentum"]
    weights = [p.detach().clone() for p in parts.model.parameters()]
    with evaluation_mode(parts.model, optimizer, parts.loader):
        for p, y in zip(parts.model.parameters(), weights, strict=True):
            z = optimizer.state[p]["z"]  # Defazio et al. 2024, eq. (1): y = (1 - beta) z + beta x
            assert torch.allclose(y, (1 - beta) * z + beta * p, atol=1e-5)
            assert not torch.equal(p, y)


def test_muon_takes_the_hidden_matrices_and_leaves_adamw_the_rest() -> None:
    from surefoot_lab.rivals.muon import split

    model = nn.Sequential(
        nn.Embedding(7, 4), nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), nn.Linear(6, 5), nn.Linear(5, 2)
    )
    model[1].bias.requires_grad_(False)
    hidden, others = split(model)
    assert [tuple(p.shape) for p in hidden] == [(6, 4, 3), (5, 6)]
    assert [tuple(p.shape) for p in others] == [(7, 4), (6,), (6,), (5,), (2, 5), (2,)]
    alone = nn.Linear(3, 2)
    assert split(alone) == ([], [alone.weight, alone.bias])
    optimizer, _ = build_optimizer(OptimizerConfig("Muon", {}), alone, EXTENT)
    assert [group["use_muon"] for group in optimizer.param_groups] == [False]
