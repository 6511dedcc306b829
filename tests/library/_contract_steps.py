"""What one step of every line-search optimizer must do, and must leave alone."""

from __future__ import annotations

import json
import math
import random
import warnings
from collections.abc import Callable
from typing import Any

import torch
from _contract_bench import Bench, Snapshot, batches, gradient, loss_of, plain_forward
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau

from surefoot.line import NotRepeatableError
from surefoot.outcome import Status

_TAKEN_BY_SCHEDULERS = frozenset(
    ("max_lr", "min_lr", "initial_lr", "momentum", "max_momentum", "base_momentum")
)


def moves_by_its_effective_lr(bench: Bench) -> None:
    """Two groups with different ``lr``: each moves by −effective_lr · gradient, in their ratio."""
    batch = batches(1, torch.float64)[0]
    model = bench.net(dtype=torch.float64, dropout=0.0)
    lr = float(bench.factory(model).defaults["lr"])
    groups: list[dict[str, Any]] = [
        {"params": list(model.conv.parameters()), "lr": lr},
        {"params": list(model.head.parameters()), "lr": 0.5 * lr},
    ]
    optimizer = bench.factory(groups, model=model)
    grads = gradient(model, batch)
    before = bench.first_move(model, optimizer, batch)
    assert optimizer.last is not None
    fast, slow = (float(group["effective_lr"]) for group in optimizer.param_groups)
    assert math.isclose(slow, 0.5 * fast, rel_tol=1e-9), (fast, slow)
    assert math.isclose(optimizer.last.effective_lr, fast, rel_tol=1e-9)
    moved_sq = 0.0
    for name, p in model.named_parameters():
        move = p.detach() - before[name]
        moved_sq += float(move.square().sum())
        rate = {"conv": fast, "head": slow, "norm": 0.0}[name.split(".")[0]]
        expected = -rate * grads[name]
        assert torch.allclose(move, expected, rtol=1e-6, atol=1e-12), f"{name} moved otherwise"
    assert math.isclose(math.sqrt(moved_sq), optimizer.last.length, rel_tol=1e-6)


