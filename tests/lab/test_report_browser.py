"""The page in a real browser: drawn, steered, in light and dark, without a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from _chromium import IN_THE_BROWSER, Browser
from _records import end, evaluation, plain_run, step, write_run

from surefoot_lab.records import read_runs
from surefoot_lab.report import write_report

pytestmark = IN_THE_BROWSER

HOSTILE = "<script>alert(1)</script>"
METHODS = {"SGD 0.1": 0.90, "PAL": 0.95, "Adam": 0.80, HOSTILE: 0.70}  # best test accuracy: PAL


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four methods with two seeds each, and a fifth that failed."""
    folder = tmp_path_factory.mktemp("page")
    for shift, (label, test) in enumerate(METHODS.items()):
        for seed in range(2):
            noise = 0.01 * seed
            plain_run(folder, label, seed, test + noise, [0.5 + shift / 20, 0.6, test + noise])
    lines = [step(n, 9.0, forwards=2) for n in range(1, 9)]
    evaluated = evaluation(8, "validation", 0.1)
    broken = [*lines, evaluated, step(9, None), end(9, "non_finite", "the loss is NaN")]
    write_run(folder, "SGD 1.0", 0, broken)
    return write_report(read_runs([folder]), folder / "report.html")


def _rows(browser: Browser) -> list[str]:
    return browser.js(
        "[...document.querySelectorAll('#methods tbody tr')].filter((r) => !r.hidden)"
        ".map((r) => r.cells[0].textContent.trim())"
    )


def _lines(browser: Browser, chart: str = "train_loss") -> int:
    """How many curves a chart draws."""
    return browser.js(
        f"document.querySelectorAll('[data-chart={chart}] .mark-line path[d]').length"
    )


def _ticks(browser: Browser, chart: str = "train_loss") -> list[float]:
    """Numbers on the horizontal axis, in order (Vega keeps old ones where they stand)."""
    texts = browser.js(
        f"[...document.querySelectorAll('[data-chart={chart}] .role-axis')]"
        ".filter((a) => a.getAttribute('aria-label')?.startsWith('X-axis'))"
        ".flatMap((a) => [...a.querySelectorAll('.role-axis-label text')]"
        ".filter((t) => t.getAttribute('opacity') !== '0').map((t) => t.textContent))"
    )
    return sorted(float(text.replace(",", "").replace("m", "e-3")) for text in texts)


def _choose(browser: Browser, control: str, value: str) -> None:
    browser.js(
        f"(() => {{ const e = document.querySelector('#{control}-c');"
        f"e.value = {json.dumps(value)}; e.dispatchEvent(new Event('input')); }})()"
    )


def _wait_for_lines(browser: Browser, count: int) -> None:
    browser.wait(
        "document.querySelectorAll('[data-chart=train_loss] .mark-line path[d]').length"
        f" === {count}"
    )


CHARTS = ["validation_accuracy", "train_loss", "effective_lr", "validation_loss"]


def test_every_chart_is_drawn_with_a_curve_for_each_method(browser: Browser, page: Path) -> None:
    browser.open(page)
    charts = browser.js("[...document.querySelectorAll('[data-chart]')].map(p => p.dataset.chart)")
    assert charts == CHARTS
    for chart in CHARTS:
        assert _lines(browser, chart) == 5


