"""On a GPU: nothing is moved to the CPU, waited for or kept that training alone would not."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from _problems import Noisy, assert_same, noisy, snapshot
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import surefoot
from surefoot import LABPAL, PAL, MeasuredLR
from surefoot.replay import Recorder

DEVICE = "cuda"
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore:most of the last"),
]

Factory = Callable[[nn.Module], torch.optim.Optimizer]
BASES: dict[str, Factory] = {
    "sgd": lambda m: torch.optim.SGD(m.parameters(), 0.05, momentum=0.9),
    "sgd, fused": lambda m: torch.optim.SGD(m.parameters(), 0.05, momentum=0.9, fused=True),
    "adamw": lambda m: torch.optim.AdamW(m.parameters()),
    "adamw, one by one": lambda m: torch.optim.AdamW(m.parameters(), foreach=False),
    "adamw, fused": lambda m: torch.optim.AdamW(m.parameters(), fused=True),
    "adamw, capturable": lambda m: torch.optim.AdamW(m.parameters(), capturable=True),
    "adamw, rate on the GPU": lambda m: torch.optim.AdamW(
        m.parameters(), torch.tensor(1e-3, device=DEVICE), fused=True
    ),
}


@pytest.fixture(autouse=True)
def repeatable() -> Iterator[None]:
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    yield
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


def batches(count: int, size: int = 32) -> list[tuple[Tensor, Tensor]]:
    source = torch.Generator().manual_seed(2)
    found = []
    for _ in range(count):
        x = torch.randn(size, 3, 8, 8, generator=source)
        found.append((x.to(DEVICE), (x.mean((2, 3)).argmax(1)).to(DEVICE)))
    return found


def net() -> Noisy:
    """Convolution, BatchNorm and dropout, always the same."""
    model = noisy().to(DEVICE)
    torch.manual_seed(5)
    return model


def walk(model: nn.Module, optimizer: Any, data: list[tuple[Tensor, Tensor]]) -> list[float]:
    losses = []
    for x, y in data:
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses).tolist()


@pytest.mark.parametrize("base", BASES)
def test_frozen_trains_as_the_plain_optimizer(base: str) -> None:
    data, plain = batches(30), net()
    plain_losses = walk(plain, BASES[base](plain), data)
    ours = net()
    optimizer = MeasuredLR(BASES[base](ours), ours, frozen=True, overhead=0.5)
    assert walk(ours, optimizer, data) == plain_losses
    assert_same(plain.state_dict(), ours.state_dict())
    assert optimizer.rate.n >= 4


@pytest.mark.parametrize("options", [{}, {"total_steps": 120}], ids=["averaged", "decayed"])
@pytest.mark.parametrize("base", BASES)
def test_it_trains(base: str, options: dict[str, Any]) -> None:
    data, model = batches(120), net()
    optimizer = MeasuredLR(BASES[base](model), model, **options)
    walk(model, optimizer, data)
    model.eval()
    with torch.no_grad():
        right = [(model(x).argmax(1) == y).float().mean() for x, y in batches(8)]
    assert float(torch.stack(right).mean()) > 0.6
    assert optimizer.rate.n >= 4


def test_a_replay_with_dropout_gives_the_loss_back() -> None:
    model = net()
    recorder = Recorder(model)
    recorder.arm(list(model.parameters()))
    (x, y), *_ = batches(1)
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    tape = recorder.finish()
    assert tape is not None
    assert tape.problem() is None
    before, state = float(loss.detach()), torch.cuda.get_rng_state()
    assert tape.replay() == before
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
    assert tape.replay() != before
    assert torch.equal(torch.cuda.get_rng_state(), state)


@pytest.mark.filterwarnings("ignore:.*Profiler clears events")
@pytest.mark.parametrize("averaging", [True, False])
def test_steps_that_do_not_measure_copy_nothing_to_the_host(averaging: bool) -> None:
    """But for whether the gradient is finite, and the loss where it is heard: a number each."""
    from torch.profiler import ProfilerActivity, profile

    data, model = batches(40), net()
    optimizer = MeasuredLR(
        torch.optim.AdamW(model.parameters(), fused=True), model, averaging=averaging
    )
    walk(model, optimizer, data)
    for x, y in batches(20):
        hears = optimizer._stepper._listens
        F.cross_entropy(model(x), y).backward()
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
            optimizer.step()
        optimizer.zero_grad()
        copies = sum(e.count for e in seen.key_averages() if "DtoH" in e.key)
        if optimizer.last.cost.probes == 0:
            assert copies <= 1 + hears


@pytest.mark.parametrize("base", ["sgd, fused", "adamw, fused", "adamw"])
def test_it_holds_one_copy_of_the_weights(base: str) -> None:
    """As the allocator counts, beyond the plain optimizer; a second one for averages."""

    def peaks(wrap: Callable[[nn.Module], Any]) -> tuple[float, float]:
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(2048, 2048, bias=False) for _ in range(12))).to(DEVICE)
        weights = 12 * 4 * 2048**2
        x, optimizer = torch.randn(4, 2048, device=DEVICE), wrap(model)
        gc.collect()  # what failing tests hold
        before = torch.cuda.memory_allocated() - weights
        between = measuring = 0.0
        for step in range(24):
            F.mse_loss(model(x), x).backward()
            torch.cuda.reset_peak_memory_stats()
            optimizer.step()
            most = (torch.cuda.max_memory_allocated() - before) / weights
            optimizer.zero_grad()
            if step > 1:
                measured = getattr(getattr(optimizer, "last", None), "cost", None)
                if measured is not None and measured.probes > 0:
                    measuring = max(measuring, most)
                else:
                    between = max(between, most)
        return between, measuring

    for options, more in (({"total_steps": 10_000}, 0.0), ({}, 1.0)):
        plain, _ = peaks(BASES[base])
        between, measuring = peaks(lambda m, o=options: MeasuredLR(BASES[base](m), m, **o))
        print(base, options, f"between {between - plain:.2f}, measuring {measuring - plain:.2f}")
        # Adam without momentum keeps the tensors that it would keep with it
        assert between - plain <= 0.1 + more
        assert measuring - plain <= 1.1 + more


def test_bf16_autocast_and_compiled() -> None:
    data, model = batches(80), net()
    compiled = torch.compile(model)
    optimizer = MeasuredLR(torch.optim.AdamW(model.parameters(), fused=True), compiled)
    for x, y in data:
        with torch.autocast(DEVICE, torch.bfloat16):
            loss = F.cross_entropy(compiled(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert optimizer.rate.n >= 4
    assert float(loss.detach()) < 1.0


@pytest.mark.parametrize("fused", [True, False])
def test_a_scaler_in_torchs_usual_order(fused: bool) -> None:
    data, model = batches(80), net()
    optimizer = MeasuredLR(torch.optim.AdamW(model.parameters(), fused=fused), model)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**40)  # too large: skips, then halves
    for x, y in data:
        with torch.autocast(DEVICE, torch.float16):
            loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert scaler.get_scale() < 2.0**40
    assert optimizer.rate.n >= 3
    assert float(loss.detach()) < 1.0


def test_bad_batches_are_skipped() -> None:
    model = net()
    optimizer = MeasuredLR(torch.optim.AdamW(model.parameters()), model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k, (x, y) in enumerate(batches(60)):
            x = x * float("nan") if k % 3 == 1 else x
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert optimizer.rate.n >= 3


@pytest.mark.parametrize("options", [{}, {"total_steps": 60}], ids=["averaged", "decayed"])
def test_resumed_to_the_bit_by_way_of_the_cpu(options: dict[str, Any], tmp_path: Path) -> None:
    data, whole, half, rest = batches(60), net(), net(), net()
    torch.manual_seed(1)
    walk(
        whole, expected := MeasuredLR(torch.optim.AdamW(whole.parameters()), whole, **options), data
    )
    torch.manual_seed(1)
    walk(
        half,
        optimizer := MeasuredLR(torch.optim.AdamW(half.parameters()), half, **options),
        data[:31],
    )
    saved = {
        "model": half.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": torch.cuda.get_rng_state(),
    }
    torch.save(saved, tmp_path / "run.pt")
    loaded = torch.load(tmp_path / "run.pt", map_location="cpu", weights_only=False)
    resumed = MeasuredLR(torch.optim.AdamW(rest.parameters()), rest, **options)
    rest.load_state_dict(loaded["model"])
    resumed.load_state_dict(loaded["optimizer"])
    torch.cuda.set_rng_state(loaded["random"])
    walk(rest, resumed, data[31:])
    assert_same(whole.state_dict(), rest.state_dict())
    assert resumed.rate == expected.rate


@pytest.mark.parametrize("kind", [PAL, LABPAL])
def test_line_searches_take_the_steps_they_take_on_the_cpu(kind: Any) -> None:
    data, runs = batches(60), []
    for device in ("cpu", DEVICE):
        model = noisy().double().to(device)
        model.drop.p = 0.0
        optimizer = kind(model, total_steps=60)
        moved = [(x.double().to(device), y.to(device)) for x, y in data]
        runs.append(
            [
                float(optimizer.step(lambda x=x, y=y: F.cross_entropy(model(x), y)))  # noqa: B023
                for x, y in moved
            ]
        )
    assert runs[1] == pytest.approx(runs[0], rel=1e-5)


@pytest.mark.parametrize("kind", [PAL, LABPAL])
def test_line_searches(kind: Any) -> None:
    model, losses = net(), []
    model.drop.p = 0.0
    optimizer = kind(model, total_steps=60)  # without a horizon PAL ends anywhere, on any device
    for x, y in batches(60):
        losses.append(float(optimizer.step(lambda x=x, y=y: F.cross_entropy(model(x), y))))
    assert sum(losses[-10:]) < 0.85 * sum(losses[:10])


def test_a_range_test_leaves_no_trace() -> None:
    model, data = net(), batches(40)
    optimizer = torch.optim.AdamW(model.parameters())
    before = snapshot(model)
    state = torch.cuda.get_rng_state()
    curve = surefoot.range_test(model, optimizer, data, F.cross_entropy, num_iter=40)
    assert curve.suggestion() > 0.0
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert_same(model.state_dict(), before)


@pytest.fixture
def nccl(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("nccl")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["ddp", "fsdp", "fsdp, bf16"])
@pytest.mark.parametrize("options", [{}, {"total_steps": 40}], ids=["averaged", "decayed"])
def test_one_rank_of_nccl_is_no_rank(how: str, options: dict[str, Any]) -> None:
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    def plain() -> nn.Module:
        torch.manual_seed(3)
        layers = (nn.Linear(192, 64), nn.Tanh(), nn.LayerNorm(64), nn.Linear(64, 3))
        return nn.Sequential(nn.Flatten(), *layers).to(DEVICE)

    alone, spread = plain(), plain()
    model: nn.Module = spread
    if how == "ddp":
        model = DistributedDataParallel(spread)
    else:
        policy = {"mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16)}
        model = fully_shard(spread, **(policy if "bf16" in how else {}))
    data, alive = batches(40), []  # without its optimizer a model holds the average
    for m, called in ((alone, alone), (spread, model)):
        optimizer = MeasuredLR(torch.optim.AdamW(m.parameters()), called, overhead=0.5, **options)
        alive.append(optimizer)
        losses = walk(called, optimizer, data)
        assert optimizer.rate.n >= 4
        assert losses[-1] < losses[0]
    if how != "fsdp, bf16":
        for p, q in zip(alone.parameters(), spread.parameters(), strict=True):
            whole = getattr(q, "full_tensor", lambda q=q: q)()
            torch.testing.assert_close(p, whole, rtol=1e-3, atol=1e-3)
