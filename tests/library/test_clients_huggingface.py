"""Hugging Face's Trainer, PEFT and TRL, untouched: weights, logs and checkpoints of plain AdamW."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from _clients import STEPS, adamw, assert_measured, assert_same, frozen, measured
from torch import Tensor, nn

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")  # the packages' own


def gpt() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=64,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=16,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


class Pairs(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Every token twice: the second is to be learned."""

    def __init__(self, n: int = 96) -> None:
        generator = torch.Generator().manual_seed(1)
        self.tokens = torch.randint(0, 62, (n, 8), generator=generator).repeat_interleave(2, 1)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        row = self.tokens[i]
        return {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row}


class Run:
    """A model, its optimizer, and a Trainer that has trained."""

    def __init__(
        self,
        make: Callable[[nn.Module], torch.optim.Optimizer],
        folder: Path,
        model: Callable[[], nn.Module] = gpt,
        resume: Path | None = None,
        **options: Any,
    ) -> None:
        self.model = model()
        self.optimizer: Any = make(self.model)
        options = {"max_steps": STEPS, "save_strategy": "no", **options}
        arguments = transformers.TrainingArguments(
            str(folder),
            per_device_train_batch_size=4,
            use_cpu=True,
            report_to=[],
            logging_steps=10,
            disable_tqdm=True,
            **{"lr_scheduler_type": "constant", **options},
        )
        self.trainer = transformers.Trainer(
            self.model, arguments, train_dataset=Pairs(), optimizers=(self.optimizer, None)
        )
        with contextlib.redirect_stdout(io.StringIO()):
            self.trainer.train(resume_from_checkpoint=None if resume is None else str(resume))

    @property
    def logs(self) -> list[Any]:
        return [
            (entry["loss"], entry["grad_norm"])
            for entry in self.trainer.state.log_history
            if "loss" in entry
        ]


OPTIONS: dict[str, dict[str, Any]] = {
    "as it comes": {},  # max_grad_norm=1.0
    "accumulated": {"gradient_accumulation_steps": 4, "max_steps": 20},
    "bf16": {"bf16": True},
    "checkpointed activations": {"gradient_checkpointing": True, "max_steps": 20},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_frozen_trains_and_logs_as_the_plain_optimizer(name: str, tmp_path: Path) -> None:
    expected = Run(adamw, tmp_path, **OPTIONS[name])
    run = Run(frozen, tmp_path, **OPTIONS[name])
    assert_same(expected.model, run.model)
    assert expected.logs
    assert expected.logs == run.logs
    assert_measured(run.optimizer)


@pytest.mark.parametrize("micro", [1, 2])
def test_a_checkpoint_goes_on_to_the_bit(micro: int, tmp_path: Path) -> None:
    options = {"gradient_accumulation_steps": micro, "max_steps": 20}
    whole = Run(measured, tmp_path, save_strategy="steps", save_steps=10, **options)
    rest = Run(measured, tmp_path / "rest", resume=tmp_path / "checkpoint-10", **options)
    assert_same(whole.model, rest.model)
    assert rest.optimizer.rate == whole.optimizer.rate
    assert rest.logs == whole.logs


def test_the_default_schedule_on_top_of_the_horizon_is_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="so it falls twice.*constant"):
        Run(measured, tmp_path, lr_scheduler_type="linear")


def test_no_such_warning_without_a_horizon(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Run(lambda m: measured(m, horizon="none"), tmp_path, lr_scheduler_type="linear")
    assert not [w for w in caught if "falls twice" in str(w.message)]


def test_warm_up_from_zero_leaves_the_slopes_to_the_gradient(tmp_path: Path) -> None:
    run = Run(measured, tmp_path, lr_scheduler_type="constant_with_warmup", warmup_steps=5)
    assert_measured(run.optimizer)
    assert run.optimizer._stepper.rate.slopes == "gradient"


def lora() -> nn.Module:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, lora_dropout=0.1)
    model = gpt()
    torch.manual_seed(0)
    return peft.get_peft_model(model, config)


def test_lora(tmp_path: Path) -> None:
    expected, run = Run(adamw, tmp_path, lora), Run(frozen, tmp_path, lora)
    assert_same(expected.model, run.model)
    assert expected.logs == run.logs
    assert_measured(run.optimizer)


def test_trl_sft(tmp_path: Path) -> None:
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {**{str(i): i for i in range(62)}, "<pad>": 62, "<eos>": 63}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>"
    )
    texts = [" ".join(str(int(t)) for t in row) for row in Pairs().tokens]

    def run(make: Any) -> tuple[nn.Module, Any, list[Any]]:
        model = gpt()
        optimizer = make(model)
        config = trl.SFTConfig(
            str(tmp_path),
            max_steps=20,
            per_device_train_batch_size=4,
            use_cpu=True,
            bf16=False,
            report_to=[],
            logging_steps=5,
            save_strategy="no",
            disable_tqdm=True,
            lr_scheduler_type="constant",
            max_length=16,
        )
        data = datasets.Dataset.from_dict({"text": texts})
        trainer = trl.SFTTrainer(
            model,
            config,
            train_dataset=data,
            processing_class=tokenizer,
            optimizers=(optimizer, None),
        )
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train()
        names = ("loss", "mean_token_accuracy", "num_tokens", "entropy")
        return model, optimizer, [[e.get(n) for n in names] for e in trainer.state.log_history]

    plain, _, expected = run(adamw)
    model, optimizer, logs = run(frozen)
    assert_same(plain, model)
    assert logs == expected  # TRL counts tokens and accuracy in compute_loss: once a step
    assert_measured(optimizer)
