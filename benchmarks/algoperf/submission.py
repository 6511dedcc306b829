"""Measured AdamW for AlgoPerf's self-tuning track, PyTorch.

The functions are those that the benchmark's documentation (version 0.6) names. Nothing depends on the workload but the
batch size, which says what fits into memory; `hyperparameters` and the step hint are not used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
import torch.distributed as dist
from algoperf import spec
from torch.distributed.nn.functional import all_reduce

import surefoot

BATCH_SIZES = {
    "criteo1tb": 262_144,
    "fastmri": 32,
    "imagenet_resnet": 1024,
    "imagenet_vit": 1024,
    "librispeech_conformer": 256,
    "librispeech_deepspeech": 256,
    "ogbg": 512,
    "wmt": 128,
    "mnist": 64,
}


class Trained:
    """The optimizer, and whether the model holds its averaged weights just now."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.optimizer = surefoot.MeasuredLR(torch.optim.AdamW(model.parameters()), model)
        self._shown = ExitStack()

    def show_average(self) -> None:
        """Until `go_on`, the parameters themselves hold the average: an evaluation runs no code of ours."""
        self._shown.close()
        self._shown.enter_context(self.optimizer.averaged())

    def go_on(self) -> None:
        """Back to where gradients are taken."""
        self._shown.close()

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)


def get_batch_size(workload_name: str) -> int:
    """Of the training."""
    return next(size for name, size in BATCH_SIZES.items() if workload_name.startswith(name))


def init_optimizer_state(
    workload: spec.Workload,
    model_params: spec.ParameterContainer,
    model_state: spec.ModelAuxiliaryState,
    hyperparameters: spec.Hyperparameters,
    rng: spec.RandomState,
) -> spec.OptimizerState:
    """Wrap AdamW: neither rate nor schedule nor length."""
    del workload, model_state, hyperparameters, rng
    return {"optimizer": Trained(model_params)}


def update_params(
    workload: spec.Workload,
    current_param_container: spec.ParameterContainer,
    current_params_types: spec.ParameterTypeTree,
    model_state: spec.ModelAuxiliaryState,
    hyperparameters: spec.Hyperparameters,
    batch: dict[str, spec.Tensor],
    loss_type: spec.LossType,
    optimizer_state: spec.OptimizerState,
    eval_results: list[tuple[int, float]],
    global_step: int,
    rng: spec.RandomState,
    train_state: dict[str, Any] | None = None,
) -> spec.UpdateReturn:
    """One step on the mean loss of a batch."""
    del current_params_types, hyperparameters, loss_type, eval_results, global_step, train_state
    trained, model = optimizer_state["optimizer"], current_param_container
    trained.go_on()
    model.train()
    outputs, new_model_state = workload.model_fn(
        params=model,
        augmented_and_preprocessed_input_batch=batch,
        model_state=model_state,
        mode=spec.ForwardPassMode.TRAIN,
        rng=rng,
        update_batch_norm=True,
    )
    found = workload.loss_fn(
        label_batch=batch["targets"], logits_batch=outputs, mask_batch=batch.get("weights")
    )
    summed, count = found["summed"], found["n_valid_examples"]
    if dist.is_initialized():
        summed, count = all_reduce(summed), all_reduce(count)
    (summed / count).backward()
    trained.optimizer.step()
    trained.optimizer.zero_grad()
    return optimizer_state, model, new_model_state


def prepare_for_eval(
    workload: spec.Workload,
    current_param_container: spec.ParameterContainer,
    current_params_types: spec.ParameterTypeTree,
    model_state: spec.ModelAuxiliaryState,
    hyperparameters: spec.Hyperparameters,
    loss_type: spec.LossType,
    optimizer_state: spec.OptimizerState,
    eval_results: list[tuple[int, float]],
    global_step: int,
    rng: spec.RandomState,
) -> spec.UpdateReturn:
    """Put the averaged weights into the model."""
    del workload, current_params_types, hyperparameters, loss_type, eval_results, global_step, rng
    optimizer_state["optimizer"].show_average()
    return optimizer_state, current_param_container, model_state


def data_selection(
    workload: spec.Workload,
    input_queue: Iterator[dict[str, spec.Tensor]],
    optimizer_state: spec.OptimizerState,
    current_param_container: spec.ParameterContainer,
    model_state: spec.ModelAuxiliaryState,
    hyperparameters: spec.Hyperparameters,
    global_step: int,
    rng: spec.RandomState,
) -> dict[str, spec.Tensor]:
    """The next batch as it comes."""
    del workload, optimizer_state, current_param_container, model_state, hyperparameters
    del global_step, rng
    return next(input_queue)
