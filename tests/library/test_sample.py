"""sample_line: the numbers are right, everything is put back, bad input is explained."""

from __future__ import annotations

import copy
import gc
import math
import random
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from _problems import assert_same, batches, noisy, snapshot
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

import surefoot
from surefoot import LABPAL, PAL, SLS, MeasuredLR, NotRepeatableError
from surefoot.directions import Direction
from surefoot.shape import (
    SampleProgress,
    between,
    default_lengths,
    gradient_direction,
    next_update,
    random_direction,
    sample_line,
)

LENGTHS = (-0.3, -0.1, 0.0, 0.05, 0.2, 0.7)


def per_sample(outputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(outputs, targets, reduction="none")


SIGMA, SIZE, COUNT = 0.8, 8, 200


@pytest.fixture(scope="module")
def problem() -> tuple[nn.Module, list[tuple[Tensor, Tensor]], Tensor, Tensor]:
    torch.manual_seed(4)
    x = torch.randn(SIZE * COUNT, 7, dtype=torch.float64)
    truth = torch.randn(7, 1, dtype=torch.float64)
    y = x @ truth + SIGMA * torch.randn(SIZE * COUNT, 1, dtype=torch.float64)
    model = nn.Linear(7, 1, bias=False).double()
    return model, list(zip(x.split(SIZE), y.split(SIZE), strict=True)), x, y


class TestLinearRegression:
    """Everything is known in closed form: the line is a parabola, its minimum, its noise."""

    def test_the_sampled_line_is_the_exact_parabola(self, problem: Any) -> None:
        model, data, x, y = problem
        direction = gradient_direction(model, mse_loss, (x, y))
        sample = sample_line(model, mse_loss, data, direction=direction)
        d = direction.tensors[0][0] * direction.weights[0] / direction.norm
        theta = model.weight.detach()[0]
        residual, along = x @ theta - y[:, 0], x @ d
        value0, slope0 = float(residual.square().mean()), float(2 * (residual * along).mean())
        curvature = float(2 * along.square().mean())
        for s, loss in zip(sample.lengths, sample.losses, strict=True):
            assert loss == pytest.approx(value0 + slope0 * s + 0.5 * curvature * s * s, rel=1e-13)
        fit = sample.parabola()
        assert fit.residual < 1e-13 * value0
        assert (fit.slope0, fit.curvature) == pytest.approx((slope0, curvature), rel=1e-10)
        assert sample.slope0 == pytest.approx(slope0, rel=1e-12)

    def test_its_minimum_is_the_analytic_one(self, problem: Any) -> None:
        model, data, x, y = problem
        direction = gradient_direction(model, mse_loss, (x, y))
        sample = sample_line(model, mse_loss, data, direction=direction, lengths=_around(2.0))
        d = direction.tensors[0][0] * direction.weights[0] / direction.norm
        residual, along = x @ model.weight.detach()[0] - y[:, 0], x @ d
        analytic = -float(residual @ along) / float(along @ along)
        found = sample.exact_minimum()
        assert not found.at_border
        assert found.length == pytest.approx(analytic, rel=1e-9)
        at = residual + found.length * along
        assert found.loss == pytest.approx(float(at.square().mean()), rel=1e-12)

    def test_the_standard_error_is_right_within_ten_percent(self, problem: Any) -> None:
        r"""Gaussian inputs: the slope of one sample at the minimum has variance 4 (‖u‖² + σ²)."""
        model, data, x, y = problem
        truth = torch.linalg.lstsq(x, y).solution[:, 0]
        direction = gradient_direction(model, mse_loss, (x, y))
        sample = sample_line(model, mse_loss, data, direction=direction, lengths=_around(2.0))
        found = sample.exact_minimum()
        d = direction.tensors[0][0] * direction.weights[0] / direction.norm
        u = model.weight.detach()[0] + found.length * d - truth
        analytic = math.sqrt((float(u @ u) + SIGMA**2) / (SIZE * COUNT))
        assert found.standard_error == pytest.approx(analytic, rel=0.1)

    @pytest.mark.slow
    def test_the_standard_error_is_the_spread_of_minima_over_data_sets(self) -> None:
        """Fresh data sets of 32 batches, one line: the minima scatter as each of them says."""
        generator = torch.Generator().manual_seed(8)
        truth = torch.ones(3, 1, dtype=torch.float64)
        model = nn.Linear(3, 1, bias=False).double()
        with torch.no_grad():
            model.weight.zero_()
        direction = Direction([torch.ones(1, 3, dtype=torch.float64)], [1.0], math.sqrt(3))
        minima, errors = [], []
        for _ in range(80):
            x = torch.randn(256, 3, generator=generator, dtype=torch.float64)
            y = x @ truth + torch.randn(256, 1, generator=generator, dtype=torch.float64)
            data = list(zip(x.split(8), y.split(8), strict=True))
            found = sample_line(
                model, mse_loss, data, direction=direction, lengths=(1.0, 1.7, 2.5)
            ).exact_minimum()
            minima.append(found.length)
            assert found.standard_error is not None
            errors.append(found.standard_error)
        spread = float(torch.tensor(minima).std())
        # 80 draws know a standard deviation to 8 percent
        assert sum(errors) / 80 == pytest.approx(spread, rel=0.24)


def _around(reach: float) -> list[float]:
    return [reach * i / 20 for i in range(-5, 40)]


def moved(model: nn.Module, direction: Direction, length: float) -> nn.Module:
    """A copy of the model, moved by hand."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for p, d, w in zip(twin.parameters(), direction.tensors, direction.weights, strict=True):
            p.add_(d, alpha=length * w / direction.norm)
    return twin


def by_hand(model: nn.Module, data: list[Any], direction: Direction, length: float) -> list[float]:
    """Losses of all batches at one place; each batch's random numbers as in a plain pass."""
    losses = []
    for x, y in data:
        twin = moved(model, direction, length)
        losses.append(float(cross_entropy(twin(x), y).detach()))
    return losses


class TestNumbers:
    def test_every_loss_is_that_of_a_copy_moved_by_hand(self) -> None:
        model, data = noisy(), batches(4)
        direction = gradient_direction(model, cross_entropy, data[1])
        torch.manual_seed(11)
        sample = sample_line(model, cross_entropy, data, direction=direction, lengths=LENGTHS)
        assert sample.lengths == LENGTHS
        for i, length in enumerate(LENGTHS):
            torch.manual_seed(11)
            expected = by_hand(model, data, direction, length)
            column = [row[i] for row in sample.batch_losses]
            assert column == pytest.approx(expected, rel=1e-5)

    def test_the_full_batch_loss_weighs_batches_by_their_size(self) -> None:
        model = noisy().eval()
        (x, y) = batches(1, size=37)[0]
        sample = sample_line(
            model, cross_entropy, list(zip(x.split(10), y.split(10), strict=True)), lengths=LENGTHS
        )
        whole = sample_line(
            model,
            cross_entropy,
            [(x, y)],
            direction=gradient_direction(model, cross_entropy, (x[:10], y[:10])),
            lengths=LENGTHS,
        )
        assert sample.batch_sizes == (10, 10, 10, 7)
        assert sample.losses == pytest.approx(whole.losses, rel=1e-5)

    def test_the_slope_is_the_derivative(self) -> None:
        model, data = noisy().double(), [(x.double(), y) for x, y in batches(3)]
        h = 1e-6  # ReLU has corners
        torch.manual_seed(2)
        sample = sample_line(model, cross_entropy, data, lengths=[-h, 0.0, h])
        before, _, after = sample.batch_losses[0]
        assert sample.slope0 == pytest.approx((after - before) / (2 * h), rel=1e-4)
        assert sample.slope0 == pytest.approx(-sample.direction_norm, rel=1e-9)

    @pytest.mark.parametrize("loss_fn", [cross_entropy, per_sample])
    def test_all_kinds_of_batches_give_the_same_bits(self, loss_fn: Any) -> None:
        data = batches(5)
        sources: list[Any] = [data, tuple(data), iter(data), (batch for batch in data)]
        rows = []
        for source in sources:
            model = noisy()
            torch.manual_seed(6)
            sample = sample_line(model, loss_fn, source, lengths=LENGTHS)
            rows.append((sample.batch_losses, sample.direction_norm, sample.own_losses))
        assert all(row == rows[0] for row in rows)
        assert rows[0][2] == rows[0][0][0]

    def test_a_shuffling_loader_is_the_same_at_every_place(self) -> None:
        x, y = (torch.cat(part) for part in zip(*batches(4), strict=True))
        loader = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True)
        model = noisy().eval()
        sample = sample_line(model, per_sample, loader, lengths=LENGTHS)
        assert sum(sample.batch_sizes) == 64
        unit = moved(model, _first_gradient(model, loader, sample), LENGTHS[0])
        whole = float(cross_entropy(unit(x), y).detach())
        assert sample.losses[0] == pytest.approx(whole, rel=1e-5)

    def test_the_own_batch_is_measured_along_its_own_line(self) -> None:
        model, data = noisy().eval(), batches(3)
        foreign = batches(1, seed=77)[0]
        direction = gradient_direction(model, cross_entropy, foreign)
        sample = sample_line(
            model, cross_entropy, data, direction=direction, own_batch=foreign, lengths=LENGTHS
        )
        alone = sample_line(model, cross_entropy, [foreign], direction=direction, lengths=LENGTHS)
        assert sample.own_losses == alone.losses
        assert len(sample.batch_losses) == 3

    def test_zero_is_added_and_the_grid_is_put_in_order(self) -> None:
        sample = sample_line(noisy(), cross_entropy, batches(2), lengths=[0.4, -0.1, 0.4, 0.2])
        assert sample.lengths == (-0.1, 0.0, 0.2, 0.4)
        assert default_lengths()[0] == -0.5
        assert len(default_lengths()) == 41
        assert 0.0 in default_lengths(10)

    def test_progress_counts_every_forward_pass(self) -> None:
        seen: list[SampleProgress] = []
        data = batches(3)
        sample_line(noisy(), cross_entropy, data, lengths=LENGTHS, on_progress=seen.append)
        assert [p.done for p in seen] == list(range(1, 19))
        assert {p.total for p in seen} == {18}
        sample_line(noisy(), cross_entropy, iter(data), lengths=LENGTHS, on_progress=seen.append)
        assert seen[-1] == (18, None)


