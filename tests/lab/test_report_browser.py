"""The page in a real browser: drawn, clicked, typed at, in light and dark, without a network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from _chromium import CHROMIUM, Browser
from _records import end, evaluation, plain_run, step, write_run

from surefoot.lr_range import Ramp, RangeCurve
from surefoot_lab.records import read_runs
from surefoot_lab.report import write_report

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine: install chromium to test the page in it"
)

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


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(autouse=True)
def _nothing_to_complain_of(browser: Browser) -> Iterator[None]:
    """Whatever a test does: no error or warning on the console, no request but for the file."""
    browser.requests.clear()
    browser.complaints.clear()
    yield
    browser.js("0")  # what happened until now has been told when this is answered
    assert browser.complaints == []
    fetched = [url for url in browser.requests if not url.startswith("data:image/png;")]
    assert all(url.startswith("file:///") and url.endswith(".html") for url in fetched)


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
        ".map((t) => t.textContent))"
    )
    return sorted(float(text.replace(",", "")) for text in texts)


def test_every_chart_is_drawn_with_a_curve_for_each_method(browser: Browser, page: Path) -> None:
    browser.open(page)
    charts = browser.js("[...document.querySelectorAll('[data-chart]')].map(p => p.dataset.chart)")
    assert charts == ["effective_lr", "train_loss", "validation_accuracy", "validation_loss"]
    for chart in charts:
        assert _lines(browser, chart) == 5
    assert browser.js("document.querySelectorAll('[data-dots] .mark-symbol path').length") == 8


def test_a_name_made_of_markup_is_text(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert HOSTILE in _rows(browser)
    assert browser.js("document.scripts.length") == 3
    assert browser.js("document.querySelector('.legend').textContent").count(HOSTILE) == 1
    x, y = browser.middle("[data-chart=validation_accuracy]")
    browser.mouse("mouseMoved", x, y)
    browser.wait("document.querySelector('[data-chart=validation_accuracy] .readout p')")
    shown = browser.js("document.querySelector('[data-chart=validation_accuracy]').textContent")
    assert HOSTILE in shown


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


def test_the_legend_hides_and_shows_curves_by_click_and_by_key(
    browser: Browser, page: Path
) -> None:
    browser.open(page)
    browser.click(".key[data-method='0']")
    browser.wait("document.querySelectorAll('[data-chart=train_loss] .mark-line path').length == 4")
    assert browser.js("document.querySelector('.key').ariaPressed") == "false"
    assert browser.js("document.querySelectorAll('[data-dots] .mark-symbol path').length") == 6
    browser.press(" ", " ")
    browser.wait("document.querySelectorAll('[data-chart=train_loss] .mark-line path').length == 5")
    assert browser.js("document.querySelector('.key').ariaPressed") == "true"
    browser.click("#none")
    browser.wait("document.querySelectorAll('[data-chart=train_loss] .mark-line path').length == 0")
    browser.click("#all")
    browser.wait("document.querySelectorAll('[data-chart=train_loss] .mark-line path').length == 5")


def test_curves_are_drawn_for_each_run_on_request(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.click("input[value=seeds] + span")
    browser.wait("document.querySelectorAll('[data-chart=train_loss] .mark-line path').length == 9")


@pytest.mark.parametrize(
    ("axis", "title", "end"),
    [
        ("cost", "forward-equivalents", 90),
        ("seconds", "seconds of training", 0.3),
        ("step", "steps (batches)", 30),
    ],
)
def test_the_axis_can_be_chosen(
    browser: Browser, page: Path, axis: str, title: str, end: float
) -> None:
    browser.open(page)
    browser.click(f"input[value={axis}] + span")
    text = "document.querySelector('[data-chart=train_loss] svg').textContent"
    browser.wait(f"{text}.includes({json.dumps(title)})")
    assert 0.8 * end <= _ticks(browser)[-1] <= end


def test_dragging_zooms_all_charts_and_double_click_goes_back(browser: Browser, page: Path) -> None:
    browser.open(page)
    before = _ticks(browser), _ticks(browser, "validation_loss")
    x, y = browser.middle("[data-chart=train_loss]")
    browser.mouse("mouseMoved", x, y)
    browser.mouse("mousePressed", x, y, button="left", clickCount=1)
    for shift in (30, 60, 90):
        browser.mouse("mouseMoved", x + shift, y, button="left", buttons=1)
    assert browser.js("document.querySelectorAll('.brush').length") == 1
    browser.mouse("mouseReleased", x + 90, y, button="left", clickCount=1)
    assert browser.js("document.querySelectorAll('.brush').length") == 0
    assert _ticks(browser) != before[0]
    assert _ticks(browser, "validation_loss") != before[1]
    for count in (1, 2):
        browser.mouse("mousePressed", x, y, button="left", clickCount=count)
        browser.mouse("mouseReleased", x, y, button="left", clickCount=count)
    assert (_ticks(browser), _ticks(browser, "validation_loss")) == before


def test_zoom_buttons_and_keys(browser: Browser, page: Path) -> None:
    browser.open(page)
    before = _ticks(browser)
    browser.click("#zoom-in")
    zoomed = _ticks(browser)
    assert zoomed != before
    browser.click("#zoom-reset")
    assert _ticks(browser) == before
    browser.js("document.querySelector('[data-chart=train_loss]').focus()")
    browser.press("+", "+")
    assert _ticks(browser) == zoomed
    browser.press("0", "0")
    assert _ticks(browser) == before


def test_pointing_reads_the_curves(browser: Browser, page: Path) -> None:
    browser.open(page)
    x, y = browser.middle("[data-chart=validation_accuracy]")
    browser.mouse("mouseMoved", x, y)
    readout = "document.querySelector('[data-chart=validation_accuracy] .readout')"
    browser.wait(f"{readout} && !{readout}.hidden")
    cells = browser.js(
        f"[...{readout}.querySelectorAll('tr')].map((r) => r.textContent.replace(/\\s+/g, ' '))"
    )
    assert browser.js(f"{readout}.querySelector('p').textContent") == "steps (batches): 20"
    assert sorted(cells) == sorted(f"{label}60%" for label in METHODS)  # the broken one ended at 8
    browser.mouse("mouseMoved", 2, 2)
    browser.wait(f"{readout}.hidden")


def test_arrow_keys_read_the_curves_aloud(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.js("document.querySelector('[data-chart=validation_accuracy]').focus()")
    said = "document.querySelector('[data-chart=validation_accuracy] + [aria-live]').textContent"
    browser.press("ArrowRight")
    assert "steps (batches) 20: 60%" in browser.js(said)
    browser.press("ArrowRight")
    assert browser.js(said) == "PAL, steps (batches) 30: 95.5%, mean of 2 runs"
    browser.press("ArrowDown")
    assert browser.js(said) == "SGD 0.1, steps (batches) 30: 90.5%, mean of 2 runs"
    browser.press("ArrowLeft")
    assert browser.js(said) == "SGD 0.1, steps (batches) 20: 60%, mean of 2 runs"


def test_the_filter_leaves_matching_rows_keys_and_curves(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.js("document.getElementById('filter').focus()")
    for letter in "sgd":
        browser.press(letter, letter)
    assert sorted(_rows(browser)) == ["SGD 0.1", "SGD 1.0"]
    browser.wait("document.querySelectorAll('[data-chart=train_loss] .mark-line path').length == 2")
    shown = "[...document.querySelectorAll('.key')].filter((k) => k.checkVisibility()).length"
    assert browser.js(shown) == 2


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
    for selector in (".role-axis-label text", ".role-axis-title text"):
        assert _contrast(browser, selector, "fill") >= 4.5, selector
    for index in range(10):  # lines need 3 (WCAG 1.4.11)
        browser.js(
            f"document.querySelector('.key .swatch').setAttribute('class', 'swatch c{index}')"
        )
        assert _contrast(browser, ".key .swatch line", "stroke") >= 3, index


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


def test_the_curve_of_a_range_test_is_shown(browser: Browser, tmp_path: Path) -> None:
    run = plain_run(tmp_path, "SGD + measured 1cycle", 0, 0.9, [0.5])
    ramp = Ramp((1e-4,), (1.0,), num_iter=8, step_mode="exp")
    losses = [2.3, 2.3, 2.2, 1.8, 1.2, 1.1, 1.6, 3.0]
    RangeCurve([ramp.rates(i)[0] for i in range(8)], losses, ramp).to_json(run / "range_test.json")
    browser.open(write_report(read_runs([tmp_path]), tmp_path / "report.html"), width=400)
    shown = "(i => [i.complete, i.naturalWidth, i.getBoundingClientRect().right <= innerWidth])"
    assert browser.js(f"{shown}(document.querySelector('.picture img'))") == [True, 640, True]
    assert browser.js("document.documentElement.scrollWidth") == 400


def test_fifty_runs_open(browser: Browser, tmp_path: Path) -> None:
    for method in range(25):
        for seed in range(2):
            plain_run(tmp_path, f"method {method:02}", seed, 0.5 + method / 60, [0.5] * 30)
    page = write_report(read_runs([tmp_path]), tmp_path / "report.html")
    assert page.stat().st_size < 5e6
    browser.open(page)
    assert _lines(browser) == 25
    browser.click("input[value=seeds] + span")
    browser.wait(
        "document.querySelectorAll('[data-chart=train_loss] .mark-line path').length == 50"
    )
    styles = browser.js(
        "new Set([...document.querySelectorAll('.key .swatch')].map((s) =>"
        "getComputedStyle(s).color + s.firstElementChild.getAttribute('stroke-dasharray'))).size"
    )
    assert styles == 25  # ten colours, and dashes where they repeat
