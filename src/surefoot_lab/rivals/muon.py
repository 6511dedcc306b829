"""Muon (Jordan et al. 2024), with the split of the parameters that its authors ask for."""

from __future__ import annotations

from typing import Any, ClassVar

from pytorch_optimizer import Muon as PackagedMuon
from torch import nn

_LOOKED_UP = (nn.Embedding, nn.EmbeddingBag)


class Muon(PackagedMuon):  # type: ignore[misc]
    """Muon for the hidden weight matrices and filters, AdamW for everything else.

    Everything else: biases, gains, embeddings, and the last matrix, which gives the answers.

    Args:
        model: the network whose parameters are trained.
        lr: Muon's rate.
        adamw_lr: AdamW's rate.
        momentum: Muon's.
        weight_decay: of both, decoupled.
        **settings: others of `pytorch_optimizer.Muon`.
    """

    takes_model: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        lr: float = 0.02,
        adamw_lr: float = 0.002,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        **settings: Any,
    ) -> None:
        hidden, others = split(model)
        groups = [
            {"params": hidden, "lr": lr, "momentum": momentum, "use_muon": True},
            {"params": others, "lr": adamw_lr, "use_muon": False},
        ]
        groups = [{**group, "weight_decay": weight_decay} for group in groups if group["params"]]
        super().__init__(groups, **settings)


def split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Hidden matrices and filters, and the rest; of the parameters that are trained."""
    looked_up = {
        id(weight)
        for module in model.modules()
        if isinstance(module, _LOOKED_UP)
        for weight in module.parameters(recurse=False)
    }
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim >= 2 and id(p) not in looked_up]
    hidden = {id(p) for p in matrices[:-1]}
    return [p for p in trained if id(p) in hidden], [p for p in trained if id(p) not in hidden]