def decays_weights_by_the_effective_lr(bench: Bench) -> None:
    """``weight_decay`` shrinks the weights after the same move, by effective_lr · weight_decay."""
    batch = batches(1, torch.float64)[0]
    plain, optimizer = bench.fresh(dtype=torch.float64, dropout=0.0)
    bench.first_move(plain, optimizer, batch)
    decayed, decaying = bench.fresh(dtype=torch.float64, dropout=0.0, weight_decay=0.01)
    bench.first_move(decayed, decaying, batch)
    assert decaying.last is not None
    factor = 1.0 - min(1.0, 0.01 * decaying.last.effective_lr)
    for (name, p), q in zip(decayed.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(p, factor * q, rtol=1e-6, atol=1e-12), name


def follows_schedulers(bench: Bench) -> None:
    """Torch's schedulers act on ``lr``, which multiplies the step; they hijack nothing else."""
    for make in (
        lambda o: LambdaLR(o, lambda step: 0.5**step),
        lambda o: OneCycleLR(o, max_lr=1.0, total_steps=20, cycle_momentum=False),
        lambda o: ReduceLROnPlateau(o, patience=1),
    ):
        model, optimizer = bench.fresh()
        own = set(optimizer.param_groups[0]) & _TAKEN_BY_SCHEDULERS
        assert not own, f"torch's schedulers overwrite its setting {own}"
        scheduler: Any = make(optimizer)
        for batch in batches(8):
            loss = optimizer.step(loss_of(model, batch))
            scheduler.step(*([loss] if isinstance(scheduler, ReduceLROnPlateau) else []))
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        before = Snapshot(model)
        bench.walk(model, optimizer, batches(14))
        moved = [
            n for n in Snapshot(model).differs_from(before) if n in dict(model.named_parameters())
        ]
        assert not moved, f"lr = 0 moved {moved}"


def stops_at_its_horizon(bench: Bench) -> None:
    """After ``total_steps`` steps nothing moves."""
    model, optimizer = bench.fresh(total_steps=30)
    bench.walk(model, optimizer, batches(30))
    before = Snapshot(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says so; that is checked elsewhere
        bench.walk(model, optimizer, batches(4))
    moved = set(Snapshot(model).differs_from(before)) & set(dict(model.named_parameters()))
    assert not moved, f"the run is over, and {moved} moved"


def changes_buffers_once(bench: Bench) -> None:
    """BatchNorm sees one batch a step: the one at the starting point."""
    model, optimizer = bench.fresh(dropout=0.0)
    for i, batch in enumerate(batches(12)):
        twin = bench.net(dropout=0.0)
        twin.load_state_dict(model.state_dict())
        plain_forward(twin, batch)
        optimizer.step(loss_of(model, batch))
        assert int(model.norm.get_buffer("num_batches_tracked")) == i + 1
        for name, buffer in model.norm.named_buffers():
            assert torch.equal(buffer, twin.norm.get_buffer(name)), f"{name} in step {i}"


def leaves_random_numbers_as_sgd_does(bench: Bench) -> None:
    """The random state after a step is that after one ordinary forward pass."""
    data = batches(12)
    model, optimizer = bench.fresh()
    bench.walk(model, optimizer, data)
    ours = torch.get_rng_state()
    twin = bench.net()
    torch.manual_seed(21)
    for batch in data:
        plain_forward(twin, batch)
    assert torch.equal(ours, torch.get_rng_state())


def returns_the_loss_at_the_start(bench: Bench) -> None:
    """``step`` returns the loss before the move: one detached number."""
    model, optimizer = bench.fresh()
    for batch in batches(6):
        twin = bench.net()
        twin.load_state_dict(model.state_dict())
        state = torch.get_rng_state()
        expected = plain_forward(twin, batch)
        torch.set_rng_state(state)
        loss = optimizer.step(loss_of(model, batch))
        assert isinstance(loss, Tensor)
        assert loss.shape == ()
        assert not loss.requires_grad
        assert torch.equal(loss, expected.detach())


def leaves_frozen_parameters_alone(bench: Bench) -> None:
    """Frozen parameters and those without a gradient stay, to the bit."""
    model = bench.net()
    model.conv.weight.requires_grad_(False)
    model.unused = nn.Parameter(torch.ones(3))
    optimizer = bench.factory(model.parameters(), model=model)
    before = Snapshot(model)
    bench.walk(model, optimizer, batches(14))
    changed = Snapshot(model).differs_from(before)
    assert "conv.weight" not in changed
    assert "unused" not in changed
    assert "head.weight" in changed, "nothing else moved either"


def leaves_no_trace_of_an_exception(bench: Bench) -> None:
    """An exception at any evaluation of any step, Ctrl-C included: as if the step had not been.

    From a first evaluation without probes behind it, buffers and random numbers may stay where
    the interrupted forward pass left them, as with any optimizer.
    """
    data = batches(9, torch.float64)
    twin, untroubled = bench.fresh(dtype=torch.float64)
    bench.walk(twin, untroubled, data)
    for step in range(4):
        for call in (1, 2, 3, 5, 8, 13, 21):
            model, optimizer = bench.fresh(dtype=torch.float64)
            bench.walk(model, optimizer, data[:step])
            before = Snapshot(model)
            if not _interrupted(model, optimizer, data[step], call):
                break
            changed = Snapshot(model).differs_from(before)
            if call == 1:
                changed = [n for n in changed if n in dict(model.named_parameters())]
                model.load_state_dict(before.tensors)
                torch.set_rng_state(before.random)
            assert not changed, f"evaluation {call} of step {step} left a trace in {changed}"
            bench.walk(model, optimizer, data[step:])
            for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
                # what is taken out of a running average again is exact up to rounding
                assert torch.allclose(p, q, rtol=1e-5, atol=1e-8), (
                    f"after an exception in evaluation {call} of step {step}, {name} goes elsewhere"
                )
            assert optimizer.memory.steps == untroubled.memory.steps


def _interrupted(model: nn.Module, optimizer: Any, batch: Any, call: int) -> bool:
    """Whether the step got as far as the evaluation that raises."""
    calls = [0]

    def closure() -> Tensor:
        calls[0] += 1
        if calls[0] == call:
            # after drawing random numbers and touching buffers, as a real interruption would come
            model(batch[0])
            raise KeyboardInterrupt if call % 2 else ValueError("on purpose")
        return loss_of(model, batch)()

    try:
        optimizer.step(closure)
    except (KeyboardInterrupt, ValueError):
        return True
    return False


def accepts_both_kinds_of_closure(bench: Bench) -> None:
    """A closure that calls ``backward()`` itself leads to the same weights."""
    data = batches(12, torch.float64)
    ends = []
    for set_to_none in (None, True, False):  # None: the optimizer calls backward()
        model, optimizer = bench.fresh(dtype=torch.float64)
        losses = []
        for batch in data:

            def closure(
                batch: Any = batch, model: Any = model, optimizer: Any = optimizer
            ) -> Tensor:
                loss = loss_of(model, batch)()
                if set_to_none is not None:  # noqa: B023
                    optimizer.zero_grad(set_to_none)  # noqa: B023
                    loss.backward()
                return loss

            losses.append(float(optimizer.step(closure)))
        ends.append((losses, [p.detach() for p in model.parameters()]))
    (losses, params), *others = ends
    for losses2, params2 in others:
        # a probe that records a graph may use other kernels: they agree to what rounding leaves
        assert all(math.isclose(a, b, rel_tol=1e-7) for a, b in zip(losses, losses2, strict=True))
        for p, q in zip(params, params2, strict=True):
            assert torch.allclose(p, q, rtol=1e-6, atol=1e-9)


def counts_what_it_spends(bench: Bench) -> None:
    """``cost`` agrees with a closure that counts its calls and the backward passes through it."""
    model, optimizer = bench.fresh()
    spent = {"forwards": 0, "backwards": 0}

    def count_backward(grad: Tensor) -> None:
        spent["backwards"] += 1

    for batch in batches(14):
        before = optimizer.cost

        def closure(batch: Any = batch) -> Tensor:
            spent["forwards"] += 1
            loss = loss_of(model, batch)()
            if loss.requires_grad:
                loss.register_hook(count_backward)
            return loss

        optimizer.step(closure)
        cost = optimizer.cost
        assert {"forwards": cost.forwards, "backwards": cost.backwards} == spent
        assert optimizer.last is not None
        assert optimizer.last.cost == cost - before


def rejects_non_finite_losses(bench: Bench) -> None:
    """A batch with NaN leaves the weights finite, is reported, and the next batches move them."""
    model, optimizer = bench.fresh()
    data = batches(40)
    bench.walk(model, optimizer, data[:5])
    x, y = data[5]
    optimizer.step(loss_of(model, (x * math.nan, y)))
    assert optimizer.last is not None
    reported = {optimizer.last.status}
    after_nan = [p.detach().clone() for p in model.parameters()]
    assert all(bool(torch.isfinite(p).all()) for p in after_nan), "NaN in the weights"
    for batch in data[6:]:
        optimizer.step(loss_of(model, batch))
        reported.add(optimizer.last.status)
    end = [p.detach() for p in model.parameters()]
    assert Status.NON_FINITE in reported, f"never reported; only {reported}"
    assert all(bool(torch.isfinite(p).all()) for p in end), "NaN in the weights, later"
    assert not all(map(torch.equal, after_nan, end)), "it never moved again"


def never_ends_in_nan(bench: Bench) -> None:
    """Where every probe is NaN, the step ends where the loss is finite."""
    model, optimizer = bench.fresh(dropout=0.0)
    start = torch.cat([p.detach().clone().flatten() for p in model.parameters()])
    batch = batches(1)[0]

    def closure() -> Tensor:
        here = torch.cat([p.detach().flatten() for p in model.parameters()])
        far = bool((here - start).norm() > 1e-4)
        return loss_of(model, batch)() * (math.nan if far else 1.0)

    for i in range(14):
        optimizer.step(closure)
        assert bool(torch.isfinite(closure())), f"step {i} ended in NaN: {optimizer.last}"


def explains_misuse(bench: Bench) -> None:
    """Clear errors: no closure, one that returns no number or a random one, sparse gradients."""
    model, optimizer = bench.fresh()
    batch = batches(1)[0]
    _raises(TypeError, lambda: optimizer.step())
    _raises(TypeError, lambda: optimizer.step(lambda: "0.3"))
    _raises(RuntimeError, lambda: optimizer.step(lambda: torch.tensor(1.0)))
    table = nn.Embedding(5, 3, sparse=True)
    sparse = bench.factory(table)
    _raises(RuntimeError, lambda: sparse.step(lambda: table(torch.tensor([1, 2])).sum()))
    if bench.repeatable:
        noise = random.Random(3)
        model, optimizer = bench.fresh()
        noisy = lambda: loss_of(model, batch)() * (1.0 + noise.random())  # noqa: E731
        _raises(NotRepeatableError, lambda: [optimizer.step(noisy) for _ in range(30)])


def _raises(kind: type[Exception], action: Callable[[], Any]) -> None:
    try:
        action()
    except kind as error:
        message = str(error)
    else:
        raise AssertionError(f"no {kind.__name__}")
    assert message.strip(), f"a {kind.__name__} without a word"


def reports_in_plain_types(bench: Bench) -> None:
    """Outcomes become JSON, and every measurement is reported to ``on_measure`` as it is."""
    told: list[Any] = []
    model, optimizer = bench.fresh(on_measure=told.append)
    kept = []
    for batch in batches(14):
        optimizer.step(loss_of(model, batch))
        assert optimizer.last is not None
        kept.append(optimizer.last)
        again = json.loads(json.dumps(optimizer.last.to_dict()))
        assert again["status"] == optimizer.last.status.value
        assert again["length"] == optimizer.last.length
    assert told == [outcome for outcome in kept if outcome.measured]


def runs_under_autocast(bench: Bench) -> None:
    """bf16 autocast: the loss falls, the weights stay float32."""
    model, optimizer = bench.fresh(dropout=0.0)
    batch = batches(1)[0]

    def closure() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return loss_of(model, batch)()

    losses = [float(optimizer.step(closure)) for _ in range(40)]
    assert all(p.dtype is torch.float32 for p in model.parameters())
    assert losses[-1] < 0.8 * losses[0], losses


STEP_CONTRACTS = (
    moves_by_its_effective_lr,
    decays_weights_by_the_effective_lr,
    follows_schedulers,
    stops_at_its_horizon,
    changes_buffers_once,
    leaves_random_numbers_as_sgd_does,
    returns_the_loss_at_the_start,
    leaves_frozen_parameters_alone,
    leaves_no_trace_of_an_exception,
    accepts_both_kinds_of_closure,
    counts_what_it_spends,
    rejects_non_finite_losses,
    never_ends_in_nan,
    explains_misuse,
    reports_in_plain_types,
    runs_under_autocast,
)
