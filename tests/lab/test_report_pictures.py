"""What lies beside the records, in the report: curves of range tests, pictures of lines."""

from __future__ import annotations

import base64
import json
import math
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from _records import plain_run

from surefoot.lr_range import Ramp, RangeCurve
from surefoot_lab.cli import main
from surefoot_lab.records import read_runs
from surefoot_lab.report import beside, render_report

FALLING = [2.3, 2.3, 2.2, 2.0, 1.5, 1.2, 1.1, 1.3, 2.0, 3.0]
HOSTILE = '"><script>alert(1)</script>$x_$'


class Page(HTMLParser):
    """Headings, images, captions and the problems told."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.images: list[tuple[str, bytes]] = []
        self.text = ""
        self._inside = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        if tag == "h2":
            self.headings.append("")
        if tag == "img":
            start, _, content = (dict(attrs)["src"] or "").partition(",")
            assert start == "data:image/png;base64"
            self.images.append((dict(attrs)["alt"] or "", base64.b64decode(content)))

    def handle_data(self, data: str) -> None:
        if self._inside == "h2":
            self.headings[-1] += data.strip()
        if self._inside not in ("script", "style"):
            self.text += data


def keep_curve(run: Path, losses: list[float] = FALLING) -> RangeCurve:
    n = len(losses)
    ramp = Ramp((1e-4,), (1.0,), num_iter=n, step_mode="exp")
    curve = RangeCurve(lr=[ramp.rates(i)[0] for i in range(n)], loss=losses, ramp=ramp)
    curve.to_json(run / "range_test.json")
    return curve


def a_png(width: int) -> bytes:
    """One row of white pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + b"\xff" * width))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


def a_line_folder(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    found = {"lines": 7, "convex_share": 0.5}
    (folder / "findings.json").write_text(json.dumps(found), encoding="utf-8")
    for k, name in enumerate(names):
        (folder / f"{name}.png").write_bytes(a_png(10 + k))
    return folder


def page_of(*paths: Path, line_folders: tuple[Path, ...] = ()) -> Page:
    return Page(render_report(read_runs(paths), line_folders=line_folders))


def test_without_range_tests_and_lines_there_is_neither_section(tmp_path: Path) -> None:
    plain_run(tmp_path, "SGD", 0, 0.9, [0.5])
    page = page_of(tmp_path)
    assert "Range tests" not in page.headings
    assert "Lines" not in page.headings
    assert page.images == []


def test_a_run_shows_the_curve_its_rate_was_measured_from(tmp_path: Path) -> None:
    plain_run(tmp_path, "no range test", 0, 0.9, [0.5])
    curve = keep_curve(plain_run(tmp_path, HOSTILE, 4, 0.9, [0.5]))
    page = page_of(tmp_path)
    assert "Range tests" in page.headings
    ((alt, png),) = page.images
    assert alt.startswith(f"Range test of {HOSTILE}, seed 4: ")
    assert f"suggestion {curve.suggestion():.3g} (consensus)" in alt
    width, height = struct.unpack(">II", png[16:24])
    assert 500 <= width <= 900
    assert 300 <= height <= 600
    assert len(png) < 80_000


def test_a_curve_without_an_answer_is_shown_with_the_reason(tmp_path: Path) -> None:
    curve = keep_curve(plain_run(tmp_path, "SGD", 0, 0.9, [0.5]), [2.0, math.nan])
    ((alt, _),) = page_of(tmp_path).images
    assert f"no suggestion ({curve.suggest().reason})" in alt


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"schema": 99}',
        b"[" * 100_000,
        b'{"lr": ["a"]}',
        b'{"lr": [1, 2], "loss": [[], null]}',
        b'{"lr": [], "loss": []}',
        b'{"validation": [{"iteration": 1, "lr": "x", "loss": 1, "accuracy": 0, "samples": 1}]}',
    ],
)
def test_a_damaged_curve_is_told_and_the_rest_is_shown(tmp_path: Path, content: bytes) -> None:
    keep_curve(plain_run(tmp_path, "SGD", 0, 0.9, [0.5]))
    damaged = plain_run(tmp_path, "Adam", 0, 0.9, [0.5])
    path = damaged / "range_test.json"
    if content.startswith(b'{"') and b"schema" not in content:  # a real file, edited
        keep_curve(damaged)
        text = json.dumps(json.loads(path.read_text()) | json.loads(content))
        content = text.encode()
    path.write_bytes(content)
    page = page_of(tmp_path)
    assert "Read with care" in page.headings
    assert "range_test.json left out" in page.text
    assert str(path) in page.text
    assert [alt[:20] for alt, _ in page.images] == ["Range test of SGD, s"]


def test_a_long_row_of_curves_is_cut_off_and_the_rest_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "MOST", 2)
    for seed in range(2):
        keep_curve(plain_run(tmp_path, "SGD", seed, 0.9, [0.5]))
    page = page_of(tmp_path)
    assert len(page.images) == 2
    assert "not shown" not in page.text
    keep_curve(plain_run(tmp_path, "SGD", 2, 0.9, [0.5]))
    page = page_of(tmp_path)
    assert ["seed 0" in alt for alt, _ in page.images] == [True, False]
    assert "1 further picture is not shown" in page.text


def test_folders_of_lines_are_found_wherever_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain_run(tmp_path / "runs", "SGD", 0, 0.9, [0.5])
    a_line_folder(tmp_path / "runs/deep/sgd-lines", "other", "lines", "line")
    a_line_folder(tmp_path / "elsewhere", "line")
    a_line_folder(tmp_path / "no pictures")
    given = ["runs", "elsewhere", "runs/deep/sgd-lines", "no pictures/../runs"]
    assert main(["report", *given]) == 0
    page = Page(Path("report.html").read_text(encoding="utf-8"))
    assert [alt for alt, _ in page.images] == [
        "sgd-lines: one line",
        "sgd-lines: lines over the run",
        "sgd-lines: other",
        "elsewhere: one line",
    ]
    # the files themselves, in that order
    assert [png for _, png in page.images] == [a_png(width) for width in (12, 11, 10, 10)]
    assert "7 lines, 50 % of them convex" in page.text


def test_what_is_wrong_with_a_folder_of_lines_is_told(tmp_path: Path) -> None:
    plain_run(tmp_path, "SGD", 0, 0.9, [0.5])
    folder = a_line_folder(tmp_path / "lines", "line", "norms")
    (folder / "findings.json").write_text("{", encoding="utf-8")
    (folder / "norms.png").write_bytes(b"<svg/>")
    page = page_of(tmp_path, line_folders=(folder,))
    assert [alt for alt, _ in page.images] == ["lines: one line"]
    assert "findings.json cannot be read" in page.text
    assert "norms.png left out: it is no PNG image" in page.text


def test_lines_alone_make_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = a_line_folder(tmp_path / "lines", "line")
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "report.html")]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert str(folder / "lines.html") in error
    assert not (tmp_path / "report.html").exists()
