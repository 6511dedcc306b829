"""Images: read exactly, split once, shuffled and varied as said, and where they fail to be read."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as tv

from surefoot_lab.config import DataConfig
from surefoot_lab.data import load_data
from surefoot_lab.data.examples import Examples, hold_out
from surefoot_lab.data.loader import InOrder, Normalizer, TrainLoader, augment
from surefoot_lab.errors import UserError

CPU = torch.device("cpu")


def _images(count: int = 20, channels: int = 3, size: int = 8) -> Examples:
    generator = torch.Generator().manual_seed(1)
    shape = (count, channels, size, size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return Examples(images, torch.arange(count))


def _loader(images: Examples, **settings: object) -> TrainLoader:
    normalizer = Normalizer(images.inputs, CPU)
    return TrainLoader(images, normalizer, **{"batch_size": 4, "seed": 0, **settings})


def test_digits_are_scikit_learns_and_every_image_is_in_one_part() -> None:
    from sklearn.datasets import load_digits

    splits = load_data(DataConfig(validation=0.25, test=300))
    assert len(splits.test) == 300
    assert len(splits.validation) == round(0.25 * (1797 - 300))
    parts = [splits.train, splits.validation, splits.test]
    ours = torch.cat([part.inputs for part in parts]).double() * 16 / 255
    labels = torch.cat([part.labels for part in parts])
    bunch = load_digits()
    expected = sorted(
        (*map(int, image.ravel()), int(label))
        for image, label in zip(bunch.images, bunch.target, strict=True)
    )
    found = sorted(
        (*map(int, image.round().ravel().tolist()), int(label))
        for image, label in zip(ours, labels, strict=True)
    )
    assert found == expected
    assert (splits.channels, splits.image_size, len(splits.classes)) == (1, (8, 8), 10)


def test_the_split_depends_on_its_own_seed_only() -> None:
    torch.manual_seed(5)
    first = load_data(DataConfig())
    torch.manual_seed(6)
    again = load_data(DataConfig())
    other = load_data(DataConfig(split_seed=1))
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert not torch.equal(first.test.inputs, other.test.inputs)


def test_hold_out_takes_counts_and_shares_and_leaves_something() -> None:
    images = _images(20)
    rest, held = hold_out(images, 0.25, seed=0, what="data.test")
    assert sorted([*rest.labels.tolist(), *held.labels.tolist()]) == list(range(20))
    assert len(held) == 5
    assert len(hold_out(images, 7, seed=0, what="data.test")[1]) == 7
    assert len(hold_out(images, 0, seed=0, what="data.test")[1]) == 0
    with pytest.raises(UserError, match=r"data\.test: cannot hold out 20 of 20"):
        hold_out(images, 20, seed=0, what="data.test")


def test_normalized_training_images_have_mean_zero_and_deviation_one() -> None:
    images = _images(50)
    normalized = Normalizer(images.inputs, CPU)(images.inputs).double()
    channels = normalized.transpose(0, 1).reshape(3, -1)
    assert channels.mean(dim=1).abs().max() < 1e-5
    assert (channels.std(dim=1, correction=0) - 1).abs().max() < 1e-5


def test_a_blank_channel_is_not_divided_by_zero() -> None:
    blank = torch.full((4, 1, 2, 2), 9, dtype=torch.uint8)
    assert torch.equal(Normalizer(blank, CPU)(blank), torch.zeros(4, 1, 2, 2))


def test_each_augmented_image_is_a_shift_and_perhaps_a_mirror_image() -> None:
    images = _images(200, size=6).inputs
    varied = augment(images, 2, True, torch.Generator().manual_seed(0))
    assert varied.dtype == torch.uint8
    seen = []
    for image, result in zip(images, varied, strict=True):
        padded = tv.pad(image, [2])
        candidates = {
            (top, left, mirrored): tv.hflip(cut) if mirrored else cut
            for top in range(5)
            for left in range(5)
            for cut in [tv.crop(padded, top, left, 6, 6)]
            for mirrored in (False, True)
        }
        matches = [key for key, other in candidates.items() if torch.equal(other, result)]
        assert len(matches) == 1
        seen += matches
    assert {top for top, _, _ in seen} == {left for _, left, _ in seen} == set(range(5))
    mirrored = sum(key[2] for key in seen)
    assert 70 <= mirrored <= 130  # 100 expected; 4 standard deviations are 28
    for place in (0, 1):  # every shift: 40 expected, 4 standard deviations are 23
        counts = [sum(key[place] == shift for key in seen) for shift in range(5)]
        assert min(counts) >= 17
        assert max(counts) <= 63


def test_augmentation_can_be_left_out_in_part_or_whole() -> None:
    images = _images(30, size=6).inputs
    generator = torch.Generator().manual_seed(0)
    assert augment(images, 0, False, generator) is images
    for original, result in zip(images, augment(images, 0, True, generator), strict=True):
        assert torch.equal(result, original) or torch.equal(result, tv.hflip(original))
    shifted = augment(images, 3, False, generator)
    for original, result in zip(images, shifted, strict=True):
        padded = tv.pad(original, [3])
        cuts = (tv.crop(padded, top, left, 6, 6) for top in range(7) for left in range(7))
        assert any(torch.equal(cut, result) for cut in cuts)


def test_non_square_images_keep_their_shape() -> None:
    images = torch.arange(5 * 1 * 4 * 6, dtype=torch.uint8).view(5, 1, 4, 6)
    for original, result in zip(
        images, augment(images, 1, True, torch.Generator().manual_seed(0)), strict=True
    ):
        padded = tv.pad(original, [1])
        cuts = [tv.crop(padded, top, left, 4, 6) for top in range(3) for left in range(3)]
        assert any(torch.equal(cut, result) or torch.equal(tv.hflip(cut), result) for cut in cuts)


def test_an_epoch_is_every_image_once_in_a_new_order_without_the_last_smaller_batch() -> None:
    loader = _loader(_images(22))
    assert loader.batches_per_epoch == 5
    epochs = []
    for _ in range(3):
        labels = torch.cat([loader.next_batch()[1] for _ in range(5)])
        assert len(set(labels.tolist())) == 20
        epochs.append(tuple(labels.tolist()))
    assert len(set(epochs)) == 3
    left_out = [set(range(22)) - set(epoch) for epoch in epochs]
    assert left_out[0] != left_out[1] or left_out[1] != left_out[2]  # not always the same two


def test_batches_depend_on_the_seed_alone() -> None:
    images = _images()
    torch.manual_seed(1)
    first = _loader(images, crop=2, flip=True).next_batch()[0]
    torch.manual_seed(2)
    torch.rand(10)
    again = _loader(images, crop=2, flip=True).next_batch()[0]
    other = _loader(images, crop=2, flip=True, seed=1).next_batch()[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("taken", [0, 1, 4, 5, 7])
def test_a_saved_position_goes_on_to_the_bit(taken: int) -> None:
    loader = _loader(_images(), crop=2, flip=True)
    for _ in range(taken):
        loader.next_batch()
    state = loader.state_dict()
    expected = [loader.next_batch() for _ in range(8)]
    fresh = _loader(_images(), crop=2, flip=True, seed=9)
    fresh.load_state_dict(state)
    for images, labels in expected:
        found_images, found_labels = fresh.next_batch()
        assert torch.equal(found_images, images)
        assert torch.equal(found_labels, labels)


def test_a_sample_leaves_the_stream_where_it_is_and_is_the_same_each_time() -> None:
    loader, untouched = _loader(_images(), crop=2), _loader(_images(), crop=2)
    loader.next_batch()
    untouched.next_batch()
    first = [images for images, _ in loader.sample(3, seed=4)]
    again = [images for images, _ in loader.sample(3, seed=4)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(loader.next_batch()[0], untouched.next_batch()[0])


def test_in_order_gives_every_image_once() -> None:
    images = _images(10)
    normalizer = Normalizer(images.inputs, CPU)
    batches = list(InOrder(images, normalizer, 4))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(10))
    assert torch.equal(torch.cat([x for x, _ in batches]), normalizer(images.inputs))


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"<html>", bytes])
def test_a_damaged_idx_file_is_named(fashion_root: Path, damage: Callable[[bytes], bytes]) -> None:
    path = fashion_root / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for content in (damage(whole), gzip.compress(damage(gzip.decompress(whole)))):
        path.write_bytes(content if content != whole else b"")
        with pytest.raises(UserError, match=r"data\.root: no fashion-mnist in") as told:
            load_data(DataConfig("fashion-mnist", root=str(fashion_root)))
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("inside", [".", "FashionMNIST/raw"])
def test_fashion_mnist_from_gzipped_and_from_torchvisions_files(
    fashion_root: Path, tmp_path: Path, inside: str
) -> None:
    root = fashion_root
    if inside != ".":
        root = tmp_path / "torchvision"
        (root / inside).mkdir(parents=True)
        for file in fashion_root.iterdir():
            (root / inside / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    splits = load_data(DataConfig("fashion-mnist", root=str(root), validation=0.25))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (30, 10, 20)
    assert (splits.channels, splits.image_size, len(splits.classes)) == (1, (28, 28), 10)
    raw = gzip.decompress((fashion_root / "t10k-images-idx3-ubyte.gz").read_bytes())
    assert splits.test.inputs.flatten().tolist() == list(raw[16:])
    assert splits.test.labels.tolist() == [place % 10 for place in range(20)]


def test_an_empty_data_set_is_named(fashion_root: Path, write_idx: Callable[..., None]) -> None:
    write_idx(fashion_root / "train-images-idx3-ubyte.gz", np.zeros((0, 28, 28), np.uint8))
    write_idx(fashion_root / "train-labels-idx1-ubyte.gz", np.zeros(0, np.uint8))
    with pytest.raises(UserError, match=r"data\.root: no fashion-mnist in"):
        load_data(DataConfig("fashion-mnist", root=str(fashion_root)))


def test_a_download_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10, FashionMNIST

    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar.tar.gz")
    for name in ("fashion-mnist", "cifar10"):
        with pytest.raises(UserError, match="could not be fetched") as caught:
            load_data(DataConfig(name, root=str(tmp_path), download=True))
        assert "\n" not in str(caught.value)


def test_missing_fashion_mnist_names_the_folder_and_the_ways_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.root.*data\.download.*dataset-fashion-mnist"):
        load_data(DataConfig("fashion-mnist", root=str(tmp_path)))


def test_a_missing_fashion_mnist_file_and_labels_of_another_set_are_named(
    fashion_root: Path, write_idx: Callable[..., None]
) -> None:
    config = DataConfig("fashion-mnist", root=str(fashion_root))
    labels = fashion_root / "train-labels-idx1-ubyte.gz"
    write_idx(labels, np.zeros(39, dtype=np.uint8))
    with pytest.raises(UserError, match="do not belong together"):
        load_data(config)
    labels.unlink()
    with pytest.raises(UserError, match="train-labels-idx1-ubyte"):
        load_data(config)


def test_an_image_folder_is_read_exactly(image_root: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    replaced = image_root / "test" / "bird" / "0001.jpg"
    Image.fromarray(pixels).save(replaced.with_suffix(".png"))
    replaced.unlink()
    splits = load_data(DataConfig("imagefolder", root=str(image_root), validation=0))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (40, 0, 20)
    assert splits.test.inputs[5].tolist() == pixels.transpose(2, 0, 1).tolist()
    assert splits.test.labels[5] == splits.classes.index("bird") == 2


def test_an_image_folder_without_parts_is_split(image_root: Path) -> None:
    config = DataConfig("imagefolder", root=str(image_root / "train"), test=0.25, validation=6)
    splits = load_data(config)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (24, 6, 10)


def test_a_validation_folder_is_used(image_root: Path) -> None:
    (image_root / "test").rename(image_root / "val")
    config = DataConfig("imagefolder", root=str(image_root), test=0.1, validation=0.5)
    splits = load_data(config)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (36, 20, 4)


def test_images_of_several_sizes_and_kinds_are_resized_on_request(image_root: Path) -> None:
    pixels = np.zeros((10, 20), dtype=np.uint8)
    Image.fromarray(pixels).save(image_root / "train" / "cat" / "gray.png")
    wide = np.zeros((40, 44, 4), dtype=np.uint8)
    Image.fromarray(wide).save(image_root / "train" / "dog" / "alpha.png")
    config = DataConfig("imagefolder", root=str(image_root))
    with pytest.raises(UserError, match=r"gray\.png: 20 x 10 pixels.*32 x 32.*data\.image_size"):
        load_data(config)
    config.image_size = 16
    splits = load_data(config)
    assert splits.train.inputs.shape[1:] == (3, 16, 16)


def test_an_unreadable_image_is_named(image_root: Path) -> None:
    (image_root / "train" / "cat" / "0002.jpg").write_bytes(b"this is not an image")
    with pytest.raises(UserError, match=r"cat.0002\.jpg: not a readable image.*remove"):
        load_data(DataConfig("imagefolder", root=str(image_root)))
    (image_root / "train" / "cat" / "0002.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"cat.0002\.jpg: not a readable image"):
        load_data(DataConfig("imagefolder", root=str(image_root)))


def test_folders_without_images_are_named(tmp_path: Path) -> None:
    config = DataConfig("imagefolder")
    with pytest.raises(UserError, match=r"data\.root: imagefolder needs"):
        load_data(config)
    config.root = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="nowhere: no such folder"):
        load_data(config)
    config.root = str(tmp_path)
    with pytest.raises(UserError, match="no images in it"):
        load_data(config)
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(UserError, match="no images in it"):
        load_data(config)


def test_parts_that_do_not_fit_together_are_named(image_root: Path) -> None:
    config = DataConfig("imagefolder", root=str(image_root))
    for image in (image_root / "test").rglob("*.jpg"):
        Image.new("RGB", (16, 16)).save(image)
    with pytest.raises(UserError, match=r"test: its images differ in size"):
        load_data(config)
    (image_root / "test" / "cat").rename(image_root / "test" / "lion")
    with pytest.raises(UserError, match=r"test: its classes differ"):
        load_data(config)


def test_loading_an_empty_digits_training_set_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.validation: cannot hold out"):
        load_data(DataConfig(validation=5000))
