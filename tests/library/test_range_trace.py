"""A range test leaves no trace: training after it equals training without it, to the bit."""

from __future__ import annotations

import copy
import math
import random
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from _problems import noisy
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from surefoot.lr_range import Progress, range_test

LOSS = nn.functional.cross_entropy


class Augmented(Dataset[tuple[Tensor, int]]):
    """Images whose augmentation draws from torch's, Python's and NumPy's generators."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        self.x = torch.randn(32, 3, 8, 8, generator=generator)
        self.y = torch.randint(0, 5, (32,), generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        shift = random.random() + np.random.random() + float(torch.rand(()))  # noqa: NPY002
        return self.x[i] + 0.1 * shift, int(self.y[i])


def make_sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def make_adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


class Setting:
    """A model, its optimizer and its loader, in the middle of training."""

    def __init__(self, make: Callable[[nn.Module], torch.optim.Optimizer], autocast: Any) -> None:
        self.model = noisy().train()
        self.optimizer = make(self.model)
        self.autocast = autocast
        self.loader = DataLoader(Augmented(), batch_size=16, shuffle=True)
        random.seed(1)
        np.random.seed(2)  # noqa: NPY002  (the global generator is the point here)
        torch.manual_seed(3)

    def train(self, epochs: int = 1) -> list[float]:
        losses = []
        for _ in range(epochs):
            for x, y in self.loader:
                self.optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast is not None):
                    loss = LOSS(self.model(x), y)
                loss.backward()
                self.optimizer.step()
                losses.append(loss.item())
        return losses

    def everything(self) -> dict[str, Any]:
        return {
            "model": copy.deepcopy(self.model.state_dict()),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "grads": [None if p.grad is None else p.grad.clone() for p in self.model.parameters()],
            "modes": [m.training for m in self.model.modules()],
            "torch": torch.get_rng_state(),
            "python": random.getstate(),
            "numpy": np.random.get_state(),  # noqa: NPY002
        }


def assert_equal(a: Any, b: Any, where: str = "") -> None:
    """Equal to the bit, through dicts, lists and tuples."""
    assert type(a) is type(b), where
    if isinstance(a, Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    elif isinstance(a, np.ndarray):
        assert (a == b).all(), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


class Bang(Exception):
    pass


def normal_end(s: Setting) -> None:
    curve = range_test(
        s.model, s.optimizer, s.loader, LOSS, end_lr=0.1, num_iter=7, autocast=s.autocast
    )
    assert curve.stop == "finished"


def early_stop(s: Setting) -> None:
    curve = range_test(
        s.model,
        s.optimizer,
        s.loader,
        lambda output, y: LOSS(output, y) * 30.0 ** output.detach().abs().max(),
        end_lr=1e4,
        num_iter=30,
        autocast=s.autocast,
    )
    assert curve.stop in ("diverged", "non_finite")
    assert len(curve.lr) < 30


def with_validation(s: Setting) -> None:
    held_out = DataLoader(Augmented(), batch_size=8, shuffle=True)
    curve = range_test(
        s.model,
        s.optimizer,
        s.loader,
        LOSS,
        end_lr=0.1,
        num_iter=6,
        val_loader=held_out,
        val_every=2,
        val_share=0.5,
        autocast=s.autocast,
    )
    assert [point.iteration for point in curve.validation] == [1, 3, 5]


def exception_in_forward(s: Setting) -> None:
    calls = iter(range(100))

    def loss_fn(output: Tensor, y: Tensor) -> Tensor:
        if next(calls) == 5:
            raise Bang
        return LOSS(output, y)

    with pytest.raises(Bang):
        range_test(s.model, s.optimizer, s.loader, loss_fn, num_iter=7, autocast=s.autocast)


def exception_inside_the_step(s: Setting) -> None:
    def half_way(*_: Any) -> None:
        next(s.model.parameters()).data.add_(1.0)
        s.optimizer.param_groups[0]["weight_decay"] = 7.0
        raise Bang

    hook = s.optimizer.register_step_post_hook(half_way)
    with pytest.raises(Bang):
        range_test(s.model, s.optimizer, s.loader, LOSS, num_iter=7, autocast=s.autocast)
    hook.remove()


def ctrl_c(s: Setting) -> None:
    def press(progress: Progress) -> None:
        if progress.iteration == 4:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        range_test(
            s.model,
            s.optimizer,
            s.loader,
            LOSS,
            num_iter=7,
            end_lr=0.1,
            on_progress=press,
            autocast=s.autocast,
        )


ENDINGS = [
    normal_end,
    early_stop,
    with_validation,
    exception_in_forward,
    exception_inside_the_step,
    ctrl_c,
]


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["float32", "bf16"])
@pytest.mark.parametrize("make", [make_sgd, make_adamw])
@pytest.mark.parametrize("ending", ENDINGS)
def test_training_after_it_equals_training_without_it(
    ending: Callable[[Setting], None],
    make: Callable[[nn.Module], torch.optim.Optimizer],
    autocast: torch.dtype | None,
) -> None:
    compare(ending, make, autocast, warm=True)


@pytest.mark.parametrize("make", [make_sgd, make_adamw])
@pytest.mark.parametrize("ending", [normal_end, ctrl_c])
def test_a_first_training_after_it_equals_one_without_it(
    ending: Callable[[Setting], None], make: Callable[[nn.Module], torch.optim.Optimizer]
) -> None:
    compare(ending, make, None, warm=False)


def compare(
    ending: Callable[[Setting], None],
    make: Callable[[nn.Module], torch.optim.Optimizer],
    autocast: torch.dtype | None,
    warm: bool,
) -> None:
    runs = []
    for tested in (False, True):
        setting = Setting(make, autocast)
        if warm:
            setting.train()
            setting.model.norm.eval()  # a frozen submodule keeps its mode
        before = setting.everything()
        if tested:
            ending(setting)
            assert_equal(before, setting.everything())
        losses = setting.train()
        runs.append((losses, setting.everything()))
    assert runs[0][0] == runs[1][0]
    assert_equal(runs[0][1], runs[1][1])


def test_tensors_are_put_back_in_place() -> None:
    s = Setting(make_adamw, None)
    s.train()

    def tensors() -> Iterator[Tensor]:
        yield from s.model.parameters()
        yield from s.model.buffers()
        yield from (p.grad for p in s.model.parameters() if p.grad is not None)
        for state in s.optimizer.state.values():
            yield from state.values()

    before = [(id(t), t.data_ptr()) for t in tensors()]
    range_test(s.model, s.optimizer, s.loader, LOSS, num_iter=5)
    assert [(id(t), t.data_ptr()) for t in tensors()] == before


def test_a_learning_rate_kept_as_a_tensor_stays_that_tensor() -> None:
    model = noisy()
    rate = torch.tensor(0.05)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, foreach=False)
    curve = range_test(model, optimizer, Setting(make_sgd, None).loader, LOSS, num_iter=4)
    assert curve.lr[-1] == 10.0
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(0.05)


def test_an_attached_scheduler_goes_on_as_if_nothing_had_happened() -> None:
    rates = []
    for tested in (False, True):
        s = Setting(make_sgd, None)
        scheduler = torch.optim.lr_scheduler.LambdaLR(s.optimizer, lambda k: min(1.0, k / 4))
        keys = set(s.optimizer.param_groups[0])
        if tested:
            # the warm-up holds lr at 0 here; its initial_lr tells the ratios
            range_test(s.model, s.optimizer, s.loader, LOSS, num_iter=5)
            assert set(s.optimizer.param_groups[0]) == keys
            # torch warns about scheduler.step() before optimizer.step(): still, after the test
            with pytest.warns(UserWarning, match=r"lr_scheduler\.step"):
                scheduler.step()
        else:
            with pytest.warns(UserWarning, match=r"lr_scheduler\.step"):
                scheduler.step()
        seen = []
        for _ in range(4):
            s.optimizer.step()
            scheduler.step()
            seen.append(s.optimizer.param_groups[0]["lr"])
        rates.append(seen)
    assert rates[0] == rates[1]


def test_the_gradient_scaler_comes_back_even_from_the_middle_of_a_step() -> None:
    s = Setting(make_sgd, None)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    scaler.scale(torch.ones(()))
    before = scaler.state_dict()

    def run(loss_fn: Any = LOSS) -> Any:
        return range_test(
            s.model, s.optimizer, s.loader, loss_fn, num_iter=6, end_lr=1e-3, grad_scaler=scaler
        )

    scales = []
    hook = s.optimizer.register_step_post_hook(lambda *_: scales.append(scaler.get_scale()))
    curve = run()
    assert scales[-1] > 8.0  # it did grow in between
    assert all(math.isfinite(loss) for loss in curve.loss)
    assert scaler.state_dict() == before
    hook.remove()

    def bang(*_: Any) -> None:
        raise Bang

    hook = s.optimizer.register_step_pre_hook(bang)  # between unscale_() and update()
    with pytest.raises(Bang):
        run()
    hook.remove()
    assert scaler.state_dict() == before
    scaler.scale(
        LOSS(s.model(torch.randn(4, 3, 8, 8)), torch.zeros(4, dtype=torch.long))
    ).backward()
    scaler.unscale_(s.optimizer)  # raises if the interrupted step still counted as unscaled


def test_a_loader_with_its_own_generator_and_sampler_keeps_its_place() -> None:
    orders = []
    for tested in (False, True):
        s = Setting(make_sgd, None)
        generator = torch.Generator().manual_seed(9)
        loader = DataLoader(Augmented(), batch_size=16, shuffle=True, generator=generator)
        if tested:
            range_test(s.model, s.optimizer, loader, LOSS, num_iter=6)
        orders.append([y.tolist() for _, y in loader])
    assert orders[0] == orders[1]


class Stateful:
    """A loader that says where it stands, as torchdata's does."""

    def __init__(self) -> None:
        self.place = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            self.place += 1
            generator = torch.Generator().manual_seed(self.place)
            yield torch.randn(4, 3, 8, 8, generator=generator), torch.zeros(4, dtype=torch.long)

    def state_dict(self) -> dict[str, int]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.place = state["place"]


