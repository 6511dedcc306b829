"""Optimizers to wrap, and the ways in which a loop may drive a MeasuredLR."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import schedulefree
import torch
from _problems import Quadratic, closure_for, noisy
from torch import Tensor, nn

from surefoot import MeasuredLR

Factory = Callable[[nn.Module], torch.optim.Optimizer]
Batch = tuple[Tensor, Tensor]


def matrices(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.dim() == 2]


def rivals_muon(model: nn.Module) -> torch.optim.Optimizer:
    pytorch_optimizer = pytest.importorskip("pytorch_optimizer")
    rest = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "use_muon": True, "lr": 1e-2},
        {"params": rest, "use_muon": False, "lr": 1e-3},
    ]
    return pytorch_optimizer.Muon(groups)


BASES: dict[str, Factory] = {
    "sgd": lambda m: torch.optim.SGD(m.parameters(), 0.05),
    "momentum": lambda m: torch.optim.SGD(m.parameters(), 0.05, 0.9, weight_decay=1e-3),
    "nesterov": lambda m: torch.optim.SGD(m.parameters(), 0.05, 0.9, nesterov=True),
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), 1e-3),
    "adamw-amsgrad": lambda m: torch.optim.AdamW(m.parameters(), 1e-3, amsgrad=True),
    "adamw-capturable-rate": lambda m: torch.optim.AdamW(m.parameters(), torch.tensor(1e-3)),
    "rmsprop": lambda m: torch.optim.RMSprop(m.parameters(), 1e-3, momentum=0.5, centered=True),
    "adagrad": lambda m: torch.optim.Adagrad(m.parameters(), 1e-2),
    "radam": lambda m: torch.optim.RAdam(m.parameters(), 1e-3),
    "schedulefree": lambda m: schedulefree.AdamWScheduleFree(m.parameters(), 1e-2, warmup_steps=5),
    "schedulefree-sgd": lambda m: schedulefree.SGDScheduleFree(m.parameters(), 0.5),
    "pytorch_optimizer-muon": rivals_muon,
}
if hasattr(torch.optim, "Muon"):
    BASES["muon"] = lambda m: torch.optim.Muon(matrices(m), 1e-2)


def build_plain(
    name: str, dtype: torch.dtype = torch.float32
) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = noisy().to(dtype)
    base = BASES[name](model)
    if hasattr(base, "train"):
        base.train()
    torch.manual_seed(5)
    return model, base


def build(
    name: str, dtype: torch.dtype = torch.float32, **options: Any
) -> tuple[nn.Module, torch.optim.Optimizer, MeasuredLR]:
    model, base = build_plain(name, dtype)
    return model, base, MeasuredLR(base, model, **{"averaging": False, **options})


def loop_step(optimizer: Any, loss: Callable[[], Tensor]) -> float:
    """A step of an ordinary loop."""
    value = loss()
    value.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(value.detach())


def watch_step(optimizer: MeasuredLR, loss: Callable[[], Tensor]) -> float:
    value = optimizer.watch(loss)
    value.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(value.detach())


def closure_step(optimizer: MeasuredLR, loss: Callable[[], Tensor]) -> float:
    return float(optimizer.step(loss))


def differentiating_closure_step(optimizer: MeasuredLR, loss: Callable[[], Tensor]) -> float:
    """A step with a closure that calls backward(), as torch's LBFGS wants it."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return float(optimizer.step(closure).detach())


WAYS: dict[str, Callable[[Any, Callable[[], Tensor]], float]] = {
    "loop": loop_step,
    "watch": watch_step,
    "closure": closure_step,
    "closure with backward": differentiating_closure_step,
}


def walk(model: nn.Module, optimizer: Any, data: Sequence[Batch], way: str = "loop") -> list[float]:
    """The losses of a step a batch."""
    return [WAYS[way](optimizer, closure_for(model, batch)) for batch in data]


def measure_now(optimizer: MeasuredLR) -> None:
    """Make the next step one that measures, if the budget allows."""
    optimizer._stepper.rate = dataclasses.replace(optimizer._stepper.rate, next=0)
    optimizer._stepper.plan()


def plain(state: dict[str, Any]) -> dict[str, Any]:
    """A base's state_dict, without what MeasuredLR publishes in the groups."""
    groups = [
        {k: v for k, v in group.items() if k not in ("effective_lr", "measured")}
        for group in state["param_groups"]
    ]
    return {"state": state["state"], "param_groups": groups}


def assert_equal(a: Any, b: Any, where: str = "") -> None:
    if isinstance(a, Tensor):
        assert torch.equal(a, b), where
        assert a.dtype == b.dtype, where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


class QuadraticModel(nn.Module):
    """A Quadratic that is called as a model is: its output is θ."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.problem = Quadratic(**options)
        self.parts = nn.ParameterList(self.problem.parts)

    def forward(self) -> Tensor:
        return torch.cat(list(self.parts))

    def loss(self) -> Tensor:
        theta = self()
        return 0.5 * theta @ self.problem.A @ theta - self.problem.b @ theta + 300.0

    @property
    def theta(self) -> Tensor:
        return torch.cat([part.detach() for part in self.parts])
