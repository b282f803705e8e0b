"""The report's page in a real browser."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encdec.study.report import write_report
from tests.browser import CHROMIUM, DRIVER, MISSING, Browser

from .reports import Folder

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING)]
ORDER = "return [...document.querySelectorAll('#data-digits table')[0].tBodies[0].rows].map(r => r.cells[0].innerText)"
FRECHET = "#data-digits table thead th:nth-child(5) button"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Folder(tmp_path_factory.mktemp("study") / "small", ("vae", "svi", "ae", "gan"))
    folder.fill()
    return write_report(folder.path)[0]


@pytest.fixture(scope="module")
def browser(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(autouse=True)
def shown(browser: Browser, page: Path) -> None:
    browser.show(page, 1200, 1000)


def test_the_console_is_silent_and_nothing_is_fetched(browser: Browser) -> None:
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
    loaded = browser.run(
        "return performance.getEntriesByType('resource').map(r => r.name).filter(n => !/^data:/.test(n))"
    )
    assert loaded == []
    assert browser.console() == []


def test_the_style_and_the_images_are_let_in(browser: Browser) -> None:
    assert browser.run("return getComputedStyle(document.querySelector('td.number')).textAlign") == "right"
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
    sizes = browser.run("return Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))")
    assert len(sizes) == 8
    assert all(size > 0 for size in sizes)


def test_a_click_on_a_heading_sorts_by_its_numbers(browser: Browser) -> None:
    assert browser.run(ORDER) == ["vae", "svi", "ae", "gan"]
    browser.click(FRECHET)
    assert browser.run(ORDER) == ["gan", "ae", "svi", "vae"]
    browser.click(FRECHET)
    assert browser.run(ORDER) == ["vae", "svi", "ae", "gan"]
    assert browser.run("return document.querySelector('th[aria-sort]').getAttribute('aria-sort')") == "descending"


def test_a_click_on_names_sorts_by_letters(browser: Browser) -> None:
    browser.click("#data-digits table thead th:first-child button")
    assert browser.run(ORDER) == ["ae", "gan", "svi", "vae"]


def test_rows_to_compare_with_stay_below(browser: Browser) -> None:
    browser.click(FRECHET)
    assert browser.run("return document.querySelector('#data-digits table tfoot').innerText").startswith("mean image")


def test_no_chart_is_blank(browser: Browser) -> None:
    colors = browser.run(
        "return [...document.querySelectorAll('.chart')].map(c => [c.querySelectorAll('path').length, "
        "c.querySelectorAll('text').length, c.getBoundingClientRect().width, c.querySelector('svg').clientHeight])"
    )
    assert len(colors) >= 7
    assert all(paths > 5 and texts > 5 and width > 300 for paths, texts, width, _ in colors)


def test_a_narrow_screen_scrolls_tables_and_not_the_page(browser: Browser, page: Path) -> None:
    hint = "return getComputedStyle(document.querySelector('.chart'), '::after').content"
    browser.show(page, 500, 900)  # the narrowest window that chromium opens
    assert browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    assert "scrolls sideways" in browser.run(hint)


def test_it_reads_without_scripts(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    before = text.partition("<script>")[0]
    assert "The best of each kind" in before
    assert "<button" not in before  # the script adds what only works with it


def test_dark_is_dark(browser: Browser, page: Path, tmp_path: Path) -> None:
    def brightness(of: Browser) -> float:
        with Image.open(io.BytesIO(base64.b64decode(of.screenshot()))) as image:
            return float(np.asarray(image.convert("L"), dtype=float).mean())

    with Browser(tmp_path, dark=True) as dark:
        dark.show(page, 1200, 1000)
        assert brightness(dark) < 80
        ink = "return getComputedStyle(document.querySelector('.chart text')).fill"
        assert dark.run(ink) != browser.run(ink)
    assert brightness(browser) > 200
