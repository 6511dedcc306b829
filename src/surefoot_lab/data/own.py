"""A data set of one's own, by the import path of what makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from surefoot_lab.build import argument_names, call, find
from surefoot_lab.config import DataConfig
from surefoot_lab.data.examples import Examples, Splits, hold_out
from surefoot_lab.data.files import as_tensor
from surefoot_lab.data.task import Classification, Regression, Task
from surefoot_lab.errors import UserError, one_line

WHAT = "data.class_path"
MOST_CLASSES = 1_000_000
PARTS = ("train", "validation", "test")


def own_data(config: DataConfig) -> Splits:
    """What `data.class_path` makes, read once into memory.

    It is a torch Dataset of pairs of input and label, or a mapping of such by the names of the
    parts; parts that are not there are held out of the training examples. Inputs are tensors,
    NumPy arrays, numbers or PIL images; a tensor of bytes of shape (channels, height, width) is an
    image and is normalized, everything else goes to the network as it is. Labels that are whole
    numbers from 0 are classes, all others numbers to predict.

    `root` is passed on where the constructor takes it and the experiment gives it.

    Raises:
        UserError: it cannot be made, or does not hold such pairs.
    """
    assert config.class_path is not None
    if "." not in config.class_path:
        raise UserError(f"{WHAT}: {config.class_path!r} must be an import path: module.Class")
    constructor = find(config.class_path, [], WHAT)
    given = dict(config.init_args)
    if config.root is not None and "root" in argument_names(constructor):
        given.setdefault("root", config.root)
    made = call(constructor, [], given, "data")
    if isinstance(made, Splits):
        return made
    datasets = dict(made) if isinstance(made, Mapping) else {"train": made}
    unknown = [name for name in datasets if name not in PARTS]
    if unknown or "train" not in datasets:
        raise UserError(f"{WHAT}: {config.class_path} makes {list(datasets)}; wanted: {PARTS}")
    parts = {
        name: _examples(data, f"{WHAT}: {config.class_path}: {name}")
        for name, data in datasets.items()
    }
    classes, task = _asked(list(parts.values()), getattr(datasets["train"], "classes", None))
    train = parts["train"]
    for name, part in parts.items():
        if part.inputs.shape[1:] != train.inputs.shape[1:]:
            raise UserError(f"{WHAT}: {config.class_path}: {name} has inputs of another shape")
    for name in ("test", "validation"):
        if name not in parts:
            amount = getattr(config, name)
            train, parts[name] = hold_out(train, amount, config.split_seed, f"data.{name}")
    kind: Literal["images", "table", "tensors"] = "tensors"
    if train.inputs.dtype == torch.uint8:
        kind = "images"
    elif train.inputs.dim() == 2 and train.inputs.is_floating_point():
        kind = "table"
    if kind != "images" and (config.crop or config.flip):
        raise UserError("data.crop, data.flip: are for images, and these are none")
    return Splits(train, parts["validation"], parts["test"], classes, kind=kind, task=task)


def _examples(dataset: Any, where: str) -> Examples:
    """All pairs; bytes that are no images, and labels, are put into the type that they are for."""
    inputs: list[Tensor] = []
    labels: list[Tensor] = []
    try:
        for place in range(len(dataset)):
            value, label = dataset[place]
            inputs.append(_tensor(value))
            labels.append(_tensor(label))
    except Exception as error:  # of one's own: anything
        raise UserError(
            f"{where}: example {len(labels)} is no pair of input and label ({one_line(error)})"
        ) from error
    if not labels:
        raise UserError(f"{where} is empty")
    for what, values in (("an input", inputs), ("a label", labels)):
        kinds = [(value.dtype, tuple(value.shape)) for value in values]
        place = next((n for n, kind in enumerate(kinds) if kind != kinds[0]), 0)
        if place:
            raise UserError(
                f"{where}: example {place} has {what} of {kinds[place]}, the first of {kinds[0]}"
            )
    stacked, answers = torch.stack(inputs), torch.stack(labels)
    if stacked.dtype == torch.uint8 and stacked.dim() != 4:
        stacked = stacked.float()
    if answers.is_floating_point():
        return Examples(stacked, answers.float().reshape(len(labels), -1))
    single = answers.dim() == 2 and answers.shape[1] == 1
    return Examples(stacked, answers.long().squeeze(-1) if single else answers.long())


def _tensor(value: Any) -> Tensor:
    if type(value).__module__.startswith("PIL."):
        return as_tensor(value if value.mode in ("L", "RGB") else value.convert("RGB"))
    tensor = torch.as_tensor(np.asarray(value) if isinstance(value, list | tuple) else value)
    if tensor.is_complex():
        raise ValueError("complex numbers")
    return tensor.detach().float() if tensor.dtype == torch.float64 else tensor.detach()


def _asked(parts: list[Examples], names: Any) -> tuple[tuple[str, ...], Task]:
    """The names of the classes, or of the numbers, and what is asked."""
    numbers = [part.labels for part in parts]
    if len({labels.is_floating_point() for labels in numbers}) > 1:
        raise UserError(f"{WHAT}: the labels of its parts are of different types")
    if numbers[0].is_floating_point():
        if not all(labels.isfinite().all() for labels in numbers):
            raise UserError(f"{WHAT}: a label is not finite")
        return tuple(f"y{place}" for place in range(numbers[0].shape[1])), Regression()
    if min(int(labels.min()) for labels in numbers) < 0:
        raise UserError(f"{WHAT}: a label is negative; classes are numbered from 0")
    count = max(int(labels.max()) for labels in numbers) + 1
    if count > MOST_CLASSES:
        raise UserError(f"{WHAT}: a label is {count - 1}; number classes from 0 without gaps")
    if isinstance(names, list | tuple) and len(names) >= count:
        return tuple(str(name) for name in names), Classification()
    return tuple(str(number) for number in range(count)), Classification()
