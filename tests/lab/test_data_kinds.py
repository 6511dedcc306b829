"""Text, tables, and images that stay on the disk: cut, standardized and cropped as said."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from _formats import write_imagenet
from PIL import Image

from surefoot_lab.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainConfig
from surefoot_lab.data import load_data
from surefoot_lab.data.files import ImageFiles, random_box
from surefoot_lab.data.loader import InOrder, loader_of
from surefoot_lab.data.loader import normalizer_of as normalizer_for
from surefoot_lab.data.task import Classification, Regression
from surefoot_lab.errors import UserError
from surefoot_lab.training import train

CPU = torch.device("cpu")


# Text


@pytest.fixture
def novel(tmp_path: Path) -> Path:
    path = tmp_path / "novel.txt"
    path.write_text("Все счастливые семьи 🙂\n" * 40, encoding="utf-8")
    return path


def _as_text(characters: torch.Tensor, classes: tuple[str, ...]) -> str:
    return "".join(classes[number] for number in characters.flatten().tolist())


def test_a_text_is_cut_into_contiguous_parts_and_each_character_is_asked_for(novel: Path) -> None:
    content = novel.read_text(encoding="utf-8")
    config = DataConfig("text", root=str(novel), test=100, validation=0.25, sequence_length=7)
    data = load_data(config)
    assert set(data.classes) == set(content)
    rest = len(content) - 100
    train, validation = rest - round(0.25 * rest), round(0.25 * rest)
    starts = {"train": 0, "validation": train, "test": rest}
    for part, length in (("train", train), ("validation", validation), ("test", 100)):
        examples = getattr(data, part)
        count = (length - 1) // 7
        assert examples.inputs.shape == examples.labels.shape == (count, 7)
        start = starts[part]
        assert _as_text(examples.inputs, data.classes) == content[start : start + 7 * count]
        assert _as_text(examples.labels, data.classes) == content[start + 1 : start + 7 * count + 1]
    assert data.facts == {"num_classes": len(data.classes), "sequence_length": 7}


def test_texts_that_cannot_be_used_are_named(tmp_path: Path, novel: Path) -> None:
    latin = tmp_path / "latin.txt"
    latin.write_bytes("Stra\xdfe".encode("latin1"))
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    short = tmp_path / "short.txt"
    short.write_text("ab" * 20)
    for root, message in (
        (None, r"data\.root: text needs the path"),
        (tmp_path / "none.txt", r"none\.txt: cannot be read \(No such file"),
        (latin, r"latin\.txt: is not UTF-8 text .* at byte 4"),
        (empty, r"empty\.txt: is empty"),
        (short, r"data\.sequence_length: 50 is too long for the 26 characters"),
    ):
        with pytest.raises(UserError, match=message):
            load_data(DataConfig("text", root=root and str(root)))
    with pytest.raises(UserError, match=r"data\.crop, data\.flip: are for images, and text"):
        load_data(DataConfig("text", root=str(novel), crop=2))


@pytest.mark.parametrize("model", ["char-lstm", "char-transformer"])
def test_a_character_model_learns_a_text_that_repeats(
    model: str, tmp_path: Path, novel: Path
) -> None:
    small = {"hidden": 32, "layers": 1} if model == "char-lstm" else {"width": 32, "layers": 1}
    experiment = Experiment(
        steps=60,
        batch_size=8,
        data=DataConfig("text", root=str(novel), sequence_length=20),
        model=ModelConfig(model, small),
        optimizer=OptimizerConfig("Adam", {"lr": 0.02}),
        train=TrainConfig(tensorboard=False, device="cpu"),
    )
    run = train(experiment, tmp_path / "run", progress=False)
    final = run.evaluations[-1]
    characters = len(set(novel.read_text(encoding="utf-8")))
    assert final["split"] == "test"
    assert final["loss"] < 0.7 * math.log(characters)
    assert final["accuracy"] > 0.4


# Tables


def test_a_table_is_standardized_by_its_training_rows(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(5.0, [2.0, 0.0, 30.0, 7.0], (200, 4))
    path = tmp_path / "table.csv"
    rows = "\n".join(",".join(map(repr, row)) for row in values.tolist())
    path.write_text(f"\ufeffa, b,c,price\n{rows}\n\n", encoding="utf-8")
    data = load_data(DataConfig("table", root=str(path), test=40, validation=0.25))
    assert (len(data.train), len(data.validation), len(data.test)) == (120, 40, 40)
    assert data.classes == ("price",)
    assert isinstance(data.task, Regression)
    for values_of, constant in ((data.train.inputs, 1), (data.train.labels, None)):
        assert values_of.dtype == torch.float32
        assert values_of.double().mean(dim=0).abs().max() < 1e-6
        expected = torch.ones(values_of.shape[1], dtype=torch.float64)
        if constant is not None:
            expected[constant] = 0.0  # a column that says nothing
        deviations = values_of.double().std(dim=0, correction=0)
        assert torch.allclose(deviations, expected, atol=1e-6)
    # undone by the training rows' own statistics, the parts are the file's rows
    everything = torch.cat([data.train.inputs, data.validation.inputs, data.test.inputs])[:, 2]
    order = everything.argsort()
    assert np.allclose(np.diff(np.sort(values[:, 2])) > 0, np.diff(everything[order].numpy()) > 0)
    scale = np.ptp(values[:, 2]) / np.ptp(everything.numpy())
    mean = np.sort(values[:, 2])[0] - scale * everything.min().item()
    assert np.allclose(np.sort(values[:, 2]), everything[order].numpy() * scale + mean, atol=1e-4)


def test_tables_that_come_with_scikit_learn() -> None:
    data = load_data(DataConfig("diabetes", validation=0, test=42))
    assert (len(data.train), len(data.test), data.channels) == (400, 42, 10)
    data = load_data(DataConfig("friedman", validation=0, test=640))
    assert (len(data.train), data.channels, data.image_size) == (20_000, 8, (1, 1))
    again = load_data(DataConfig("friedman", validation=0, test=640))
    assert torch.equal(data.train.inputs, again.train.inputs)


def test_tables_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    for content, message in (
        ("a,b\n1,2\n3,x\n", r"table\.csv: line 3: column 'b' has 'x'"),
        ("1,2\n3\n", r"line 2: column 'target' has nothing"),
        ("1,2\n\n3,nan\n", r"line 3: column 'target' has 'nan'"),
        ("1\n2\n", r"needs rows of two numbers"),
        ("", r"needs rows of two numbers"),
        ("a,b\n", r"needs rows of two numbers"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            load_data(DataConfig("table", root=str(path)))
    with pytest.raises(UserError, match=r"none\.csv: cannot be read"):
        load_data(DataConfig("table", root=str(tmp_path / "none.csv")))
    with pytest.raises(UserError, match=r"data\.root: table needs"):
        load_data(DataConfig("table"))


@pytest.mark.parametrize("optimizer", ["SGD", "PAL"])
def test_a_table_is_learned_by_squared_loss_and_has_no_accuracy(
    optimizer: str, tmp_path: Path
) -> None:
    experiment = Experiment(
        epochs=20,
        batch_size=32,
        data=DataConfig("diabetes"),
        model=ModelConfig("mlp", {"widths": [16]}),
        optimizer=OptimizerConfig(optimizer, {"lr": 0.02} if optimizer == "SGD" else {}),
        train=TrainConfig(tensorboard=True, device="cpu"),
    )
    run = train(experiment, tmp_path / "run", progress=True)
    final = run.evaluations[-1]
    assert run.end is not None
    assert run.end["reason"] == "finished"
    assert final["accuracy"] is None
    assert final["loss"] < 0.85  # 1 is the loss of the mean; linear regression reaches about 0.5


def test_losses_are_means_and_totals_add_up_to_them() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(6, 5, 4, generator=generator)
    labels = torch.randint(0, 4, (6, 5), generator=generator)
    task = Classification()
    chosen = outputs.double().log_softmax(-1).gather(-1, labels[..., None])
    assert float(task.loss(outputs, labels)) == pytest.approx(-float(chosen.mean()), rel=1e-6)
    totals = task.totals(outputs[:2], labels[:2]) + task.totals(outputs[2:], labels[2:])
    right = sum(
        int(outputs[row, place].argmax() == labels[row, place])
        for row in range(6)
        for place in range(5)
    )
    assert totals.tolist() == pytest.approx([-float(chosen.sum()), right, 30], rel=1e-6)
    numbers = torch.randn(7, 1, generator=generator)
    targets = torch.randn(7, 1, generator=generator)
    square = float(((numbers - targets).double() ** 2).sum())
    assert float(Regression().loss(numbers, targets)) == pytest.approx(square / 7, rel=1e-6)
    found = Regression().totals(numbers, targets).tolist()
    assert (found[0], found[2]) == (pytest.approx(square, rel=1e-6), 7)
    assert math.isnan(found[1])


# Images on the disk


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_imagenet(tmp_path)


def _imagenet(photos: Path, **settings: object) -> DataConfig:
    return DataConfig("imagenet", root=str(photos), image_size=32, **{"validation": 4, **settings})


def test_imagenet_stays_on_the_disk_and_its_validation_set_tests(photos: Path) -> None:
    data = load_data(_imagenet(photos))
    assert isinstance(data.train.inputs, ImageFiles)
    assert (len(data.train), len(data.validation), len(data.test)) == (12, 4, 6)
    assert data.classes == ("n01440764", "n01443537")
    assert (data.channels, data.image_size) == (3, (32, 32))
    assert data.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    reds = data.test.inputs.read()[:, 0].flatten(1)
    assert reds.unique(dim=1).flatten().tolist() == [0, 20, 40, 5, 25, 45]
    normalize = normalizer_for(data, CPU)
    batches = list(InOrder(data.test, normalize, 4))
    assert [batch.shape for batch, _ in batches] == [(4, 3, 32, 32), (2, 3, 32, 32)]
    assert batches[0][0][1, 0, 0, 0].item() == pytest.approx((20 / 255 - 0.485) / 0.229, rel=1e-5)


def test_evaluation_sees_the_center(tmp_path: Path) -> None:
    pixels = np.full((256, 512, 3), 255, np.uint8)
    pixels[16:240, 144:368] = 7  # 224 of the shorter side's 256, in the middle
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = ImageFiles([str(tmp_path / "a.png")], 224).read()
    assert image.shape == (1, 3, 224, 224)
    assert image.unique().tolist() == [7]


def test_random_boxes_have_the_areas_and_ratios_that_are_allowed() -> None:
    generator = torch.Generator().manual_seed(0)
    shares, ratios, corners = [], [], set()
    for numbers in torch.rand(2000, 10, 4, generator=generator):
        left, top, right, bottom = random_box(400, 300, numbers)
        assert 0 <= left < right <= 400
        assert 0 <= top < bottom <= 300
        shares.append((right - left) * (bottom - top) / (400 * 300))
        ratios.append((right - left) / (bottom - top))
        corners.add((left == 0, top == 0))
    assert 0.078 < min(shares) < 0.1
    assert 0.95 < max(shares) <= 1.0
    assert 0.74 < min(ratios) < 0.77
    assert 1.3 < max(ratios) < 1.35
    assert len(corners) >= 3
    # where nothing fits: the largest part in the middle with a ratio that is allowed
    assert random_box(1000, 10, torch.full((10, 4), 0.999)) == pytest.approx(
        (500 - 20 / 3, 0, 500 + 20 / 3, 10)
    )


def _loader(photos: Path, seed: int = 0, flip: bool = True):
    config = _imagenet(photos, validation=0, flip=flip)
    data = load_data(config)
    return loader_of(data, config, normalizer_for(data, CPU), batch_size=4, seed=seed)


def test_an_epoch_of_files_is_every_image_once_with_its_label(photos: Path) -> None:
    loader = _loader(photos)
    seen = []
    for _ in range(4):
        images, labels = loader.next_batch()
        reds = ((images[:, 0].amax(dim=(1, 2)) * 0.229 + 0.485) * 255).round().int()
        assert [int(red % 20 == 5) for red in reds] == labels.tolist()
        seen += reds.tolist()
    assert sorted(seen) == sorted(20 * n + offset for n in range(8) for offset in (0, 5))


def test_files_are_mirrored_half_the_time_if_asked(photos: Path) -> None:
    for flip, low, high in ((False, 0, 0), (True, 20, 60)):  # of 80, 40 expected
        loader = _loader(photos, flip=flip)
        mirrored = 0
        for _ in range(20):
            images, _ = loader.next_batch()
            mirrored += int((images[:, 1, :, 0] > images[:, 1, :, -1]).any(dim=1).sum())
        assert low <= mirrored <= high


@pytest.mark.parametrize("taken", [0, 1, 4, 6])
def test_a_saved_position_in_files_goes_on_to_the_bit(photos: Path, taken: int) -> None:
    loader = _loader(photos)
    for _ in range(taken):
        loader.next_batch()
    state = loader.state_dict()
    list(loader.sample(2, seed=1))  # moves nothing
    expected = [loader.next_batch() for _ in range(6)]
    fresh = _loader(photos, seed=9)
    fresh.next_batch()
    fresh.load_state_dict(state)
    for images, labels in expected:
        found_images, found_labels = fresh.next_batch()
        assert torch.equal(found_images, images)
        assert torch.equal(found_labels, labels)


def test_an_image_folder_can_stay_on_the_disk(image_root: Path) -> None:
    config = DataConfig(
        "imagefolder", root=str(image_root), in_memory=False, image_size=16, validation=8
    )
    data = load_data(config)
    assert isinstance(data.train.inputs, ImageFiles)
    normalize = normalizer_for(data, CPU)
    kept = normalize(data.train.inputs).transpose(0, 1).flatten(1).double()
    assert kept.mean(dim=1).abs().max() < 1e-4  # measured on these very centers
    assert (kept.std(dim=1) - 1).abs().max() < 1e-3
    config.image_size = None
    with pytest.raises(UserError, match=r"data\.image_size: .*give it"):
        load_data(config)


def test_imagenet_that_is_not_there_damaged_or_cropped_twice_is_named(photos: Path) -> None:
    with pytest.raises(UserError, match=r"data\.root: .*no folder train; register at image-net"):
        load_data(_imagenet(photos / "elsewhere"))
    config = _imagenet(photos, crop=4)
    data = load_data(config)
    with pytest.raises(UserError, match=r"data\.crop: images read from the disk"):
        loader_of(data, config, normalizer_for(data, CPU), batch_size=4, seed=0)
    for path in (photos / "train").rglob("*_3.png"):
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"_3\.png: not a readable image"):
        data.train.inputs.read()


def test_a_network_trains_from_files(photos: Path, tmp_path: Path) -> None:
    experiment = Experiment(
        steps=5,
        batch_size=4,
        data=_imagenet(photos),
        model=ModelConfig("resnet8"),
        optimizer=OptimizerConfig("SGD", {"lr": 0.01}),
        train=TrainConfig(tensorboard=False, device="cpu", eval_batch_size=3),
    )
    run = train(experiment, tmp_path / "run", progress=False)
    assert run.end is not None
    assert run.end["reason"] == "finished"
    assert {line["split"] for line in run.evaluations} == {"validation", "test"}
    assert run.evaluations[-1]["accuracy"] in [pytest.approx(n / 6) for n in range(7)]
