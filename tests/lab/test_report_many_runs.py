"""The page of fifty real runs, with all its sections, in a browser: clicked and seen."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from _chromium import IN_THE_BROWSER, Browser

from surefoot_lab.config import Experiment, ModelConfig, OptimizerConfig, TrainConfig
from surefoot_lab.records import read_runs
from surefoot_lab.report import write_report
from surefoot_lab.training import train

pytestmark = IN_THE_BROWSER

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"
QUOTES = "\"'><svg onload=alert(3)> {{ 7 * 7 }} </script>"
LONG = "A long label that somebody gave a method, with all of its settings (lr=0.1, momentum=0.9)"
RATES, MOMENTA, SEEDS = (0.01, 0.1, 1.0), (0.0, 0.5, 0.9), (0, 1, 2)
OPTIMIZERS = {
    "SGD": OptimizerConfig("SGD", {"lr": 0.1, "momentum": 0.9}),
    "PAL": OptimizerConfig("PAL"),
    "LABPAL": OptimizerConfig("LABPAL", {"measuring_batches": 4, "reuse": 10}),
    "Adam": OptimizerConfig("Adam"),
    "diverged": OptimizerConfig("SGD", {"lr": 1e30}),
}
CHARTS = ["validation_accuracy", "train_loss", "effective_lr", "validation_loss"]
SECTIONS = ["problems", "result", "curves", "soon", "grid"]
LAST = ["where", "every"]


def _real_runs(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The records of five short runs on the digits."""
    records = {}
    for name, optimizer in OPTIMIZERS.items():
        experiment = Experiment(
            steps=60,
            batch_size=64,
            model=ModelConfig("mlp", {"widths": [16]}),
            optimizer=optimizer,
            train=TrainConfig(device="cpu", tensorboard=False, log_every=1, eval_every=10),
        )
        train(experiment, folder / name, progress=False)
        text = (folder / name / "record.jsonl").read_text()
        records[name] = [json.loads(line) for line in text.splitlines()]
    return records


def _copy(folder: Path, lines: list[dict[str, Any]], noise: float = 0.0, **start: Any) -> Path:
    """A copy of a run under another name, label or seed, with figures shifted a little."""
    path = folder / f"{len(list(folder.iterdir())):02}-{str(start['label']).replace('/', ' ')[:60]}"
    path.mkdir()
    shift = random.Random(str(start)).gauss(0.0, noise)

    def moved(line: dict[str, Any]) -> dict[str, Any]:
        if line["kind"] == "start":
            return {**line, **start}
        if line["kind"] == "evaluation" and line["accuracy"] is not None:
            return {**line, "accuracy": min(1.0, line["accuracy"] + shift)}
        if line["kind"] == "end" and line["message"]:
            return {**line, "message": HOSTILE + line["message"]}
        return line

    (path / "record.jsonl").write_text("".join(json.dumps(moved(line)) + "\n" for line in lines))
    return path


def _fill(folder: Path, records: dict[str, list[dict[str, Any]]]) -> None:
    """27 runs of a grid of nine cells, and 23 of others, one of which is hostile throughout."""
    for rate in RATES:
        for momentum in MOMENTA:
            cell = {"optimizer.init_args.lr": rate, "optimizer.init_args.momentum": momentum}
            label = f"SGD (lr={rate:g}, momentum={momentum:g})"
            for seed in SEEDS:
                sweep = {"method": "SGD", "cell": cell}
                _copy(folder, records["SGD"], 0.03, label=label, seed=seed, sweep=sweep)
    for name in ("PAL", "LABPAL", "Adam"):
        for seed in SEEDS:
            _copy(folder, records[name], 0.01, label=name, seed=seed)
            other = {"name": "another problem", "node": {"host": f"node{seed}"}}
            _copy(folder, records[name], 0.01, label=name, seed=seed, **other)
    for seed in SEEDS:
        _copy(folder, records["diverged"], label="SGD, too fast", seed=seed)
    first = records["PAL"][0]
    strange = dict.fromkeys(("commit", "gpu", "cpu", "platform"), HOSTILE)
    environment = {**first["environment"], **strange, "packages": {HOSTILE: QUOTES}}
    experiment = {**first["experiment"], "data": {HOSTILE: QUOTES}}
    where = {"environment": environment, "experiment": experiment, "node": {"host": HOSTILE}}
    run = _copy(folder, records["PAL"], name=HOSTILE, label=HOSTILE, seed=0, **where)
    _copy(folder, records["diverged"], name=QUOTES, label=QUOTES + LONG, seed=0)
    with open(run / "record.jsonl", "a") as file:
        file.write(f'{{"kind": {json.dumps(HOSTILE)}}}\n')


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    (folder / "runs").mkdir()
    _fill(folder / "runs", _real_runs(tmp_path_factory.mktemp("real")))
    runs = read_runs([folder / "runs"])
    assert len(runs) == 50
    return write_report(runs, folder / "report.html")


def _rows(browser: Browser, table: str = "methods", cell: int = 0) -> list[str]:
    return browser.js(
        f"[...document.querySelectorAll('#{table} tbody tr')].filter((r) => !r.hidden)"
        f".map((r) => r.cells[{cell}].textContent.trim())"
    )


