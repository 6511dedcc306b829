"""The page as a file: complete in itself, strict, harmless, and right in every figure."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import statistics
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from _records import ENVIRONMENT, end, evaluation, plain_run, step, write_run

from surefoot_lab import report
from surefoot_lab.cli import main
from surefoot_lab.records import read_runs
from surefoot_lab.report import render_report, write_report

HOSTILE = "<script>alert(1)</script>"
ADDRESSES = ("src", "href", "srcset", "action", "data", "poster", "background", "formaction")


class Page(HTMLParser):
    """What a browser would find in the page: elements, scripts, text, and the rows of tables."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[str | None, str]] = []
        self.styles: list[str] = []
        self.text = ""
        self.tables: dict[str, list[list[tuple[str, str | None]]]] = {}
        self._table: str | None = None
        self._cell: list[str] | None = None
        self._sort: str | None = None
        self._inside: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self._inside.append(tag)
        if tag == "script":
            self.scripts.append((attributes.get("type"), ""))
        elif tag == "table":
            self._table = attributes.get("id") or "settings"
            self.tables[self._table] = []
        elif tag == "tr" and self._table:
            self.tables[self._table].append([])
        elif tag in ("td", "th") and self._table:
            self._cell, self._sort = [], attributes.get("data-sort")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._table and self._cell is not None:
            text = " ".join("".join(self._cell).split())
            self.tables[self._table][-1].append((text, self._sort))
            self._cell = None
        elif tag == "table":
            self._table = None
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        where = self._inside[-1] if self._inside else ""
        if where == "script":
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data)
        elif where == "style":
            self.styles.append(data)
        else:
            self.text += data
            if self._cell is not None:
                self._cell.append(data)

    @property
    def data(self) -> Any:
        (text,) = [text for kind, text in self.scripts if kind == "application/json"]
        return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def rows(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The points of a chart, as Vega's `flatten` would make them."""
    ((columns,),) = [data for data in spec["datasets"].values() if "step" in data[0]]
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def named(spec: dict[str, Any]) -> list[str]:
    (names,) = [param["value"] for param in spec["params"] if param["name"] == "names"]
    return names


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three methods, one with a name of markup, one with a failed run."""
    for seed in range(3):
        plain_run(tmp_path, "SGD 0.1", seed, 0.9 + seed / 100, [0.5, 0.93 + seed / 50, 0.7])
        plain_run(tmp_path, HOSTILE, seed, 0.95 - seed / 50, [0.5, 0.9, 0.91])
    plain_run(tmp_path, "SGD 1.0", 0, 0.97, [0.9])
    broken = [step(10, 1e30), step(20, None), end(20, "non_finite", f"NaN {HOSTILE}")]
    write_run(tmp_path, "SGD 1.0", 1, broken)
    return tmp_path


def _page(*paths: Path, **options: Any) -> Page:
    return Page(render_report(read_runs(paths), **options))


# ---- self-contained and harmless -------------------------------------------------------------


def test_nothing_is_fetched(runs: Path) -> None:
    page = _page(runs)
    addresses = [
        (tag, name, value)
        for tag, attributes in page.tags
        for name, value in attributes.items()
        if name in ADDRESSES
    ]
    assert addresses == [("link", "href", "data:,")]
    assert not re.search(r"url\(|@import|https?:", "".join(page.styles))
    own = page.scripts[-1][1]
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|import\(|sendBeacon|WebSocket", own)


def test_the_policy_allows_these_scripts_alone(runs: Path) -> None:
    page = _page(runs)
    (policy,) = [
        attributes["content"]
        for _, attributes in page.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    hashes = [
        "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
        for kind, text in page.scripts
        if kind is None
    ]
    assert len(hashes) == 2
    assert rules["script-src"].split() == hashes
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "connect-src" not in rules  # falls back to default-src: nothing


def test_names_of_markup_are_text(runs: Path) -> None:
    page = _page(runs, title=f"Title {HOSTILE}")
    assert sum(tag == "script" for tag, _ in page.tags) == 3
    assert [name for _, a in page.tags for name in a if name.startswith("on")] == []
    for place in ("Title " + HOSTILE, "NaN " + HOSTILE):
        assert place in page.text
    assert HOSTILE in [row[0][0] for row in page.tables["methods"]]
    assert HOSTILE in named(page.data["train_loss"])


@pytest.mark.parametrize(
    "label", ["</script><b>", "<!--<script>", "a\u2028b", "{{ 7 * 7 }}", "'\"&"]
)
def test_no_name_breaks_out(tmp_path: Path, label: str) -> None:
    plain_run(tmp_path, label, 0, 0.9, [0.9])
    page = _page(tmp_path)
    assert named(page.data["train_loss"]) == [label]
    assert sum(tag == "script" for tag, _ in page.tags) == 3
    assert page.tables["methods"][1][0][0] == " ".join(label.split())


@pytest.mark.slow
def test_fifty_long_runs_stay_below_5_megabytes(tmp_path: Path) -> None:
    for index in range(50):
        lines = [step(10 * n, 1 / (n + index / 7)) for n in range(1, 2001)]
        lines += [evaluation(100 * n, "validation", 1 - 1 / (n + 1), 1 / n) for n in range(1, 201)]
        write_run(tmp_path, f"method {index // 2}", index % 2, [*lines, end(20_000)])
    path = write_report(read_runs([tmp_path]), tmp_path / "report.html")
    assert 1e6 < path.stat().st_size < 5e6


# ---- right -----------------------------------------------------------------------------------


def test_the_table_holds_the_figures_of_the_records(runs: Path) -> None:
    """Worked out here from the lines of the files alone."""
    expected: dict[str, dict[str, list[float]]] = {}
    for file in runs.rglob("record.jsonl"):
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        figures = expected.setdefault(lines[0]["label"], {"test": [], "best": []})
        if lines[-1]["reason"] != "finished":
            continue
        found = {"test": [], "validation": []}
        for line in lines:
            if line["kind"] == "evaluation":
                found[line["split"]].append(line["accuracy"])
        figures["test"].append(found["test"][-1])
        figures["best"].append(max(found["validation"]))
    header, *rows = _page(runs).tables["methods"]
    names = [text.rstrip("↕") for text, _ in header]
    assert names == [
        *("Method", "Test accuracy", "Best validation", "Cost", "Seconds", "Learning rate", "Runs")
    ]
    for row in rows:
        (label, _), *cells = row
        for (text, sort), figure in zip(cells, ("test", "best"), strict=False):
            values = expected[label][figure]
            mean = statistics.mean(values)
            sd = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
            assert text.removeprefix("≈ ") == f"{100 * mean:.1f}{sd} %"
            assert float(sort) == pytest.approx(mean)
        assert cells[2][0] == "1.00 ×"
    complete = sorted(
        ("SGD 0.1", HOSTILE), key=lambda label: -statistics.mean(expected[label]["test"])
    )
    assert [row[0][0] for row in rows] == [*complete, "SGD 1.0"]  # a failed run: last
    assert rows[-1][-1][0] == "1 of 2 1 non-finite"


def test_every_run_is_listed_with_its_end(runs: Path) -> None:
    _, *rows = _page(runs).tables["runs"]
    assert len(rows) == 8
    ends = [row[3][0] for row in rows]
    assert ends.count("finished") == 7
    assert ends.count(f"non-finite NaN {HOSTILE}") == 1


def test_curves_hold_the_lines_of_the_record(tmp_path: Path) -> None:
    plain_run(tmp_path, "SGD", 0, 0.9, [0.5, 0.75])
    plain_run(tmp_path, "SGD", 1, 0.9, [0.7, 0.85])
    specs = _page(tmp_path).data
    charts = {"effective_lr", "train_loss", "validation_accuracy", "validation_loss"}
    assert set(specs) == charts
    points = rows(specs["validation_accuracy"])
    assert {point["rank"] for point in points} == {0}
    curves = [[p for p in points if p["run"] == run] for run in (0, 1, None)]
    shown = [[(p["step"], p["cost"], p["value"]) for p in curve] for curve in curves]
    assert shown[:2] == [[(10, 30, 0.5), (20, 60, 0.75)], [(10, 30, 0.7), (20, 60, 0.85)]]
    mean = [(p["step"], p["value"], p["low"], p["high"], p["n"]) for p in curves[2]]
    assert mean == [(10, 0.6, 0.5, 0.7, 2), (20, 0.8, 0.75, 0.85, 2)]
    losses = [p["value"] for p in rows(specs["train_loss"]) if p["run"] == 0]
    assert losses == [float(f"{2 / n:.5g}") for n in range(1, 21)]


def _budget(folder: Path, label: str, name: str, epochs: float, test: float) -> None:
    path = plain_run(folder, label, 0, test, [test])
    text = (path / "record.jsonl").read_text(encoding="utf-8")
    start, rest = text.split("\n", 1)
    line = json.loads(start)
    line["name"], line["experiment"]["epochs"] = name, epochs
    (path / "record.jsonl").write_text(json.dumps(line) + "\n" + rest, encoding="utf-8")


def test_tasks_and_budgets_are_apart_and_mixing_them_is_told(tmp_path: Path) -> None:
    for name, epochs, test in (("digits", 10, 0.9), ("digits", 9.7, 0.91), ("digits", 30, 0.99)):
        _budget(tmp_path, f"SGD {epochs}", name, epochs, test)
    _budget(tmp_path, "SGD 10", "other", 10, 0.5)  # the same label, and another task
    page = _page(tmp_path)
    tables = [key for key in page.tables if key.startswith("methods")]
    found = [[row[0][0] for row in page.tables[key][1:]] for key in tables]
    assert found == [["SGD 9.7", "SGD 10"], ["SGD 30"], ["SGD 10"]]
    assert "several tasks or budgets" in page.text
    assert named(page.data["train_loss-1"]) == ["SGD 30"]


def test_the_rate_column_shows_what_a_schedule_goes_up_to(tmp_path: Path) -> None:
    path = plain_run(tmp_path, "1cycle", 0, 0.9, [0.9], scheduler="torch.optim.x.OneCycleLR")
    file = path / "record.jsonl"
    text = file.read_text(encoding="utf-8")
    text = text.replace('OneCycleLR", "init_args": {}', 'OneCycleLR", "init_args": {"max_lr": 0.5}')
    file.write_text(text, encoding="utf-8")
    (_, row) = _page(tmp_path).tables["methods"]
    assert row[-2] == ("up to 0.5, OneCycleLR", "0.5")


def test_an_interval_without_width_is_left_out(tmp_path: Path) -> None:
    for seed in range(3):
        plain_run(tmp_path, "first", seed, 0.9, [0.9])
        plain_run(tmp_path, "second", seed, 0.894, [0.9])
    (_, _, row) = _page(tmp_path).tables["milestones"]
    assert row[-1][0] == "−0.6"


def test_the_page_says_what_was_run_and_where(runs: Path) -> None:
    other = {**ENVIRONMENT, "cpu": "Another CPU", "commit": "89abcdef"}
    plain_run(runs, "SGD 0.1", 9, 0.9, [0.9], environment=other)
    text = " ".join(_page(runs).text.split())
    for word in ("Some CPU", "Another CPU", "0123abcd", "89abcdef", "2.9.0", "digits"):
        assert word in text
    assert "2 different environments" in text
    assert "different environments" not in _page(runs / "run000").text


def test_what_is_wrong_with_a_record_stands_on_the_page(runs: Path) -> None:
    with open(runs / "run000" / "record.jsonl", "a", encoding="utf-8") as file:
        file.write('{"kind": "st')
    page = _page(runs)
    assert "Read with care" in page.text
    assert "cut off in the middle" in page.text
    assert len(page.tables["runs"]) == 9


def test_runs_without_accuracy_make_a_page_of_losses(tmp_path: Path) -> None:
    lines = [step(10, 0.4), evaluation(10, "validation", None, 0.3), evaluation(10, "test", None)]
    write_run(tmp_path, "regression", 0, [*lines, end(10)])
    page = _page(tmp_path)
    assert page.tables["methods"][1][1] == ("0.5", "0.5")
    assert "validation_accuracy" not in page.data


def test_a_run_that_never_stepped_makes_a_page(tmp_path: Path) -> None:
    write_run(tmp_path, "SGD", 0, [])
    page = _page(tmp_path)
    assert page.data == {}
    assert page.tables["methods"][1][-1][0] == "0 of 1 1 unfinished"


# ---- the command -----------------------------------------------------------------------------


def test_the_command_writes_the_page_and_says_where(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    assert main(["report", str(runs), "--out", str(out), "--title", "Mine"]) == 0
    assert "Mine" in Page(out.read_text(encoding="utf-8")).text
    printed = capsys.readouterr().out
    assert str(out) in printed.replace("\n", "")
    assert "94.3" not in printed
    assert "93.0 ± 2.0 %" in printed
    assert out.stat().st_mode & 0o044 == 0o044


def test_a_page_that_cannot_be_finished_leaves_the_old_one(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "pages" / "report.html"
    out.parent.mkdir()
    out.write_text("old", encoding="utf-8")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        write_report(read_runs([runs]), out)
    assert [file.name for file in out.parent.iterdir()] == ["report.html"]
    assert out.read_text(encoding="utf-8") == "old"


@pytest.mark.parametrize(
    ("words", "culprit"),
    [
        (["nowhere"], "nowhere"),
        (["."], "holds no run"),
        ([], "runs"),
        (["RUNS", "--out", "missing/report.html"], "missing/report.html"),
        (["RUNS", "--colour"], "--colour"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    runs: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    culprit: str,
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))
    assert main(["report", *(str(runs) if word == "RUNS" else word for word in words)]) == 2
    error = capsys.readouterr().err
    assert culprit in error
    assert error.count("\n") == 1
    assert list(Path().iterdir()) == []


def test_a_report_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        report.render_report([])
