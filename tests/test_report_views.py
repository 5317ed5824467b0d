"""A report as text (core/tables.py) and as a picture (core/timeline.py)."""

from __future__ import annotations

import base64
import html
import math
import pickle
import re
import sys
from types import SimpleNamespace

import attrs
import numpy as np
import pytest

import foreseer
from foreseer.adapters import ArrayBackbone
from foreseer.report import Report
from foreseer.tables import report_text

INF, NAN = math.inf, math.nan


def make(policy, *, steps=12, rows=4, groups=None, **options) -> Report:
    """Run a policy on smooth features with a jump, so that gates accept some rows and reject others."""
    time_of = {float(t): i for i, t in enumerate(np.linspace(981.0, 1.0, steps))}

    def feature(site, t):
        x = time_of[t] / 12
        jump = (np.arange(rows) % 3 == 0) * (x > 0.5) * math.cos(40 * x)
        return np.float32(1.5 + np.sin(2 * x + site.block) + 0.1 * jump)[:, None] * np.ones((1, 8), np.float32)

    host = ArrayBackbone(feature, depth=4, parts=("attn", "mlp"))
    keep = {"inputs": lambda x, t: t, "update": lambda x, output, index: x}
    return foreseer.sample(host, 0, list(time_of), policy=foreseer.policy(policy, **options), groups=groups, **keep)[1]


def with_errors(report: Report, change) -> Report:
    """The report with other errors in its judged steps: ``change(step, row, error) -> error``."""
    outcomes = [o if o.accept is None else attrs.evolve(o, error=tuple(change(o.step.index, r, e) for r, e in enumerate(o.error))) for o in report.outcomes]
    return attrs.evolve(report, outcomes=tuple(outcomes))


def all_rejected(report: Report) -> Report:
    outcomes = [o if o.accept is None else attrs.evolve(o, accept=(False,) * len(o.accept), computed=(True,) * len(o.accept)) for o in report.outcomes]
    return attrs.evolve(report, outcomes=tuple(outcomes))


CASES = {
    "gated": lambda: make("cg_taylor", threshold=0.05),
    "verified": lambda: make("speca", threshold=0.2, steps=30),
    "scheduled": lambda: make("taylorseer", interval=4),
    "grouped": lambda: make("speca", groups=(0, 1, 0, 1)),
    "uneven groups": lambda: make("speca", rows=5, groups=(7, 3, 7, 7, 3)),
    "one step": lambda: make("taylorseer", steps=1, rows=1),
    "one row": lambda: make("speca", rows=1),
    "64 rows": lambda: make("cg_taylor", rows=64, threshold=0.05),
    "64 rows in pairs": lambda: make("speca", rows=64, groups=tuple(i % 32 for i in range(64))),
    "many steps": lambda: make("speca", steps=160, rows=2),
    "nothing judged": lambda: make("none"),
    "no step": lambda: attrs.evolve(make("taylorseer"), outcomes=(), finished=False),
    "not finished": lambda: attrs.evolve(r := make("cg_taylor", threshold=0.05), outcomes=r.outcomes[:7], finished=False),
    "unknown length": lambda: attrs.evolve(r := make("taylorseer"), run=attrs.evolve(r.run, num_steps=None, timesteps=None), finished=False),
    "threshold 0": lambda: make("cg_taylor", threshold=0.0),
    "all NaN": lambda: with_errors(make("cg_taylor", threshold=0.05), lambda step, row, error: NAN),
    "no verdict": lambda: attrs.evolve(
        r := all_rejected(with_errors(make("cg_taylor"), lambda *_: NAN)), outcomes=tuple(attrs.evolve(o, threshold=NAN) for o in r.outcomes)
    ),
    "zeros": lambda: with_errors(make("cg_taylor", threshold=0.05), lambda step, row, error: 0.0 if row == 0 else error),
    "only zeros": lambda: with_errors(make("cg_taylor", threshold=0.0), lambda step, row, error: 0.0),
    "some not finite": lambda: with_errors(make("cg_taylor"), lambda step, row, error: (NAN, INF, error, 1e-9)[row]),
    "long name": lambda: attrs.evolve(make("speca"), policy="speca:" + ",".join(f"option_{i}=${i}^$" for i in range(60))),
}


@pytest.fixture(params=CASES)
def report(request) -> Report:
    return CASES[request.param]()


def test_text_holds_every_fact(report):
    text = report_text(report)
    assert text == str(report)
    words = " ".join(text.split())
    assert text.startswith(f"{report.policy}:")
    counts = report.computed.sum(axis=0)
    mean = "" if np.ptp(counts) else f"{counts[0]}"
    assert f"computed {mean or f'{counts.mean():.1f}'} of {len(report.outcomes)} steps" in words
    assert (f", {len(report.full_steps)} of them for all rows at once" in words) == (not mean or counts[0] != len(report.full_steps))
    assert f"{report.block_rows} of {len(report.outcomes) * report.run.depth * report.run.rows}" in text
    if report.outcomes:
        assert f"({100 * report.block_rows_ratio:.1f} %)" in text
    assert ("not finished" in text) == (not report.finished)
    for warning in report.warnings:
        assert f"! {warning}" in words
    assert "\x1b" not in text
    assert not any(line != line.rstrip() for line in text.split("\n"))
    # no line is wider than 80 characters, unless a word is: what is long is wrapped
    assert all(len(line) <= 80 or len(line.split()) == 1 for line in text.split("\n"))


