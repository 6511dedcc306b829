"""Which optimizers a measured rate may multiply, and what asking them leaves behind: nothing."""

from __future__ import annotations

import copy
import random
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dadaptation
import dog
import momo
import prodigyopt
import pytest
import pytorch_optimizer
import schedulefree
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from surefoot.measured.linear import Response, respond

Factory = Callable[[nn.Module], Optimizer]


def model() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 16)
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(16, 10))


def matrices(net: nn.Module) -> list[Tensor]:
    return [p for p in net.parameters() if p.dim() == 2]


def backward(net: nn.Module) -> None:
    images = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    net(images).square().mean().backward()


def torch_(name: str, *args: Any, **kwargs: Any) -> Factory:
    return lambda net: getattr(torch.optim, name)(net.parameters(), *args, **kwargs)


def other(name: str, *args: Any, **kwargs: Any) -> Factory:
    return lambda net: getattr(pytorch_optimizer, name)(net.parameters(), *args, **kwargs)


def hybrid_muon(net: nn.Module) -> Optimizer:
    rest = [p for p in net.parameters() if p.dim() != 2]
    groups = [{"params": matrices(net), "use_muon": True}, {"params": rest, "use_muon": False}]
    return pytorch_optimizer.Muon(groups)


ACCEPTED: dict[str, Factory] = {
    "sgd": torch_("SGD", 0.1),
    "momentum": torch_("SGD", 0.1, 0.9),
    "nesterov": torch_("SGD", 0.1, 0.9, nesterov=True, weight_decay=5e-4),
    "dampening": torch_("SGD", 0.1, 0.9, dampening=0.9),
    "sgd-fused": torch_("SGD", 0.1, 0.9, fused=True),
    "sgd-tiny-rate": torch_("SGD", 1e-9, 0.9),
    "adam": torch_("Adam"),
    "amsgrad": torch_("Adam", amsgrad=True),
    "adamw": torch_("AdamW"),
    "adamw-decay": torch_("AdamW", 0.1, weight_decay=0.1),
    "adamw-fused": torch_("AdamW", fused=True),
    "adamw-foreach": torch_("AdamW", foreach=True),
    "adamw-tensor-rate": torch_("AdamW", torch.tensor(1e-3)),
    "adamw-differentiable": torch_("AdamW", differentiable=True),
    "nadam": torch_("NAdam"),
    "radam": torch_("RAdam"),
    "adamax": torch_("Adamax"),
    "adagrad": torch_("Adagrad"),
    "adadelta": torch_("Adadelta"),
    "rmsprop": torch_("RMSprop"),
    "rmsprop-centered": torch_("RMSprop", centered=True, momentum=0.9),
    "adafactor": torch_("Adafactor"),
    "lion": other("Lion"),
    "lamb": other("Lamb"),
    "lars": other("LARS"),
    "ademamix": other("AdEMAMix"),
    "mars": other("MARS"),
    "shampoo": other("Shampoo"),
    "scalable-shampoo": other("ScalableShampoo"),
    "soap": other("SOAP"),
    "adopt": other("ADOPT"),
    "nero": other("Nero"),  # keeps the weights on a sphere
    "adafactor-own-rate": other("AdaFactor", betas=(None, 0.999), relative_step=False),
    "hybrid-muon": hybrid_muon,
}
if hasattr(torch.optim, "Muon"):
    ACCEPTED["muon"] = lambda net: torch.optim.Muon(matrices(net))