def _first_gradient(model: nn.Module, loader: Any, sample: Any) -> Direction:
    """The direction of a sample again: only the batch with the right norm can have made it."""
    state = torch.get_rng_state()
    try:
        for first in loader:
            candidate = gradient_direction(model, cross_entropy, first)
            if math.isclose(candidate.norm, sample.direction_norm, rel_tol=1e-6):
                return candidate
    finally:
        torch.set_rng_state(state)
    raise AssertionError("no batch has this gradient")


class TestNoTrace:
    def everything(self, model: nn.Module) -> tuple[dict[str, Tensor], Tensor, list[Any]]:
        return snapshot(model), torch.get_rng_state(), [p.grad for p in model.parameters()]

    def assert_untouched(self, model: nn.Module, before: Any) -> None:
        state, numbers, grads = self.everything(model)
        assert_same(state, before[0])
        assert torch.equal(numbers, before[1])
        assert all(a is b for a, b in zip(grads, before[2], strict=True))

    def test_nothing_changes(self) -> None:
        model, data = noisy(), batches(3)
        cross_entropy(model(data[0][0]), data[0][1]).backward()
        before = self.everything(model)
        sample_line(model, cross_entropy, data, lengths=LENGTHS)
        self.assert_untouched(model, before)
        assert model.training
        assert torch.is_grad_enabled()

    @pytest.mark.parametrize("call", [1, 2, 5, 9])
    def test_nothing_changes_on_an_exception(self, call: int) -> None:
        model, data = noisy(), batches(3)
        calls = [0]

        def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
            calls[0] += 1
            if calls[0] == call:
                raise KeyboardInterrupt
            return cross_entropy(outputs, targets)

        before = self.everything(model)
        with pytest.raises(KeyboardInterrupt):
            sample_line(model, loss_fn, data, lengths=LENGTHS)
        self.assert_untouched(model, before)

    def test_one_batch_is_held_at_a_time(self) -> None:
        alive: list[weakref.ref[Tensor]] = []
        most = [0]

        def stream() -> Iterator[tuple[Tensor, Tensor]]:
            for i in range(5):
                x, y = batches(1, seed=i)[0]
                alive.append(weakref.ref(x))
                yield x, y
                del x, y
                gc.collect()
                most[0] = max(most[0], sum(ref() is not None for ref in alive))

        sample_line(noisy(), cross_entropy, stream(), lengths=LENGTHS)
        # the one just measured, and the first, whose gradient is the direction
        assert most[0] <= 2


