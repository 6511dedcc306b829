"""Which rule reads the best learning rate off a range curve? Measures what score.py compares.

    python benchmarks/suggestion_rules/measure.py --cifar10 data/cifar10 --out results.json

For each setting (data set, net, optimizer) and seed: one range test, and one short training with
1cycle for each maximum of a grid, three rates a decade. The file holds the curves and the test
accuracies; `score.py` asks every rule for its rate and reads the accuracy off the grid. Nets and
data are small (images halved in size, some thousand of them), so that everything takes a quarter
of an hour on one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from surefoot.lr_range import one_cycle, range_test
from surefoot_lab.config import DataConfig
from surefoot_lab.data import load_data
from surefoot_lab.data.examples import Examples, Splits
from surefoot_lab.models.cifar import cifar_resnet
from surefoot_lab.models.small import MLP, ConvNet

LOSS = nn.functional.cross_entropy
GRIDS = {
    "sgd": [10 ** (k / 3) for k in range(-8, 3)],
    "adamw": [10 ** (k / 3) for k in range(-12, -1)],
}


class NormedConvNet(ConvNet):
    """The small conv net with BatchNorm behind every convolution."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        layers: list[nn.Module] = []
        for layer in self.features:
            layers.append(layer)
            if isinstance(layer, nn.Conv2d):
                layers.append(nn.BatchNorm2d(layer.out_channels))
        self.features = nn.Sequential(*layers)


def resnet(num_classes: int, in_channels: int, image_size: tuple[int, int]) -> nn.Module:
    """Resnet8 of half the usual width: BatchNorm and shortcuts."""
    return cifar_resnet(8, num_classes, in_channels, image_size, widths=(8, 16, 32))


NETS: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "conv": ConvNet,
    "conv+bn": NormedConvNet,
    "resnet8": resnet,
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One data set, net and optimizer, and how long to train it."""

    data: str
    net: str
    optimizer: str
    epochs: int
    batch: int

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.data}, {self.net}, {self.optimizer}"


SETTINGS = [
    Setting("digits", "mlp", "sgd", 12, 32),
    Setting("digits", "conv+bn", "adamw", 12, 32),
    Setting("fashion", "conv", "sgd", 4, 64),
    Setting("fashion", "conv", "adamw", 4, 64),
    Setting("fashion", "conv+bn", "sgd", 4, 64),
    Setting("cifar10", "conv", "sgd", 5, 64),
    Setting("cifar10", "resnet8", "sgd", 5, 64),
    Setting("cifar10", "resnet8", "adamw", 5, 64),
]


def subset(images: Examples, count: int, halve: bool) -> TensorDataset:
    """The first images of a fixed shuffle, as floats, averaged over 2 by 2 pixels if wished."""
    generator = torch.Generator().manual_seed(0)
    chosen = images[torch.randperm(len(images), generator=generator)[:count]]
    x = chosen.inputs.float() / 127.5 - 1.0
    return TensorDataset(nn.functional.avg_pool2d(x, 2) if halve else x, chosen.labels)


def load(cifar10: Path) -> dict[str, tuple[TensorDataset, TensorDataset]]:
    """Training and test images of every data set."""
    configs = {
        "digits": DataConfig(name="digits", validation=0),
        "fashion": DataConfig(name="fashion-mnist", validation=0),
        "cifar10": DataConfig(name="imagefolder", root=str(cifar10), validation=0),
    }
    sets = {}
    for name, config in configs.items():
        splits: Splits = load_data(config)
        halve = name != "digits"
        sets[name] = (subset(splits.train, 6000, halve), subset(splits.test, 2000, halve))
    return sets


def build(
    setting: Setting, data: TensorDataset, seed: int
) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    x: Tensor = data.tensors[0]
    net = NETS[setting.net](num_classes=10, in_channels=x.shape[1], image_size=x.shape[2:])
    if setting.optimizer == "sgd":
        return net, torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    return net, torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.01)


def loader(setting: Setting, data: TensorDataset) -> DataLoader:
    return DataLoader(
        Batched(*data.tensors), batch_size=setting.batch, shuffle=True, drop_last=True
    )


class Batched(TensorDataset):
    """Takes whole batches at once."""

    def __getitems__(self, places: list[int]) -> list[tuple[Tensor, ...]]:
        """The samples at these places."""
        return list(zip(*(tensor[places] for tensor in self.tensors), strict=True))


def train(
    setting: Setting, data: TensorDataset, test: TensorDataset, seed: int, rate: float
) -> float:
    """Test accuracy after 1cycle training with this maximum."""
    net, optimizer = build(setting, data, seed)
    batches = loader(setting, data)
    scheduler = one_cycle(optimizer, total_steps=setting.epochs * len(batches), max_lr=rate)
    net.train()
    for _ in range(setting.epochs):
        for x, y in batches:
            optimizer.zero_grad()
            loss = LOSS(net(x), y)
            loss.backward()
            optimizer.step()
            scheduler.step()
        if not torch.isfinite(loss):
            break
    net.eval()
    x, y = test.tensors
    with torch.no_grad():
        return (net(x).argmax(1) == y).float().mean().item()


def measure(setting: Setting, sets: tuple[TensorDataset, TensorDataset], seed: int) -> dict:
    """The curve of one seed and the accuracies along the grid."""
    data, test = sets
    net, optimizer = build(setting, data, seed)
    curve = range_test(net, optimizer, loader(setting, data), LOSS)
    accuracies = [train(setting, data, test, seed, rate) for rate in GRIDS[setting.optimizer]]
    return {
        "setting": setting.name,
        "seed": seed,
        "curve": json.loads(curve.to_json()),
        "grid": GRIDS[setting.optimizer],
        "accuracy": accuracies,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cifar10", type=Path, required=True, help="CIFAR-10 as an image folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    torch.set_num_threads(1)
    sets = load(options.cifar10)
    began = time.perf_counter()
    results = []
    for seed in options.seeds:
        for setting in SETTINGS:
            results.append(measure(setting, sets[setting.data], seed))
            print(f"{time.perf_counter() - began:6.0f} s  {setting.name}, seed {seed}", flush=True)
            content = {
                "torch": torch.__version__,
                "machine": f"{platform.machine()}, one thread",
                "seconds": round(time.perf_counter() - began),
                "results": results,
            }
            options.out.write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
