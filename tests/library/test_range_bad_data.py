"""Range tests on data, loaders and training steps as they come: bad batches, odd loaders, GANs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from surefoot import range_test
from surefoot.lr_range import RangeCurve, StopReason

Batches = list[tuple[Tensor, Tensor]]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 3))


def data(bad: Callable[[int], bool] = lambda i: False, n: int = 20) -> Batches:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(32 * n, 10, generator=generator)
    y = (x @ torch.randn(10, 3, generator=generator)).argmax(1)
    pairs = zip(x.split(32), y.split(32), strict=True)
    return [(a, torch.full_like(b, -100) if bad(i) else b) for i, (a, b) in enumerate(pairs)]


def curve_of(batches: Any, **options: Any) -> RangeCurve:
    model = net()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return range_test(model, sgd, batches, nn.functional.cross_entropy, **options)


@pytest.mark.parametrize("place", [0, 12, 19])
def test_a_batch_without_a_loss_is_passed_over(place: int) -> None:
    clean, curve = curve_of(data()), curve_of(data(lambda i: i == place))
    assert curve.stop is not StopReason.NON_FINITE
    assert curve.suggestion() == pytest.approx(clean.suggestion(), rel=0.5)
    assert all(math.isnan(loss) == (i % 20 == place) for i, loss in enumerate(curve.loss))


def test_it_leaves_the_weights_alone() -> None:
    """At rates that change nothing, the losses behind it are those before it."""
    for threshold in (4.0, None):
        batches = data()[:5] + data(lambda i: True)[:1]
        options = {"num_iter": 12, "end_lr": 1e-6, "diverge_threshold": threshold}
        curve = curve_of(batches, **options)
        assert curve.loss[6:11] == pytest.approx(curve.loss[:5], rel=1e-4)


def test_bad_data_are_not_blamed_on_the_rate() -> None:
    curve = curve_of(data(lambda i: True))
    assert curve.stop is StopReason.NON_FINITE
    for found in curve.suggestions().values():
        assert "before any step: look at the data" in found.reason
        assert "start_lr" not in found.reason


def test_validation_batches_without_a_loss_do_not_count() -> None:
    batches = data()
    clean = curve_of(batches, val_loader=batches, val_share=1.0, num_iter=20)
    part = data(lambda i: i == 7)
    curve = curve_of(batches, val_loader=part, val_share=1.0, num_iter=20)
    expected = curve_of(batches, val_loader=part[:7] + part[8:], val_share=1.0, num_iter=20)
    assert all(math.isfinite(p.loss) for p in curve.validation)
    for one, other in zip(curve.validation, expected.validation, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
    assert len(curve.validation) == len(clean.validation)


def test_validation_without_any_loss_does_not_hide_the_training_losses() -> None:
    curve = curve_of(data(), val_loader=data(lambda i: True), val_share=1.0)
    assert all(math.isnan(p.loss) for p in curve.validation)
    assert curve.suggestion() == curve_of(data()).suggestion()
    assert "every validation loss is NaN" in curve.suggest().reason


class Pretends(list[Any]):
    """Says that it has a state, and a length, and raises when asked."""

    def __init__(self, batches: Batches, error: type[Exception]) -> None:
        super().__init__(batches)
        self.error = error

    def state_dict(self) -> Any:
        raise self.error("no state after all")

    def load_state_dict(self, state: Any) -> None:
        raise self.error("nor here")

    def __len__(self) -> int:
        raise self.error("unknown")


@pytest.mark.parametrize("error", [AttributeError, NotImplementedError, TypeError, RuntimeError])
def test_loaders_that_only_pretend(error: type[Exception]) -> None:
    curve = curve_of(Pretends(data(), error), val_loader=Pretends(data(), error), val_share=1.0)
    assert curve.suggestion() > 0.0
    with pytest.raises(ValueError, match="epochs needs a loader with a length"):
        curve_of(Pretends(data(), error), epochs=1)
    with pytest.raises(ValueError, match="val_share needs a val_loader with a length"):
        curve_of(data(), val_loader=Pretends(data(), error))


class Forgetful(list[Any]):
    """Saves a state that it does not take back."""

    def state_dict(self) -> dict[str, int]:
        return {"place": 3}

    def load_state_dict(self, state: Any) -> None:
        raise RuntimeError("of another epoch")


def test_a_position_that_cannot_be_put_back_does_not_cost_the_curve() -> None:
    with pytest.warns(UserWarning, match="Forgetful did not take its position back"):
        curve = curve_of(Forgetful(data()))
    assert curve.suggestion() > 0.0


def test_accelerates_loader() -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    x, y = (torch.cat(parts) for parts in zip(*data(), strict=True))
    dataset = torch.utils.data.TensorDataset(x, y)
    model = net()
    model, optimizer, loader = accelerator.prepare(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        torch.utils.data.DataLoader(dataset, 32),
    )
    curve = range_test(model, optimizer, loader, nn.functional.cross_entropy)
    assert curve.suggestion() == pytest.approx(curve_of(data()).suggestion())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_second_optimizer_is_put_back(momentum: float) -> None:
    """The discriminator's: neither the model nor the optimizer of the test knows it."""
    generator, critic = nn.Linear(4, 4), nn.Linear(4, 1)
    ours = torch.optim.Adam(generator.parameters())
    theirs = torch.optim.SGD(critic.parameters(), lr=0.01, momentum=momentum)
    for _ in range(2):  # it has a state to lose
        critic(torch.randn(8, 4)).sum().backward()
        theirs.step()
        theirs.zero_grad()
    weights = [p.detach().clone() for p in critic.parameters()]
    buffers = [theirs.state[p].get("momentum_buffer") for p in critic.parameters()]
    copies = [None if b is None else b.clone() for b in buffers]

    def step(batch: Tensor) -> Tensor:
        theirs.zero_grad()
        (critic(batch).mean() - critic(generator(batch).detach()).mean()).backward()
        theirs.step()
        loss: Tensor = generator(batch).square().mean() - critic(generator(batch)).mean()
        return loss

    for _ in range(2):
        range_test(generator, ours, list(torch.randn(4, 8, 4)), step_fn=step, num_iter=10)
    for p, kept in zip(critic.parameters(), weights, strict=True):
        assert torch.equal(p, kept)
        assert p.grad is None
    for p, buffer, copy in zip(critic.parameters(), buffers, copies, strict=True):
        assert theirs.state[p].get("momentum_buffer") is buffer
        assert buffer is None or torch.equal(buffer, copy)


