"""Several heads: counted from the loss's graph, told once by every line search."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import surefoot
from surefoot._heads import count_heads


class TwoHeads(nn.Module):
    """A trunk, a class and a place."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 16), nn.ReLU())
        self.kind = nn.Linear(16, 3)
        self.place = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.trunk(x)
        return self.kind(z), self.place(z)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(8, 6), torch.arange(8) % 3, torch.randn(8, 2)


@pytest.fixture
def net() -> TwoHeads:
    torch.manual_seed(0)
    return TwoHeads()


def losses(net: TwoHeads, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    x, kind, place = batch
    kinds, places = net(x)
    return cross_entropy(kinds, kind), mse_loss(places, place)


def penalty(net: nn.Module) -> Tensor:
    return sum((p.square().sum() for p in net.parameters()), torch.zeros(()))


def by_example(net: TwoHeads, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    x, kind, _ = batch
    return cross_entropy(net(x)[0], kind, reduction="none").mean()


Of = Callable[[Tensor, Tensor], Tensor]

SEVERAL: dict[str, Of] = {
    "added": lambda a, b: a + b,
    "weighted": lambda a, b: 0.5 * a + b / 3.0,
    "subtracted": lambda a, b: a - b,
    "a list's sum": lambda a, b: torch.stack([a, b]).sum(),
    "a list's mean": lambda a, b: torch.stack([a, b]).mean(),
    "a dictionary's": lambda a, b: sum({"a": a, "b": b}.values(), torch.zeros(())),
    "one with a dimension": lambda a, b: (a + b).reshape(1),
    "half precision between": lambda a, b: (a + b).to(torch.float64),
}
ONE: dict[str, Of] = {
    "one alone": lambda a, b: a,
    "one twice": lambda a, b: a + 0.1 * a.square(),
    "the other's value only": lambda a, b: a + b.detach(),
}


@pytest.mark.parametrize("how", SEVERAL)
def test_heads_are_counted_however_their_losses_are_added(how, net, batch):
    assert count_heads(SEVERAL[how](*losses(net, batch))) == 2


@pytest.mark.parametrize("how", ONE)
def test_one_head_is_one(how, net, batch):
    assert count_heads(ONE[how](*losses(net, batch))) == 1


def test_a_penalty_is_no_head(net, batch):
    kind, place = losses(net, batch)
    assert count_heads(kind + 0.01 * penalty(net)) == 1
    assert count_heads(kind + place + 0.01 * penalty(net)) == 2


def test_learned_weights_of_heads_are_no_heads(net, batch):
    kind, place = losses(net, batch)
    s = nn.Parameter(torch.zeros(2))
    total = kind * torch.exp(-s[0]) + place * torch.exp(-s[1]) + s.sum()
    assert count_heads(total) == 2


def test_micro_batches_are_no_heads(net, batch):
    x, kind, _ = batch
    parts = [cross_entropy(net(x[i::2])[0], kind[i::2]) for i in range(2)]
    assert count_heads(sum(parts, torch.zeros(()))) == 1


def test_two_losses_of_one_output_are_one_head(net, batch):
    x, kind, _ = batch
    logits = net(x)[0]
    assert count_heads(cross_entropy(logits, kind) + 0.1 * logits.square().mean()) == 1


def test_losses_of_examples_are_no_heads(net, batch):
    assert count_heads(by_example(net, batch)) == 1


def test_a_network_that_ends_with_a_sum_is_one_head():
    layer, other = nn.Linear(4, 1), nn.Linear(4, 1)
    x = torch.randn(5, 4)
    assert count_heads((layer(x) + other(x)).mean()) == 1
    assert count_heads((layer(x[:1]) * 2.0).sum()) == 1


@pytest.mark.parametrize("loss", [0.5, None, torch.tensor(1.0), torch.zeros(3)])
def test_what_has_no_graph_has_one_head(loss):
    assert count_heads(loss) == 1


def test_nothing_changes_by_counting(net, batch):
    loss = SEVERAL["added"](*losses(net, batch))
    assert count_heads(loss) == count_heads(loss) == 2
    loss.backward()
    assert all(p.grad is not None for p in net.parameters())
    assert count_heads(loss) == 2  # the graph of a closure that called backward


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "PAL": surefoot.PAL,
    "LABPAL": lambda m: surefoot.LABPAL(m, measuring_batches=2),
    "SLS": lambda m: surefoot.SLS(m),
    "GOLS": lambda m: surefoot.GOLS(m),
    "PLS": lambda m: surefoot.PLS(m),
}


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_line_search_tells_it_once(name, backward, net, batch):
    optimizer = OPTIMIZERS[name](net)

    def closure() -> Tensor:
        loss = SEVERAL["added"](*losses(net, batch))
        if backward:
            optimizer.zero_grad()
            loss.backward()
        return loss

    with pytest.warns(UserWarning, match="losses of 2 heads"):
        optimizer.step(closure)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*heads")
        for _ in range(3):
            optimizer.step(closure)


def test_the_warning_points_at_the_training_script(net, batch):
    optimizer = surefoot.PAL(net)
    with pytest.warns(UserWarning, match="heads") as told:
        optimizer.step(lambda: SEVERAL["added"](*losses(net, batch)))
    assert told[0].filename == __file__


def test_one_head_is_told_nothing(net, batch):
    optimizer = surefoot.LABPAL(net, measuring_batches=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            optimizer.step(lambda: losses(net, batch)[0])


def test_the_step_is_the_same_where_the_warning_is_an_error(net, batch):
    """The exception comes when everything is done: nothing is half moved."""
    quiet = TwoHeads()
    quiet.load_state_dict(net.state_dict())
    one, other = surefoot.PAL(net), surefoot.PAL(quiet)
    with pytest.raises(UserWarning, match="heads"):
        one.step(lambda: SEVERAL["added"](*losses(net, batch)))
    with pytest.warns(UserWarning, match="heads"):
        other.step(lambda: SEVERAL["added"](*losses(quiet, batch)))
    assert one.cost == other.cost
    for p, q in zip(net.parameters(), quiet.parameters(), strict=True):
        assert torch.equal(p, q)