def test_a_stateful_loader_goes_back_to_its_place() -> None:
    s = Setting(make_sgd, None)
    loader = Stateful()
    loader.place = 17
    range_test(s.model, s.optimizer, loader, LOSS, num_iter=5)
    assert loader.place == 17


def test_persistent_workers_do_not_outlive_the_test() -> None:
    s = Setting(make_sgd, None)
    loader = DataLoader(Augmented(), batch_size=16, num_workers=1, persistent_workers=True)
    range_test(s.model, s.optimizer, loader, LOSS, num_iter=2)
    assert loader._iterator is None


class Rebinding(nn.Module):
    """Replaces a buffer instead of writing into it, and adds one as it goes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("late", None)
        self.layer = nn.Linear(3, 2)
        self.extra = 0

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        self.late = self.mean.clone()
        self.register_buffer("new", self.mean.clone())
        self.extra += 1
        out: Tensor = self.layer(x - self.mean)
        return out

    def get_extra_state(self) -> int:
        return self.extra

    def set_extra_state(self, state: int) -> None:
        self.extra = state


def test_buffers_that_are_rebound_or_added_and_extra_state_come_back() -> None:
    model = Rebinding()
    mean = model.mean
    batch = (torch.randn(5, 3), torch.zeros(5, dtype=torch.long))
    range_test(model, torch.optim.SGD(model.parameters(), lr=0.1), [batch], LOSS, num_iter=3)
    assert model.mean is mean
    assert torch.equal(mean, torch.zeros(3))
    assert dict(model.named_buffers()).keys() == {"mean"}
    assert model.late is None
    assert model.extra == 0


class Counting(torch.optim.SGD):
    """Keeps a counter and a tensor as attributes, as third-party optimizers do."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, lr=0.1)
        self.k = 3
        self.trace = torch.zeros(2)
        self.held = [p for group in self.param_groups for p in group["params"]]

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self.k += 1
        self.trace += 1.0
        self.param_groups[0].setdefault("left_over", 1)
        super().step()


def test_plain_attributes_of_an_optimizer_come_back() -> None:
    model = nn.Linear(3, 2)
    optimizer = Counting(model.parameters())
    batch = (torch.randn(5, 3), torch.zeros(5, dtype=torch.long))
    range_test(model, optimizer, [batch], LOSS, num_iter=3)
    assert optimizer.k == 3
    assert torch.equal(optimizer.trace, torch.zeros(2))
    assert "left_over" not in optimizer.param_groups[0]
    # references to parameters still are those parameters
    assert all(a is b for a, b in zip(optimizer.held, model.parameters(), strict=True))


def test_parameters_of_the_optimizer_outside_the_model_come_back() -> None:
    model = nn.Linear(3, 2)
    scale = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([*model.parameters(), scale], lr=0.1)

    def step_fn(batch: Tensor) -> Tensor:
        loss: Tensor = (scale * model(batch)).square().mean()
        return loss

    range_test(model, optimizer, [torch.randn(5, 3)], step_fn=step_fn, num_iter=20)
    assert scale.item() == 1.0
