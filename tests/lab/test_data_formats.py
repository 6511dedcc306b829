"""Data sets read from files exactly as they are published, only smaller."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _formats import pixels, publish, write_cifar10, write_cifar100, write_svhn

from surefoot_lab.config import DataConfig
from surefoot_lab.data import load_data
from surefoot_lab.errors import UserError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for write in (write_cifar10, write_cifar100, write_svhn):
        write(tmp_path)
    publish(monkeypatch, tmp_path)
    return tmp_path


@pytest.mark.parametrize("inside", [False, True])
def test_cifar10(root: Path, inside: bool) -> None:
    place = root / "cifar-10-batches-py" if inside else root
    splits = load_data(DataConfig("cifar10", root=str(place), validation=10))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (40, 10, 10)
    assert splits.test.inputs.flatten(1).tolist() == pixels(10, 5).tolist()  # planes R, G, B
    assert splits.test.labels.tolist() == list(range(10))
    assert splits.classes[3] == "class3"
    assert (splits.channels, splits.image_size) == (3, (32, 32))


def test_cifar100_has_its_fine_classes(root: Path) -> None:
    splits = load_data(DataConfig("cifar100", root=str(root), validation=0))
    assert len(splits.classes) == 100
    assert splits.test.labels.tolist() == [99 - place for place in range(20)]
    assert splits.test.inputs.flatten(1).tolist() == pixels(20, 1).tolist()


def test_svhn_has_its_own_test_split_and_a_zero(root: Path) -> None:
    splits = load_data(DataConfig("svhn", root=str(root), validation=5))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (25, 5, 12)
    assert splits.test.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    raw = np.random.default_rng(1).integers(0, 256, (32, 32, 3, 12), dtype=np.uint8)
    assert splits.test.inputs.numpy().tolist() == np.moveaxis(raw, [3, 2], [0, 1]).tolist()


class _Intruder:
    """A pickle that calls a function where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


@pytest.mark.parametrize(
    ("name", "file"),
    [("cifar10", "cifar-10-batches-py/data_batch_2"), ("svhn", "test_32x32.mat")],
)
def test_what_is_not_published_is_refused_and_never_opened(
    root: Path, name: str, file: str
) -> None:
    trace = root / "trace"
    content = pickle.dumps({"data": _Intruder(trace), "labels": []})
    for damaged in (content, b"damaged", None):
        (root / file).unlink(missing_ok=True)
        if damaged is not None:
            (root / file).write_bytes(damaged)
        with pytest.raises(UserError, match=rf"data\.root: no {name} in .*data\.download") as told:
            load_data(DataConfig(name, root=str(root)))
        assert "\n" not in str(told.value)
    assert not trace.exists()
    pickle.loads(content)["data"].close()
    assert trace.exists()  # or the test would prove nothing


@pytest.mark.parametrize("inside", ["", "MNIST/raw"])
def test_mnist_plain_and_in_torchvisions_folder(
    tmp_path: Path, inside: str, write_idx: Callable[..., None]
) -> None:
    folder = tmp_path / inside
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (50, 28, 28), dtype=np.uint8)
    for stem, part in (("train", slice(0, 40)), ("t10k", slice(40, 50))):
        write_idx(folder / f"{stem}-images-idx3-ubyte", images[part])
        write_idx(folder / f"{stem}-labels-idx1-ubyte", np.arange(50, dtype=np.uint8)[part] % 10)
    splits = load_data(DataConfig("mnist", root=str(tmp_path), validation=0))
    assert splits.test.inputs[:, 0].tolist() == images[40:].tolist()
    assert splits.test.labels.tolist() == list(range(10))
    assert len(splits.classes) == 10
    with pytest.raises(UserError, match=r"no mnist in .*train-images-idx3-ubyte\(\.gz\) not found"):
        load_data(DataConfig("mnist", root=str(tmp_path / "elsewhere")))


def test_published_statistics_are_used_on_request(root: Path) -> None:
    from surefoot_lab.data.loader import normalizer_of

    device = torch.device("cpu")
    config = DataConfig("cifar10", root=str(root), normalize="published")
    normalize = normalizer_of(load_data(config), device)
    value = normalize(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).flatten()
    expected = [(1 - 0.4914) / 0.2470, (1 - 0.4822) / 0.2435, (1 - 0.4465) / 0.2616]
    assert value.tolist() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UserError, match=r"data\.normalize: nothing is published for digits"):
        load_data(DataConfig("digits", normalize="published"))


@pytest.mark.parametrize("name", ["mnist", "cifar100", "svhn"])
def test_a_download_without_a_network_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    nowhere = "http://127.0.0.1:9/"
    monkeypatch.setattr(datasets.MNIST, "mirrors", [nowhere])
    monkeypatch.setattr(datasets.CIFAR100, "url", nowhere + "cifar.tar.gz")
    files = {key: [nowhere + key, *rest] for key, (_, *rest) in datasets.SVHN.split_list.items()}
    monkeypatch.setattr(datasets.SVHN, "split_list", files)
    with pytest.raises(UserError, match=rf"data\.download: {name} could not be fetched") as caught:
        load_data(DataConfig(name, root=str(tmp_path), download=True))
    assert "\n" not in str(caught.value)
