"""A report as a picture (core/timeline.py), and in a notebook."""

from __future__ import annotations

import base64
import html
import pickle
import re
import sys

import attrs
import numpy as np
import pytest
from some_reports import CASES, make, with_errors

from foreseer.report import Report


@pytest.fixture(params=CASES)
def report(request) -> Report:
    return CASES[request.param]()


def pixels(path):
    from matplotlib.image import imread

    picture = imread(path)
    assert picture.ndim == 3
    return np.round(picture[..., :3] * 255).astype(int)


def has_color(picture, color: str) -> bool:
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(picture - wanted).max(axis=-1) <= 1).sum()) > 50


def test_timeline_draws_every_report(report, tmp_path):
    from foreseer.timeline import ACCEPTED, COMPUTED, FATES, REJECTED, UNSEEN

    path = report.plot(tmp_path / "timeline.png")
    assert path == tmp_path / "timeline.png"
    picture = pixels(path)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 2
    forecast = ~report.computed
    expected = {
        COMPUTED: (report.computed & ~report.rejected).any(),
        REJECTED: report.rejected.any(),
        ACCEPTED: forecast[report.judged].any(),
        UNSEEN: forecast[~report.judged].any(),
    }
    # The cells and the legend have the colour of each fate that occurs, and of no other.
    assert {fate: has_color(picture, FATES[fate][1]) for fate in expected} == expected


@pytest.mark.parametrize(("ending", "magic"), [("pdf", b"%PDF-"), ("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_the_ending_chooses_the_format(ending, magic, tmp_path):
    path = make("cg_taylor", threshold=0.05).plot(tmp_path / f"timeline.{ending}")
    data = path.read_bytes()
    assert data.startswith(magic)
    if ending == "svg":
        assert b"<image" not in data, "vector output holds no pixels"


def test_cells_are_in_the_order_of_the_samples():
    from matplotlib.figure import Figure

    from foreseer.timeline import COMPUTED, REJECTED, _draw_cells

    report = make("speca", rows=4, groups=(5, 2, 5, 2))
    computed = [(False, True, False, True)] + [(False,) * 4] * 11
    report = attrs.evolve(report, outcomes=tuple(attrs.evolve(o, computed=c, accept=None) for o, c in zip(report.outcomes, computed, strict=True)))
    axes = Figure().subplots()
    _draw_cells(report, axes, point=10.0, errors=False)
    cells = axes.collections[0].get_array()
    assert cells.mask[2].all(), "white space between the samples"
    assert not cells.mask[[0, 1, 3, 4]].any()
    assert [bool(c == COMPUTED) for c in cells[[0, 1, 3, 4], 0]] == [False, False, True, True]
    assert not (cells == REJECTED).any()
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["5", "2"]
    assert axes.get_ylabel() == "sample"


def test_errors_of_zero_keep_their_place_on_a_logarithmic_axis():
    from matplotlib.figure import Figure

    from foreseer.timeline import _draw_errors

    report = with_errors(make("cg_taylor", rows=2), lambda step, row, error: (0.0, 10.0 ** -(step % 4))[row])
    axes = Figure().subplots()
    _draw_errors(report, axes)
    bottom, top = axes.get_ylim()
    assert axes.get_yscale() == "symlog"
    assert bottom == 0
    assert top > 1
    points = np.concatenate([c.get_offsets() for c in axes.collections])
    assert sum(points[:, 1] == bottom) == report.judged.sum()
    assert {label.get_text() for label in axes.get_yticklabels()} >= {"0", "0.001", "1"}


def test_timeline_ignores_the_users_own_style(tmp_path):
    import matplotlib

    report = make("taylorseer")
    plain = pixels(report.plot(tmp_path / "plain.png"))
    with matplotlib.rc_context({"figure.facecolor": "black", "savefig.facecolor": "black", "font.size": 30}):
        before = dict(matplotlib.rcParams)
        styled = pixels(report.plot(tmp_path / "styled.png"))
        assert dict(matplotlib.rcParams) == before
    assert np.array_equal(plain, styled)


def test_timeline_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'foreseer\[plots\]'"):
        make("none").plot(tmp_path / "timeline.png")


def test_timeline_needs_an_ending(tmp_path):
    with pytest.raises(ValueError, match=r"has no ending.*timeline\.pdf"):
        make("none").plot(tmp_path / "timeline")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [1, 2, 9, 11, 12, 50, 64, 999, 100_000])
def test_ticks_are_few_and_round(count):
    from foreseer.timeline import _ticks

    ticks = _ticks(count)
    assert ticks[0] == 0
    assert ticks[-1] < count
    assert len(ticks) <= 11
    assert len(ticks) >= min(count, 5)
    assert len(set(np.diff(ticks))) <= 1


def test_a_notebook_shows_the_picture_and_the_table(report):
    shown = report._repr_html_()
    source = shown.partition('src="data:image/png;base64,')[2].partition('"')[0]
    assert base64.b64decode(source).startswith(b"\x89PNG")
    assert len(shown) < 200_000
    assert html.escape(str(report)) in shown
    assert shown.count("<div>") == shown.count("</div>") == 1


def test_a_notebook_shows_the_table_without_matplotlib(monkeypatch):
    report = make("cg_taylor", threshold=0.05)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert re.fullmatch(r"<pre[^>]*>(.*)</pre>", report._repr_html_(), re.DOTALL)[1] == html.escape(str(report))


def test_what_a_policy_is_called_cannot_become_html():
    shown = attrs.evolve(make("none"), policy="<script>alert(1)</script>")._repr_html_()
    assert "<script>" not in shown


def test_a_plot_without_a_path_is_a_figure_that_writes_nothing(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    monkeypatch.chdir(tmp_path)
    report = make("cg_taylor", threshold=0.05)
    figure = report.plot()
    assert isinstance(figure, Figure)
    assert not list(tmp_path.iterdir())
    figure.savefig("by_the_user.png")
    assert np.array_equal(pixels("by_the_user.png"), pixels(report.plot("by_the_report.png")))
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert pickle.loads(pickle.dumps(figure))._repr_png_() == figure._repr_png_()
