"""nanoGPT's CPU recipe: the measured rate beside its schedule, a grid, and methods that need no tuning.

    python benchmarks/nanogpt/run.py --shakespeare DIR [--full]

DIR holds `input.txt`. The recipe: tiny Shakespeare's characters, 4 layers, 4 heads, width 128, blocks of 64, batches of 12, no
dropout, 2,000 iterations, AdamW with 0.1 weight decay on matrices, β₂ = 0.99, clipping at 1.0. Judged by the loss on the whole
validation split in blocks of 64. Without --full: 500 iterations.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.optim import AdamW, Optimizer  # noqa: E402
from yardsticks import MUON, UNTUNED, Groups, Method, chosen, command, linear, parsed, put, run  # noqa: E402

import surefoot  # noqa: E402

STEPS, SHORT = 2000, 500
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
BLOCK, BATCH, WIDTH, HEADS, LAYERS = 64, 12, 128, 4, 4


class Block(nn.Module):
    """Attention and an MLP, each behind a norm and beside a short cut."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
        self.qkv, self.out = (nn.Linear(WIDTH, n * WIDTH, bias=False) for n in (3, 1))
        self.up, self.down = (
            nn.Linear(WIDTH, 4 * WIDTH, bias=False),
            nn.Linear(4 * WIDTH, WIDTH, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        heads = self.qkv(self.norm1(x)).view(b, t, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(b, t, WIDTH))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Gpt(nn.Module):
    """GPT-2's form; the head's weights are the embedding's."""

    def __init__(self, alphabet: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(alphabet, WIDTH), nn.Embedding(BLOCK, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, alphabet, bias=False)
        for name, p in self.named_parameters():
            if p.dim() > 1:
                ends = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * LAYERS) if ends else 0.02)
        self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.tokens(x) + self.places.weight[: x.shape[1]]
        return self.head(self.norm(self.blocks(h)))


class Shakespeare:
    """Loss of the next character."""

    higher_is_better = False
    clip = 1.0

    def __init__(self, folder: Path, steps: int) -> None:
        text = (folder / "input.txt").read_text()
        alphabet = sorted(set(text))
        places = {c: i for i, c in enumerate(alphabet)}
        codes = torch.tensor([places[c] for c in text])
        cut = int(0.9 * len(codes))
        self.train, self.validation = codes[:cut], codes[cut:]
        self.name, self.steps, self.alphabet = "nanogpt", steps, len(alphabet)

    def model(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return Gpt(self.alphabet)

    def groups(self, model: nn.Module) -> Groups:
        parts = [
            [p for p in model.parameters() if (p.dim() > 1) == matrix] for matrix in (True, False)
        ]
        return [{"params": p, "weight_decay": d} for p, d in zip(parts, (0.1, 0.0), strict=True)]

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        inside = torch.arange(BLOCK)
        while True:
            start = torch.randint(len(self.train) - BLOCK, (BATCH, 1), generator=generator)
            yield self.train[start + inside], self.train[start + inside + 1]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())

    def evaluate(self, model: nn.Module) -> float:
        count = (len(self.validation) - 1) // BLOCK
        x, y = (self.validation[i : i + count * BLOCK].view(count, BLOCK) for i in (0, 1))
        losses = [
            len(a) * float(self.loss(model, put((a, b))))
            for a, b in zip(x.split(128), y.split(128), strict=True)
        ]
        return sum(losses) / count


def recipe(share: float) -> float:
    """Up over the first twentieth, then a cosine down to a tenth."""
    if share < 0.05:
        return max(share, 1e-3) / 0.05
    return 0.1 + 0.45 * (1.0 + math.cos(math.pi * (share - 0.05) / 0.95))


def _adamw(groups: Groups, **settings: Any) -> Optimizer:
    return AdamW(groups, betas=(0.9, 0.99), **settings)


MEASURED = (
    Method("measured AdamW", lambda groups, model, _: surefoot.MeasuredLR(_adamw(groups), model)),
    Method(
        "measured AdamW, length known",
        lambda groups, model, steps: surefoot.MeasuredLR(_adamw(groups), model, total_steps=steps),
    ),
)
RECIPE = Method("the recipe", lambda groups, *_: _adamw(groups, lr=1e-3), recipe)
SCHEDULES = (None, linear, recipe)


def _cell(rate: float, schedule: Any) -> Method:
    name = f"AdamW {rate:g}, {schedule.__name__ if schedule else 'constant'}"
    count = len(RATES) * len(SCHEDULES)
    return Method(name, lambda groups, *_: _adamw(groups, lr=rate), schedule, count)


GRID = [_cell(rate, schedule) for schedule in SCHEDULES for rate in RATES]


def main() -> None:
    parser = command(__doc__.splitlines()[0], HERE)
    parser.add_argument("--shakespeare", type=Path, required=True)
    options = parsed(parser)
    task = Shakespeare(options.shakespeare, options.steps or (STEPS if options.full else SHORT))
    found = chosen([*MEASURED, *MUON, RECIPE, *UNTUNED, *GRID], options.methods)
    run(options.out, [task], lambda _: found, options.seeds or range(3))


if __name__ == "__main__":
    main()
