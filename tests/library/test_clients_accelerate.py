"""Accelerate's own loop: what the plain optimizer does, to the bit; resumed, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from _clients import STEPS, adamw, assert_measured, assert_same, dataset, frozen, measured, net
from torch.utils.data import DataLoader

accelerate = pytest.importorskip("accelerate")

pytestmark = pytest.mark.filterwarnings("ignore")  # Accelerate's own


class Run:
    """Prepared, and trained from one step to another."""

    def __init__(self, make: Any, micro: int = 1, precision: str = "no") -> None:
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        self.accelerator = accelerate.Accelerator(
            cpu=True, gradient_accumulation_steps=micro, mixed_precision=precision
        )
        self.net, self._micro = net(), micro
        loader = DataLoader(dataset(), 32)
        self.model, self.optimizer, self._loader = self.accelerator.prepare(
            self.net, make(self.net), loader
        )

    def train(self, start: int = 0, end: int = STEPS, clip: float | None = None) -> Run:
        accelerator, optimizer = self.accelerator, self.optimizer
        batches = [b for _ in range(1 + end * self._micro // 10) for b in self._loader]
        for x, y in batches[start * self._micro : end * self._micro]:
            with accelerator.accumulate(self.model):
                accelerator.backward(F.mse_loss(self.model(x), y))
                if accelerator.sync_gradients and clip is not None:
                    accelerator.clip_grad_norm_(self.model.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
        return self


OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "clipped": ({}, {"clip": 0.1}),
    "accumulated": ({"micro": 4}, {"end": 20}),
    "accumulated and clipped": ({"micro": 4}, {"end": 20, "clip": 0.1}),
    "bf16": ({"precision": "bf16"}, {}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_frozen_trains_as_the_plain_optimizer(name: str) -> None:
    made, trained = OPTIONS[name]
    expected = Run(adamw, **made).train(**trained)
    run = Run(frozen, **made).train(**trained)
    assert_same(expected.net, run.net)
    assert_measured(run.optimizer.optimizer)


@pytest.mark.parametrize("micro", [1, 2])
def test_a_saved_state_goes_on_to_the_bit(micro: int, tmp_path: Path) -> None:
    whole = Run(measured, micro).train()
    Run(measured, micro).train(end=15).accelerator.save_state(str(tmp_path))
    rest = Run(measured, micro)
    rest.accelerator.load_state(str(tmp_path))
    rest.train(start=15)
    assert_same(whole.net, rest.net)
    assert rest.optimizer.optimizer.rate == whole.optimizer.optimizer.rate


def test_a_prepared_optimizer_may_be_wrapped() -> None:
    run = Run(adamw)
    run.optimizer = frozen(run.net)
    run.train()
    assert_same(Run(adamw).train().net, run.net)


def test_a_prepared_scheduler_multiplies_the_measured_rate() -> None:
    run = Run(lambda model: measured(model, horizon="none", step_adaptation=1.0))
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(run.optimizer.optimizer, STEPS)
    scheduler = run.accelerator.prepare(cosine)
    for k in range(STEPS):
        run.train(k, k + 1)
        scheduler.step()
    run.train(0, 1)  # at the cosine's end
    assert run.optimizer.param_groups[0]["effective_lr"] == 0.0