def test_a_name_made_of_markup_is_text(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert HOSTILE in _rows(browser)
    assert browser.js("document.scripts.length") == 3
    assert HOSTILE in browser.js("document.querySelector('#one-c').textContent")
    _choose(browser, "part", "script")
    _wait_for_lines(browser, 1)
    x, y = browser.middle("[data-chart=validation_accuracy] .mark-symbol path")
    browser.mouse("mouseMoved", x, y)
    browser.wait("document.querySelector('#vg-tooltip-element.visible')")
    tooltip = browser.js("document.querySelector('#vg-tooltip-element').textContent")
    assert HOSTILE in tooltip
    assert "mean of 2 runs" in tooltip


def test_headings_sort_by_click_and_by_key(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert _rows(browser) == ["PAL", "SGD 0.1", "Adam", HOSTILE, "SGD 1.0"]
    heading = "#methods th[data-figure]"  # the first one: test accuracy
    browser.click(f"{heading} button")
    assert browser.js(f"document.querySelector('{heading}').ariaSort") == "descending"
    assert _rows(browser) == ["PAL", "SGD 0.1", "Adam", HOSTILE, "SGD 1.0"]
    browser.press("Enter", "\r")  # the click left the focus on the heading
    assert browser.js(f"document.querySelector('{heading}').ariaSort") == "ascending"
    assert _rows(browser) == [HOSTILE, "Adam", "SGD 0.1", "PAL", "SGD 1.0"]  # no figure: last
    browser.click("#methods thead th:first-child button")
    assert _rows(browser) == [HOSTILE, "Adam", "PAL", "SGD 0.1", "SGD 1.0"]
    assert browser.js("document.querySelectorAll('#methods [aria-sort]').length") == 1


def test_the_controls_steer_all_charts(browser: Browser, page: Path) -> None:
    browser.open(page)
    _choose(browser, "mode", "seeds")
    _wait_for_lines(browser, 9)
    _choose(browser, "part", "sgd")
    _wait_for_lines(browser, 3)
    assert _lines(browser, "validation_loss") == 3
    _choose(browser, "part", "")
    _choose(browser, "mode", "mean")
    _wait_for_lines(browser, 5)
    _choose(browser, "one", "PAL")
    strong = (
        "[...document.querySelectorAll('[data-chart=train_loss] .mark-line path[d]')]"
        ".filter((p) => (p.getAttribute('opacity') ?? '1') === '1').length"
    )
    browser.wait(f"{strong} === 1")


@pytest.mark.parametrize(("axis", "end"), [("cost", 90), ("seconds", 0.3), ("step", 30)])
def test_the_axis_can_be_chosen(browser: Browser, page: Path, axis: str, end: float) -> None:
    browser.open(page)
    before = _ticks(browser)
    _choose(browser, "axis", axis)
    if axis != "step":
        labels = "[...document.querySelectorAll('[data-chart=train_loss] .role-axis-label text')]"
        gone = f"t.textContent !== '{before[-1]:g}' || t.getAttribute('opacity') === '0'"
        browser.wait(f"{labels}.every((t) => {gone})")
    assert 0.6 * end <= _ticks(browser)[-1] <= end


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_contrast_in_light_and_dark(browser: Browser, page: Path, dark: bool) -> None:
    browser.open(page, dark=dark)
    for selector in (
        ".lead",
        ".note",
        "thead th",
        ".measured, tbody td",
        ".badge",
        "figcaption span",
    ):
        assert _contrast(browser, selector, "color") >= 4.5, selector
    assert _contrast(browser, ".role-axis-label text", "fill") >= 4.5
    for index in range(10):  # lines need 3 (WCAG 1.4.11)
        browser.js(f"document.querySelector('.swatch').setAttribute('class', 'swatch c{index}')")
        assert _contrast(browser, ".swatch line", "stroke") >= 3, index


def _contrast(browser: Browser, selector: str, foreground: str) -> float:
    """WCAG 2 contrast of an element's colour to the nearest background that is not transparent."""
    ink, paper = browser.js(
        f"(() => {{ let e = document.querySelector({json.dumps(selector)});"
        f"const ink = getComputedStyle(e).{foreground}; let paper;"
        "do { paper = getComputedStyle(e).backgroundColor; e = e.parentElement }"
        "while (e && paper === 'rgba(0, 0, 0, 0)'); return [ink, paper]; })()"
    )

    def luminance(colour: str) -> float:
        channels = [int(c) / 255 for c in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(ink), luminance(paper)))
    return (high + 0.05) / (low + 0.05)


def test_colours_follow_when_the_reader_switches_to_dark(browser: Browser, page: Path) -> None:
    browser.open(page)
    label = "document.querySelector('[data-chart=train_loss] .role-axis-label text')"
    light = browser.js(f"{label}.getAttribute('fill')")
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.call("Emulation.setEmulatedMedia", features=features)
    browser.wait(f"{label} && {label}.getAttribute('fill') !== {json.dumps(light)}")


def test_a_phone_scrolls_tables_not_the_page(browser: Browser, page: Path) -> None:
    browser.open(page, width=400)
    assert browser.js("document.documentElement.scrollWidth") == 400
    assert browser.js(
        "(() => { const s = document.querySelector('#methods').parentElement;"
        "return s.scrollWidth > s.clientWidth && getComputedStyle(s).overflowX === 'auto'; })()"
    )
    assert browser.js(
        "[...document.querySelectorAll('.plot svg')].every(s => s.getBoundingClientRect().right"
        " <= s.closest('figure').getBoundingClientRect().right)"
    )


@pytest.mark.slow
def test_fifty_runs_open(browser: Browser, tmp_path: Path) -> None:
    for method in range(25):
        for seed in range(2):
            plain_run(tmp_path, f"method {method:02}", seed, 0.5 + method / 60, [0.5] * 30)
    page = write_report(read_runs([tmp_path]), tmp_path / "report.html")
    assert page.stat().st_size < 5e6
    browser.open(page)
    assert _lines(browser) == 25
    faint = (
        "[...document.querySelectorAll('[data-chart=train_loss] .mark-line path[d]')]"
        ".filter((p) => Number(p.getAttribute('opacity') ?? 1) < 0.5).length"
    )
    assert browser.js(faint) == 20  # all but the best five
    _choose(browser, "mode", "seeds")
    _wait_for_lines(browser, 50)
    styles = browser.js(
        "new Set([...document.querySelectorAll('#methods .swatch')].map((s) =>"
        "getComputedStyle(s).color + s.firstElementChild.getAttribute('stroke-dasharray'))).size"
    )
    assert styles == 25  # ten colours, and dashes where they repeat