class TestDirections:
    def test_the_gradient_is_autograds(self) -> None:
        model, (batch,) = noisy().eval(), batches(1)
        direction = gradient_direction(model, per_sample, batch)
        twin = copy.deepcopy(model)
        cross_entropy(twin(batch[0]), batch[1]).backward()
        grads = [p.grad for p in twin.parameters()]
        for d, w, g in zip(direction.tensors, direction.weights, grads, strict=True):
            assert torch.allclose(w * d, -g, rtol=1e-5, atol=1e-8)
        norm = torch.cat([g.flatten() for g in grads]).norm()
        assert direction.norm == pytest.approx(float(norm), rel=1e-5)
        assert direction.slope0 == pytest.approx(-(float(norm) ** 2), rel=1e-5)
        assert all(p.grad is None for p in model.parameters())

    def test_frozen_and_unused_parameters(self) -> None:
        model, (batch,) = noisy(), batches(1)
        model.conv.weight.requires_grad_(False)
        model.unused = nn.Parameter(torch.ones(3))
        direction = gradient_direction(model, cross_entropy, batch)
        names = [n for n, p in model.named_parameters() if p.requires_grad]
        assert len(direction.tensors) == len(names) == len(list(model.parameters())) - 1
        assert not direction.tensors[names.index("unused")].any()
        sample_line(model, cross_entropy, [batch], direction=direction, lengths=LENGTHS)

    @pytest.mark.parametrize(
        "make",
        [
            lambda model: torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9, nesterov=True),
            lambda model: torch.optim.AdamW(model.parameters(), lr=0.01),
            lambda model: torch.optim.LBFGS(model.parameters(), max_iter=3),
            PAL,
            SLS,
            lambda model: LABPAL(model, measuring_batches=1, reuse=2, burn_in=0),
            lambda model: MeasuredLR(torch.optim.AdamW(model.parameters()), model, total_steps=9),
        ],
    )
    def test_the_next_update_is_what_the_optimizer_does_next(
        self, make: Callable[[nn.Module], torch.optim.Optimizer]
    ) -> None:
        model, data = noisy(), batches(5)
        optimizer = make(model)

        def step(batch: Any) -> None:
            def closure() -> Tensor:
                optimizer.zero_grad()
                loss = cross_entropy(model(batch[0]), batch[1])
                loss.backward()
                return loss

            optimizer.step(closure)  # type: ignore[arg-type]

        for batch in data[:4]:
            step(batch)
        before = snapshot(model), torch.get_rng_state(), copy.deepcopy(optimizer.state_dict())
        grads = [p.grad for p in model.parameters()]
        direction = next_update(model, cross_entropy, data[4], optimizer)
        assert_same(snapshot(model), before[0])
        assert torch.equal(torch.get_rng_state(), before[1])
        assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))
        assert str(optimizer.state_dict()) == str(before[2])
        step(data[4])
        for (name, p), d, w in zip(
            model.named_parameters(), direction.tensors, direction.weights, strict=True
        ):
            assert torch.equal(p.detach() - before[0][name], w * d), name

    def test_between_two_checkpoints(self) -> None:
        model = noisy()
        start, end = snapshot(model), snapshot(noisy(seed=5))
        direction = between(model, start, end)
        sample = sample_line(
            model.eval(), cross_entropy, batches(2), direction=direction, lengths=[direction.norm]
        )
        other = noisy(seed=5)
        other.load_state_dict({**snapshot(noisy(seed=5)), **_buffers(model)})
        other.eval()
        expected = sum(float(cross_entropy(other(x), y).detach()) for x, y in batches(2)) / 2
        assert sample.losses[-1] == pytest.approx(expected, rel=1e-4)
        with pytest.raises(ValueError, match=r"conv\.weight"):
            between(model, start, {k: v for k, v in end.items() if k != "conv.weight"})

    def test_a_random_direction_is_a_unit_vector(self) -> None:
        model = noisy()
        a = random_direction(model, torch.Generator().manual_seed(1))
        b = random_direction(model, torch.Generator().manual_seed(1))
        parts = torch.cat([w * d.flatten() for d, w in zip(a.tensors, a.weights, strict=True)])
        assert float(parts.norm()) == pytest.approx(1.0, rel=1e-5)
        assert all(map(torch.equal, a.tensors, b.tensors))


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


