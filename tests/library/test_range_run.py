"""The run of a range test: the ramp, the losses, accumulation, validation, what it counts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from _problems import batches, noisy
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from surefoot.lr_range import Progress, range_test
from surefoot.lr_range._share import share_of, spread_out

LOSS = nn.functional.cross_entropy


def linear_model() -> tuple[nn.Linear, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    data = [(torch.randn(6, 4), torch.randint(0, 3, (6,))) for _ in range(4)]
    return nn.Linear(4, 3), data


def sgd(model: nn.Module, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1, **options)


@pytest.mark.parametrize(
    ("mode", "start", "rates"),
    [("exp", 1e-5, [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]), ("linear", 0.0, [0.0, 0.1, 0.2, 0.3, 0.4])],
)
def test_rates_have_equal_factors_or_differences_and_reach_both_ends(
    mode: str, start: float, rates: list[float]
) -> None:
    model, data = linear_model()
    settings: dict[str, Any] = {"start_lr": start, "end_lr": rates[-1], "num_iter": 5}
    curve = range_test(model, sgd(model), data, LOSS, step_mode=mode, **settings)
    assert curve.lr == pytest.approx(rates, rel=1e-12)


def test_losses_are_those_of_plain_sgd_with_these_rates() -> None:
    """The definition, computed by hand: the loss before each step, on batches in their order."""
    model, data = linear_model()
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    curve = range_test(model, sgd(model), data, LOSS, start_lr=0.01, end_lr=1.0, num_iter=6)
    expected = []
    for i in range(6):
        x, y = data[i % len(data)]
        w, b = weight.requires_grad_(), bias.requires_grad_()
        loss = LOSS(x @ w.T + b, y)
        grads = torch.autograd.grad(loss, (w, b))
        rate = 0.01 * 100.0 ** (i / 5)
        weight, bias = (w - rate * grads[0]).detach(), (b - rate * grads[1]).detach()
        expected.append(loss.item())
    assert curve.loss == pytest.approx(expected, rel=1e-5)


def test_accuracies_are_those_of_the_batches() -> None:
    model, data = linear_model()
    x, y = data[0]
    right = (model(x).argmax(1) == y).float().mean().item()
    curve = range_test(model, sgd(model), [data[0]], LOSS, num_iter=3)
    assert curve.accuracy[0] == pytest.approx(right)
    assert len(curve.accuracy) == 3


@pytest.mark.parametrize(
    ("lrs", "start", "end", "walked", "place"),
    [
        ((0.2, 0.02), 1e-3, 1e-1, ([1e-3, 1e-2, 1e-1], [1e-4, 1e-3, 1e-2]), (0.5, 0.05)),
        (
            (0.0, 0.02),
            [1e-4, 1e-2],
            [1e-2, 1.0],
            ([1e-4, 1e-3, 1e-2], [1e-2, 1e-1, 1.0]),
            (1e-3, 1e-1),
        ),
        ((0.0, 0.02), 1e-3, 1e-1, ([0.0, 0.0, 0.0], [1e-3, 1e-2, 1e-1]), (0.0, 0.05)),
    ],
    ids=["ratios kept", "a range each", "one switched off"],
)
def test_groups(lrs: Any, start: Any, end: Any, walked: Any, place: Any) -> None:
    model, data = linear_model()
    parts = zip((model.weight, model.bias), lrs, strict=True)
    optimizer = torch.optim.SGD([{"params": [p], "lr": lr} for p, lr in parts])
    seen: list[list[float]] = []
    optimizer.register_step_pre_hook(lambda o, *_: seen.append([g["lr"] for g in o.param_groups]))
    curve = range_test(model, optimizer, data, LOSS, start_lr=start, end_lr=end, num_iter=3)
    for rates, expected in zip(zip(*seen, strict=True), walked, strict=True):
        assert list(rates) == pytest.approx(expected)
    named = walked[0] if any(walked[0]) else walked[1]  # the first group that moves
    assert curve.lr == pytest.approx(named)
    assert curve.group_rates(max(place) if named is walked[1] else place[0]) == pytest.approx(place)


def test_accumulated_small_batches_equal_one_large_batch() -> None:
    model, data = linear_model()
    large = [(torch.cat([x for x, _ in data]), torch.cat([y for _, y in data]))]
    one = range_test(model, sgd(model), large, LOSS, start_lr=0.1, end_lr=3.0, num_iter=8)
    many = range_test(
        model, sgd(model), data, LOSS, start_lr=0.1, end_lr=3.0, num_iter=8, accumulation_steps=4
    )
    assert many.loss == pytest.approx(one.loss, rel=1e-5)
    assert many.accuracy == pytest.approx(one.accuracy)
    assert (many.cost.forwards, many.cost.backwards) == (32, 32)
    assert (one.cost.forwards, one.cost.backwards) == (8, 8)


def test_epochs_count_optimizer_steps() -> None:
    model, data = linear_model()
    kwargs: dict[str, Any] = {"epochs": 3, "start_lr": 1e-4, "end_lr": 1e-3}
    assert len(range_test(model, sgd(model), data, LOSS, **kwargs).lr) == 12
    curve = range_test(model, sgd(model), data, LOSS, accumulation_steps=2, **kwargs)
    assert len(curve.lr) == 6


class WithLoss(nn.Module):
    """A model that computes its own loss, in the three shapes that are found in the wild."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.kind = kind

    def forward(self, x: Tensor, labels: Tensor) -> Any:
        logits = self.layer(x)
        loss = LOSS(logits, labels)
        return {
            "tensor": loss,
            "mapping": {"loss": loss, "logits": logits},
            "attribute": SimpleNamespace(loss=loss, logits=logits),
            "tuple": (loss, logits),
        }[self.kind]


