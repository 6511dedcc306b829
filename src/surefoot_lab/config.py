"""What an experiment is: dataclasses whose docstrings feed YAML comments, CLI help and docs."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BeforeValidator, Field

from surefoot_lab.errors import UserError
from surefoot_lab.values import (
    Arguments,
    NotNegative,
    Positive,
    Real,
    Settings,
    Truth,
    Whole,
    plain,
    shown,
    validated,
)

T = TypeVar("T")
Seed = Annotated[Whole, Field(ge=0, lt=2**63)]  # torch's generators take no more
Section = Annotated[T, BeforeValidator(lambda value: {} if value is None else value)]
LONGEST_NAME = 100  # characters of a folder; file systems take 255 bytes
# Data sets that are whatever lies at `data.root`, which therefore belongs to the run's name.
OWN_DATA = ("imagefolder", "text", "table")


@dataclass
class DataConfig(Settings):
    """Which examples, how they are split, how they are varied.

    Attributes:
        name: data set. Images: `digits` (comes with scikit-learn), `mnist` and `fashion-mnist` (IDX
            files), `cifar10` and `cifar100` (Python batches), `svhn` (.mat files), `imagenet` and
            `imagefolder` (`root/{train,test}/CLASS/IMAGE`). Characters: `text` (any text file).
            Numbers to predict: `diabetes` (comes with scikit-learn), `friedman` (generated),
            `table` (a CSV file whose last column is the target: numbers, or names of classes).
        class_path: import path of a data set of your own, which is used instead of a name: a
            function or class that makes a torch Dataset of (input, label), or a mapping of such
            with the keys `train`, `validation`, `test`.
        init_args: its arguments.
        root: folder of the data, or the file of `text` and `table`; null looks in the usual places
            (`digits`, `diabetes` and `friedman` need none).
        download: let torchvision fetch `mnist`, `fashion-mnist`, `cifar10`, `cifar100` or `svhn`
            into `root` if it is not there.
        validation: training examples held out for validation; a count, or below 1 a share. Of a
            text, characters.
        test: examples held out for the test where the data has no test set of its own; a count, or
            below 1 a share. Of a text, characters.
        split_seed: seed of these splits; not the run's seed, so that all seeds see the same split.
        crop: pixels of black padding around a training image before a random crop to its size.
        flip: mirror training images left to right at random.
        image_size: for `imagefolder`: resize every image to this many pixels square; null keeps
            their size. `imagenet`: null is 224.
        in_memory: for `imagefolder`: decode all images once. If false, they stay on the disk, and
            training takes random crops of random scale, evaluation the center (`imagenet` always).
        normalize: by the mean and deviation `measured` on the training images, or by those
            `published` for the data set's name.
        sequence_length: for `text`: characters in a sequence; nothing is remembered across them.
        header: for `table`: whether its first line holds names; null tells by itself.
    """

    name: Literal[
        "digits",
        "mnist",
        "fashion-mnist",
        "cifar10",
        "cifar100",
        "svhn",
        "imagenet",
        "imagefolder",
        "text",
        "diabetes",
        "friedman",
        "table",
    ] = "digits"
    class_path: str | None = None
    init_args: Arguments = field(default_factory=dict)
    root: str | None = None
    download: Truth = False
    validation: NotNegative = 0.2
    test: NotNegative = 0.2
    split_seed: Seed = 0
    crop: Annotated[Whole, Field(ge=0)] = 0
    flip: Truth = False
    image_size: Positive | None = None
    in_memory: Truth = True
    normalize: Literal["measured", "published"] = "measured"
    sequence_length: Positive = 50
    header: Truth | None = None

    @property
    def known_as(self) -> str:
        """What to call it: its name, and of one's own data the file, folder or class."""
        if self.class_path:
            return _last_word(self.class_path)
        if self.name in OWN_DATA and self.root:
            return f"{self.name}-{Path(self.root).stem}"
        return self.name


@dataclass
class ModelConfig(Settings):
    """The network. `num_classes`, `in_channels`, `image_size` (of a text, `sequence_length`) are
    passed if it takes them.

    Attributes:
        class_path: a short name, or an import path such as `torchvision.models.resnet50`. For small
            images: `convnet`, `mlp`, `resnet8` (any 6n + 2), `resnet18`, `resnet34`,
            `wrn16-10`, `wrn28-10`, `densenet40`, `mobilenetv2`, `efficientnet`. For text:
            `char-lstm`, `char-transformer`. For tables: `mlp`.
        init_args: arguments of the model.
    """

    class_path: str = "convnet"
    init_args: Arguments = field(default_factory=dict)