class TestBadInput:
    def sample(self, **changes: Any) -> Any:
        settings = {
            "model": noisy(),
            "loss_fn": cross_entropy,
            "batches": batches(2),
            "lengths": LENGTHS,
            **changes,
        }
        model, loss_fn, data = (settings.pop(key) for key in ("model", "loss_fn", "batches"))
        return sample_line(model, loss_fn, data, **settings)

    @pytest.mark.parametrize(
        ("changes", "error", "words"),
        [
            ({"lengths": []}, ValueError, "no places"),
            ({"lengths": [0.1, math.nan]}, ValueError, "finite"),
            ({"batches": []}, ValueError, "no batches"),
            ({"batches": iter([])}, ValueError, "no batches"),
            ({"batches": [(1, 2, 3)]}, TypeError, "pairs"),
            ({"loss_fn": lambda o, t: o}, TypeError, "one loss per sample"),
            ({"loss_fn": lambda o, t: 0.3}, TypeError, "one loss per sample"),
        ],
    )
    def test_wrong_arguments(self, changes: Any, error: Any, words: str) -> None:
        with pytest.raises(error, match=words):
            self.sample(**changes)

    def test_directions_that_do_not_fit(self) -> None:
        model = noisy()
        good = gradient_direction(model, cross_entropy, batches(1)[0])
        zero = Direction([torch.zeros_like(t) for t in good.tensors], good.weights, 0.0)
        with pytest.raises(ValueError, match=r"length 0\.0"):
            self.sample(direction=zero)
        infinite = Direction(good.tensors, good.weights, math.inf)
        with pytest.raises(ValueError, match="length inf"):
            self.sample(direction=infinite)
        for tensors in (good.tensors[:-1], good.tensors[::-1]):
            wrong = Direction(tensors, good.weights[: len(tensors)], good.norm)
            with pytest.raises(ValueError, match="does not fit"):
                self.sample(direction=wrong)

    def test_a_loss_that_is_not_deterministic(self) -> None:
        numbers = random.Random(0)
        with pytest.raises(NotRepeatableError, match="first batch"):
            self.sample(loss_fn=lambda o, t: cross_entropy(o, t) * (1 + numbers.random()))

    def test_a_model_without_trainable_parameters(self) -> None:
        with pytest.raises(ValueError, match="no parameter"):
            self.sample(model=noisy().requires_grad_(False))


def test_it_is_a_public_name() -> None:
    assert surefoot.sample_line is sample_line
    sample = surefoot.sample_line(noisy(), cross_entropy, batches(2))
    assert isinstance(sample, surefoot.LineSample)
    assert len(sample.lengths) == 41
