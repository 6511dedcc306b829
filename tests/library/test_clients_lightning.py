"""Lightning's own loop, untouched: what the plain optimizer does, to the bit, and what it logs."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from _clients import STEPS, adamw, assert_measured, assert_same, dataset, net
from torch import Tensor
from torch.utils.data import DataLoader

from surefoot import MeasuredLR

lightning = pytest.importorskip("lightning")

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own: loggers, workers, torch's ways
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

Make = Callable[[Any], torch.optim.Optimizer]


class Module(lightning.LightningModule):  # type: ignore[misc,name-defined]
    """As in any tutorial, and it counts what is called."""

    def __init__(self, make: Make, dropout: float = 0.1) -> None:
        super().__init__()
        self.make, self.net, self.calls = make, net(dropout=dropout), Counter[str]()
        self.rates: list[float] = []

    def configure_optimizers(self) -> Any:
        return self.make(self)

    def training_step(self, batch: Any, index: int) -> Tensor | None:
        self.calls["training_step"] += 1
        loss = F.mse_loss(self.net(batch[0]), batch[1])
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.calls["step"] += 1

    def on_after_backward(self) -> None:
        self.calls["backward"] += 1

    def on_train_batch_end(self, *args: Any) -> None:
        optimizer = self.optimizers().optimizer
        if isinstance(optimizer, MeasuredLR) and optimizer.last is not None:
            self.rates.append(optimizer.param_groups[0]["effective_lr"])


def fit(module: Module, steps: int = STEPS, checkpoint: str | None = None, **options: Any) -> Any:
    torch.manual_seed(3)
    options = {"enable_checkpointing": False, "logger": False, **options}
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, DataLoader(dataset(), batch_size=32), ckpt_path=checkpoint)
    return trainer


def plain(module: Module) -> torch.optim.Optimizer:
    return adamw(module.net)


def frozen(of: str) -> Make:
    def make(module: Module) -> MeasuredLR:
        model = {"net": module.net, "self": module, "none": None}[of]
        return MeasuredLR(plain(module), model, frozen=True, overhead=0.5)

    return make


def measured(module: Module) -> MeasuredLR:
    return MeasuredLR(plain(module), module, total_steps=STEPS, overhead=0.5)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped by norm": {"gradient_clip_val": 0.1},
    "clipped by value": {"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"},
    "accumulated": {"accumulate_grad_batches": 4, "steps": 20},
    "accumulated and clipped": {
        "accumulate_grad_batches": 4,
        "gradient_clip_val": 0.1,
        "steps": 20,
    },
    "bf16": {"precision": "bf16-mixed"},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("of", ["net", "self"])
def test_frozen_trains_and_logs_as_the_plain_optimizer(name: str, of: str) -> None:
    first, second = Module(plain), Module(frozen(of))
    expected, trainer = fit(first, **OPTIONS[name]), fit(second, **OPTIONS[name])
    assert_same(first.net, second.net)
    assert trainer.callback_metrics["loss"] == expected.callback_metrics["loss"]
    assert first.calls == second.calls
    assert_measured(trainer.optimizers[0])


def test_the_model_may_be_left_out() -> None:
    first, second = Module(plain), Module(frozen("none"))
    fit(first), assert_measured(fit(second).optimizers[0])
    assert_same(first.net, second.net)


def test_a_run_through_a_checkpoint_is_the_uninterrupted_one(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=20, save_top_k=-1)
    whole, rest = Module(measured, 0.0), Module(measured, 0.0)
    expected = fit(whole, callbacks=[saving], enable_checkpointing=True)
    trainer = fit(rest, checkpoint=str(tmp_path / "step=20.ckpt"))
    assert rest.calls["step"] == 20
    assert_same(whole.net, rest.net)
    assert trainer.optimizers[0].rate == expected.optimizers[0].rate
    assert trainer.callback_metrics["loss"] == expected.callback_metrics["loss"]


def test_the_rate_is_to_be_read_after_every_step() -> None:
    module = Module(measured)
    optimizer = fit(module).optimizers[0]
    assert len(module.rates) == STEPS
    assert module.rates[-1] == optimizer.last.effective_lr
    # the horizon's last step is one of its 40 parts
    assert module.rates[-1] == pytest.approx(module.rates[-2] / 2.0, rel=0.3)


class LeavesOut(Module):
    def training_step(self, batch: Any, index: int) -> Tensor | None:
        loss = super().training_step(batch, index)
        return None if index % 3 == 0 else loss


def test_a_batch_that_is_left_out() -> None:
    first, second = LeavesOut(plain), LeavesOut(frozen("self"))
    fit(first), fit(second)
    assert_same(first.net, second.net)


class Manual(Module):
    def __init__(self, make: Make, dropout: float = 0.1) -> None:
        super().__init__(make, dropout)
        self.automatic_optimization = False

    def training_step(self, batch: Any, index: int) -> None:
        optimizer = self.optimizers()
        loss = F.mse_loss(self.net(batch[0]), batch[1])
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(optimizer, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
        optimizer.step()


def test_manual_optimization() -> None:
    first, second = Manual(plain), Manual(frozen("self"))
    fit(first)
    assert_measured(fit(second).optimizers[0])
    assert_same(first.net, second.net)


class WithClosure(Manual):
    def training_step(self, batch: Any, index: int) -> None:
        optimizer = self.optimizers()

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.mse_loss(self.net(batch[0]), batch[1])
            self.manual_backward(loss)
            return loss

        optimizer.step(closure=closure)


def test_manual_optimization_with_a_closure() -> None:
    first, second = WithClosure(plain), WithClosure(frozen("self"))
    fit(first)
    assert_measured(fit(second).optimizers[0])
    assert_same(first.net, second.net)
