"""What a measured rate costs in an ordinary loop, beside the wrapped optimizer alone.

Memory: the most bytes that the tensors made in a step hold at a time, counted one by one, in copies
of the weights beyond those of the plain optimizer's step; twelve Linear layers of 16 MiB. Weights,
gradients, the optimizer's state, and what forward and backward pass hold count for both.

Time: whole runs, the two in turns of ten steps, so that a machine whose speed drifts is the same
for both: nanoGPT's CPU recipe (4 layers, 4 heads, width 128, block 64, batch 12, no dropout), a VAE
(784-400-20, batch 128) and a two-layer GCN (1,000 nodes, dense adjacency), on random data; with
--device cuda nanoGPT's GPU recipe, too (6 layers, 6 heads, width 384, block 256, batch 64, bf16
autocast), and times of ten steps each, between which alone the host waits.

glibc keeps the memory that is freed here; otherwise it gives back and takes anew, at random more of
one than of the other.

    python benchmarks/loop_cost.py [--parts memory time] [--steps 1000] [--tasks gpt vae gcn]
                                   [--text tinyshakespeare.txt] [--bases SGD AdamW] [--averaged]
                                   [--device cuda]
"""

from __future__ import annotations

import argparse
import ctypes
import math
import os
import platform
import statistics
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from surefoot import MeasuredLR

BASES: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9),
    "AdamW": lambda p: torch.optim.AdamW(p, 1e-3),
}
_TURN = 10
DEVICE = "cpu"
"""`--device` sets it."""
LIMITS = {"measuring": 1.1, "between": 0.1, "time between": 1.01, "time of a run": 1.04}


class Counting(TorchDispatchMode):
    """Bytes of the tensors that were made inside and are alive: now, and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_storage(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and _storage(x) not in given:
                self._count(x)
        return out

    def _count(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.alive += size
        self.most = max(self.most, self.alive)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def _storage(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)


def layers(count: int, side: int) -> nn.Sequential:
    """Linear layers of 4·side² bytes."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(side, side, bias=False) for _ in range(count)))


@dataclass
class Peaks:
    """Most bytes of a step, in copies of the weights: at most in steps of either kind."""

    between: float = 0.0
    measuring: float = 0.0


def peaks(
    base: str, *, measured: bool, averaged: bool = False, count: int, side: int, steps: int
) -> Peaks:
    """The step alone, ``optimizer.step()``, after forward and backward pass."""
    model = layers(count, side)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    inner = BASES[base](model.parameters())
    optimizer: Any = inner
    if measured:
        optimizer = MeasuredLR(inner, model, total_steps=None if averaged else 10_000)
    x = torch.randn(4, side)
    found = Peaks()
    for step in range(steps):
        F.mse_loss(model(x), x).backward()
        with Counting() as counting:
            optimizer.step()
        optimizer.zero_grad()
        if step == 0:  # the optimizer makes its state
            continue
        most = counting.most / weights
        if measured and optimizer.last.cost.probes > 0:
            found.measuring = max(found.measuring, most)
        else:
            found.between = max(found.between, most)
    return found


def memory(
    bases: list[str], count: int = 12, side: int = 2048, steps: int = 16, averaged: bool = False
) -> dict[str, Peaks]:
    """Copies of the weights that a step makes beyond the plain optimizer's."""
    found = {}
    for base in bases:
        plain = peaks(base, measured=False, count=count, side=side, steps=3).between
        ours = peaks(base, measured=True, averaged=averaged, count=count, side=side, steps=steps)
        found[base] = Peaks(ours.between - plain, ours.measuring - plain)
    return found


# Time


class Block(nn.Module):
    """Attention and a feed-forward part, as nanoGPT has them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Residual, twice."""
        n, t, width = x.shape
        parts = self.qkv(self.first(x)).split(width, dim=2)
        q, k, v = (p.view(n, t, self.heads, -1).transpose(1, 2) for p in parts)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(n, t, width))
        return x + self.down(F.gelu(self.up(self.second(x))))


