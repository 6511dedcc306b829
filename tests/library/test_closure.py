"""Both conventions of the closure, and every way of getting it wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from _problems import assert_same, batches, closure_for, noisy, snapshot
from torch import Tensor

from surefoot import LABPAL, PAL, LineSearchOptimizer

MAKERS: list[Callable[..., LineSearchOptimizer]] = [
    PAL,
    lambda params, **kw: LABPAL(params, measuring_batches=2, reuse=3, **kw),
]
both = pytest.mark.parametrize("make", MAKERS, ids=["pal", "labpal"])


def assert_close(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """A probe that records a graph may use other kernels: the same numbers up to rounding."""
    for name in a:
        assert torch.allclose(a[name], b[name], rtol=1e-7, atol=1e-10), name


def in_float64(n: int) -> list[tuple[Tensor, Tensor]]:
    return [(x.double(), y) for x, y in batches(n)]


@both
def test_zero_grad_in_a_closure_without_backward_does_no_harm(make: Any) -> None:
    ends = []
    for zeroing in (False, True):
        model = noisy()
        optimizer = make(model)
        torch.manual_seed(3)
        for batch in batches(8):
            plain = closure_for(model, batch)

            def closure() -> Tensor:
                if zeroing:  # noqa: B023
                    optimizer.zero_grad(set_to_none=False)  # noqa: B023
                return plain()  # noqa: B023

            optimizer.step(closure)
        ends.append(snapshot(model))
    assert_same(*ends)


@both
def test_accelerate_prepared_optimizer(make: Any) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model = noisy().double()
    inner = make(model)
    prepared, optimizer = accelerator.prepare(model, inner)
    twin = noisy().double()
    alone = make(twin)
    data = in_float64(8)
    torch.manual_seed(3)
    for batch in data:
        plain = closure_for(prepared, batch)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = plain()  # noqa: B023
            accelerator.backward(loss)
            return loss

        optimizer.step(closure)
    torch.manual_seed(3)
    for batch in data:
        alone.step(closure_for(twin, batch))
    assert_close(snapshot(model), snapshot(twin))
    assert inner.cost.backwards > alone.cost.backwards


@both
def test_step_under_no_grad_works(make: Any) -> None:
    model, (batch,) = noisy(), batches(1)
    with torch.no_grad():
        make(model).step(closure_for(model, batch))
    assert model.head.weight.grad is not None


@both
def test_no_closure_shows_the_lines_to_write(make: Any) -> None:
    optimizer = make(noisy())
    with pytest.raises(TypeError, match=r"def closure\(\):"):
        optimizer.step()


@both
@pytest.mark.parametrize(
    ("returned", "came"),
    [(None, "None"), ((1.0, 2.0), "1.0, 2.0"), (torch.ones(3), r"shape \(3,\)")],
)
def test_a_loss_that_is_no_number_is_named(make: Any, returned: Any, came: str) -> None:
    with pytest.raises(TypeError, match=f"one number, but returned .*{came}"):
        make(noisy()).step(lambda: returned)


@both
def test_a_prediction_made_outside_the_closure_is_noticed(make: Any) -> None:
    """The classical mistake: the graph is stale, and every probe returns the same loss."""
    model, (batch,) = noisy(), batches(1)
    stale = closure_for(model, batch)()
    with pytest.raises(RuntimeError, match="inside the closure"):
        make(model).step(lambda: stale)


@both
def test_step_hooks_and_schedulers_wrap_step(make: Any) -> None:
    model, (batch,) = noisy(), batches(1)
    optimizer = make(model)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    optimizer.step(closure_for(model, batch))
    assert seen == ["before", "after"]


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (
            lambda m: PAL(m, step_multiplier=-1.0),
            ValueError,
            "step_multiplier must be finite and 0 or more, got -1.0",
        ),
        (
            lambda m: PAL(m, step_multiplier="fast"),
            TypeError,
            "step_multiplier must be a number, got 'fast'",
        ),
        (
            lambda m: PAL(m, step_multiplier=float("nan")),
            ValueError,
            "step_multiplier must be finite",
        ),
        (lambda m: PAL(m, weight_decay=-0.1), ValueError, "weight_decay must be"),
        (lambda m: PAL(m, measuring_length=0.0), ValueError, "measuring_length must be .* greater"),
        (
            lambda m: PAL(m, direction_adaptation=1.0),
            ValueError,
            "direction_adaptation must be below 1",
        ),
        (lambda m: PAL(m, measure_every=0), ValueError, "measure_every must be 1 or more"),
        (lambda m: PAL(m, total_steps=0), ValueError, "total_steps must be 1 or more"),
        (lambda m: PAL(m, total_steps=1.5), TypeError, "total_steps must be a whole number"),
        (lambda m: PAL([]), ValueError, "empty parameter list"),
        (
            lambda m: LABPAL(m, mode="adam"),
            ValueError,
            'mode must be "sgd" or "nsgd", got \'adam\'',
        ),
        (lambda m: LABPAL(m, rule="cubic"), ValueError, 'rule must be "pooled", "published" or'),
        (
            lambda m: LABPAL(m, measuring_batches=0),
            ValueError,
            "measuring_batches must be 1 or more",
        ),
        (lambda m: LABPAL(m, reuse=2.5), TypeError, "reuse must be a whole number"),
        (lambda m: LABPAL(m, momentum=1.0), ValueError, "momentum must be below 1"),
        (lambda m: LABPAL(m, batch_growth=((0.5, 2),)), ValueError, "pass total_steps"),
        (lambda m: LABPAL(m, batch_growth=((0, 2, 3),)), ValueError, "pairs"),
        (lambda m: LABPAL(m, dataset_size=0, batch_size=5), ValueError, "dataset_size must be"),
        (
            lambda m: PAL([{"params": m.conv.parameters(), "lr": -2.0}]),
            ValueError,
            "lr must be finite",
        ),
        (
            lambda m: PAL(
                [
                    {"params": m.conv.parameters()},
                    {"params": m.head.parameters(), "max_length": 9.0},
                ]
            ),
            ValueError,
            "max_length belongs to the whole line",
        ),
    ],
)
def test_bad_settings_are_named(make: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make(noisy())