@pytest.mark.parametrize("kind", ["tensor", "mapping", "attribute", "tuple"])
@pytest.mark.parametrize("batch", ["dict", "pair"])
def test_models_that_return_their_own_loss(kind: str, batch: str) -> None:
    torch.manual_seed(0)
    model = WithLoss(kind)
    x, y = torch.randn(6, 4), torch.randint(0, 3, (6,))
    loader = [{"x": x, "labels": y}] if batch == "dict" else [(x, y)]
    curve = range_test(model, sgd(model), loader, num_iter=3)
    assert curve.loss[0] == pytest.approx(LOSS(model.layer(x), y).item())
    assert curve.accuracy == []


def test_a_step_function_gets_the_batch_as_it_is_and_may_report_accuracy() -> None:
    model, data = linear_model()
    loader = [{"image": x, "meta": "as it is", "label": y} for x, y in data]
    seen: list[Any] = []

    def step_fn(batch: dict[str, Any]) -> dict[str, Any]:
        seen.append(batch)
        return {"loss": LOSS(model(batch["image"]), batch["label"]), "accuracy": 0.25}

    curve = range_test(model, sgd(model), loader, step_fn=step_fn, num_iter=5)
    assert all(batch is loader[i % 4] for i, batch in enumerate(seen))
    assert curve.accuracy == [0.25] * 5


def test_a_generator_is_read_once_remembered_and_named() -> None:
    model, data = linear_model()
    reads = []

    def stream() -> Iterator[tuple[Tensor, Tensor]]:
        for i, batch in enumerate(data[:2]):
            reads.append(i)
            yield batch

    kwargs: dict[str, Any] = {"start_lr": 0.1, "end_lr": 1.0, "num_iter": 5}
    with pytest.warns(UserWarning, match="iterator, which cannot be put back"):
        curve = range_test(model, sgd(model), stream(), LOSS, **kwargs)
    assert reads == [0, 1]
    assert curve.loss == range_test(model, sgd(model), data[:2], LOSS, **kwargs).loss


def test_validation_is_the_mean_over_the_chosen_share_in_evaluation_mode() -> None:
    model = noisy()
    train = batches(4)
    x, y = torch.randn(40, 3, 8, 8), torch.randint(0, 5, (40,))
    held_out = DataLoader(TensorDataset(x, y), batch_size=8)
    # a rate too small to move a weight: every validation sees the weights of the test itself ...
    curve = range_test(
        model,
        sgd(model),
        train,
        LOSS,
        start_lr=1e-30,
        end_lr=1e-29,
        num_iter=7,
        val_loader=held_out,
        val_every=3,
        val_share=0.6,
    )
    assert [(p.iteration, p.samples) for p in curve.validation] == [(2, 24), (5, 24), (6, 24)]
    assert [p.lr for p in curve.validation] == [curve.lr[2], curve.lr[5], curve.lr[6]]
    # ... and the BatchNorm statistics that the batches before it left; three examples of five
    chosen = [i for i in range(40) if i % 5 in (0, 2, 4)]
    for i in range(7):
        model(train[i % 4][0])
        if i == 2:
            model.eval()
            output = model(x[chosen])
            model.train()
            assert curve.validation[0].loss == pytest.approx(
                LOSS(output, y[chosen]).item(), rel=1e-5
            )
            right = (output.argmax(1) == y[chosen]).float().mean().item()
            assert curve.validation[0].accuracy == pytest.approx(right)
    assert curve.cost.forwards == 7 + 3 * 3
    assert curve.cost.backwards == 7


