"""A small language model in Hugging Face's Trainer, with a measured learning rate that is logged.

python examples/huggingface_trainer.py
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import surefoot

LENGTH, WORDS = 16, 32


def sequences(count: int, seed: int) -> list[dict[str, Any]]:
    """Counting upwards in steps of one to three: the next token can be told from the last two."""
    draw = torch.Generator().manual_seed(seed)
    start = torch.randint(0, WORDS, (count, 1), generator=draw)
    step = torch.randint(1, 4, (count, 1), generator=draw)
    tokens = (start + step * torch.arange(LENGTH)) % WORDS
    return [{"input_ids": row, "labels": row} for row in tokens]


class LogRate(TrainerCallback):
    """Trainer logs the optimizer's `lr`, which is only a unit; this adds what was applied."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def on_log(self, *args: Any, logs: dict[str, Any] | None = None, **more: Any) -> None:
        if logs is not None and "loss" in logs:
            print(f"effective_lr {self.optimizer.param_groups[0]['effective_lr']:.2g}")


def main(steps: int = 200) -> float:
    """Train, and return the loss on sequences that were not seen."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, n_positions=LENGTH)
    config.bos_token_id = config.eos_token_id = 0
    model = GPT2LMHeadModel(config)
    optimizer = surefoot.MeasuredLR(torch.optim.AdamW(model.parameters()), model)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=32,
            lr_scheduler_type="constant",  # no schedule on top
            logging_steps=max(1, steps // 4),
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        trainer = Trainer(
            model,
            arguments,
            train_dataset=sequences(2000, seed=0),
            eval_dataset=sequences(200, seed=1),
            optimizers=(optimizer, None),
            callbacks=[LogRate(optimizer)],
        )
        trainer.train()
        loss = float(trainer.evaluate()["eval_loss"])
    print(f"loss on new sequences {loss:.3f}; guessing has {torch.tensor(WORDS).log():.3f}")
    return loss


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    main(**vars(parser.parse_args()))
