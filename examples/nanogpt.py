"""nanoGPT's recipe for characters, in one file: a GPT, clipping, and a measured learning rate.

python examples/nanogpt.py --text input.txt --steps 2000

Without `--text` it reads Python's own help texts. What changed from the recipe are the optimizer's
line and the schedule, which is gone; `--total-steps` gives the decay back, without a rate.
"""

from __future__ import annotations

import argparse
import math
import pydoc_data.topics
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

import surefoot

WIDTH, HEADS, LAYERS, CONTEXT, BATCH = 128, 4, 4, 64, 12


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        qkv = self.qkv(self.norm1(x)).view(b, t, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(*qkv, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, t, WIDTH))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """800 thousand parameters."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(characters, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, characters, bias=False)
        self.head.weight = self.token.weight
        for name, p in self.named_parameters():
            if p.dim() == 2:
                deep = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * LAYERS) if deep else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.place(torch.arange(tokens.shape[1]))
        return self.head(self.norm(self.blocks(x)))


@torch.no_grad()
def evaluate(model: nn.Module, tokens: Tensor, most: int) -> float:
    """Mean loss over the split, in windows that do not overlap; `most` windows at most."""
    model.eval()
    windows = tokens[: (len(tokens) - 1) // CONTEXT * CONTEXT + 1].unfold(0, CONTEXT + 1, CONTEXT)
    losses = [
        cross_entropy(model(w[:, :-1]).flatten(0, 1), w[:, 1:].flatten(), reduction="sum")
        for w in windows[:most].split(64)
    ]
    model.train()
    return float(sum(losses)) / (min(most, len(windows)) * CONTEXT)


def main(
    text: str | None = None, steps: int = 300, total_steps: bool = False, windows: int = 10**9
) -> float:
    """Train, and return the validation loss."""
    torch.manual_seed(1337)
    content = Path(text).read_text() if text else "".join(pydoc_data.topics.topics.values())
    alphabet = {c: i for i, c in enumerate(sorted(set(content)))}
    tokens = torch.tensor([alphabet[c] for c in content])
    training, validation = tokens[: int(0.9 * len(tokens))], tokens[int(0.9 * len(tokens)) :]
    model = GPT(len(alphabet))
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    base = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    optimizer = surefoot.MeasuredLR(base, model, total_steps=steps if total_steps else None)

    for step in range(steps):
        starts = torch.randint(0, len(training) - CONTEXT - 1, (BATCH,))
        batch = torch.stack([training[s : s + CONTEXT + 1] for s in starts])
        loss = cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % max(1, steps // 5) == 0:
            print(f"{step:5d}  loss {loss:.3f}  rate {base.param_groups[0]['effective_lr']:.2g}")
    found = evaluate(model, validation, windows)
    print(f"validation loss {found:.3f}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", help="a text file, such as tiny Shakespeare")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--total-steps", action="store_true", help="a linear decay over the steps")
    main(**vars(parser.parse_args()))
