"""nanoGPT's recipes: the measured rate beside their schedule, a grid, and methods that need no tuning.

    python benchmarks/nanogpt/run.py --shakespeare DIR [--full]
    python benchmarks/nanogpt/run.py --shakespeare DIR --recipe gpu --device cuda

DIR holds `input.txt`. Tiny Shakespeare's characters, AdamW with 0.1 weight decay on matrices, β₂ = 0.99, clipping at 1.0. For
a CPU: 4 layers, 4 heads, width 128, blocks of 64, batches of 12, no dropout, 2,000 iterations (500 without --full), judged by the
loss at the end. For a GPU: 6 layers, 6 heads, width 384, blocks of 256, batches of 64, dropout 0.2, 5,000 iterations under bf16
autocast, judged as its script keeps checkpoints: by the best loss of one evaluation every 250. The whole validation split,
in blocks.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
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

SHORT = 500
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


@dataclass(frozen=True)
class Recipe:
    """Sizes of the net and of its batches, length of the run."""

    name: str
    layers: int
    heads: int
    width: int
    block: int
    batch: int
    dropout: float
    steps: int
    look_every: int | None = None
    autocast: bool = False


RECIPES = {
    "cpu": Recipe("nanogpt", 4, 4, 128, 64, 12, 0.0, 2000),
    "gpu": Recipe("nanogpt_gpu", 6, 6, 384, 256, 64, 0.2, 5000, look_every=250, autocast=True),
}


class Block(nn.Module):
    """Attention and an MLP, each behind a norm and beside a short cut."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        width, self.heads, self.dropout = recipe.width, recipe.heads, recipe.dropout
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.out = (nn.Linear(width, n * width, bias=False) for n in (3, 1))
        self.up, self.down = (
            nn.Linear(width, 4 * width, bias=False),
            nn.Linear(4 * width, width, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        b, t, width = x.shape
        heads = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(*heads, dropout_p=dropout, is_causal=True)
        x = x + self._drop(self.out(seen.transpose(1, 2).reshape(b, t, width)))
        return x + self._drop(self.down(F.gelu(self.up(self.norm2(x)))))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Gpt(nn.Module):
    """GPT-2's form; the head's weights are the embedding's."""

    def __init__(self, alphabet: int, recipe: Recipe) -> None:
        super().__init__()
        width, layers = recipe.width, recipe.layers
        self.tokens, self.places = nn.Embedding(alphabet, width), nn.Embedding(recipe.block, width)
        self.drop = nn.Dropout(recipe.dropout) if recipe.dropout else nn.Identity()
        self.blocks = nn.Sequential(*(Block(recipe) for _ in range(layers)))
        self.norm = nn.LayerNorm(width, bias=False)
        self.head = nn.Linear(width, alphabet, bias=False)
        for name, p in self.named_parameters():
            if p.dim() > 1:
                ends = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * layers) if ends else 0.02)
        self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(self.tokens(x) + self.places.weight[: x.shape[1]])
        return self.head(self.norm(self.blocks(h)))


class Shakespeare:
    """Loss of the next character."""

    higher_is_better = False
    clip = 1.0

    def __init__(self, folder: Path, recipe: Recipe, steps: int | None = None) -> None:
        self.recipe, self.look_every = recipe, recipe.look_every
        text = (folder / "input.txt").read_text()
        alphabet = sorted(set(text))
        places = {c: i for i, c in enumerate(alphabet)}
        codes = torch.tensor([places[c] for c in text])
        cut = int(0.9 * len(codes))
        self.train, self.validation = put(codes[:cut]), put(codes[cut:])
        self.name, self.steps, self.alphabet = recipe.name, steps or recipe.steps, len(alphabet)

    def model(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return Gpt(self.alphabet, self.recipe)

    def groups(self, model: nn.Module) -> Groups:
        parts = [
            [p for p in model.parameters() if (p.dim() > 1) == matrix] for matrix in (True, False)
        ]
        return [{"params": p, "weight_decay": d} for p, d in zip(parts, (0.1, 0.0), strict=True)]

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        block, batch = self.recipe.block, self.recipe.batch
        inside = put(torch.arange(block))
        while True:
            start = torch.randint(len(self.train) - block, (batch, 1), generator=generator)
            places = put(start) + inside
            yield self.train[places], self.train[places + 1]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.recipe.autocast):
            return F.cross_entropy(model(x).flatten(0, 1), y.flatten())

    def evaluate(self, model: nn.Module) -> float:
        block = self.recipe.block
        count = (len(self.validation) - 1) // block
        x, y = (self.validation[i : i + count * block].view(count, block) for i in (0, 1))
        losses = [
            len(a) * float(self.loss(model, (a, b)))
            for a, b in zip(x.split(128), y.split(128), strict=True)
        ]
        return sum(losses) / count


def recipe(share: float, warm_up: float = 0.05) -> float:
    """Up over the first twentieth, or less, then a cosine down to a tenth."""
    if share < warm_up:
        return max(share, 1e-3) / warm_up
    return 0.1 + 0.45 * (1.0 + math.cos(math.pi * (share - warm_up) / (1.0 - warm_up)))


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
GPU_RECIPE = Method(
    "the recipe", lambda groups, *_: _adamw(groups, lr=1e-3), lambda share: recipe(share, 0.02)
)
SCHEDULES = (None, linear, recipe)


def _cell(rate: float, schedule: Any) -> Method:
    name = f"AdamW {rate:g}, {schedule.__name__ if schedule else 'constant'}"
    count = len(RATES) * len(SCHEDULES)
    return Method(name, lambda groups, *_: _adamw(groups, lr=rate), schedule, count)


GRID = [_cell(rate, schedule) for schedule in SCHEDULES for rate in RATES]


def main() -> None:
    parser = command(__doc__.splitlines()[0], HERE)
    parser.add_argument("--shakespeare", type=Path, required=True)
    parser.add_argument("--recipe", choices=RECIPES, default="cpu")
    options = parsed(parser)
    on_cpu = options.recipe == "cpu"
    steps = options.steps or (SHORT if on_cpu and not options.full else None)
    task = Shakespeare(options.shakespeare, RECIPES[options.recipe], steps)
    own = [RECIPE, *UNTUNED, *GRID] if on_cpu else [GPU_RECIPE]
    found = chosen([*MEASURED, *MUON, *own], options.methods)
    run(options.out, [task], lambda _: found, options.seeds or range(3), options.part)


if __name__ == "__main__":
    main()
