"""Data sets read from files exactly as they are published, only smaller."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _formats import pixels, python2_pickle, write_cifar10, write_cifar100, write_svhn
from scipy.io import savemat

from surefoot_lab.config import DataConfig, UserError
from surefoot_lab.data import load_data
from surefoot_lab.data.cifar import read_pickle


@pytest.fixture
def cifar10_root(tmp_path: Path) -> Path:
    return write_cifar10(tmp_path)


def test_the_pickles_of_these_tests_are_as_python_2_wrote_them(cifar10_root: Path) -> None:
    content = (cifar10_root / "cifar-10-batches-py" / "data_batch_1").read_bytes()
    assert b"cnumpy.core.multiarray\n_reconstruct" in content
    assert not any(name in content for name in (b"_codecs", b"numpy._core"))
    again = pickle.loads(content, encoding="bytes")  # as the data set's page says to read it
    assert again[b"batch_label"] == b"batch 0"
    assert again[b"data"].tolist() == pixels(10, 0).tolist()


@pytest.mark.parametrize("inside", [False, True])
def test_cifar10(cifar10_root: Path, inside: bool) -> None:
    root = cifar10_root / "cifar-10-batches-py" if inside else cifar10_root
    splits = load_data(DataConfig("cifar10", root=str(root), validation=10))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (40, 10, 10)
    assert splits.test.inputs.flatten(1).tolist() == pixels(10, 5).tolist()  # planes R, G, B
    assert splits.test.labels.tolist() == list(range(10))
    assert splits.classes[3] == "class3"
    assert (splits.channels, splits.image_size) == (3, (32, 32))


def test_cifar100_has_its_fine_classes(tmp_path: Path) -> None:
    write_cifar100(tmp_path)
    splits = load_data(DataConfig("cifar100", root=str(tmp_path), validation=0))
    assert len(splits.classes) == 100
    assert splits.test.labels.tolist() == [99 - place for place in range(20)]
    assert splits.test.inputs.flatten(1).tolist() == pixels(20, 1).tolist()


def test_pickles_of_python_3_are_read_too(tmp_path: Path) -> None:
    for protocol in (2, 5):
        content = {b"data": pixels(2, 0), "labels": [1, 2]}
        (tmp_path / "batch").write_bytes(pickle.dumps(content, protocol=protocol))
        found = read_pickle(tmp_path / "batch")
        assert found["data"].tolist() == content[b"data"].tolist()
        assert found["labels"] == [1, 2]


class _Intruder:
    """A pickle that calls a function where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def test_a_pickle_that_wants_to_run_something_is_refused_and_runs_nothing(
    cifar10_root: Path,
) -> None:
    trace = cifar10_root / "trace"
    content = pickle.dumps({"data": _Intruder(trace), "labels": []})
    (cifar10_root / "cifar-10-batches-py" / "data_batch_2").write_bytes(content)
    with pytest.raises(UserError, match=r"data_batch_2: cannot be read \(it asks for .*open"):
        load_data(DataConfig("cifar10", root=str(cifar10_root)))
    assert not trace.exists()
    pickle.loads(content)["data"].close()
    assert trace.exists()  # or the test would prove nothing


def test_missing_and_damaged_cifar10_files_are_named(cifar10_root: Path) -> None:
    config = DataConfig("cifar10", root=str(cifar10_root))
    with pytest.raises(UserError, match=r"data\.root.*cifar-10-batches-py.*data\.download"):
        load_data(DataConfig("cifar10", root=str(cifar10_root / "elsewhere")))
    batch = cifar10_root / "cifar-10-batches-py" / "data_batch_2"
    whole = batch.read_bytes()
    for content in (b"damaged", whole[:2000], python2_pickle({"labels": [1]}), pickle.dumps([1])):
        batch.write_bytes(content)
        with pytest.raises(UserError, match=r"data_batch_2: .*fetch"):
            load_data(config)
    batch.unlink()
    with pytest.raises(UserError, match=r"data_batch_2: cannot be read"):
        load_data(config)
    batch.write_bytes(whole)
    (batch.parent / "batches.meta").write_bytes(python2_pickle({"num_vis": 3072}))
    with pytest.raises(UserError, match=r"batches\.meta: has no label_names"):
        load_data(config)


def test_a_batch_of_full_size_must_be_the_published_one(
    cifar10_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CIFAR10

    config = DataConfig("cifar10", root=str(cifar10_root))
    batch = cifar10_root / "cifar-10-batches-py" / "data_batch_1"
    content = python2_pickle({"data": pixels(10_000, 0), "labels": [0] * 10_000})
    batch.write_bytes(content)
    with pytest.raises(UserError, match=r"data_batch_1: is not the published file, or damaged"):
        load_data(config)
    published = [["data_batch_1", hashlib.md5(content).hexdigest()], *CIFAR10.train_list[1:]]
    monkeypatch.setattr(CIFAR10, "train_list", published)
    assert len(load_data(config).test) == 10


@pytest.fixture
def svhn_root(tmp_path: Path) -> Path:
    return write_svhn(tmp_path)


def test_svhn_has_its_own_test_split_and_a_zero(svhn_root: Path) -> None:
    splits = load_data(DataConfig("svhn", root=str(svhn_root), validation=5))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (25, 5, 12)
    assert splits.test.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    raw = np.random.default_rng(1).integers(0, 256, (32, 32, 3, 12), dtype=np.uint8)
    row, column, channel, number = 3, 17, 2, 11
    assert splits.test.inputs[number, channel, row, column] == raw[row, column, channel, number]
    assert splits.test.inputs.numpy().tolist() == np.moveaxis(raw, [3, 2], [0, 1]).tolist()


def test_missing_and_damaged_svhn_files_are_named(svhn_root: Path) -> None:
    config = DataConfig("svhn", root=str(svhn_root))
    with pytest.raises(UserError, match=r"data\.root.*train_32x32\.mat.*data\.download"):
        load_data(DataConfig("svhn", root=str(svhn_root / "elsewhere")))
    path = svhn_root / "test_32x32.mat"
    images = np.zeros((32, 32, 3, 2), np.uint8)
    for content in (
        {"X": images, "y": np.array([[0], [1]])},
        {"X": images, "y": np.array([[1]])},
        {"X": images.astype(float), "y": np.array([[1], [2]])},
        {"X": images},
    ):
        savemat(path, content)
        with pytest.raises(UserError, match=r"test_32x32\.mat: .*fetch"):
            load_data(config)
    for damaged in (path.read_bytes()[:500], b"no matlab"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"test_32x32\.mat: cannot be read"):
            load_data(config)
    path.unlink()
    with pytest.raises(UserError, match=r"test_32x32\.mat: cannot be read"):
        load_data(config)


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
    assert splits.classes == tuple("0123456789")
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\(\.gz\) in .*mnist, or"):
        load_data(DataConfig("mnist", root=str(tmp_path / "elsewhere")))


def test_published_statistics_are_used_on_request(cifar10_root: Path) -> None:
    from surefoot_lab.data import normalizer_of

    device = torch.device("cpu")
    config = DataConfig("cifar10", root=str(cifar10_root), normalize="published")
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
