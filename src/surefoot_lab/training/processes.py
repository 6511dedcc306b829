"""Several processes that train one network: what each does, and what they must agree on."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedType,
    broadcast,
    broadcast_object_list,
    gather_object,
    reduce,
)
from torch import Tensor, nn

from surefoot_lab.config import TrainConfig
from surefoot_lab.errors import UserError, one_line

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """The processes of a run, in accelerate's words; one alone pays for nothing.

    Attributes:
        size: number of processes.
        rank: this one's number; 0 writes the record.
        device: where tensors that are exchanged must be.
        founded: whether the process group was made for this team, and ends with it.
    """

    size: int = 1
    rank: int = 0
    device: str | torch.device = "cpu"
    founded: bool = False

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def lead(self, action: Callable[[], T]) -> T:
        """Let rank 0 alone do something; every rank gets its result, or its error."""
        if self.size == 1:
            return action()
        outcome: list[Any] = [None, None]
        if self.leads:
            try:
                outcome[0] = action()
            except Exception as error:  # handed to all ranks: none may wait for one that is gone
                outcome[1] = error
        broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        result: T = outcome[0]
        return result

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sum over all ranks of each number."""
        if self.size == 1:
            return [float(value) for value in values]
        own = torch.tensor(values, dtype=torch.float64, device=self.device)
        total: list[float] = reduce(own, "sum").tolist()
        return total

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all ranks of a tensor that each has; a new tensor."""
        if self.size == 1:
            return value.clone()
        mean: Tensor = reduce(value.detach().to(self.device, torch.float64), "mean")
        return mean.to(value.device, value.dtype)

    def any(self, flag: bool) -> bool:
        """Whether one rank says so: they stop together or not at all."""
        return flag if self.size == 1 else self.sum([float(flag)])[0] > 0.0

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, on every rank, in the order of the ranks."""
        values: list[T] = gather_object([value])
        return values

    def follow(self, network: nn.Module) -> None:
        """Take over rank 0's buffers: BatchNorm statistics differ by rank, as each saw its share.

        DistributedDataParallel does the same before every training forward; an evaluation, which
        goes past it, would else score a different network on each rank.
        """
        if self.size > 1:
            broadcast(list(network.buffers()))

    def check_together(self, network: nn.Module) -> None:
        """Refuse to go on with networks that drifted apart.

        Raises:
            RuntimeError: the ranks' parameters differ.
        """
        if self.size == 1:
            return
        with torch.no_grad():
            mark = math.fsum(float(p.double().abs().sum()) for p in network.parameters())
        marks = [repr(value) for value in self.gather(mark)]
        if len(set(marks)) > 1:
            raise RuntimeError(
                f"the processes no longer hold the same parameters ({', '.join(marks)}): the "
                "optimizer decides by what only its own process sees"
            )

    def share(self, tensors: Sequence[Tensor], parts: int = 1) -> list[tuple[Tensor, ...]]:
        """This rank's rows of a batch that all ranks drew alike, cut into `parts` equal pieces."""
        own = [t.reshape(self.size, parts, -1, *t.shape[1:])[self.rank] for t in tensors]
        return list(zip(*own, strict=True))

    def slice_of(self, count: int) -> slice:
        """This rank's stretch of `count` things: together they are all, each once."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def close(self) -> None:
        """Part in good order; without this, the others would wait for their time limit."""
        if self.founded and dist.is_initialized():
            dist.destroy_process_group()


def form_team(config: TrainConfig) -> tuple[Any, Team]:
    """Join the processes that `torchrun` or `accelerate launch` started; alone, a team of one.

    Returns:
        Accelerate's object for device and precision, and the team.

    Raises:
        UserError: the processes were started in a way that this cannot work in.
    """
    _refuse_sharding()
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    # Accelerate's state is global, so it is made anew; without a GPU it must be told to use gloo,
    # or each process would take itself for the only one.
    AcceleratorState._reset_state(reset_partial_state=True)
    on_cpu = config.device == "cpu" or (wanted > 1 and not torch.cuda.is_available())
    precision = {"fp32": "no", "bf16": "bf16"}[config.precision]
    founded = wanted > 1 and not dist.is_initialized()
    try:
        accelerator = Accelerator(cpu=on_cpu, mixed_precision=precision)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"train.precision, train.device: {one_line(error)}") from None
    found = accelerator.distributed_type
    known = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if found not in known:
        raise UserError(f"surefoot train does not know processes of the kind {found.value}")
    if accelerator.num_processes != wanted:
        raise UserError(
            f"started as one of {wanted} processes, but only {accelerator.num_processes} found "
            "each other; start all of them with torchrun or accelerate launch"
        )
    rank, device = accelerator.process_index, accelerator.device
    return accelerator, Team(wanted, rank, device, founded)


def _refuse_sharding() -> None:
    for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise UserError(
                f"surefoot train does not run under {name}: it cuts parameters into pieces, one a "
                "process, and a line search would measure norms and slopes of its own pieces "
                "only; use data parallel processes (accelerate launch --multi_gpu, or torchrun)"
            )