@dataclass
class LossConfig(Settings):
    """What is minimized, if not the loss of the data (cross-entropy of classes, squared error of
    numbers). Validation and test are judged by the data's.

    Attributes:
        class_path: a loss of torch.nn (`HuberLoss`), or the import path of a function of the
            outputs and labels, or of a class that makes one; null for the network's own
            `training_loss`, or else the data's.
        init_args: its arguments.
    """

    class_path: str | None = None
    init_args: Arguments = field(default_factory=dict)


@dataclass
class OptimizerConfig(Settings):
    """The optimizer. Line-search optimizers get the model and a closure, others the parameters.

    Attributes:
        class_path: a name from surefoot (`MeasuredAdamW`, `LABPAL`, `PAL`), from torch.optim
            (`SGD`, `Adam`), of a rival (`Prodigy`, `AdamWScheduleFree`, `Muon`, ...;
            docs/rivals.md), or an import path. `MeasuredLR` wraps another: its
            `init_args.optimizer` has a `class_path` and `init_args` of its own.
        init_args: its arguments. `total_steps`, `dataset_size` and `batch_size` are filled in if
            it takes them and they are not given (null leaves them off); so is the word `auto` for
            `total_steps`, `T_max`, `total_iters`, `max_iter`, `epochs` and `steps_per_epoch`.
    """

    class_path: str = "MeasuredAdamW"
    init_args: Arguments = field(default_factory=dict)


@dataclass
class SchedulerConfig(Settings):
    """The learning-rate scheduler, stepped once after every optimizer step.

    Attributes:
        class_path: a name from torch.optim.lr_scheduler, or an import path; null for none.
        init_args: its arguments, filled in as those of the optimizer.
    """

    class_path: str | None = None
    init_args: Arguments = field(default_factory=dict)


