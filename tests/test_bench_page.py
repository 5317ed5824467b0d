"""The laws of a benchmark's page, as it lies on disk; what a browser makes of it is in `test_bench_page_in_browser`."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from bench_results import NASTY, SAMPLES, keep_samples, lane, made, report
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from foreseer.__main__ import app
from foreseer.bench.charts import front
from foreseer.bench.lanes_chart import ACROSS, UP, lanes_chart
from foreseer.bench.page import Chart
from foreseer.bench.report_page import PAGE, write_page
from foreseer.bench.report_pictures import FATES, fates_of, timeline
from foreseer.bench.results import Results
from foreseer.bench.sentences import sentence_of, summaries
from foreseer.bench.summary import lines_of


class Elements(HTMLParser):
    """Every element with its attributes, the text of scripts and styles, and the text that is read."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attributes}))
        self._inside = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, content: str) -> None:
        if self._inside:
            (self.scripts if self._inside == "script" else self.styles).append(content)
        else:
            self.text += content


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Elements:
    folder = tmp_path_factory.mktemp("page")
    results = made()
    keep_samples(results, folder)
    return Elements(write_page(results, folder).read_text(encoding="utf-8"))


def charts_of(page: Elements) -> list[Any]:
    """The figures of each chart."""
    return [json.loads(script) for script in page.scripts[:-2]]


def lanes_of(chart: Any) -> dict[str, str]:
    """By lane what is said beside its point, as it is read."""
    traces = [trace for trace in chart["first"]["data"] if "customdata" in trace]
    labels = [(said.partition("\n")[0], label) for trace in traces for said, label in zip(trace["customdata"], trace["text"], strict=True)]
    return {name: html.unescape(label.replace("<br>", " ")).replace(" ", "") for name, label in labels}


def test_the_page_is_one_file_that_loads_nothing(page: Elements) -> None:
    """Law: whatever could load something is inside of the page."""
    for tag, attributes in page.elements:
        for name in ("src", "srcset", "poster", "action", "data", "xlink:href", "data-own", "data-difference", "data-still", "data-still-difference"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, name)
        assert attributes.get("href", "#").startswith(("#", "data:"))
        assert "url(" not in attributes.get("style", "")
    (style,) = page.styles
    assert "@import" not in style
    assert "url(" not in style
    *_, plotly, own = page.scripts
    assert "plotly.js" in plotly[:200]
    assert not re.search(r"fetch\(|XMLHttpRequest|import\s*\(|https?://", own)


def test_every_finished_lane_is_a_point_with_its_settings_and_a_row(page: Elements) -> None:
    """Law: no lane is left out, and each says all its settings."""
    labels = lanes_of(charts_of(page)[0])
    assert set(labels) == {lane.name for lane in made().lanes if lane.units}
    for one in (one for one in made().lanes if one.units):
        assert all(f"{key}={value}".replace(" ", "") in labels[one.name] for key, value in one.options.items())
        assert one.name in page.text


def test_what_a_name_contains_is_text(page: Elements) -> None:
    """Law: a lane's name cannot end the script, nor begin another."""
    types = [attributes.get("type", "") for tag, attributes in page.elements if tag == "script"]
    assert types == ["application/json", "", ""]
    assert len(page.scripts) == len(types)
    assert NASTY in page.text
    assert "owned" not in page.scripts[-1]
    assert "it is <broken>" in page.text


def test_a_page_says_what_is_missing(tmp_path: Path) -> None:
    """Law: results under way, without samples, peers or policies still have a page, which says so."""
    full = made().lanes[0]
    for lanes in ((attrs.evolve(full, units=()),), (full,), made().lanes):
        text = Elements(write_page(made(lanes=lanes, finished=False, published=()), tmp_path).read_text(encoding="utf-8")).text
        assert "not finished" in text
        assert "holds no samples" in text
        assert ("No policy saved steps" in text) == (len(lanes) == 1)


