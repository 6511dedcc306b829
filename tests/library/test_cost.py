"""What a step costs, counted by wrapping the closure, not by asking the optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from _problems import batches, closure_for, noisy
from torch import Tensor, nn

from surefoot import LABPAL, PAL, Cost, LineSearchOptimizer


class Counted:
    """Counts calls of the loss, and backward passes by a hook on it."""

    def __init__(self) -> None:
        self.forwards = 0
        self.backwards = 0

    def around(self, closure: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def counted() -> Tensor:
            self.forwards += 1
            loss = closure()
            if loss.requires_grad:
                loss.register_hook(self._count)
            return loss

        return counted

    def _count(self, grad: Tensor) -> None:
        self.backwards += 1

    def cost(self) -> tuple[int, int]:
        return self.forwards, self.backwards


def train(optimizer: LineSearchOptimizer, model: nn.Module, steps: int) -> Counted:
    counted = Counted()
    data = batches(5)
    for i in range(steps):
        optimizer.step(counted.around(closure_for(model, data[i % 5])))
    assert (optimizer.cost.forwards, optimizer.cost.backwards) == counted.cost()
    return counted


@pytest.mark.parametrize("beta", [0.0, 0.4])
def test_pal_makes_two_forwards_and_one_backward(beta: float) -> None:
    model = noisy()
    counted = train(PAL(model, direction_adaptation=beta), model, steps=30)
    assert counted.cost() == (60, 30)


def test_pal_measuring_rarely_costs_one_forward_per_measurement() -> None:
    model = noisy()
    assert train(PAL(model, measure_every=10), model, steps=30).cost() == (33, 30)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:LABPAL has found no minimum")  # kinks, and bends down between
@pytest.mark.parametrize("mode", ["sgd", "nsgd"])
def test_labpal_costs_at_most_1_2_percent_more_than_sgd_over_10000_batches(mode: Any) -> None:
    model = nn.Linear(3, 1)
    x = torch.randn(8, 3)
    y = x.sum(1, keepdim=True)
    counted = Counted()
    optimizer = LABPAL(model, rule="published", mode=mode, reuse=1000)
    for _ in range(10_000):
        optimizer.step(counted.around(lambda: (model(x) - y).abs().sqrt().mean()))
    forwards, backwards = counted.cost()
    assert (optimizer.cost.forwards, optimizer.cost.backwards) == (forwards, backwards)
    sgd = 3 * 10_000
    assert 1.0 < (forwards + 2 * backwards) / sgd <= 1.012
    # at least a measurement at the start, after the burn-in, and every 1000 updates
    assert optimizer.memory.updates <= 10_000 - 9 * 11


def test_labpal_measurement_is_three_forwards_a_batch_and_one_backward() -> None:
    model = noisy()
    optimizer = LABPAL(model, measuring_batches=4, reuse=1000)
    # four batches at three places, one backward; and once, a repeated evaluation of the start
    assert train(optimizer, model, steps=4).cost() == (4 * 3 + 1, 1)
    assert train_more(optimizer, model, 6) == Cost(forwards=6, backwards=6, probes=0)


def train_more(optimizer: LineSearchOptimizer, model: nn.Module, steps: int) -> Cost:
    before = optimizer.cost
    for batch in batches(steps):
        optimizer.step(closure_for(model, batch))
    return optimizer.cost - before


def test_a_closure_that_calls_backward_costs_more_and_the_counter_says_so() -> None:
    model = noisy()
    optimizer = PAL(model)
    counted = Counted()
    (batch,) = batches(1)
    plain = counted.around(closure_for(model, batch))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = plain()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    assert counted.cost() == (6, 6)
    assert optimizer.cost == Cost(forwards=6, backwards=6, probes=3)


def test_outcomes_carry_the_cost_of_their_step() -> None:
    model = noisy()
    optimizer = PAL(model, measure_every=2)
    costs = []
    for batch in batches(4):
        optimizer.step(closure_for(model, batch))
        assert optimizer.last is not None
        costs.append(optimizer.last.cost)
    assert costs == [Cost(2, 1, 1), Cost(1, 1, 0)] * 2
    assert sum(costs, Cost()) == optimizer.cost
    assert optimizer.cost.forward_equivalents == 6 + 2 * 4
