"""Networks for experiments: a few small ones by name, any other by import path."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from surefoot_lab.build import argument_names, call, find
from surefoot_lab.config import ModelConfig, UserError, did_you_mean
from surefoot_lab.data import Splits
from surefoot_lab.models.resnet import cifar_resnet
from surefoot_lab.models.small import MLP, ConvNet

__all__ = ["MLP", "ConvNet", "build_model", "cifar_resnet"]


def build_model(config: ModelConfig, data: Splits) -> nn.Module:
    """Build the network of an experiment for its data.

    `num_classes`, `in_channels` and `image_size` are passed to the constructor if it has such
    arguments and `init_args` does not give them.

    Args:
        config: which network.
        data: the images it is for.

    Returns:
        The network, freshly initialized from torch's global random state.

    Raises:
        UserError: no such network, or it refuses its arguments.
    """
    facts = data.facts
    constructor, arguments = _constructor(config)
    takes = argument_names(constructor)
    given = {key: value for key, value in facts.items() if key in takes}
    model = call(constructor, [], {**given, **arguments, **config.init_args}, "model")
    if not isinstance(model, nn.Module):
        raise UserError(f"model.class_path: {config.class_path} does not make a torch.nn.Module")
    return model


def _constructor(config: ModelConfig) -> tuple[Any, dict[str, Any]]:
    """The function that makes the network, and the arguments that its short name stands for."""
    short = {"convnet": ConvNet, "mlp": MLP}
    if config.class_path in short:
        return short[config.class_path], {}
    resnet = re.fullmatch(r"resnet(\d+)", config.class_path)
    if resnet:
        return cifar_resnet, {"depth": int(resnet.group(1))}
    if "." not in config.class_path:
        names = [*short, "resnet8", "resnet20", "resnet56"]
        raise UserError(
            f"model.class_path: no network {config.class_path!r}; "
            f"{did_you_mean(config.class_path, names)} (others by import path)"
        )
    return find(config.class_path, [], "model.class_path"), {}