def test_it_is_complete_small_and_fetches_nothing(browser: Browser, page: Path) -> None:
    assert page.stat().st_size < 5e6
    browser.open(page)
    assert browser.requests.count(page.as_uri()) == 1
    sections = browser.js("[...document.querySelectorAll('section h2')].map((h) => h.id)")
    tasks = ["result-1", "curves-1", "soon-1", "result-2", "curves-2", "soon-2", "result-3"]
    assert sections[: len(SECTIONS)] == SECTIONS
    assert [name for name in sections if name in tasks] == tasks
    assert sections[-len(LAST) :] == LAST
    assert len(_rows(browser)) == 13  # nine cells, and four other methods
    assert sorted(_rows(browser, "methods-1")) == ["Adam", "LABPAL", "PAL"]
    assert len(_rows(browser, "runs")) == 50
    for chart in CHARTS:
        drawn = f"document.querySelectorAll('[data-chart={chart}] .mark-line path').length"
        assert browser.js(drawn) >= 12, chart


def test_whatever_a_record_holds_is_text(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.js("document.scripts.length") == 3
    assert browser.js("document.querySelectorAll('svg[onload], img[onerror], [src=x]').length") == 0
    for place in ("h1", "#methods-2", "#one-c-2", "#milestones-2", "#runs", ".places"):
        shown = browser.js(f"document.querySelector({json.dumps(place)}).textContent")
        assert HOSTILE in shown, place
    warned = browser.js("document.querySelector('#problems + ul').textContent")
    assert f"a '{HOSTILE[:25]}" in warned
    shown = browser.js("document.body.innerText + document.body.textContent")
    assert QUOTES in shown
    assert "7 * 7" in shown
    assert browser.js("document.querySelector('.facts').textContent").count(HOSTILE) >= 2
    browser.js("document.querySelectorAll('[title]').forEach((e) => e.focus())")
    titles = browser.js("[...document.querySelectorAll('[title]')].map((e) => e.title)")
    assert any(HOSTILE in title for title in titles)


def test_tables_sort_by_click_and_by_key(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.click("#methods thead th:first-child button")
    names = _rows(browser)
    assert names.index("Adam") < names.index("LABPAL") < names.index("PAL")
    browser.press("Enter", "\r")
    names = _rows(browser)
    assert names.index("PAL") < names.index("LABPAL") < names.index("Adam")
    browser.click("#milestones thead th:nth-child(2) button")
    batches = [float(t.replace(",", "")) for t in _rows(browser, "milestones", 1) if t != "–"]
    assert batches == sorted(batches)
    assert len(batches) >= 5
    browser.click("summary")
    browser.click("#runs thead th:nth-child(3) button")
    seeds = [int(text) for text in _rows(browser, "runs", 2)]
    assert seeds == sorted(seeds)
    browser.press("Enter", "\r")
    assert [int(text) for text in _rows(browser, "runs", 2)] == sorted(seeds, reverse=True)


def test_every_control_is_reached_by_the_tab_key_and_shows_it(browser: Browser, page: Path) -> None:
    browser.open(page)
    reached = set()
    for _ in range(200):
        browser.call(
            "Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9
        )
        place = browser.js(
            "(() => { const e = document.activeElement; if (e === document.body) return ['', 1];"
            "const s = getComputedStyle(e); return [e.id || e.textContent.trim(),"
            "s.outlineStyle !== 'none']; })()"
        )
        if place[0] in ("", None) and len(reached) > 20:
            break
        assert place[1], place
        reached.add(place[0])
    wanted = {f"{name}-c{end}" for name in ("axis", "mode", "one", "part") for end in ("", "-1")}
    assert wanted | {"Every run"} <= reached


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_sticks_out_overlaps_or_fades(
    browser: Browser, page: Path, width: int, dark: bool
) -> None:
    browser.open(page, width=width, dark=dark)
    browser.js("document.querySelector('details').open = true")
    assert browser.js("document.documentElement.scrollWidth") <= width
    # whatever is wider than the window is inside something that scrolls
    assert browser.js(_STICKING_OUT) == []
    for chart in [f"[data-chart={name}]" for name in CHARTS]:
        assert browser.js(_OVERLAPS % json.dumps(f"{chart} .role-axis-label text")) == [], chart
    assert browser.js(_FADED) == []


_STICKING_OUT = """
[...document.querySelectorAll('body *')].filter((e) => {
  const box = e.getBoundingClientRect();
  return box.width && box.right > innerWidth + 1 && !e.closest('.scroll')
    && !e.closest('svg');
}).map((e) => e.tagName + '.' + e.className)
"""
_OVERLAPS = """
(() => {
  const boxes = [...document.querySelectorAll(%s)].filter((t) => t.textContent
    && getComputedStyle(t).opacity !== '0' && t.getAttribute('opacity') !== '0')
    .map((t) => [t.textContent, t.getBoundingClientRect()]);
  return boxes.flatMap(([a, p], i) => boxes.slice(i + 1).filter(([b, q]) => a !== b &&
    p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 2 && q.top < p.bottom - 2)
    .map(([b]) => [a, b]));
})()
"""
# WCAG 2 contrast below 4.5 of any text to the paper behind it, colours mixed by the browser itself
_FADED = """
(() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const light = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => {
      const c = v / 255;
      return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const clear = (colour) => colour === 'rgba(0, 0, 0, 0)' || colour === 'transparent';
  const found = [];
  for (const e of document.querySelectorAll('p, td, th, dt, dd, li, h1, h2, h3, button, span')) {
    if (!e.textContent.trim() || !e.checkVisibility() || e.closest('.arrow, .plot')) continue;
    let paper = e;
    while (paper && clear(getComputedStyle(paper).backgroundColor)) paper = paper.parentElement;
    if (!paper) continue;
    const ink = light(getComputedStyle(e).color);
    const back = light(getComputedStyle(paper).backgroundColor);
    const contrast = (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05);
    if (contrast < 4.5) found.push([e.textContent.trim().slice(0, 30), contrast]);
  }
  return found.slice(0, 5);
})()
"""