class GPT(nn.Module):
    """Four layers, four heads, width 128, block 64; or as many of each."""

    def __init__(self, vocabulary: int, width: int = 128, block: int = 64, layers: int = 4) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(block, width)
        self.blocks = nn.Sequential(*(Block(width, layers) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the next tokens."""
        x = self.tokens(x) + self.places(torch.arange(x.shape[1], device=x.device))
        out: Tensor = self.head(self.norm(self.blocks(x)))
        return out


class VAE(nn.Module):
    """784-400-20 and back."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.mean, self.spread = (
            nn.Linear(784, 400),
            nn.Linear(400, 20),
            nn.Linear(400, 20),
        )
        self.outer, self.pixels = nn.Linear(20, 400), nn.Linear(400, 784)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels, means and log variances."""
        hidden = F.relu(self.inner(x))
        mean, spread = self.mean(hidden), self.spread(hidden)
        z = mean + torch.randn_like(spread) * (0.5 * spread).exp()
        return self.pixels(F.relu(self.outer(z))), mean, spread


class GCN(nn.Module):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 16), nn.Linear(16, 7)

    def forward(self, x: Tensor, neighbours: Tensor) -> Tensor:
        """Logits of the nodes' classes."""
        out: Tensor = neighbours @ self.second(F.relu(neighbours @ self.first(x)))
        return out


def on_device(x: Tensor) -> Tensor:
    """Without waiting, as loops that care do it."""
    return x if DEVICE == "cpu" else x.pin_memory().to(DEVICE, non_blocking=True)


Loss = Callable[[int], Tensor]
"""The loss of step number so and so."""


def gpt(
    text: str | None, width: int = 128, block: int = 64, layers: int = 4, batch: int = 12
) -> tuple[nn.Module, Loss]:
    if text is None:
        codes = torch.randint(0, 65, (50_000,), generator=torch.Generator().manual_seed(0))
    else:
        letters = sorted(set(text))
        codes = torch.tensor([letters.index(c) for c in text[:200_000]])
    model = GPT(int(codes.max()) + 1, width, block, layers)

    def loss(step: int) -> Tensor:
        source = torch.Generator().manual_seed(step)
        starts = torch.randint(0, len(codes) - block - 1, (batch,), generator=source).tolist()
        rows = on_device(torch.stack([codes[s : s + block + 1] for s in starts]))
        return F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())

    return model, loss


def baby_gpt(text: str | None) -> tuple[nn.Module, Loss]:
    model, loss = gpt(text, 384, 256, 6, 64)

    def low(step: int) -> Tensor:
        with torch.autocast(DEVICE, torch.bfloat16):
            return loss(step)

    return model, low


def vae(_: str | None) -> tuple[nn.Module, Loss]:
    model, pictures = VAE(), torch.rand(1280, 784, generator=torch.Generator().manual_seed(0))

    def loss(step: int) -> Tensor:
        x = on_device(pictures[128 * (step % 10) : 128 * (step % 10) + 128])
        pixels, mean, spread = model(x)
        divergence = -0.5 * (1 + spread - mean.square() - spread.exp()).sum()
        return F.binary_cross_entropy_with_logits(pixels, x, reduction="sum") + divergence

    return model, loss


def gcn(_: str | None) -> tuple[nn.Module, Loss]:
    source = torch.Generator().manual_seed(0)
    links = (torch.rand(1000, 1000, generator=source) < 0.004).float()
    links = (links + links.T + torch.eye(1000)).clamp(max=1.0)
    roots = links.sum(1).rsqrt()
    neighbours = roots[:, None] * links * roots
    x = torch.randn(1000, 64, generator=source)
    y = torch.randint(0, 7, (1000,), generator=source)
    model = GCN()
    neighbours, x, y = on_device(neighbours), on_device(x), on_device(y)
    return model, lambda _: F.cross_entropy(model(x, neighbours), y)


TASKS: dict[str, Callable[[str | None], tuple[nn.Module, Loss]]] = {
    "gpt": gpt,
    "baby gpt": baby_gpt,
    "vae": vae,
    "gcn": gcn,
}


@dataclass
class Run:
    """Seconds of each step of a run, and which of them measured."""

    seconds: list[float] = field(default_factory=list)
    measured: list[bool] = field(default_factory=list)

    def add(self, seconds: list[float], measured: list[bool]) -> None:
        """Some more."""
        self.seconds += seconds
        self.measured += measured


def queued(optimizer: Any, loss: Loss, steps: Sequence[int]) -> tuple[list[float], list[bool]]:
    """Steps that nobody waits for but at their end: the mean time of each, and whether any measured."""
    torch.cuda.synchronize()
    start, measured = time.perf_counter(), False
    for step in steps:
        loss(step).backward()
        optimizer.step()
        optimizer.zero_grad()
        last = getattr(optimizer, "last", None)
        measured |= last is not None and last.cost.probes > 0
    torch.cuda.synchronize()
    spent = (time.perf_counter() - start) / len(steps)
    return [spent] * len(steps), [measured] * len(steps)


