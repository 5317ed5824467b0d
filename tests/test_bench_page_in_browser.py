"""The laws of a benchmark's page in a real browser: nothing is loaded, points speak, tables sort, and it prints."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from bench_results import SAMPLES, keep_samples, made
from chromium import CHROMIUM, Page, browser

from foreseer.bench.lanes_chart import ACROSS, UP, told
from foreseer.bench.report_page import write_page
from foreseer.bench.summary import lines_of

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here; what the page does in a browser is not tested")

A4 = (186, 269)
"""Millimetres of a sheet between the page's margins."""


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    with browser() as page:
        yield page


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("page")
    found = {}
    for kind, shape, results in (("images", (1, 8, 8), made()), ("videos", (5, 3, 24, 24), made(lanes=(*made().lanes[:2], *made().lanes[-2:])))):
        keep_samples(results, folder / kind, shape)
        found[kind] = write_page(results, folder / kind)
    return found


@pytest.fixture
def written(pages: dict[str, Path]) -> Path:
    return pages["images"]


@pytest.fixture(autouse=True)
def quiet(tab: Page) -> Iterator[None]:
    """Law of every test here: nothing but the file is requested, and nothing is complained of."""
    tab.requests.clear()
    tab.complaints.clear()
    yield
    assert not tab.complaints
    assert all(address.startswith(("data:", "file:", "about:")) for address in tab.requests)
    assert len({address for address in tab.requests if address.startswith("file:")}) <= 1


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("kind", ["images", "videos"])
def test_it_opens_from_disk_and_fits(tab: Page, pages: dict[str, Path], kind: str, width: int, dark: bool) -> None:
    """Law: at the width of a desk and of a phone, light and dark: every picture is there, nothing is wider than the window, and text can be read."""
    tab.open(pages[kind], width=width, dark=dark)
    assert tab.run("document.title").startswith("foreseer bench: dit")
    assert tab.run("document.documentElement.scrollWidth") <= width
    tab.run("document.querySelectorAll('details').forEach(fold => { fold.open = true; })")
    tab.run("Promise.all([...document.images].map(image => { image.loading = 'eager'; return image.decode(); }))")
    assert tab.run("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert tab.run("document.querySelectorAll('.plot .xtick').length") > 2
    assert legible(tab)


def legible(tab: Page) -> bool:
    """Whether text and the numbers of the axes stand out from the page (WCAG's AAA)."""
    back, text, ticks = tab.run(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color, "
        "getComputedStyle(document.querySelector('.plot .xtick text')).fill]"
    )
    return min(contrast(back, text), contrast(back, ticks)) >= 7


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, as WCAG defines it."""

    def luminance(color: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("width", [1400, 390])
def test_every_point_shows_its_settings(tab: Page, written: Path, width: int) -> None:
    """Law: the mouse over a point shows the lane's name and settings beside it, and all of its numbers in words below the picture."""
    tab.open(written, width=width)
    known = {line.lane.name: told(made(), line) for line in lines_of(made(), SAMPLES) if line.lane.units}
    options = {one.name: one.options for one in made().lanes}
    points = "document.querySelector('.plot').querySelectorAll('.points path.point')"
    script = f"[...{points}].map(p => p.getBoundingClientRect()).map(r => [r.x + r.width / 2, r.y + r.height / 2])"
    tab.run("document.querySelector('.plot').scrollIntoView({block: 'center'})")
    tab.settle()
    places = tab.run(script)
    assert len(places) == len(known)
    seen = set()
    for x, y in places:
        tab.mouse("mouseMoved", x=5, y=5)
        tab.mouse("mouseMoved", x=x, y=y)
        tab.run("new Promise(done => setTimeout(done, 80))")  # plotly looks at most every 50 ms
        label = tab.run("document.querySelector('.plot .hoverlayer').textContent").replace(" ", "")
        below = tab.run("document.querySelector('.told').textContent")
        name = below.partition("\n")[0]
        seen.add(name)
        assert name.replace(" ", "") in label
        assert all(f"{key}={value}".replace(" ", "") in label and f"{key} = {value}" in below for key, value in options[name].items())
        assert below == f"{name}\n{known[name]}"
    # two lanes lie upon each other: full computation, and the policy that does nothing
    assert known.keys() - seen <= {"full", "none"}


def test_every_choice_of_axes_is_drawn(tab: Page, written: Path) -> None:
    """Law: whatever is chosen, each lane that has the numbers is a point, and the axes say what they show."""
    tab.open(written)
    for across in tab.run("[...document.querySelector('select[name=across]').options].map(o => o.value)"):
        for up in tab.run("[...document.querySelector('select[name=up]').options].map(o => o.value)"):
            choose(tab, "across", across)
            choose(tab, "up", up)
            points = [{axis.key: axis.value(line) for axis in (*ACROSS, *UP)} for line in lines_of(made(), SAMPLES) if line.lane.units]
            there = [at for at in points if math.isfinite(at[across]) and not math.isnan(at[up])]
            assert tab.run("document.querySelector('.plot').querySelectorAll('.points path.point').length") == len(there)
            assert next(axis.title for axis in ACROSS if axis.key == across) in tab.run("document.querySelector('.plot .xtitle').textContent")


def choose(tab: Page, name: str, value: str) -> None:
    change = "s.dispatchEvent(new Event('change', {bubbles: true}))"
    tab.run(f"(() => {{ const s = document.querySelector('select[name={name}]'); s.value = '{value}'; {change}; }})()")


def test_kinds_of_lanes_differ_in_shape_and_in_colour(tab: Page, written: Path) -> None:
    """Law: no two entries of the legend have the same shape, nor two of the same shape's filling; peers are outlines."""
    tab.open(written)
    drawn = tab.run("document.querySelector('.plot').data.filter(t => t.mode !== 'lines').map(t => [t.name, t.marker.symbol, t.marker.color])")
    names = [name for name, _, _ in drawn]
    assert {"full", "fewer steps", "taylorseer", "speca", "dbcache (peer)"} <= set(names)
    assert len({(symbol, color) for _, symbol, color in drawn}) == len(drawn)
    assert len({symbol for name, symbol, _ in drawn if name != "fewer steps"}) == len(drawn) - 1
    assert all(symbol.endswith("-open") == name.endswith("(peer)") for name, symbol, _ in drawn)


ORDER = "[...document.querySelector('table').querySelectorAll('tbody tr')].map(row => [row.cells[0].textContent, row.cells[{index}].dataset.value])"


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_a_column_sorts(tab: Page, written: Path, by: str) -> None:
    """Law: by mouse and by keyboard, first descending and then ascending; what has no number is last either way, and no row is lost."""
    tab.open(written)
    heads = tab.run("[...document.querySelector('table').querySelectorAll('thead th')].map(th => th.textContent)")
    index = heads.index("gain")
    before = tab.run(ORDER.replace("{index}", str(index)))
    button = f"document.querySelector('table').querySelectorAll('thead button')[{index}]"
    for expected in ("descending", "ascending"):
        if by == "keyboard":
            tab.run(f"{button}.focus()")
            tab.press("Enter")
        else:
            tab.run(f"{button}.scrollIntoView({{block: 'center', inline: 'center'}})")
            x, y = tab.run(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({button}.getBoundingClientRect())")
            for kind in ("mousePressed", "mouseReleased"):
                tab.mouse(kind, x=x, y=y, button="left", clickCount=1)
        found = tab.run(ORDER.replace("{index}", str(index)))
        numbers = [float(value) for _, value in found if value]
        assert numbers == sorted(numbers, reverse=expected == "descending")
        assert all(not value for _, value in found[len(numbers) :])
        assert sorted(found) == sorted(before)
        assert tab.run(f"{button}.parentElement.getAttribute('aria-sort')") == expected
        assert tab.run("document.querySelector('table').querySelectorAll('[aria-sort]').length") == 1


def test_the_same_is_the_best_of_a_column(tab: Page, written: Path) -> None:
    """Law: an infinite PSNR is above every number."""
    tab.open(written)
    index = tab.run("[...document.querySelector('table').querySelectorAll('thead th')].findIndex(th => th.textContent === 'PSNR')")
    tab.run(f"document.querySelector('table').querySelectorAll('thead button')[{index}].click()")
    found = tab.run(ORDER.replace("{index}", str(index)))
    assert {name for name, _ in found[:2]} == {"full", "none"}


@pytest.mark.parametrize(("kind", "dark"), [("images", False), ("videos", True)])
def test_it_prints(tab: Page, pages: dict[str, Path], kind: str, dark: bool) -> None:
    """Law: on white, several sheets, the picture drawn for paper; nothing is wider than the sheet, and no figure is higher."""
    tab.open(pages[kind], dark=dark)
    tab.run("addEventListener('beforeprint', () => { window.drawn = document.querySelector('.plot .main-svg').getBoundingClientRect().width; })")
    pdf = base64.b64decode(tab.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"])
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) > 1
    width, height = (int(mm / 25.4 * 96) for mm in A4)
    assert 0 < tab.run("window.drawn") <= width
    assert tab.run("document.querySelector('.plot .main-svg').getBoundingClientRect().width > 700")  # and for the window again

    tab.open(pages[kind], width=width, height=height, dark=dark, print_media=True)
    tab.run("dispatchEvent(new Event('beforeprint'))")
    tab.settle()
    assert tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert legible(tab)
    boxes = "(r => [r.left, r.right, r.height])(e.getBoundingClientRect())"
    measured = f"[...document.querySelectorAll('figure, table, img, .plot svg, .cards .card, dd')].map(e => [e.tagName, ...{boxes}])"
    for tag, left, right, tall in tab.run(measured):
        assert left >= 0, tag
        assert right <= width + 1, tag
        assert tag == "TABLE" or tall < height, tag
    whole = "[...document.querySelectorAll('figure, .cards .card, tr')].every(e => getComputedStyle(e).breakInside === 'avoid')"
    assert tab.run(whole)
    assert tab.run("[...document.querySelectorAll('thead button')].every(e => getComputedStyle(e).display === 'contents')")  # else no sheet repeats the head


def test_each_batch_size_has_a_picture(tab: Page, tmp_path: Path) -> None:
    """Law: with several batch sizes each has a picture of its lanes, and axes that are chosen in one are those of all."""
    lanes = made().lanes
    path = write_page(made(lanes=(*lanes, *(attrs.evolve(one, batch=1) for one in lanes[:3]))), tmp_path)
    tab.open(path)
    shown = "[...document.querySelectorAll('.plot')].filter(p => p.querySelector('.scatterlayer .points'))"
    counts: Any = f"{shown}.map(plot => plot.querySelectorAll('.points path.point').length)"
    assert tab.run(counts) == [sum(bool(one.units) for one in lanes), 3]
    choose(tab, "across", "speedup")
    assert all("measured speed-up" in title for title in tab.run(f"{shown}.map(plot => plot.querySelector('.xtitle').textContent)"))


def test_the_window_may_change(tab: Page, written: Path) -> None:
    """Law: the picture follows the width of the window and the scheme."""
    tab.open(written, width=1400)
    tab.call("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=False)
    tab.call("Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    tab.run("new Promise(done => setTimeout(done, 400))")
    assert tab.run("document.querySelector('.plot .main-svg').getBoundingClientRect().right") <= 390
    assert tab.run("document.documentElement.scrollWidth") <= 390
