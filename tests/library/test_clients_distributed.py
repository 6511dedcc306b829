"""DDP, FSDP2, distributed checkpoints: ranks agree to the bit, and with one process nearly."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from _clients import assert_same, batch, measured, net
from _two_ranks import TwoRanks
from torch import nn
from torch.distributed.checkpoint import state_dict as states
from torch.nn.parallel import DistributedDataParallel

from surefoot import MeasuredLR

pytestmark = pytest.mark.filterwarnings("ignore:most of the last")  # the bound's advice

LENGTH = 30
# how the model is spread, micro-batches, where gradients are clipped, options
CASES: dict[str, tuple[str, int, float | None, dict[str, Any]]] = {
    "ddp": ("ddp", 1, None, {}),
    "ddp, accumulated and clipped": ("ddp", 2, 0.1, {}),
    "fsdp": ("layers", 1, None, {}),
    "fsdp, accumulated and clipped": ("layers", 2, 0.1, {}),
    "fsdp of the root alone": ("root", 1, None, {}),
    "fsdp, frozen": ("root", 1, None, {"frozen": True}),
}


def spread(model: nn.Module, how: str, processes: int = 2) -> nn.Module:
    """The model over some processes."""
    if how == "ddp":
        return DistributedDataParallel(model)
    if how in ("layers", "root"):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (processes,))
        layers = (
            [m for m in model.children() if isinstance(m, nn.Linear)] if how == "layers" else []
        )
        for module in (*layers, model):
            fully_shard(module, mesh=mesh)
    return model


def walk(
    rank: int, how: str, micro: int, clip: float | None, options: dict[str, Any], parts: int = 2
) -> dict[str, Any]:
    warnings.simplefilter("ignore")  # gloo's; and what is shortened or accumulated is told
    model = net()
    spread_model = spread(model, how)
    optimizer = MeasuredLR(
        torch.optim.AdamW(model.parameters()),
        spread_model,
        **{"total_steps": LENGTH, "overhead": 0.5, **options},
    )
    trace = []
    for k in range(LENGTH):
        for j in range(micro):
            x, y = (t.chunk(parts)[rank] for t in batch(micro * k + j))
            last = j == micro - 1
            alone = how == "ddp" and not last
            with spread_model.no_sync() if alone else contextlib.nullcontext():  # type: ignore[operator]
                (F.mse_loss(spread_model(x), y) / micro).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        assert optimizer.last is not None
        trace.append([str(optimizer.last.status), optimizer.last.t])
    whole = [
        getattr(p, "full_tensor", lambda p=p: p)().detach().clone() for p in model.parameters()
    ]
    rate = optimizer.rate
    return {"params": whole, "trace": trace, "rate": [rate.value, rate.low, rate.high, rate.n]}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> TwoRanks:
    return TwoRanks(walk, CASES, tmp_path_factory.mktemp("both"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_one(name: str, both: TwoRanks) -> None:
    first, second = both[name]
    assert first["trace"] == second["trace"]
    assert first["rate"] == second["rate"]
    assert first["rate"][3] >= 4
    for p, q in zip(first["params"], second["params"], strict=True):
        assert torch.equal(p, q)
    _, *arguments = CASES[name]
    alone = walk(0, "alone", *arguments, parts=1)
    for p, q in zip(first["params"], alone["params"], strict=True):
        # sums in another order; a step is proportional to a rate measured from them
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)
    assert [s for s, _ in first["trace"]] == [s for s, _ in alone["trace"]]


def train(model: nn.Module, optimizer: Any, start: int, end: int) -> None:
    for k in range(start, end):
        x, y = batch(k)
        F.mse_loss(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("warm", [False, True])
def test_a_distributed_state_dict_goes_on_to_the_bit(flat: bool, warm: bool) -> None:
    options = states.StateDictOptions(flatten_optimizer_state_dict=flat, cpu_offload=True)
    whole, half, rest = net(), net(), net()
    train(whole, expected := measured(whole), 0, 40)
    train(half, optimizer := measured(half), 0, 20)
    saved: Any = states.get_optimizer_state_dict(half, optimizer, options=options)
    resumed = measured(rest)
    if warm:  # its state is there already, and is replaced
        train(rest, resumed, 0, 1)
    states.set_model_state_dict(rest, {k: v.clone() for k, v in half.state_dict().items()})
    states.set_optimizer_state_dict(rest, resumed, saved, options=options)
    train(rest, resumed, 20, 40)
    assert_same(whole, rest)
    assert resumed.rate == expected.rate


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_a_checkpoint_on_disk_goes_on_to_the_bit(tmp_path: Path) -> None:
    def state(model: nn.Module, optimizer: Any) -> dict[str, Any]:
        model_state, optimizer_state = states.get_state_dict(model, optimizer)
        return {"model": model_state, "optimizer": optimizer_state}

    whole, half, rest = net(), net(), net()
    train(whole, measured(whole), 0, 40)
    train(half, optimizer := measured(half), 0, 20)
    dcp.save(state(half, optimizer), checkpoint_id=tmp_path)
    resumed = measured(rest)
    loaded = state(rest, resumed)
    dcp.load(loaded, checkpoint_id=tmp_path)
    states.set_state_dict(
        rest, resumed, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"]
    )
    train(rest, resumed, 20, 40)
    assert_same(whole, rest)


@pytest.fixture
def alone_in_a_group(tmp_path: Path) -> Iterator[None]:
    address = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=address, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()
    torch._dynamo.reset()


ALONE: dict[str, Callable[[nn.Module], Any]] = {
    "ddp": DistributedDataParallel,
    "ddp around compiled": lambda m: DistributedDataParallel(
        torch.compile(m, backend="aot_eager")  # type: ignore[arg-type]
    ),
    "compiled ddp": lambda m: torch.compile(DistributedDataParallel(m), backend="aot_eager"),
    "fsdp": lambda m: spread(m, "root", 1),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("alone_in_a_group")
@pytest.mark.parametrize("how", ALONE)
def test_a_group_of_one_is_no_group(how: str) -> None:
    """A replay with a graph awaits no backward pass; FSDP2's gathered weights follow the move."""
    plain, other = net(dropout=0.1), net(dropout=0.1)
    alive = []  # without its optimizer a model has the averaged weights
    for model, called in ((plain, plain), (other, ALONE[how](other))):
        torch.manual_seed(3)
        optimizer = MeasuredLR(torch.optim.AdamW(model.parameters()), called, overhead=0.5)
        alive.append(optimizer)
        train(called, optimizer, 0, 30)
        assert optimizer.rate.n >= 4
    for p, q in zip(plain.parameters(), other.parameters(), strict=True):
        whole = getattr(q, "full_tensor", lambda q=q: q)()
        torch.testing.assert_close(p, whole, rtol=1e-3, atol=1e-4)
