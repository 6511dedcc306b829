"""Averaged weights: the average is what its formula says, and everybody but training sees it."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surefoot import MeasuredLR, MeasuredMuon
from surefoot.measured.averaging import Averages

X = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
Y = X[:, :1].sin()


def net(norm: bool = False) -> nn.Sequential:
    torch.manual_seed(1)
    middle = [nn.BatchNorm1d(16)] if norm else []
    return nn.Sequential(nn.Linear(8, 16), *middle, nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 1))


def build(norm: bool = False, **options: Any) -> tuple[nn.Sequential, MeasuredLR]:
    model = net(norm)
    torch.manual_seed(2)
    return model, MeasuredLR(torch.optim.AdamW(model.parameters()), model, **options)


def train(
    model: nn.Module, optimizer: MeasuredLR, steps: range, between: Callable[[], Any] | None = None
) -> None:
    for i in steps:
        rows = torch.arange(32 * i, 32 * i + 32) % 256
        loss = F.mse_loss(model(X[rows]), Y[rows])
        if between is not None:
            between()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def averages_of(model: nn.Module, optimizer: MeasuredLR) -> list[Tensor]:
    with optimizer.averaged():
        return [p.detach().clone() for p in model.parameters()]


def test_gradients_are_taken_between_the_iterate_and_its_weighted_mean() -> None:
    """Against the three sequences as the paper writes them, in float64, for plain SGD."""
    share, power = 0.8, 1.0
    p = nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    averages = Averages(None, share, power)
    z = x = y = p.detach().clone()
    total = 0.0
    for t in range(40):
        gradient = torch.tensor([3.0, 1.0, 0.3], dtype=torch.float64) * y
        seen = averages.before_step()
        with torch.no_grad():
            p.sub_(seen * 0.1 * gradient)
            averages.absorb([p], t)
        z = z - 0.1 * gradient
        weight = (t + 1.0) ** power
        total += weight
        x = x + weight / total * (z - x)
        y = (1 - share) * z + share * x
        torch.testing.assert_close(p.detach(), y, rtol=1e-9, atol=1e-12)
        with averages.shown():
            torch.testing.assert_close(p.detach(), x, rtol=1e-9, atol=1e-12)


def test_without_a_length_of_the_run_weights_are_averaged_and_momentum_left_out() -> None:
    model, optimizer = build()
    assert optimizer.param_groups[0]["betas"] == (0.0, 0.999)
    train(model, optimizer, range(5))
    assert any(
        not torch.equal(p, x)
        for p, x in zip(model.parameters(), averages_of(model, optimizer), strict=True)
    )


def test_muon_is_averaged_without_its_momentum() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = MeasuredMuon(model.parameters(), model=model)
    momenta = [g.get("momentum", g.get("betas", (None,))[0]) for g in optimizer.param_groups]
    assert momenta == [0.0, 0.0]
    x = torch.randn(64, 4)
    for _ in range(60):
        loss_of(model, x).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    assert loss_of(model, x) < 0.05 * x.sum(1).square().mean()


def loss_of(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return (model(x)[:, 0] - x.sum(1)).square().mean()


@pytest.mark.parametrize(
    "options", [{"total_steps": 9}, {"horizon": "none"}, {"frozen": True}, {"averaging": False}]
)
def test_weights_are_not_averaged_where_something_else_is_asked_for(options: Any) -> None:
    model, optimizer = build(**options)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    train(model, optimizer, range(5))
    for p, x in zip(model.parameters(), averages_of(model, optimizer), strict=True):
        assert torch.equal(p, x)


def test_evaluation_files_and_copies_of_them_see_the_average_to_the_bit() -> None:
    model, optimizer = build()
    train(model, optimizer, range(20))
    mine, averages = [p.detach().clone() for p in model.parameters()], averages_of(model, optimizer)
    other = net().eval()
    other.load_state_dict(model.state_dict())
    for p, x in zip(other.parameters(), averages, strict=True):
        assert torch.equal(p, x)
    model.eval()
    assert torch.equal(model(X), other(X))
    model.train()
    for p, own in zip(model.parameters(), mine, strict=True):
        assert torch.equal(p, own)


def test_a_larger_modules_file_holds_the_average_too() -> None:
    model, optimizer = build()
    whole = nn.ModuleDict({"part": model, "rest": nn.Linear(2, 2)})
    train(model, optimizer, range(5))
    assert torch.equal(whole.state_dict()["part.0.weight"], averages_of(model, optimizer)[0])


def test_a_model_that_is_trained_in_evaluation_mode_sees_no_average() -> None:
    """Frozen BatchNorm: the same steps as a model without it, and an average for evaluations."""
    ends = []
    for frozen in (False, True):
        model = net(norm=True)
        model = nn.Sequential(*(m for m in model if not isinstance(m, nn.Dropout)))
        if frozen:
            model.eval()
        else:
            model[1] = nn.Identity()
        with torch.no_grad():  # statistics of 0 and 1 but for ε
            model[0].weight.mul_(1.0 if not frozen else (1.0 + 1e-5) ** 0.5)
            model[0].bias.mul_(1.0 if not frozen else (1.0 + 1e-5) ** 0.5)
        for p in model[1].parameters():
            p.requires_grad_(False)
        used = [p for p in model.parameters() if p.requires_grad]
        optimizer = MeasuredLR(torch.optim.SGD(used, 1e-2), model)
        train(model, optimizer, range(30))
        ends.append(F.mse_loss(model(X), Y).item())
        if frozen:
            seen = model(X).detach()
            with torch.no_grad(), optimizer.averaged():
                averaged = model(X)
            with torch.no_grad():
                assert torch.equal(model(X), averaged)
            assert not torch.equal(seen, averaged)
    assert ends[1] == pytest.approx(ends[0], rel=0.02)


def test_evaluating_in_the_middle_of_a_step_changes_nothing() -> None:
    def evaluate() -> None:
        model.eval()
        with torch.no_grad():
            model(X)
        model.state_dict()
        model.train()

    model, optimizer = build(norm=True)
    train(model, optimizer, range(30))
    undisturbed = [p.detach().clone() for p in model.parameters()]
    buffers = [b.clone() for b in model.buffers()]
    model, optimizer = build(norm=True)
    train(model, optimizer, range(30), evaluate)
    for p, was in zip(model.parameters(), undisturbed, strict=True):
        assert torch.equal(p, was)
    for b, was in zip(model.buffers(), buffers, strict=True):
        assert torch.equal(b, was)


def test_an_exception_while_the_average_is_shown_gives_the_weights_back() -> None:
    model, optimizer = build()
    train(model, optimizer, range(5))
    mine = [p.detach().clone() for p in model.parameters()]
    model.eval()
    with pytest.raises(RuntimeError):
        model(torch.zeros(3, 5))
    with pytest.raises(ZeroDivisionError), optimizer.averaged():
        raise ZeroDivisionError
    model.train()
    for p, own in zip(model.parameters(), mine, strict=True):
        assert torch.equal(p, own)


def test_statistics_of_batch_norm_are_those_of_the_average() -> None:
    model, optimizer = build(norm=True)
    train(model, optimizer, range(40))
    seen: list[Tensor] = []
    handle = model[1].register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    stale = model[1].running_mean.clone()
    model.eval()
    with torch.no_grad():
        model(X)  # all batches of the last 16 steps, twice over
    handle.remove()
    shown = model.state_dict()["1.running_mean"]
    torch.testing.assert_close(shown, seen[-1].mean(0))
    model.train()
    assert torch.equal(model[1].running_mean, stale)


@pytest.mark.parametrize("model_first", [True, False])
@pytest.mark.parametrize("norm", [False, True])
def test_resumes_to_the_bit(model_first: bool, norm: bool) -> None:
    model, optimizer = build(norm)
    train(model, optimizer, range(30))
    file = io.BytesIO()
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    random = torch.get_rng_state()
    train(model, optimizer, range(30, 60))
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other, resumed = build(norm)
    if model_first:
        other.load_state_dict(state["model"])
    resumed.load_state_dict(state["optimizer"])
    if not model_first:
        other.load_state_dict(state["model"])
    for name, b in other.named_buffers():
        b.copy_(buffers[name])  # the file holds the average's
    torch.set_rng_state(random)
    train(other, resumed, range(30, 60))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
    for x, w in zip(averages_of(model, optimizer), averages_of(other, resumed), strict=True):
        assert torch.equal(x, w)
    assert optimizer.rate == resumed.rate


def test_a_checkpoint_is_the_same_while_the_average_is_shown() -> None:
    model, optimizer = build()
    train(model, optimizer, range(30))
    plain = copy.deepcopy(optimizer.state_dict()["state"])
    with optimizer.averaged():
        shown = copy.deepcopy(optimizer.state_dict()["state"])
    for i, entries in plain.items():
        for name, value in entries.items():
            torch.testing.assert_close(shown[i][name], value, rtol=0, atol=0)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on_as_the_original(duplicate: Callable[[Any], Any]) -> None:
    model, optimizer = build()
    train(model, optimizer, range(20))
    other, copied = duplicate((model, optimizer))
    random = torch.get_rng_state()
    train(model, optimizer, range(20, 40))
    torch.set_rng_state(random)
    train(other, copied, range(20, 40))
    for x, w in zip(averages_of(model, optimizer), averages_of(other, copied), strict=True):
        assert torch.equal(x, w)


def test_other_weights_that_are_loaded_begin_a_new_average() -> None:
    model, optimizer = build()
    train(model, optimizer, range(20))
    other = net()
    model.load_state_dict(other.state_dict())
    for p, x in zip(other.parameters(), averages_of(model, optimizer), strict=True):
        assert torch.equal(p, x)


def test_a_run_that_left_the_range_of_numbers_goes_on_from_the_average() -> None:
    model, optimizer = build()
    train(model, optimizer, range(30))
    average = averages_of(model, optimizer)
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))
    with pytest.warns(UserWarning, match="not finite"):
        train(model, optimizer, range(30, 33))
    for p, x in zip(model.parameters(), average, strict=True):
        assert torch.equal(p, x)
    train(model, optimizer, range(33, 60))
    with optimizer.averaged(), torch.no_grad():
        assert torch.isfinite(model(X)).all()


def test_a_length_that_is_told_later_leaves_averaged_weights_as_they_are() -> None:
    model, optimizer = build(overhead=99.0)
    train(model, optimizer, range(10))
    optimizer.total_steps = 40
    train(model, optimizer, range(10, 20))
    assert [point.decay for point in optimizer.history()] == [1.0] * 17
