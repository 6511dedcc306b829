"""`surefoot lines`: records, findings, pictures, a page; killed and called again; bad input."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from _ranks import start
from surefoot.shape import LineRecords
from surefoot_lab.cli import main
from surefoot_lab.lines.run import OTHERS, RECORDS

ASKED = """
name: lines
steps: 9
batch_size: 64
model:
  class_path: resnet8
  init_args: {widths: [8, 8, 8]}  # with 4, torch 2.14.1 overruns its memory on some processors
optimizer:
  class_path: torch.optim.SGD
  init_args: {lr: 0.1, momentum: 0.5}
lines:
  every: 4
  lengths: [-0.2, 0.2, 0.6, 1.2, 2.5]
  batch_sizes: [32]
  images: 256
"""


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    path = tmp_path / "lines.yaml"
    path.write_text(ASKED, encoding="utf-8")
    return path


def test_records_findings_pictures_page(asked: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["lines", str(asked), "--out", str(out)]) == 0
    own = LineRecords(out / RECORDS).read()
    assert [line.step for line in own] == [0, 4, 8]
    assert own[0].lengths == (-0.2, 0.0, 0.2, 0.6, 1.2, 2.5)
    assert sum(own[0].batch_sizes) == 256
    assert own[0].info["rates"] == [0.1]
    others = LineRecords(out / OTHERS.format(32)).read()
    assert [line.step for line in others] == [0, 4, 8]
    # the full batch is the same on both lines at their start: the same weights, the same data
    assert [line.value0 for line in others] == [line.value0 for line in own]
    assert all(a.direction_norm != b.direction_norm for a, b in zip(own, others, strict=True))
    found = json.loads((out / "findings.json").read_text(encoding="utf-8"))
    assert found["lines"] == 3
    lowest = [line.exact_minimum() for line in own]
    assert found["minimum_inside"] == sum(not m.at_border for m in lowest)
    in_use = found["methods"]["rate in use"]["length"]
    norms = sorted(
        0.1 * line.direction_norm for line, m in zip(own, lowest, strict=True) if not m.at_border
    )
    assert in_use["low"] == norms[0]
    assert in_use["high"] == norms[-1]
    for name in ("line", "lines", "measures"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "lines.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") >= 3
    assert "http:" not in page
    assert "https:" not in page


def test_an_update_is_walked_along_in_its_own_length(asked: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = asked.read_text(encoding="utf-8").replace("  batch_sizes: [32]\n", "  along: update\n")
    asked.write_text(text, encoding="utf-8")
    assert main(["lines", str(asked), "--out", str(out), "--steps", "1"]) == 0
    (line,) = LineRecords(out / RECORDS).read()
    assert line.kind == "update"
    found = json.loads((out / "findings.json").read_text(encoding="utf-8"))
    assert found["methods"]["the update itself"]["length"]["n"] in (0, 1)
    assert found["tuned_rate"] is None


@pytest.mark.slow
def test_killed_and_called_again_it_writes_the_same_records(
    asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(["lines", str(asked), "--out", str(whole)]) == 0
    process = start(main, ["lines", str(asked), "--out", str(broken)])
    records = broken / RECORDS
    while process.is_alive():
        if records.exists() and records.read_bytes().count(b"\n") >= 2:
            break
        time.sleep(0.005)
    process.kill()
    process.join()
    assert main(["lines", str(asked), "--out", str(broken)]) == 0
    for name in (RECORDS, OTHERS.format(32), "findings.json"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    (checkpoint,) = (path for path in broken.rglob("*.pt") if "samples" not in path.parent.name)
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    capsys.readouterr()
    assert main(["lines", str(asked), "--out", str(broken)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"{checkpoint}: cannot be loaded" in told


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--every", "0"], "lines.every: must be at least 1"),
        (["--along", "valley"], "lines.along: must be one of"),
        (["--images", "100000"], "lines.images: 100000 is more than"),
        (["--lengths", "0"], "lengths: needs two places"),
        (["--lengths", "nan", "1", "2"], "lines.lengths.0: must be a number"),
        (["--batch-sizes", "5000"], "lines.batch_sizes: 5000 is more than"),
        (["--measuring-length", "-1"], "lines.measuring_length: must be above 0"),
        (["--optimizer.class_path", "SGDD"], "optimizer.class_path"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str],
    says: str,
    asked: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["lines", str(asked), "--out", str(tmp_path / "out"), *words]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out" / RECORDS).exists()


def test_unknown_key_of_the_section(asked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked.write_text(ASKED.replace("every:", "evry:"), encoding="utf-8")
    assert main(["lines", str(asked)]) == 2
    assert "lines.evry: no such setting; did you mean 'lines.every'?" in capsys.readouterr().err


def test_another_experiments_folder_is_left_alone(
    asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["lines", str(asked), "--out", str(out), "--steps", "1"]) == 0
    before = (out / RECORDS).read_bytes()
    assert main(["lines", str(asked), "--out", str(out), "--seed", "1"]) == 2
    assert "another experiment" in capsys.readouterr().err
    assert (out / RECORDS).read_bytes() == before
    assert main(["lines", str(asked), "--out", str(out), "--steps", "1", "--overwrite"]) == 0
    assert (out / RECORDS).read_bytes() == before
