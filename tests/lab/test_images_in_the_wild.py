"""Image folders as people have them: other depths, transparency, turned cameras, leftovers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from surefoot_lab.config import DataConfig
from surefoot_lab.data import load_data
from surefoot_lab.data.examples import Splits
from surefoot_lab.errors import UserError


def _load(root: Path, **settings: Any) -> Splits:
    values = {"validation": 0, "test": 0, **settings}
    return load_data(DataConfig("imagefolder", root=str(root), **values))


def _write(root: Path, images: list[np.ndarray], ending: str = "png") -> Path:
    """Two classes that hold the same images."""
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for place, image in enumerate(images):
            Image.fromarray(image).save(root / name / f"{place}.{ending}")
    return root


RAMP = np.linspace(0, 1, 256).reshape(16, 16)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    ("dtype", "ending"),
    [("uint16", "png"), ("uint16", "tif"), ("uint16", "pgm"), ("int32", "tif"), ("float32", "tif")],
)
def test_gray_images_of_more_than_8_bits_are_refused_by_name(
    dtype: str, ending: str, in_memory: bool, tmp_path: Path
) -> None:
    """Which of their values are black and white, only their maker knows."""
    _write(tmp_path, [(255 * RAMP).astype(dtype)], ending)
    with pytest.raises(UserError, match=rf"0\.{ending}: is gray with more than 8 bits.*class_path"):
        data = _load(tmp_path, in_memory=in_memory, image_size=16)
        data.train.inputs.read()


def _icon(color: int, mode: str) -> Image.Image:
    """A bar drawn in the alpha channel alone."""
    pixels = np.full((8, 8, 4), color, np.uint8)
    pixels[..., 3] = 0
    pixels[2:4, :, 3] = 255
    image = Image.fromarray(pixels)
    if mode == "P":
        image = Image.fromarray((pixels[..., 3] // 255).astype(np.uint8), "P")
        image.putpalette([color] * 3 + [color] * 3)
        image.info["transparency"] = 0
        return image
    return image.convert(mode)


@pytest.mark.filterwarnings("ignore:.*mode.*deprecated:DeprecationWarning")
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize(("color", "ground"), [(0, 255), (255, 0), (128, 255)])
def test_drawings_in_the_alpha_channel_are_seen(
    mode: str, color: int, ground: int, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        _icon(color, mode).save(tmp_path / name / "0.png")
    image = _load(tmp_path).train.inputs[0, 0]
    assert image[2:4].unique().tolist() == [color]
    assert image[[0, 1, 4, 5, 6, 7]].unique().tolist() == [ground]


def test_half_transparent_colors_are_mixed_with_white(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., 3] = 51  # a fifth
    pixels[0, 0] = (0, 0, 0, 255)
    data = _load(_write(tmp_path, [pixels]))
    assert data.train.inputs[0, 0].unique().tolist() == [0, 204]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("in_memory", [True, False])
def test_photographs_stand_as_the_camera_says(
    orientation: int, in_memory: bool, tmp_path: Path
) -> None:
    """The same scene, stored turned and marked so, is the same image."""
    scene = np.zeros((32, 32, 3), np.uint8)
    scene[:8] = 255  # the sky
    turns = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        image = Image.fromarray(np.ascontiguousarray(np.rot90(scene, turns)))
        exif = image.getexif()
        exif[0x0112] = orientation
        image.save(tmp_path / name / "0.jpg", exif=exif, quality=95)
    data = _load(tmp_path, in_memory=in_memory, image_size=32)
    image = data.train.inputs[0] if in_memory else data.train.inputs.read()[0]
    assert image[:, :4].float().mean() > 240
    assert image[:, 12:].float().mean() < 15


def test_what_editors_and_systems_leave_behind_is_no_class_and_no_image(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    for part in ("train", "val", "test"):
        _write(tmp_path / part, [image])
        for left in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
            (tmp_path / part / left).mkdir()
            Image.fromarray(image).save(tmp_path / part / left / "0.png")
        (tmp_path / part / "a" / "._0.png").write_bytes(b"resource fork")
        (tmp_path / part / "a" / "Thumbs.db").write_bytes(b"thumbs")
        (tmp_path / part / "a" / ".thumbnails").mkdir()
        (tmp_path / part / "a" / ".thumbnails" / "0.png").write_bytes(b"thumb")
    data = _load(tmp_path)
    assert data.classes == ("a", "b")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [2, 2, 2]


def _folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(root / name / "0.png")
    return root


@pytest.mark.parametrize("name", ["train", "test", "val", "valid", "Training"])
def test_a_class_may_be_called_like_a_part(name: str, tmp_path: Path) -> None:
    data = _load(_folders(tmp_path, "bus", "car", name))
    assert set(data.classes) == {"bus", "car", name}
    assert len(data.train) == 3


def test_parts_without_train_are_no_classes(tmp_path: Path) -> None:
    data = _load(_folders(tmp_path, "cat", "dog", "test/cat", "test/dog"))
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.test)) == (2, 2)


@pytest.mark.parametrize("name", ["Train", "TRAIN", "training"])
def test_a_part_is_known_in_any_case(name: str, tmp_path: Path) -> None:
    data = _load(_folders(tmp_path, f"{name}/a", f"{name}/b", "Test/a", "Test/b"))
    assert data.classes == ("a", "b")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train", "test"], r"test, train hold images; are they parts"),
        (["train"], r"train hold images; are they parts"),
        (
            ["train/steam", "train/diesel", "bus"],
            r"train, bus hold images; are they parts",
        ),
        (["train/a", "train/b", "train", "car"], r"train: which is a part, which a class"),
        (["train/a", "train/b", "val/a", "val/b", "valid/a"], r"val and valid: which is a part"),
        (["train/a", "train/b", "test/a", "test/c"], r"its classes differ .*: b, c"),
        (["pets"], r"holds one class only, pets"),
        (["train/pets", "test/pets"], r"holds one class only, pets"),
    ],
)
def test_what_may_be_a_class_or_a_part_is_asked_about(
    names: list[str], message: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name / "0.png")
    with pytest.raises(UserError, match=message):
        _load(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    _write(tmp_path, [(255 * RAMP).astype("uint8")])
    os.mkfifo(tmp_path / "b" / "1.png")
    with pytest.raises(UserError, match=r"b/1\.png: not a readable image \(no regular file\)"):
        _load(tmp_path)


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    _folders(tmp_path, "a", "b")
    (tmp_path / "c").mkdir()
    with pytest.raises(UserError, match=r"c: no images in it.*remove the folder"):
        _load(tmp_path)


def test_a_link_to_the_folder_it_lies_in_is_not_followed(tmp_path: Path) -> None:
    _folders(tmp_path, "a", "b")
    (tmp_path / "a" / "all").symlink_to("..")
    (tmp_path / "a" / "more").symlink_to(tmp_path / "b")  # somewhere else: that is meant
    data = _load(tmp_path)
    assert sorted(data.train.labels.tolist()) == [0, 0, 1]


def test_images_of_kinds_that_are_not_read_are_counted(tmp_path: Path) -> None:
    _folders(tmp_path, "a", "b")
    for name in ("1.heic", "2.SVG"):
        (tmp_path / "b" / name).write_bytes(b"?")
    with pytest.warns(UserWarning, match=r"^2 images of a kind that is not read, such as .*1.heic"):
        assert len(_load(tmp_path).train) == 2


@pytest.mark.parametrize("in_memory", [True, False])
def test_more_than_the_memory_is_refused(in_memory: bool, tmp_path: Path) -> None:
    _folders(tmp_path, "a", "b")
    with pytest.raises(UserError, match=r"data\.image_size: . images of 9999999 .* GiB"):
        _load(tmp_path, image_size=9_999_999, in_memory=in_memory)