def lines_of(text: str) -> list[str]:
    """The lines of the table, without its header."""
    body = re.split(r"\n[-─]+\n", text)[1]
    return body.split("\n\n")[0].split("\n")


def test_text_has_a_line_per_step():
    report = make("cg_taylor", threshold=0.05)
    lines = lines_of(report_text(report))
    assert len(lines) == len(report.outcomes)
    outcomes = set()
    for line, o in zip(lines, report.outcomes, strict=True):
        assert re.match(rf".? +{o.step.index} +{o.step.timestep:.4g} ", line)
        refused = 0 if o.accept is None else o.accept.count(False)
        word = "computed" if o.accept is None else f"rejected {refused} of 4" if refused else "accepted"
        outcomes.add(word)
        assert line.partition("  " + word)[2] == (f": {o.reason}" if o.accept is None else "")
        numbers = line.split("  " + word)[0].split()[3:]
        if o.accept is not None:
            assert numbers[0] == f"{min(o.error):.3g}" + (f"–{max(o.error):.3g}" if min(o.error) < max(o.error) else "")
            assert numbers[1] == "0.05"
            assert numbers[2] == str(o.block_rows)
        else:
            assert numbers[0] == str(o.block_rows)
    assert {"computed", "accepted"} < outcomes, "the run should show more than one outcome"
    assert any(word.startswith("rejected") for word in outcomes)


def test_text_of_a_schedule_shows_no_columns_for_errors():
    text = report_text(make("taylorseer", interval=4))
    assert "threshold" not in text
    assert "error" not in text
    assert [line.split()[5].rstrip(":") for line in lines_of(text)] == ["computed"] * 2 + (["forecast"] * 3 + ["computed"]) * 2 + ["forecast"] * 2
    assert "interval of 4" in text
    assert "ms full, " in text
    assert "ms forecast" in text


def test_long_runs_fit_a_screen_and_lose_no_step():
    report = make("speca", steps=50, threshold=0.3)
    spans = [re.match(r"[■·✓✗◧] +(\d+)(?:–(\d+))? ", line) for line in lines_of(report_text(report))]
    assert sum(map(bool, spans)) <= 40
    shown = [step for span in spans if span for step in range(int(span[1]), int(span[2] or span[1]) + 1)]
    assert shown == list(range(50))


def test_rows_computed_for_another_reason_than_a_rejection_are_counted():
    report = make("cg_taylor", threshold=0.05)
    index = next(o.step.index for o in report.outcomes if o.accept is not None and all(o.accept))
    outcomes = list(report.outcomes)
    outcomes[index] = attrs.evolve(outcomes[index], computed=(True, False, False, False), kind=foreseer.Kind.MIXED)
    assert "computed 1 of 4, others accepted" in " ".join(report_text(attrs.evolve(report, outcomes=tuple(outcomes))).split())
    outcomes[index] = attrs.evolve(outcomes[index], accept=None)
    assert "computed 1 of 4, others forecast" in " ".join(report_text(attrs.evolve(report, outcomes=tuple(outcomes))).split())


def test_nan_errors_are_counted_beside_the_others():
    report = with_errors(make("cg_taylor"), lambda step, row, error: NAN if row < 3 else 0.25)
    assert "0.25, 3 NaN" in report_text(report)


def test_calls_beyond_the_declared_steps_are_no_steps_of_them():
    """A loop that calls its model twice in a step does not read as "12 of 6 steps"."""
    report = make("none", steps=12)
    text = report_text(attrs.evolve(report, run=attrs.evolve(report.run, num_steps=6, timesteps=None)))
    assert text.startswith("none: 12 calls where 6 steps were declared, ")


def test_bytes_are_summed_by_part_in_human_units():
    report = attrs.evolve(
        make("none"), bytes_held={foreseer.Site(b, part): held for b in range(12) for part, held in (("attn", 100 * 1024), ("mlp", 3 * 1024**2))}
    )
    assert "39.0 MB in 24 sites: attn 1.2 MB, mlp 37.7 MB" in report_text(report)
    assert "512 B in 1 site: block 512 B" in report_text(attrs.evolve(report, bytes_held={foreseer.Site(0): 512}))


def test_a_run_that_gained_nothing_says_so():
    assert "\n! nothing was accelerated: all 8 drafts were rejected" in report_text(make("cg_taylor", threshold=0.0))


def test_text_is_ascii_where_the_terminal_is(monkeypatch):
    report = make("cg_taylor", steps=60, threshold=0.05)
    assert not report_text(report).isascii()
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(encoding="ascii"))
    assert report_text(report).isascii()
    assert "rejected" in report_text(report)


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