REFUSED: dict[str, tuple[Factory, str]] = {
    "rprop": (torch_("Rprop"), "its step does not follow lr.* 1.00 times as long"),
    "asgd": (torch_("ASGD"), "its memory depends on lr"),
    "lbfgs": (torch_("LBFGS"), "evaluates the loss itself"),
    "sparse-adam": (torch_("SparseAdam"), "sparse gradients only"),
    "maximize": (torch_("SGD", 0.1, maximize=True), "maximizes"),
    # its momentum is of updates that hold the rate
    "adafactor-momentum": (other("AdaFactor", relative_step=False), "its memory depends on lr"),
    "adafactor-relative": (other("AdaFactor"), "its step does not follow lr.* 1.00 times as long"),
    "lookahead": (
        lambda net: pytorch_optimizer.Lookahead(torch.optim.AdamW(net.parameters())),
        "its step does not follow lr",  # on every k-th it goes to the slow weights
    ),
    "prodigy": (lambda net: prodigyopt.Prodigy(net.parameters()), "its memory depends on lr"),
    "dadapt-adam": (lambda net: dadaptation.DAdaptAdam(net.parameters()), "memory depends on lr"),
    "dadapt-sgd": (lambda net: dadaptation.DAdaptSGD(net.parameters()), "memory depends on lr"),
    "dadapt-lion": (lambda net: dadaptation.DAdaptLion(net.parameters()), "memory depends on lr"),
    "dog": (lambda net: dog.DoG(net.parameters()), "sets its own rate.* times as far"),
    "momo": (lambda net: momo.Momo(net.parameters()), "evaluates the loss itself"),
    "momo-adam": (lambda net: momo.MomoAdam(net.parameters()), "evaluates the loss itself"),
    "ali-g": (other("AliG"), "has no lr"),
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():  # of the optimizers' making; none is due to respond
        warnings.filterwarnings("ignore", module="dadaptation|prodigyopt|momo|dog")
        yield


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
def test_linear(name: str, used: bool) -> None:
    net = model()
    base = ACCEPTED[name](net)
    if used and name != "adamw-differentiable":  # its step wants weights that are no leaves
        backward(net)
        base.step()
    response = respond(base)
    assert not response.averaged
    assert len(response.growth) == 32
    assert response.growth_to_come(31) == 1.0


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    make, reason = REFUSED[name]
    with pytest.raises(TypeError, match=reason) as error:
        respond(make(model()))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("steps", range(1, 7))
@pytest.mark.parametrize("name", ["prodigy", "dadapt-adam", "dog", "lookahead", "ranger", "rprop"])
def test_refused_in_use(name: str, steps: int) -> None:
    net = model()
    base = {**REFUSED, "ranger": (other("Ranger"), "")}[name][0](net)
    backward(net)
    for _ in range(steps):
        base.step()
    with pytest.raises(TypeError, match="cannot be measured"):
        respond(base)


class TensorFlowMomentum(Optimizer):
    """Its velocity holds the rate: v = 0.9 v + lr g."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    v = self.state[p].setdefault("v", torch.zeros_like(p))
                    p.sub_(v.mul_(0.9).add_(p.grad * group["lr"]))


class Root(TensorFlowMomentum):
    """Goes √lr far."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(p.grad * group["lr"] ** 0.5)


class Noisy(TensorFlowMomentum):
    """Draws from both generators."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_((p.grad + torch.randn_like(p) + random.random()) * group["lr"])


class Broken(TensorFlowMomentum):
    """Has no kernel for this."""

    def step(self, closure: Any = None) -> None:
        raise RuntimeError("no kernel")


def test_strangers() -> None:
    with pytest.raises(TypeError, match="its memory depends on lr"):
        respond(TensorFlowMomentum(model().parameters()))
    with pytest.raises(TypeError, match=r"lr: at twice the lr it is 1\.41 times as long"):
        respond(Root(model().parameters()))
    assert respond(Noisy(model().parameters())).growth_to_come(0) == 1.0
    assert respond(Broken(model().parameters())) == Response(False, (1.0,) * 32)


def test_misuse() -> None:
    with pytest.raises(TypeError, match=r"Linear is not a torch\.optim\.Optimizer"):
        respond(nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="every lr of SGD is 0"):
        respond(torch_("SGD", 0.0)(model()))
    with pytest.raises(TypeError, match="AdaFactor has no lr"):
        respond(other("AdaFactor", lr=None)(model()))
    with pytest.raises(TypeError, match="complex"):
        respond(torch.optim.SGD([nn.Parameter(torch.ones(2, dtype=torch.cfloat))], 0.1))


def test_a_group_that_waits_and_one_that_is_frozen() -> None:
    net = model()
    for p in net[3].parameters():
        p.requires_grad_(False)
    groups = [
        {"params": net[0].parameters(), "lr": 0.0},
        {"params": [*net[3].parameters(), nn.Parameter(torch.empty(0, 3))]},
        {"params": net[5].parameters(), "momentum": 0.5},
    ]
    assert max(respond(torch.optim.SGD(groups, 0.1, 0.9)).growth) > 9.0


@pytest.mark.parametrize(
    "make",
    [
        lambda net: schedulefree.AdamWScheduleFree(net.parameters()),
        lambda net: schedulefree.SGDScheduleFree(net.parameters(), lr=0.1),
        lambda net: schedulefree.RAdamScheduleFree(net.parameters()),
    ],
)
def test_averaged(make: Factory) -> None:
    base = make(model())
    base.eval()  # type: ignore[attr-defined]
    assert respond(base).averaged
    assert not base.param_groups[0]["train_mode"]


@pytest.mark.parametrize("beta", [0.5, 0.9])
def test_growth_of_a_heavy_ball(beta: float) -> None:
    response = respond(torch_("SGD", 0.1, beta)(model()))
    expected = [(1.0 - beta ** (k + 1)) / (1.0 - beta) for k in range(32)]
    assert response.growth == pytest.approx(expected, abs=1e-6)  # rounded
    assert response.growth_to_come(3) == pytest.approx(expected[-1] / expected[3])
    assert response.growth_to_come(1000) == 1.0


def test_growth_of_an_average() -> None:
    assert max(respond(torch_("AdamW")(model())).growth) == pytest.approx(1.0)


def test_growth_to_come_after_silent_steps() -> None:
    response = Response(False, (0.0, 1.0, 3.0, 2.0))
    assert [response.growth_to_come(k) for k in range(4)] == [3.0, 3.0, 1.0, 1.0]


def test_half_precision_weights() -> None:
    assert max(respond(torch_("SGD", 1e-6, 0.9)(model().bfloat16())).growth) > 9.0


@pytest.mark.parametrize("name", ["Adam8bit", "Lion8bit", "PagedAdamW"])
def test_bitsandbytes(name: str) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    assert not respond(getattr(bitsandbytes.optim, name)(model().parameters())).averaged


def _remember(base: Any, seen: dict[int, Any]) -> Any:
    """All that an optimizer holds, as it is now: tensors by identity, version and value."""
    if isinstance(base, Tensor):
        return id(base), base._version, base.detach().clone().tolist(), _remember(base.grad, seen)
    if id(base) in seen:
        return id(base)
    seen[id(base)] = True
    if isinstance(base, dict):
        pairs = [(id(k), _remember(v, seen)) for k, v in base.items()]
        return id(base), pairs
    if isinstance(base, list | tuple):
        return id(base), [_remember(v, seen) for v in base]
    if isinstance(base, Optimizer):
        return id(base), _remember(vars(base), seen)
    return id(base)


TRACELESS = {
    **ACCEPTED,
    "noisy": lambda net: Noisy(net.parameters()),
    **{name: make for name, (make, _) in REFUSED.items()},
    "schedule-free": lambda net: schedulefree.AdamWScheduleFree(net.parameters()),
}


@pytest.mark.parametrize("name", TRACELESS)
@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
def test_leaves_no_trace(name: str, used: bool) -> None:
    net = model()
    base = TRACELESS[name](net)
    backward(net)
    if used and name not in ("lbfgs", "sparse-adam", "adamw-differentiable"):
        getattr(base, "train", lambda: None)()
        base.step(*([lambda: torch.ones(())] if name in ("momo", "momo-adam", "ali-g") else []))
    before = _remember(base, {})
    generators = torch.get_rng_state(), random.getstate()
    try:
        respond(base)
    except TypeError:
        assert name in REFUSED
    assert _remember(base, {}) == before
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]


def test_nobody_hears_of_it() -> None:
    base = torch_("SGD", 0.1)(model())
    scheduler = torch.optim.lr_scheduler.StepLR(base, 1)  # wraps the step in a method of base
    heard: list[str] = []
    handles = [
        register_optimizer_step_pre_hook(lambda *_: heard.append("all, before")),
        register_optimizer_step_post_hook(lambda *_: heard.append("all, after")),
        base.register_step_pre_hook(lambda *_: heard.append("this, before")),
        base.register_step_post_hook(lambda *_: heard.append("this, after")),
    ]
    try:
        respond(base)
        assert heard == []
        base.step()
        assert heard == ["all, before", "this, before", "this, after", "all, after"]
    finally:
        for handle in handles:
            handle.remove()
    scheduler.step()


def test_hooks_come_back_after_a_refusal() -> None:
    heard: list[str] = []
    handle = register_optimizer_step_post_hook(lambda *_: heard.append("all"))
    try:
        with pytest.raises(TypeError):
            respond(torch_("Rprop")(model()))
        torch_("SGD", 0.1)(model()).step()
    finally:
        handle.remove()
    assert heard == ["all"]


def test_asked_twice() -> None:
    base = torch_("RMSprop", momentum=0.9)(model())
    first = respond(base)
    torch.manual_seed(1)
    assert respond(base) == first == respond(copy.deepcopy(base))


@pytest.mark.skipif(not dist.is_available(), reason="needs torch.distributed")
def test_one_that_wraps_another(tmp_path: Path) -> None:
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", rank=0, world_size=1, store=store)
    try:
        base = ZeroRedundancyOptimizer(model().parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
        before = _remember(base, {})
        growth = max(respond(base).growth)
        assert _remember(base, {}) == before
    finally:
        dist.destroy_process_group()
    assert growth > 9.0


def test_is_quick() -> None:
    net = nn.Sequential(*(nn.Linear(64, 64) for _ in range(150)))
    base = torch_("AdamW")(net)
    took = []
    for _ in range(3):
        start = time.perf_counter()
        respond(base)
        took.append(time.perf_counter() - start)
    assert min(took) < 1.0  # 0.1 on an idle machine


def _torch_inputs() -> list[Any]:
    """Settings with which torch tests its own optimizers."""
    try:
        from torch.testing._internal.common_optimizers import optim_db
    except ImportError as error:  # torch's tests need packages that torch does not
        skip = pytest.mark.skip(reason=f"torch.testing._internal: {error}")
        return [pytest.param(None, {}, marks=skip, id="optim_db")]
    return [
        pytest.param(info.optim_cls, each.kwargs, id=f"{info.optim_cls.__name__}-{each.desc}")
        for info in optim_db
        for each in info.optim_inputs_func(device="cpu")
    ]


REASONS = {
    "ASGD": "its memory depends on lr",
    "LBFGS": "evaluates the loss itself",
    "Rprop": "its step does not follow lr",
    "SparseAdam": "sparse gradients only",
}


@pytest.mark.parametrize(("cls", "kwargs"), _torch_inputs())
def test_torch_inputs(cls: type[Optimizer], kwargs: dict[str, Any]) -> None:
    net = model()
    params = matrices(net) if cls.__name__ == "Muon" else list(net.parameters())
    base = cls(params, **kwargs)  # type: ignore[arg-type]
    reason = REASONS.get(cls.__name__, "maximizes" if kwargs.get("maximize") else None)
    if reason is None:
        assert not respond(base).averaged
        return
    with pytest.raises(TypeError, match=f"{reason}|maximizes"):
        respond(base)