def test_writing_a_page_writes_nothing_else(tmp_path: Path) -> None:
    """Law: a report reads; only the page is new, and the same results make the same page."""
    results = made()
    keep_samples(results, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    path = write_page(results, tmp_path)
    first = path.read_bytes()
    assert write_page(results, tmp_path).read_bytes() == first
    assert path == tmp_path / PAGE
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == {**before, path: first}


def test_the_command_line_says_where_the_page_is(tmp_path: Path) -> None:
    """Law: `foreseer bench report` prints the tables and writes the page."""
    made().save(tmp_path)
    done = CliRunner().invoke(app, ["bench", "report", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert str(tmp_path / PAGE) in done.output.replace("\n", "")
    assert (tmp_path / PAGE).exists()


def test_several_batch_sizes_have_their_own_sections(tmp_path: Path) -> None:
    """Law: lanes of one batch size are compared with each other only."""
    lanes = made().lanes
    results = made(lanes=(*lanes, *(attrs.evolve(one, batch=1) for one in lanes)))
    found = Elements(write_page(results, tmp_path).read_text(encoding="utf-8"))
    first, second = (chart for chart in charts_of(found) if "customdata" in chart["first"]["data"][-1])
    assert first == second
    assert set(lanes_of(first)) == {one.name for one in lanes if one.units}
    assert f"Table, batches of {SAMPLES}" in found.text


NUMBERS = st.one_of(st.integers(-4, 4).map(float), st.sampled_from([math.nan, math.inf, -math.inf]))


@given(points=st.lists(st.tuples(NUMBERS, NUMBERS), max_size=30), lower_x=st.booleans(), lower_y=st.booleans())
def test_the_front_is_what_nothing_beats(points: list[tuple[float, float]], lower_x: bool, lower_y: bool) -> None:
    """Law: no finite point is as good as one on the front on both axes and better on one; each off it has one on it that is as good on both."""
    found = front(points, lower_x=lower_x, lower_y=lower_y)

    def goods(i: int) -> tuple[float, float]:
        return (-points[i][0] if lower_x else points[i][0]), (-points[i][1] if lower_y else points[i][1])

    finite = [i for i, point in enumerate(points) if all(map(math.isfinite, point))]
    assert set(found) <= set(finite)
    assert [points[i][0] for i in found] == sorted({points[i][0] for i in found})
    for i in finite:
        matching = [j for j in found if goods(j)[0] >= goods(i)[0] and goods(j)[1] >= goods(i)[1]]
        assert matching
        assert i not in found or matching == [i]


def test_axes_without_numbers_are_not_offered() -> None:
    """Law: what can be chosen has a point to show, and each pair of axes a figure of its own that plotly knows."""
    import plotly.graph_objects

    found = lanes_chart(made(), SAMPLES)
    up, across = found.choices["up"], found.choices["across"]
    assert "psnr_worst" in up
    assert "temporal_psnr_mean" not in up
    assert set(found.figures) == {f"{y} {x.key}" for x in ACROSS if x.key in across for y in up}
    assert len({axis.key for axis in UP}) == len(UP)
    for figure in found.figures.values():
        plotly.graph_objects.Figure(figure)  # raises for what it does not know


KEYS = st.dictionaries(st.sampled_from("abc"), st.one_of(st.integers(), st.none(), st.lists(st.integers(), max_size=2)))


@given(figures=st.lists(st.fixed_dictionaries({"data": st.lists(KEYS, min_size=2, max_size=2), "layout": KEYS}), min_size=1, max_size=3))
def test_what_the_first_figure_says_is_said_once(figures: list[dict[str, Any]]) -> None:
    """Law: each figure is the first one with what differs; what it lacks is null, which plotly takes for its default."""
    chart = Chart({str(number): figure for number, figure in enumerate(figures)}, "")
    found = json.loads(chart.data())
    assert found["first"] == figures[0]
    for key, figure in list(chart.figures.items())[1:]:
        less = found["others"][key]
        pairs = [(figure["layout"], found["first"]["layout"], less["layout"]), *zip(figure["data"], found["first"]["data"], less["data"], strict=True)]
        for whole, first, changed in pairs:
            assert first | changed == dict.fromkeys(first) | whole


def test_a_sentence_is_its_numbers() -> None:
    """Law: mean, worst, cost, and the differences from fewer steps and from the best peer at equal block-rows, worked out by hand."""
    results = made()
    lines = {line.lane.name: line for line in lines_of(results, SAMPLES)}
    # at 0.4 of the block-rows fewer steps reach 28 dB; the peer's sweep 30 + (38 - 30) / 3 dB
    assert sentence_of(results, lines["taylorseer:interval=3"]) == (
        "taylorseer:interval=3 computes 4 of 10 steps (0.40 of the block-rows, 2.50x by the clock) and reaches 32.0 dB in the mean and 31.0 dB in the worst "
        "sample of 8. It is 4.0 dB above fewer steps at equal block-rows (better on 8 of 8 samples), and 0.7 dB below the best peer at that cost, between "
        "dbcache:threshold=0.1 and dbcache:threshold=0.01 (better on 0 of 8 samples)."
    )
    assert sentence_of(results, lines["none"]).endswith("and draws what full computation draws, in every sample.")
    assert sentence_of(results, lines["full, 2 steps"]).endswith("in the worst sample of 8.")


def test_a_summary_counts_all_settings_of_its_policy() -> None:
    """Law: the setting shown gains most over fewer steps, and what the others came to is said."""
    found = {summary.method: summary for summary in summaries(made(), SAMPLES)}
    assert set(found) == {"taylorseer", "speca", "evil"}  # none saved nothing
    assert found["taylorseer"].lane == "taylorseer:interval=3"
    assert found["taylorseer"].sentence.endswith("Settings of taylorseer that come closer than fewer steps beyond noise: 1 of 2; less close: 1.")
    assert "below fewer steps" in found["evil"].sentence


@given(mean=st.floats(10, 60), cost=st.floats(0.05, 1.0))
def test_a_sentence_never_fails(mean: float, cost: float) -> None:
    """Law: whatever a lane costs and reaches, also outside of what others cover, it has a sentence."""
    results = made(lanes=(*made().lanes, lane("own", mean, cost, method="own")))
    line = next(line for line in lines_of(results, SAMPLES) if line.lane.name == "own")
    sentence = sentence_of(results, line)
    assert sentence.startswith("own computes ")
    assert "nan" not in sentence
    assert "inf" not in sentence


def pixels(uri: str) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGBA"))


def test_a_timeline_has_a_fate_for_each_sample_and_step() -> None:
    """Law: rows of one sample are one line; computed, rejected, accepted and unseen are told apart."""
    judged = fates_of(report([True, False, False], judged=True))
    unseen = fates_of(report([True, False, False]))
    assert judged.shape == unseen.shape == (SAMPLES, 3)
    names = list(FATES)
    assert [names[fate] for fate in judged[0]] == ["computed", "rejected and computed", "rejected and computed"]
    assert [names[fate] for fate in judged[1]] == ["computed", "accepted", "accepted"]
    assert [names[fate] for fate in unseen[1]] == ["computed", "forecast unseen", "forecast unseen"]
    assert pixels(timeline(judged)).shape == (SAMPLES, 3, 4)


def test_results_read_again_make_the_same_page(tmp_path: Path) -> None:
    """Law: the page depends on what is in the file, and on nothing that was lost on the way there."""
    made().save(tmp_path)
    written = write_page(made(), tmp_path).read_bytes()
    assert write_page(Results.load(tmp_path), tmp_path).read_bytes() == written


def test_what_is_kept_of_the_samples_is_shown(tmp_path: Path) -> None:
    """Law: results that were copied with their first batch only show that; those without any show none, and say so."""

    def twice(one: Any) -> Any:
        return attrs.evolve(one, units=tuple(attrs.evolve(unit, number=number) for unit in one.units for number in (0, 1)))

    results = attrs.evolve(made(), lanes=tuple(map(twice, made().lanes)))
    assert "holds no samples" in write_page(results, tmp_path).read_text(encoding="utf-8")
    keep_samples(results, tmp_path, batch=4)
    shown = Elements(write_page(results, tmp_path).read_text(encoding="utf-8"))
    figures = {attributes["id"] for tag, attributes in shown.elements if tag == "figure" and "id" in attributes}
    assert figures == {f"sample-{SAMPLES}-{index}" for index in range(4)}
    assert "holds no samples" not in shown.text