@dataclass
class TrainConfig(Settings):
    """How the training loop runs, and what it writes down.

    Attributes:
        closure: what `optimizer.step` is given: `none`, a closure that runs `forward` only, or one
            that runs forward and `backward`; `auto`: forward for line-search optimizers, backward
            for torch's LBFGS and the rivals that need the loss, none for all others.
        device: `auto` (a GPU if there is one) or `cpu`.
        precision: `fp32`, or `bf16` for autocast. (fp16 would need its losses scaled.)
        channels_last: lay images and filters out with the channels together, which convolutions
            compute faster; the results differ by rounding only.
        accumulate: pieces that a step's batch is cut into, one after the other, where it does not
            fit into memory as a whole; `batch_size` stays the images per step of all processes.
        eval_every: steps between evaluations on the validation images; null for every epoch.
        eval_batch_size: images per batch in evaluations.
        log_every: steps between two lines of the record (loss, effective learning rate, cost).
        checkpoint_every: steps between checkpoints; null for every epoch.
        tensorboard: write TensorBoard files too.
    """

    closure: Literal["auto", "none", "forward", "backward"] = "auto"
    device: Literal["auto", "cpu"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: Truth = True
    accumulate: Positive = 1
    eval_every: Positive | None = None
    eval_batch_size: Positive = 500
    log_every: Positive = 10
    checkpoint_every: Positive | None = None
    tensorboard: Truth = True


@dataclass
class Experiment(Settings):
    """One training run, fully described.

    Attributes:
        name: what is studied; null for data and model, such as `digits-convnet`.
        label: the method, as tables show it; null for optimizer and scheduler, such as `SGD +
            OneCycleLR`.
        seed: seed of weights, batch order, augmentation and dropout.
        steps: optimizer steps; null for `epochs` passes over the training images.
        epochs: passes over the training images, where `steps` is null.
        batch_size: training images per step; a last smaller batch is left out.
        data: the images.
        model: the network.
        loss: what is minimized.
        optimizer: the optimizer.
        scheduler: the learning-rate scheduler.
        train: the training loop.
    """

    name: str | None = None
    label: str | None = None
    seed: Seed = 0
    steps: Positive | None = None
    epochs: Annotated[Real, Field(gt=0, lt=1e9, allow_inf_nan=False)] = 10
    batch_size: Positive = 128
    data: Section[DataConfig] = field(default_factory=DataConfig)
    model: Section[ModelConfig] = field(default_factory=ModelConfig)
    loss: Section[LossConfig] = field(default_factory=LossConfig)
    optimizer: Section[OptimizerConfig] = field(default_factory=OptimizerConfig)
    scheduler: Section[SchedulerConfig] = field(default_factory=SchedulerConfig)
    train: Section[TrainConfig] = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            if not isinstance(item.default_factory, type):
                continue
            given, kind = getattr(self, item.name), cast(type[Any], item.default_factory)
            if given is None or isinstance(given, dict):
                setattr(self, item.name, validated(kind, given or {}, item.name))
            elif not isinstance(given, kind):
                raise UserError(f"{item.name}: must be {kind.__name__}(...), not {shown(given)}")
        if self.name is None:
            self.name = f"{self.data.known_as}-{_last_word(str(self.model.class_path))}"
        if self.label is None:
            parts = [_method(self.optimizer), self.scheduler.class_path]
            self.label = " + ".join(_last_word(str(part)) for part in parts if part)

    def check(self) -> None:
        """Refuse values that no run could use; put the others into the types of their settings.

        Raises:
            UserError: names the first such value.
        """
        vars(self).update(vars(validated(Experiment, self)))
        for section in ("data", "loss"):
            config = getattr(self, section)
            if config.init_args and config.class_path is None:
                raise UserError(f"{section}.init_args: given without {section}.class_path")
        if self.data.class_path and self.data.name != DataConfig.name:
            raise UserError(
                f"data.name: {self.data.name} is given beside data.class_path; choose one"
            )

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionaries of plain values, as written to YAML."""
        values: dict[str, Any] = plain(dataclasses.asdict(self))
        return values

    @property
    def run_dir(self) -> Path:
        """Where the run goes if nothing else is said: `runs/NAME/LABEL-seedN`."""
        return Path("runs") / _slug(str(self.name)) / f"{_slug(str(self.label))}-seed{self.seed}"


@dataclass
class EarlyStoppingConfig(Settings):
    """Give up trials that fall behind (ASHA), instead of training all to the end.

    Attributes:
        grace_epochs: epochs that every trial gets.
        reduction_factor: at each halving, one in so many goes on.
        metric: `accuracy` or `loss` of the validations that is compared.
    """

    grace_epochs: Positive = 1
    reduction_factor: Annotated[Real, Field(gt=1, allow_inf_nan=False)] = 3
    metric: Literal["accuracy", "loss"] = "accuracy"


@dataclass
class SweepConfig(Settings):
    """The sections that make an experiment file a sweep: many runs of one experiment.

    Attributes:
        grid: dotted keys of the experiment, each with the list of its values; all combinations
            are run. A key may be a whole section, such as `optimizer`, with mappings as values.
        random: dotted keys, each with `uniform: [low, high]`, `log_uniform: [low, high]`,
            `integer: [low, high]` or `choice: [...]`; besides `samples`, how many to draw, and
            `seed` of the draws. Every sample is run with every combination of the grid.
        early_stopping: give up trials that fall behind; null trains all to the end.
        cpus_per_trial: cores of a trial, and its number of threads.
        gpus_per_trial: GPUs of a trial; a fraction lets trials share one.
    """

    grid: dict[str, Any] = field(default_factory=dict)
    random: dict[str, Any] = field(default_factory=dict)
    early_stopping: EarlyStoppingConfig | None = None
    cpus_per_trial: NotNegative = 1
    gpus_per_trial: NotNegative = 0


def _slug(text: str) -> str:
    """A name for a folder; of a long text, its beginning and what tells it from others."""
    slug = re.sub(r"[^\w.]+|_", "-", text.lower()).strip("-.")
    if slug and len(slug.encode()) <= LONGEST_NAME:
        return slug
    mark = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:8]
    begin = slug.encode()[:LONGEST_NAME].decode(errors="ignore").rstrip("-.")
    return f"{begin or 'run'}-{mark}"


def _last_word(path: str) -> str:
    return path.rpartition(".")[2]


def _method(optimizer: OptimizerConfig) -> str:
    """What to call it: an optimizer that wraps another is told from others by what it wraps."""
    inner = (optimizer.init_args or {}).get("optimizer")
    if _last_word(str(optimizer.class_path)) == "MeasuredLR" and isinstance(inner, dict):
        return f"Measured {_last_word(str(inner.get('class_path')))}"
    # MeasuredAdamW and its kin are what they wrap, measured
    return re.sub(r"^Measured(?=[A-Z])(?!LR$)", "Measured ", _last_word(str(optimizer.class_path)))