def test_a_warm_up_from_zero_is_no_rate_of_zero() -> None:
    model = net()
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters()}]
    sgd = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    torch.optim.lr_scheduler.LambdaLR(sgd, lambda k: min(1.0, k / 10))
    curve = range_test(model, sgd, data(), nn.functional.cross_entropy, num_iter=20)
    assert [end / curve.ramp.ends[0] for end in curve.ramp.ends] == pytest.approx([1.0, 0.1])
    assert [group["lr"] for group in sgd.param_groups] == [0.0, 0.0]


def test_hooks_of_the_test_are_gone_afterwards() -> None:
    from torch.optim import optimizer as module

    def broken() -> Iterator[Any]:
        yield data()[0]
        raise KeyboardInterrupt

    before = len(module._global_optimizer_pre_hooks)
    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="iterator"):
        curve_of(broken())
    assert len(module._global_optimizer_pre_hooks) == before


class Endless:
    """A stream of batches, as of augmented ones: it has no length and no end."""

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from data()


def test_a_loader_without_an_end_trains_and_does_not_validate() -> None:
    assert curve_of(Endless()).suggestion() == curve_of(data()).suggestion()
    with pytest.raises(ValueError, match="10000 batches and no end"):
        curve_of(data(), val_loader=Endless(), val_share=1.0)


def test_what_a_step_function_must_not_do_is_named() -> None:
    model = net()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(batch: tuple[Tensor, Tensor]) -> Tensor:
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        return loss

    before = model[0].weight.clone()
    with pytest.raises(RuntimeError, match=r"step_fn returns it and leaves backward\(\)"):
        range_test(model, sgd, data(), step_fn=step)
    with pytest.raises(TypeError, match="without loss_fn or step_fn the model is called with all"):
        range_test(model, sgd, data())
    assert torch.equal(model[0].weight, before)
    assert model[0].weight.grad is None


class Once:
    """Hands the same iterator out each time, as open files do."""

    def __init__(self) -> None:
        self.batches = iter(data())

    def __iter__(self) -> Iterator[Any]:
        return self.batches


def test_a_loader_that_can_be_read_only_once_is_named() -> None:
    assert len(curve_of(Once(), num_iter=20).lr) == 20
    with pytest.raises(ValueError, match="the loader can be read only once"):
        curve_of(Once(), num_iter=21)
