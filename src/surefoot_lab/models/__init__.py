"""Networks for experiments: those of the papers by short name, any other by import path."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from surefoot_lab.build import argument_names, call, check_arguments, find
from surefoot_lab.config import LossConfig, ModelConfig
from surefoot_lab.data.examples import Splits
from surefoot_lab.data.task import Task
from surefoot_lab.errors import UserError, did_you_mean
from surefoot_lab.models import stems
from surefoot_lab.models.cifar import cifar_resnet, densenet, wide_resnet
from surefoot_lab.models.small import MLP, ConvNet
from surefoot_lab.models.text import CharLSTM, CharTransformer

# Names of one network each.
NAMED: dict[str, tuple[Any, dict[str, Any]]] = {
    "convnet": (ConvNet, {}),
    "mlp": (MLP, {}),
    "resnet18": (stems.small_resnet, {"depth": 18}),
    "resnet34": (stems.small_resnet, {"depth": 34}),
    "mobilenetv2": (stems.small_mobilenet, {}),
    "efficientnet": (stems.small_efficientnet, {}),
    "char-lstm": (CharLSTM, {}),
    "char-transformer": (CharTransformer, {}),
}
# Families: a pattern, what builds it, the names of the numbers in the pattern, examples.
FAMILIES: list[tuple[str, Any, tuple[str, ...], tuple[str, ...]]] = [
    (r"resnet(\d+)", cifar_resnet, ("depth",), ("resnet8", "resnet20", "resnet56", "resnet110")),
    (r"wrn(\d+)-(\d+)", wide_resnet, ("depth", "widen"), ("wrn16-10", "wrn28-10")),
    (r"densenet(\d+)", densenet, ("depth",), ("densenet40",)),
]


def short_names() -> list[str]:
    """All networks known by a short name; of families, the members in common use."""
    return [*NAMED, *(name for *_, examples in FAMILIES for name in examples)]


def build_model(config: ModelConfig, data: Splits) -> nn.Module:
    """Build the network of an experiment for its data.

    `num_classes`, `in_channels` and `image_size` (of a text, `sequence_length`) are passed to the
    constructor if it has such arguments and `init_args` does not give them.

    Args:
        config: which network.
        data: what it is for.

    Returns:
        The network, freshly initialized from torch's global random state.

    Raises:
        UserError: no such network, or it refuses its arguments.
    """
    facts = data.facts
    constructor, arguments = _constructor(config)
    takes = argument_names(constructor)
    if getattr(constructor, "__module__", "").startswith("torchvision.models."):
        takes = [*takes, "num_classes"]  # hidden in **kwargs
    given = {key: value for key, value in facts.items() if key in takes}
    model = call(constructor, [], {**given, **arguments, **config.init_args}, "model")
    if not isinstance(model, nn.Module):
        raise UserError(f"model.class_path: {config.class_path} does not make a torch.nn.Module")
    return model


def build_loss(config: LossConfig, model: nn.Module, task: Task) -> Callable[[Any, Tensor], Tensor]:
    """What is minimized: the experiment's loss, the network's own, or else the task's.

    A network with several heads knows best how their losses are added: it has a method
    `training_loss(outputs, labels)`. In evaluation mode it must give what the task wants, and is
    judged by the task.

    Args:
        config: which loss; without `class_path` the network and the task decide.
        model: the network.
        task: what is asked; it says how outputs and labels are laid out.

    Raises:
        UserError: no such loss, or it refuses its arguments.
    """
    if config.class_path is None:
        own = getattr(model, "training_loss", None)
        return own if callable(own) else task.loss
    made = find(config.class_path, ["torch.nn"], "loss.class_path", base=nn.modules.loss._Loss)
    if isinstance(made, type):
        loss = call(made, [], config.init_args, "loss")
        if not callable(loss):
            raise UserError(f"loss.class_path: {config.class_path} makes nothing to call")
    else:
        check_arguments(made, config.init_args, "loss", 2)
        loss = functools.partial(made, **config.init_args)
    if isinstance(loss, nn.Module):
        loss = loss.to(next((p.device for p in model.parameters()), None))

    def training_loss(outputs: Any, labels: Tensor) -> Any:
        return loss(*task.flat(outputs, labels))

    return training_loss


def _constructor(config: ModelConfig) -> tuple[Any, dict[str, Any]]:
    """The function that makes the network, and the arguments that its short name stands for."""
    name = config.class_path
    if name in NAMED:
        return NAMED[name]
    for pattern, build, arguments, _ in FAMILIES:
        numbers = re.fullmatch(pattern, name)
        if numbers:
            return build, dict(zip(arguments, map(int, numbers.groups()), strict=True))
    if "." not in name:
        raise UserError(
            f"model.class_path: no network {name!r}; {did_you_mean(name, short_names())} "
            "(others by import path)"
        )
    return find(config.class_path, [], "model.class_path"), {}