@pytest.mark.parametrize("keep", [2**28, 0], ids=["kept in memory", "read again"])
def test_validation_does_not_change_training_and_sees_the_same_samples(
    keep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from surefoot.lr_range._validate import Validator

    monkeypatch.setattr(Validator.__init__, "__defaults__", (keep, 0))  # room, forwards
    seen: list[list[int]] = []

    def collate(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        seen.append([int(label) for _, label in items])
        return torch.stack([x for x, _ in items]), torch.zeros(len(items), dtype=torch.long)

    data = TensorDataset(torch.randn(20, 3, 8, 8), torch.arange(20))
    held_out = DataLoader(data, batch_size=4, shuffle=True, collate_fn=collate)
    losses = []
    for val_loader in (None, held_out):
        model = noisy()
        train = DataLoader(TensorDataset(*batches(1, 32)[0]), batch_size=8, shuffle=True)
        torch.manual_seed(4)
        curve = range_test(
            model,
            sgd(model),
            train,
            LOSS,
            end_lr=0.1,
            num_iter=6,
            val_loader=val_loader,
            val_every=1,
            val_share=0.4,
        )
        losses.append(curve.loss)
    assert losses[0] == losses[1]
    assert seen == seen[:2] * (1 if keep else 6)


@pytest.mark.parametrize("kind", ["loader", "list"])
def test_a_share_of_a_validation_set_sorted_by_class_holds_all_classes(kind: str) -> None:
    x, y = torch.randn(60, 3, 8, 8), torch.arange(60) // 12
    loader: Any = DataLoader(TensorDataset(x, y), batch_size=6)
    if kind == "list":
        loader = list(loader)
    labels = torch.cat([labels for _, labels in share_of(loader, 0.5)])
    assert labels.bincount().tolist() == [6] * 5


@given(st.integers(1, 500), st.data())
def test_places_are_spread_out_evenly(total: int, data: st.DataObject) -> None:
    wanted = data.draw(st.integers(1, total))
    places = spread_out(total, wanted)
    assert len(places) == wanted
    assert 0 <= places[0] <= places[-1] < total
    gaps = {b - a for a, b in itertools.pairwise(places)}
    assert gaps <= {total // wanted, -(-total // wanted)}


def test_progress_is_reported_after_each_iteration() -> None:
    model, data = linear_model()
    seen: list[Progress] = []
    curve = range_test(model, sgd(model), data, LOSS, num_iter=4, on_progress=seen.append)
    assert [(p.iteration, p.num_iter) for p in seen] == [(i, 4) for i in range(4)]
    assert [p.lr for p in seen] == curve.lr
    assert [p.loss for p in seen] == curve.loss


def test_the_test_runs_inside_no_grad_too() -> None:
    model, data = linear_model()
    with torch.no_grad():
        curve = range_test(model, sgd(model), data, LOSS, num_iter=3)
    assert len(curve.loss) == 3


def test_bf16_autocast_reaches_the_model_and_losses_stay_finite() -> None:
    model = noisy()
    dtypes = []

    def loss_fn(output: Tensor, y: Tensor) -> Tensor:
        dtypes.append(output.dtype)
        return LOSS(output, y)

    for autocast in (
        torch.bfloat16,
        torch.autocast("cpu", torch.bfloat16),
        lambda: torch.autocast("cpu", torch.bfloat16),
    ):
        curve = range_test(
            model, sgd(model), batches(2), loss_fn, num_iter=3, end_lr=0.1, autocast=autocast
        )
        assert all(math.isfinite(loss) for loss in curve.loss)
    assert set(dtypes) == {torch.bfloat16}


class Unread:
    """A loader that must not be touched."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("the loader was read before the arguments were checked")

    def __len__(self) -> int:
        return 4


def no_lr_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    del optimizer.param_groups[0]["lr"]
    return optimizer


def frozen(model: nn.Module) -> nn.Module:
    return model.requires_grad_(False)


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(3))


def pal(model: nn.Module) -> torch.optim.Optimizer:
    import surefoot

    return surefoot.PAL(model)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "range": ({"start_lr": 1.0, "end_lr": 0.1}, "start_lr must lie below end_lr"),
    "equal ends": ({"start_lr": 0.1, "end_lr": 0.1}, "start_lr must lie below end_lr"),
    "zero exp": ({"start_lr": 0.0}, "exponential ramp cannot start at 0"),
    "negative": ({"start_lr": -0.1}, "start_lr must be finite and 0 or more"),
    "nan": ({"end_lr": math.nan}, "end_lr must be finite"),
    "text": ({"end_lr": "1.0"}, "end_lr must be a number"),
    "per group": ({"start_lr": [0.1, 0.2]}, "start_lr has 2 values, but the optimizer has 1"),
    "no iterations": ({"num_iter": 0}, "num_iter must be 2 or more"),
    "half iterations": ({"num_iter": 2.5}, "num_iter must be a whole number"),
    "both lengths": ({"num_iter": 5, "epochs": 1}, "num_iter or epochs, not both"),
    "epochs": ({"epochs": 0}, "epochs must be finite and greater than 0"),
    "mode": ({"step_mode": "cosine"}, 'step_mode must be "exp" or "linear"'),
    "accumulation": ({"accumulation_steps": 0}, "accumulation_steps must be"),
    "threshold": ({"diverge_threshold": -1.0}, "diverge_threshold must be finite and greater"),
    "val_every": ({"val_every": 0}, "val_every must be"),
    "val_share": ({"val_loader": Unread(), "val_share": 1.5}, r"val_share must lie in \(0, 1\]"),
    "val iterator": ({"val_loader": iter([])}, "val_loader is an iterator"),
    "both functions": ({"step_fn": print}, "loss_fn or step_fn, not both"),
    "loss_fn": ({"loss_fn": 3.0}, "loss_fn must be a function"),
    "a class of losses": (
        {"loss_fn": nn.CrossEntropyLoss},
        r"make one, CrossEntropyLoss\(\.\.\.\)",
    ),
    "an optimizer of a class": ({"optimizer": torch.optim.SGD}, "got the class SGD"),
    "epochs in words": ({"epochs": "two"}, "epochs must be a number"),
    "threshold in words": ({"diverge_threshold": "4"}, "diverge_threshold must be a number"),
    "share in words": ({"val_loader": Unread(), "val_share": "all"}, "val_share must be a number"),
    "a scaler that is none": ({"grad_scaler": True}, "must be a torch.amp.GradScaler, got bool"),
    "progress": ({"on_progress": 3}, "on_progress must be a function, got int"),
    "empty": ({"loader": []}, "loader is empty"),
    "no loader": ({"loader": 7}, "loader must be an iterable"),
    "empty val": ({"val_loader": []}, "val_loader is empty"),
    "eval mode": ({"model": nn.Linear(4, 3).eval()}, "the model is in evaluation mode"),
    "no model": ({"model": "net"}, "model must be a torch.nn.Module"),
    "lazy": ({"model": lazy()}, "uninitialized lazy parameters"),
    "autocast": ({"autocast": 16}, "autocast must be a dtype"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_named_before_the_first_batch(case: str) -> None:
    model, _ = linear_model()
    given, message = BAD[case]
    arguments: dict[str, Any] = {
        "model": model,
        "optimizer": sgd(model),
        "loader": Unread(),
        "loss_fn": LOSS,
        **given,
    }
    with pytest.raises((TypeError, ValueError), match=message):
        range_test(**arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_lr_optimizer, "has no 'lr'"),
        (lambda m: torch.optim.LBFGS(m.parameters()), r"LBFGS\.step\(\) needs a closure"),
        (lambda m: torch.optim.SGD(frozen(m).parameters(), lr=0.1), "no parameter of the optim"),
        (lambda _: nn.Linear(2, 2), "optimizer must be a torch.optim.Optimizer"),
        (pal, "PAL measures its own step"),
    ],
)
def test_optimizers_without_a_rate_to_look_for_are_refused(make: Any, message: str) -> None:
    model, _ = linear_model()
    optimizer = make(model)
    with pytest.raises((TypeError, ValueError), match=message):
        range_test(model, optimizer, Unread(), LOSS)


def test_losses_that_cannot_train_are_named() -> None:
    model, data = linear_model()

    def run(**given: Any) -> None:
        range_test(model, sgd(model), data, num_iter=3, **given)

    with pytest.raises(RuntimeError, match="the loss has no gradient"):
        run(step_fn=lambda batch: LOSS(model(batch[0]), batch[1]).detach())
    with pytest.raises(TypeError, match="one element, got Tensor of shape"):
        run(loss_fn=lambda output, y: LOSS(output, y, reduction="none"))
    with pytest.raises(TypeError, match="one element, got float"):
        run(step_fn=lambda batch: 1.0)
    with pytest.raises(
        TypeError, match=r"pairs \(inputs, targets\), but the loader gives 3 entries; pass step_fn"
    ):
        range_test(model, sgd(model), [(1, 2, 3)], LOSS, num_iter=3)


def test_a_loader_that_turns_out_empty_is_named() -> None:
    model, _ = linear_model()
    with pytest.raises(ValueError, match="the loader is empty"):
        range_test(model, sgd(model), _Endless(), LOSS)


class _Endless:
    """No length, no batches."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())
