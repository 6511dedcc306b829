"""Tables as programs and people write them: read right, or refused by line, column and reason."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from surefoot_lab.cli import main
from surefoot_lab.config import DataConfig
from surefoot_lab.data import load_data
from surefoot_lab.data.csv_file import Table, read_table
from surefoot_lab.data.task import Classification
from surefoot_lab.errors import UserError

ROWS = [(k / 8, k % 7, 2.25 * k - 3) for k in range(40)]
VALUES = np.array(ROWS)


def _lines(separator: str = ",", names: str = "a,b,y", end: str = "", quote: str = "") -> str:
    head = [separator.join(names.split(",")) + end] if names else []
    rows = [separator.join(f"{quote}{v}{quote}" for v in row) + end for row in ROWS]
    return "\n".join([*head, *rows]) + "\n"


def _read(tmp_path: Path, text: str | bytes, header: bool | None = None) -> Table:
    path = tmp_path / "rows.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_table(path, header)


def _check(found: Table, name: str = "y") -> None:
    assert np.array_equal(found.columns, VALUES[:, :-1])
    assert np.array_equal(found.target, VALUES[:, -1])
    assert (found.name, found.classes) == (name, ())


GOOD = {
    "commas": _lines(),
    "no names": _lines(names=""),
    "commas and spaces": _lines(", "),
    "tabs": _lines("\t"),
    "semicolons": _lines(";"),
    "bars": _lines("|"),
    "spaces": _lines(" "),
    "columns of spaces": "\n".join("".join(f"{v:>12}" for v in row) for row in ROWS),
    "semicolons, decimal commas": _lines(";").replace(".", ","),
    "tabs, decimal commas": _lines("\t").replace(".", ","),
    "decimal commas, no names": _lines(";", names="").replace(".", ","),
    "quoted numbers": _lines(quote='"'),
    "quoted names": _lines(names="").join(['"a","b, in mm","y"\n', ""]),
    "a comma at every end": _lines(end=","),
    "a comma at every end but the first": "a,b,y\n" + _lines(names="", end=","),
    "the separator named, for Excel": "sep=;\n" + _lines(";"),
    "comments above": "# of a logger\n\n# by hand\n" + _lines(),
    "comments above names with a hash": "# of a logger\n# " + _lines(),
    "gzip": gzip.compress(_lines().encode()),
    "Windows": _lines().replace("\n", "\r\n"),
    "an old Mac": _lines().replace("\n", "\r"),
    "no last line end": _lines().rstrip(),
    "empty lines": _lines().replace("\n", "\n\n"),
    "lines of commas": _lines() + ",,\n,,\n",
    "a byte order mark": "\ufeff" + _lines(),
    "UTF-16": _lines().encode("utf-16"),
    "a hash before the names": "# " + _lines(),
    "names of numbers and one word": _lines(names="400,402.5,y"),
}


@pytest.mark.parametrize("kind", GOOD)
def test_every_dialect_is_the_same_table(kind: str, tmp_path: Path) -> None:
    name = "y"
    if "no names" in kind or kind == "columns of spaces":
        name = "target"
    _check(_read(tmp_path, GOOD[kind]), name)


@pytest.mark.parametrize("names", ["0,1,2", "400,402.5,405"])
def test_numbers_are_names_only_if_that_is_said(names: str, tmp_path: Path) -> None:
    text = _lines(names=names)
    _check(_read(tmp_path, text, header=True), names.split(",")[-1])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = _read(tmp_path, text)
    assert ["data.header: true" in str(one.message) for one in told] == [True]
    assert found.target.tolist() == [float(names.split(",")[-1]), *VALUES[:, -1]]


def test_first_rows_like_the_others_are_data(tmp_path: Path) -> None:
    for rows in ("3,1,2\n3,4,5\n6,7,9\n8,9,11\n", "1,2\n3,4\n5,6\n7,8\n"):
        assert len(_read(tmp_path, rows).target) == 4


@pytest.mark.parametrize(
    ("head", "first"),
    [
        (",a,b,y", "0"),  # a data frame's index
        ("Unnamed: 0,a,b,y", "0"),
        ("id,a,b,y", "1"),
    ],
)
def test_a_column_that_numbers_the_rows_is_left_out_and_that_is_said(
    head: str, first: str, tmp_path: Path
) -> None:
    rows = [f"{int(first) + k},{','.join(map(str, row))}" for k, row in enumerate(ROWS)]
    with pytest.warns(UserWarning, match="numbers or names the rows"):
        _check(_read(tmp_path, "\n".join([head, *rows])), head.split(",")[-1])


def test_names_of_rows_are_left_out_and_numbers_that_measure_are_kept(tmp_path: Path) -> None:
    rows = [f'"car {k}",{",".join(map(str, row))}' for k, row in enumerate(ROWS)]
    with pytest.warns(UserWarning, match="names the rows"):
        _check(_read(tmp_path, "\n".join([",a,b,y", *rows])))
    rows = [f"{k % 5},{','.join(map(str, row))}" for k, row in enumerate(ROWS)]
    for name in ("", "id"):  # not one number a row
        assert _read(tmp_path, "\n".join([f"{name},a,b,y", *rows])).columns.shape == (40, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1.5,,3\n" + _lines(names=""), r"line 1: column '2' has nothing"),
        ("1.5,NA,3\n" + _lines(names=""), r"line 1: column '2' has 'NA'"),
        ("?,2,3\n" + _lines(names=""), r"line 1: column '1' has '\?'"),
        ('"1,234",5,3\n' + _lines(names=""), r"line 1: column '1' has '1,234'"),
        (_lines() + "1,,3\n", r"line 42: column 'b' has nothing"),
        (_lines() + "\n1,2\n", r"line 43: column 'y' has nothing"),
        (_lines() + "1,2,nan\n", r"line 42: column 'y' has 'nan'"),
        (_lines() + "1,2,inf\n", r"line 42: column 'y' has 'inf'"),
        (_lines() + "1,2,1e999\n", r"line 42: column 'y' has '1e999'"),
        (_lines() + "1,2,3,4\n", r"Expected 3 fields in line 42, saw 4"),
        (_lines() + "a,b,y\n", r"line 42: column 'a' has 'a'"),
        (_lines() + "Total,,90\n", r"line 42: column 'a' has 'Total'"),
        (_lines() + "5 %,2,90\n", r"line 42: column 'a' has '5 %'"),
        (_lines(";") + "1;2,5;3\n" + "1;2.5;3\n" + "1;2,500.0;3\n", r"line 42: column 'b'"),
        ("a,b,y\n" + "male,1,2\n" * 9, r"column 'a' holds no numbers \('male'\)"),
        ("a,b,y\n" + "2024-01-02,1,2\n" * 9, r"column 'a' holds no numbers"),
        ("a,b,y\n" + "1,2,cat\n" * 9, r"column 'y' has 1 classes in 9 rows"),
        ("a,b,n\n" + "".join(f"1,2,n{k}\n" for k in range(9)), r"9 classes in 9.*last column"),
        ("a,b,kind\n" + "1,2,cat\n3,4,dog\n" * 9 + "1,2,\n", r"line 20: column 'kind' has not"),
        ("a,b,kind\n" + "1,2,cat\n3,,dog\n" * 9, r"line 3: column 'b' has nothing; .* a class"),
        ("a,b,y\n" + "1,2,3\n3,4,dog\n" * 9, r"line 3: column 'y' has 'dog'"),
        ('a,b,y\n1,2,"3\n', r"quotes"),
        ("a\n1\n2\n", r"needs rows of two numbers"),
        ("a,b,y\n" + "1,2,7\n3,4,7.0\n" * 9, r"column 'y' is 7 in every row"),
        (",a,y\n" + ",1,2\n,3,4\n" * 9, r"column 1 \(without a name\) holds no numbers"),
        ("Station: here\n\n" + _lines(), r"remove what stands above the names"),
        ("PK\x03\x04" + _lines(), r"a zip archive or a spreadsheet; name a CSV file"),
        ("version https://git-lfs.github.com/spec/v1\n", r"git lfs pull"),
        (_lines().encode("utf-16-le"), r"zero bytes.*UTF-16"),
        (gzip.compress(_lines().encode())[:-9], r"cannot be read"),
        ("one two three\n", r"needs rows of two numbers"),
    ],
)
def test_what_cannot_be_used_is_named_by_its_line_or_column(
    text: str | bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as told:
        _read(tmp_path, text)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("head", ["a,b,kind\n", ""])
def test_words_in_the_last_column_are_classes(head: str, tmp_path: Path) -> None:
    kinds = ["dog", "cat", "None"]
    text = head + "".join(f"{k},{k % 4}.5,{kinds[k % 3]}\n" for k in range(30))
    found = _read(tmp_path, text)
    assert found.classes == ("None", "cat", "dog")
    assert found.target.tolist() == [found.classes.index(kinds[k % 3]) for k in range(30)]
    assert found.columns[:, 0].tolist() == list(range(30))
    config = DataConfig("table", root=str(tmp_path / "rows.csv"), test=6, validation=6)
    data = load_data(config)
    assert isinstance(data.task, Classification)
    assert data.train.labels.dtype == torch.int64
    assert data.facts["num_classes"] == 3


def test_a_table_of_classes_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"{k},{k % 9},{k % 5},{'high' if k % 9 > 4 else 'low'}" for k in range(90)]
    Path("kinds.csv").write_text("\n".join(["id,a,b,kind", *rows]))
    words = ["--data.name=table", "--data.root=kinds.csv", "--model.class_path=mlp", "--epochs=30"]
    words += ["--batch_size=16", "--optimizer.class_path=Adam", "--train.tensorboard=false"]
    words += ["--optimizer.init_args.lr=0.02"]
    with pytest.warns(UserWarning, match="the first column"):
        assert main(["train", *words]) == 0
    shown = capsys.readouterr()
    assert "accuracy 100.00%" in shown.out.splitlines()[-2]
    assert shown.out.splitlines()[-1].endswith("runs/table-kinds-mlp/adam-seed0")
    from surefoot_lab.records import read_run

    (said,) = read_run("runs/table-kinds-mlp/adam-seed0").warnings
    assert "the first column (id)" in said["message"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_text_has_no_byte_order_mark_among_its_characters(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes(("Es war einmal, für Ärger.\r\n" * 40).encode(encoding))
    data = load_data(DataConfig("text", root=str(path), sequence_length=5))
    assert data.classes == tuple(sorted(set("Es war einmal, für Ärger.\n")))


@pytest.mark.parametrize("size", [1e300, 1e-300])
def test_numbers_whose_squares_are_none_are_standardized(size: float, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("".join(f"{k % 7 * size!r},{k},{k * size!r}\n" for k in range(1, 41)))
    data = load_data(DataConfig("table", root=str(path), test=0, validation=0))
    for values in (data.train.inputs, data.train.labels):
        assert values.mean(0).abs().max() < 1e-5
        assert (values.std(0, correction=0) - 1).abs().max() < 1e-5


def test_a_text_of_zero_bytes_or_of_one_character_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    for content, message in ((b"a\0b\0" * 99, "zero bytes"), (b"a" * 99, "one character only")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            load_data(DataConfig("text", root=str(path)))


def test_a_path_may_begin_with_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "rows.csv").write_text(_lines())
    Path("x.yaml").write_text("data: {name: table, root: ~/rows.csv}\nmodel: {class_path: mlp}\n")
    words = ["--steps=1", "--batch_size=4", "--train.tensorboard=false", "--out=~/run"]
    assert main(["train", "x.yaml", *words]) == 0
    assert (tmp_path / "home" / "run" / "record.jsonl").exists()
    assert not Path("~").exists()
