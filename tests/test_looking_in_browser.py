"""The laws of what is looked at in a real browser: the line follows, lanes are chosen, links lead there, and videos play in step."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bench_results import SAMPLES, keep_samples, made
from chromium import CHROMIUM, Page, browser

from foreseer.bench.report_page import write_page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here; what the page does in a browser is not tested")


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    with browser() as page:
        yield page


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    keep_samples(made(), folder)
    return write_page(made(), folder)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, results = tmp_path_factory.mktemp("page"), made(lanes=made().lanes[:2])
    keep_samples(results, folder, (5, 3, 24, 24))
    return write_page(results, folder)


def choose(tab: Page, value: str) -> None:
    change = "s.dispatchEvent(new Event('change', {bubbles: true}))"
    tab.run(f"(() => {{ const s = document.querySelector('select[name=looking]'); s.value = '{value}'; {change}; }})()")


def middle(tab: Page, selector: str) -> tuple[float, float, float]:
    """Bring an element into view; where its left end, its middle in height, and its right end are."""
    tab.run(f"document.querySelector('{selector}').scrollIntoView({{block: 'center'}})")
    tab.settle()
    left, top, width, height = tab.run(f"(r => [r.x, r.y, r.width, r.height])(document.querySelector('{selector}').getBoundingClientRect())")
    return left, top + height / 2, left + width


@pytest.mark.parametrize("by", ["mouse", "touch", "keyboard"])
def test_the_line_follows(tab: Page, written: Path, by: str) -> None:
    """Law: the line is where it was dragged to, and left of it lies the reference; the arrow keys move it, too."""
    tab.open(written, width=390)
    left, y, right = middle(tab, ".slide")
    x = left + (right - left) / 4
    if by == "mouse":
        for kind, at in (("mousePressed", (left + right) / 2), ("mouseMoved", x), ("mouseReleased", x)):
            tab.mouse(kind, x=at, y=y, button="left", clickCount=1)
    elif by == "touch":
        for kind, points in (("touchStart", [{"x": (left + right) / 2, "y": y}]), ("touchMove", [{"x": x, "y": y}]), ("touchEnd", [])):
            tab.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)
    else:
        tab.run("document.querySelector('.slide input').focus()")
        for _ in range(25):
            tab.press("ArrowLeft")
    line = tab.run("(r => r.x + r.width / 2)(document.querySelector('.slide i').getBoundingClientRect())")
    assert abs(line - x) <= 3
    cut = tab.run("getComputedStyle(document.querySelector('.slide [data-part=own]')).clipPath")
    assert abs(float(re.findall(r"([\d.]+)%", cut)[0]) - 25) < 1


LANES = "[f.id, f.querySelector('.lane').textContent, f.querySelector('[aria-pressed=true][data-lane]').dataset.lane]"
SHOWN = f"[...document.querySelectorAll('.looking .sample')].map(f => {LANES})"


def test_a_lane_is_chosen_for_all_and_for_one(tab: Page, written: Path) -> None:
    """Law: the lane that is chosen above is shown of each sample, those that it hurt most first; a click shows another of one sample."""
    tab.open(written)
    before = tab.run(SHOWN)
    assert len(before) == SAMPLES
    choose(tab, "speca:threshold=0.1")
    after = tab.run(SHOWN)
    assert {(lane, pressed) for _, lane, pressed in after} == {("speca:threshold=0.1",) * 2}
    values = tab.run("[...document.querySelectorAll('.sample [aria-pressed=true][data-lane]')].map(b => Number(b.dataset.value))")
    assert values == sorted(values)
    tab.run("document.querySelector('.strip [data-lane=none]').click()")
    assert tab.run(SHOWN)[0][1:] == ["none", "none"]
    assert tab.run("document.querySelector('.verdict').textContent").startswith("none: the same")
    own, reference = tab.run("['own', 'reference'].map(part => document.querySelector(`.sample [data-part=${part}]`).src)")
    assert own == reference
    choose(tab, "")
    assert tab.run(SHOWN) == before


def test_a_link_leads_to_the_sample_it_names(tab: Page, written: Path) -> None:
    """Law: it opens what is folded, shows the lane that the sentence is about, and moves there."""
    tab.open(written)
    links = tab.run("[...document.querySelectorAll('dd a[data-lane]')].map(a => [a.hash, a.dataset.lane])")
    assert links
    for place, (target, lane) in enumerate(links):
        tab.run(f"document.querySelectorAll('dd a[data-lane]')[{place}].click()")
        tab.settle()
        where = "[f.getBoundingClientRect().top, f.offsetHeight > 0, f.querySelector('.lane').textContent]"
        top, seen, shown = tab.run(f"(f => {where})(document.querySelector('{target}'))")
        assert seen
        assert shown == lane
        assert -1 <= top < 1000
    assert tab.run("location.hash") == links[-1][0]


TIMES = "[...document.querySelector('.film').querySelectorAll('video')].map(v => v.currentTime)"


def test_videos_play_in_step(tab: Page, film: Path) -> None:
    """Law: played, paused and moved they show the same frame, that which is said; the pixels are those of the still."""
    tab.open(film)
    tab.run("document.querySelector('.film').scrollIntoView()")
    ready = "v => v.readyState >= 2 || new Promise(done => v.addEventListener('loadeddata', done, {once: true}))"
    tab.run(f"Promise.all([...document.querySelector('.film').querySelectorAll('video')].map({ready}))")
    rate, frames = tab.run("(f => [Number(f.dataset.rate), Number(f.querySelector('.transport input').max) + 1])(document.querySelector('.film'))")
    assert frames == 5
    for frame in (3, 0, 4):
        move = f"(s => {{ s.value = {frame}; s.dispatchEvent(new Event('input', {{bubbles: true}})); }})(document.querySelector('.film .transport input'))"
        tab.run(move)
        tab.run("Promise.all([...document.querySelector('.film').querySelectorAll('video')].map(v => v.seeking && new Promise(done => v.onseeked = done)))")
        assert {int(time * rate) for time in tab.run(TIMES)} == {frame}
        assert tab.run("document.querySelector('.film output').textContent") == f"frame {frame + 1} of 5"
    tab.run("document.querySelector('.film .play').click()")
    tab.run("new Promise(done => document.querySelector('.film video').addEventListener('timeupdate', done, {once: true}))")
    assert tab.run("[...document.querySelector('.film').querySelectorAll('video')].every(v => !v.paused)")
    tab.run("document.querySelector('.film .play').click()")
    assert tab.run("[...document.querySelector('.film').querySelectorAll('video')].every(v => v.paused)")
    times = tab.run(TIMES)
    assert len(set(times)) == 1
    assert tab.run("document.querySelector('.film output').textContent") == f"frame {int(times[0] * rate) + 1} of 5"


COLORS = """(media => Promise.all(media.map(async part => {
  const still = part.tagName === "IMG", board = new OffscreenCanvas(24, 24).getContext("2d");
  board.imageSmoothingEnabled = false;
  if (still) await part.decode();
  board.drawImage(part, 0, 0, 24, 24);
  return [...board.getImageData(0, 0, 24, 24).data];
})))([...document.querySelectorAll(".film [data-part=reference]")].slice(0, 2))"""


def test_the_colours_of_a_video_are_those_of_its_frames(tab: Page, film: Path) -> None:
    """Law: a browser shows the colours that were coded: those of the still beside it."""
    tab.open(film)
    tab.run("document.querySelector('.film').scrollIntoView()")
    ready = "(v => v.readyState >= 2 && !v.seeking || new Promise(done => v.addEventListener('seeked', done, {once: true})))"
    tab.run(f"{ready}(document.querySelector('.film video[data-part=reference]'))")
    still, video = (np.array(pixels) for pixels in tab.run(COLORS))
    assert np.abs(still - video).mean() < 5