def in_turns(task: str, base: str, steps: int, text: str | None, averaged: bool) -> tuple[Run, Run]:
    """The plain run and the measured one, ten steps each: alone, each finds its code in the cache.

    On a GPU steps are queued, and only ten together have a time: each gets a tenth.
    """
    runs, loops = (Run(), Run()), []
    for ours in (False, True):
        torch.manual_seed(0)
        model, loss = TASKS[task](text)
        model.to(DEVICE)
        optimizer: Any = BASES[base](model.parameters())
        if ours:
            optimizer = MeasuredLR(optimizer, model, total_steps=None if averaged else steps)
        loops.append((optimizer, loss))
    for turn in range(0, steps, _TURN):
        for ours in (turn // _TURN % 2, 1 - turn // _TURN % 2):
            optimizer, loss = loops[ours]
            if DEVICE != "cpu":
                runs[ours].add(*queued(optimizer, loss, range(turn, min(turn + _TURN, steps))))
                continue
            for step in range(turn, min(turn + _TURN, steps)):
                start = time.perf_counter()
                loss(step).backward()
                optimizer.step()
                optimizer.zero_grad()
                runs[ours].seconds.append(time.perf_counter() - start)
                runs[ours].measured.append(bool(ours) and optimizer.last.cost.probes > 0)
    return runs


def time_ratios(plain: Run, ours: Run) -> tuple[float, float, float]:
    """Of steps that do not measure, of whole runs, and of steps that measure: medians and sums.

    A step is compared with its twin of the same turn. Sums without the thousandth of the steps that
    took longest in either run, which the machine interrupted.
    """
    pairs = [*zip(plain.seconds, ours.seconds, ours.measured, strict=True)][5:]
    longest = sorted(max(p, o) for p, o, _ in pairs)[-max(2, len(pairs) // 1000)]
    pairs = [(p, o, m) for p, o, m in pairs if max(p, o) < longest or m]
    between = statistics.median(o / p for p, o, m in pairs if not m)
    whole = sum(o for _, o, _ in pairs) / sum(p for p, _, _ in pairs)
    measuring = [o / p for p, o, m in pairs if m]
    return between, whole, statistics.median(measuring) if measuring else math.nan


def keep_memory() -> None:
    """Let malloc neither map large blocks one by one nor return what is free; glibc only."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_max, 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--parts", nargs="*", choices=("memory", "time"), default=["memory", "time"]
    )
    parser.add_argument("--bases", nargs="*", choices=BASES, default=list(BASES))
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=["gpt", "vae", "gcn"])
    parser.add_argument("--steps", type=int, default=1000, help="length of a run")
    parser.add_argument("--averaged", action="store_true", help="weights, without total_steps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--text", type=Path, help="what the GPT reads; default: random tokens")
    options = parser.parse_args()
    global DEVICE
    DEVICE = options.device
    torch.set_num_threads(options.threads)
    where = (
        torch.cuda.get_device_name()
        if DEVICE != "cpu"
        else platform.processor() or platform.machine()
    )
    print(f"torch {torch.__version__}, {where}, "
          f"{options.threads} thread(s), load {os.getloadavg()[0]:.1f}")  # fmt: skip
    kept = True
    if "memory" in options.parts:
        print("\n| base | measuring, copies | between | at most |\n|---|---|---|---|")
        for base, found in memory(options.bases).items():
            kept &= found.measuring <= LIMITS["measuring"] and found.between <= LIMITS["between"]
            print(f"| {base} | {found.measuring:.2f} | {found.between:.2f} "
                  f"| {LIMITS['measuring']}, {LIMITS['between']} |")  # fmt: skip
    if "time" in options.parts:
        keep_memory()
        text = options.text.read_text() if options.text else None
        print(
            "\n| task | base | plain, ms | × between | × run | × measuring | measured | at most |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for task in options.tasks:
            for base in options.bases:
                plain, ours = in_turns(task, base, options.steps, text, options.averaged)
                between, whole, measuring = time_ratios(plain, ours)
                kept &= between <= LIMITS["time between"] and whole <= LIMITS["time of a run"]
                print(f"| {task} | {base} | {1e3 * statistics.median(plain.seconds):.2f} "
                      f"| {between:.3f} | {whole:.3f} | {measuring:.2f} | {sum(ours.measured)} "
                      f"| {LIMITS['time between']}, {LIMITS['time of a run']} |",
                      flush=True)  # fmt: skip
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
