"""The ledger: counts are exact where the truth is known, watching costs the run nothing, and a file survives whatever ends the run."""

from __future__ import annotations

import csv
import json
import math

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import foreseer
from foreseer import Needs, OptionError, Plan, Probe, Run, Session, Site, Verdict, hookimpl
from foreseer.__main__ import app
from foreseer.adapters import ArrayBackbone
from foreseer.policies import taylor
from foreseer.registry import PolicySpec, build_observers, parse_policy
from foreseer.workbench import Ledger
from foreseer.workbench.judgements import Entry, judgements, spearman
from foreseer.workbench.ledger import read_ledger

DEPTH, ROWS, STEPS = 3, 4, 12
RANDOM = np.random.default_rng(7)
WALK = 5.0 + RANDOM.normal(size=(DEPTH, STEPS, ROWS, 6)).cumsum(1) * RANDOM.uniform(0, 0.5, (DEPTH, STEPS, ROWS, 1))
ERRORS = RANDOM.uniform(0, 1, (STEPS, ROWS)).astype(np.float32)
"""What the gate says of each row in each step, whatever it sees."""


@attrs.define(eq=False)
class Oracle:
    """A gate whose errors are a table, and which is right or wrong as the table has it."""

    errors: object
    threshold: float = 0.5
    groups: tuple = ()

    @hookimpl
    def setup(self, run):
        return Needs(sites=(Site(0), Site(run.depth - 1)))

    @hookimpl
    def before_step(self, step):
        return Plan(forecast=(Site(0), Site(DEPTH - 1)), probe=Probe(0)) if step.index else None

    @hookimpl
    def verify(self, step, evidence):
        error = torch.from_numpy(self.errors[step.index])
        return Verdict(error, error < self.threshold, self.threshold)


def host() -> ArrayBackbone:
    return ArrayBackbone(lambda site, t: WALK[site.block, t], depth=DEPTH)


def oracle(errors=ERRORS) -> PolicySpec:
    return PolicySpec("oracle", lambda: (Oracle(errors), taylor(max_order=0)))


def drive(spec, *observers, groups=None):
    run = Run(DEPTH, ROWS, groups or tuple(range(ROWS)), STEPS, None, None, host().sites)
    session = Session(host(), spec, run, observers=observers)
    outputs = [session.evaluate(step) for step in range(STEPS)]
    return outputs, session.finish()


def reuse_by_hand(errors=ERRORS, threshold=0.5):
    """``(T, R)`` true error of reusing the last computed feature, and whether the row was computed."""
    truth, computed = np.full((STEPS, ROWS), math.nan), np.ones((STEPS, ROWS), dtype=bool)
    for row in range(ROWS):
        newest = WALK[-1, 0, row]
        for step in range(1, STEPS):
            real = WALK[-1, step, row]
            truth[step, row] = np.linalg.norm(newest - real) / np.linalg.norm(real)
            computed[step, row] = errors[step, row] >= threshold
            if computed[step, row]:
                newest = real
    return truth, computed


TRUTH, COMPUTED = reuse_by_hand()


def test_the_truth_is_what_the_forecast_was_off_by_used_or_refused():
    watch = Ledger()
    _, report = drive(oracle(), watch)
    assert not report.warnings
    assert [entry.step for entry in watch.entries] == list(range(1, STEPS))
    for entry in watch.entries:
        assert entry.site == f"{DEPTH - 1}.block"
        assert entry.policy == "oracle"
        assert entry.computed == tuple(COMPUTED[entry.step])
        assert entry.accept == tuple(~COMPUTED[entry.step])
        np.testing.assert_array_equal(entry.error, ERRORS[entry.step])
        np.testing.assert_allclose(entry.site_error, TRUTH[entry.step], rtol=1e-5)
        # the last block is the output here; a refused forecast never became one
        np.testing.assert_allclose(entry.output_error, np.where(COMPUTED[entry.step], math.nan, TRUTH[entry.step]), rtol=1e-5)


@pytest.mark.parametrize("quantile", [0.0, 0.3, 0.5, 0.9])
def test_false_accepts_and_rejects_are_counted_exactly(quantile):
    watch, tolerance = Ledger(), float(np.quantile(TRUTH[1:], quantile)) * 1.0001
    drive(oracle(), watch)
    bad = tolerance < TRUTH
    table = watch.judgements(tolerance=tolerance).table()
    assert [counts.step for counts in table] == [*range(1, STEPS), None]
    for counts in table:
        here = slice(1, None) if counts.step is None else counts.step
        assert counts.drafts == counts.judged == TRUTH[here].size
        assert counts.accepted == (~COMPUTED[here]).sum()
        assert counts.false_accepts == (~COMPUTED[here] & bad[here]).sum()
        assert counts.false_rejects == (COMPUTED[here] & ~bad[here]).sum()
        assert counts.truth_worst == pytest.approx(TRUTH[here].max(), rel=1e-5)
    at_output = watch.judgements(tolerance=tolerance, at="output").table()
    assert at_output[-1].false_accepts == table[-1].false_accepts
    assert at_output[-1].false_rejects is None


def test_a_gate_that_knows_the_truth_is_never_wrong():
    """Errors that are the true errors: a gate that computes where they are too large."""
    known = np.zeros((STEPS, ROWS), dtype=np.float32)
    for step in range(1, STEPS):  # the truth of a step depends on the decisions before it
        known[step] = reuse_by_hand(known, 0.05)[0][step]
    watch = Ledger()
    drive(PolicySpec("knowing", lambda: (Oracle(known, 0.05), taylor(max_order=0))), watch)
    judged = watch.judgements(tolerance=0.05)
    whole = judged.counts()
    assert 0 < whole.accepted < whole.judged
    assert whole.false_accepts == whole.false_rejects == 0
    assert judged.sweep().area == 1.0
    assert judged.rank() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("policy", ["oracle", "taylorseer:interval=3,target=last_block", "cg_taylor:threshold=0.01", "speca:threshold=0.2,target=last_block"])
@pytest.mark.parametrize("options", [{"every": 1}, {"every": 3}, {"steps": (2, 5, 99)}])
def test_watching_changes_nothing_and_its_cost_is_counted_apart(policy, options):
    spec = oracle() if policy == "oracle" else parse_policy(policy)
    outputs, alone = drive(spec)
    watch = Ledger(**options)
    seen, watched = drive(spec, watch)
    assert all(np.array_equal(a, b) for a, b in zip(outputs, seen, strict=True))
    assert watched.block_rows == alone.block_rows
    looked = [
        o for o in alone.outcomes if o.plan.forecast and (o.step.index in options["steps"] if "steps" in options else not o.step.index % options["every"])
    ]
    assert [entry.step for entry in watch.entries] == [o.step.index for o in looked]
    assert watched.check_block_rows - alone.check_block_rows == sum(DEPTH * ROWS for o in looked if not o.full)


def test_a_schedule_has_truths_and_no_judgements():
    watch = Ledger()
    drive(parse_policy("taylorseer:interval=4,target=last_block"), watch)
    whole = watch.judgements().table()[-1]
    assert whole.drafts > whole.judged == 0
    assert whole.truth_worst > 0
    assert math.isnan(watch.judgements(tolerance=0.1).sweep().area)


def test_rows_of_one_sample_are_one_draft():
    watch = Ledger()
    pooled = np.repeat(ERRORS[:, :2], 2, axis=1)
    drive(oracle(pooled), watch, groups=(0, 0, 1, 1))
    assert len(watch.judgements()) == (STEPS - 1) * 2
    for entry in watch.entries:
        assert entry.site_error[0] == entry.site_error[1] != entry.site_error[2] == entry.site_error[3]


def test_the_metric_of_the_truth_can_be_chosen():
    watch = Ledger(metric="relative_l1")
    drive(oracle(np.zeros_like(ERRORS)), watch)
    entry = watch.entries[4]
    real, newest = WALK[-1, entry.step], WALK[-1, 0]
    np.testing.assert_allclose(entry.site_error, np.abs(newest - real).sum(1) / np.abs(real).sum(1), rtol=1e-5)


def test_outputs_of_any_form_have_an_error(tiny_dit):
    """An attached model returns an output class."""
    watch = Ledger()
    with torch.no_grad(), foreseer.attach(tiny_dit, "taylorseer", interval=2, observers=[watch]) as attached, attached.run(num_steps=6):
        x = torch.randn(2, 1, 4, 4)
        for step in range(6):
            x = x - 0.1 * tiny_dit(x, torch.full((2,), 900 - 100 * step), class_labels=torch.tensor([1, 2])).sample
    assert watch.entries
    for entry in watch.entries:
        assert np.isfinite(entry.output_error).all()
        assert np.isfinite(entry.site_error).all()


# The file


def test_the_file_says_what_the_object_says_and_is_continued(tmp_path):
    path = tmp_path / "deep" / "ledger.json"
    watch = Ledger(path=path)
    drive(oracle(), watch)
    drive(parse_policy("taylorseer:interval=3,target=last_block"), watch)
    again = Ledger(path=path)
    drive(oracle(), again)
    entries, metric = read_ledger(path)
    assert metric == "relative_l2"
    assert [(e.run, e.policy, e.step) for e in entries] == [(e.run, e.policy, e.step) for e in (*watch.entries, *again.entries)]
    for mine, read in zip((*watch.entries, *again.entries), entries, strict=True):
        np.testing.assert_array_equal(mine.site_error, read.site_error)
        np.testing.assert_array_equal(mine.output_error, read.output_error)
        assert mine.accept == read.accept
    assert {e.run for e in entries} == {1, 2, 3}


def test_nothing_is_lost_when_a_run_is_cut_off(tmp_path):
    path = tmp_path / "ledger.json"
    run = Run(DEPTH, ROWS, tuple(range(ROWS)), STEPS, None, None, host().sites)
    session = Session(host(), oracle(), run, observers=(Ledger(path=path),))
    for step in range(5):
        session.evaluate(step)
    with path.open("a") as file:
        file.write('{"run": 1, "step": 5, "err')  # as a killed process leaves it
    entries, _ = read_ledger(path)
    assert [entry.step for entry in entries] == [1, 2, 3, 4]
    assert {entry.policy for entry in entries} == {""}
    drive(oracle(), Ledger(path=path))
    entries, _ = read_ledger(path)
    assert [entry.run for entry in entries] == [1] * 4 + [2] * (STEPS - 1)


@pytest.mark.parametrize("content", ["", "no json\n", "[1, 2]\n", '{"format": "foreseer ledger 9"}\n', '{"a": 1}\n', '{"format": "foreseer ledger 1"}\n'])
def test_a_file_that_is_no_ledger_is_refused(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(OptionError, match=r"other\.json"):
        read_ledger(path)
    if content:
        with pytest.raises(OptionError, match=r"other\.json"):
            Ledger(path=path)
        assert path.read_text() == content
    with pytest.raises(OptionError):
        read_ledger(tmp_path / "nowhere.json")


def test_a_ledger_in_another_metric_is_not_continued(tmp_path):
    path = tmp_path / "ledger.json"
    drive(oracle(), Ledger(path=path))
    with pytest.raises(OptionError, match="metric=relative_l2"):
        Ledger(path=path, metric="relative_l1")


@pytest.mark.parametrize("options", [{"every": 0}, {"every": True}, {"steps": ()}, {"steps": (-1,)}, {"metric": "psnr"}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(OptionError):
        Ledger(**options)


def test_it_is_named_like_any_observer(tmp_path):
    (watch,) = build_observers([f"ledger:path={tmp_path / 'l.json'},steps=2,5"])
    drive(oracle(), watch)
    assert {entry.step for entry in read_ledger(tmp_path / "l.json")[0]} == {2, 5}
    with pytest.raises(OptionError, match="not the name of a file"):
        build_observers([f"ledger:path={tmp_path}"])


# Figures

values = st.lists(st.tuples(st.floats(0.01, 10), st.floats(0.01, 10), st.booleans()), min_size=1, max_size=40)


def judged_of(rows, threshold=1.0, tolerance=None):
    entries = [
        Entry(
            policy="p",
            run=1,
            stream="",
            step=step,
            groups=(0,),
            error=(error,),
            threshold=threshold,
            accept=(error <= threshold,),
            computed=(error > threshold,),
            site="2.block",
            site_error=(truth,),
            output_error=(math.nan,),
        )
        for step, (error, truth, _) in enumerate(rows)
    ]
    return judgements(entries, tolerance=tolerance)


@settings(max_examples=100, deadline=None)
@given(rows=values, tolerance=st.floats(0.01, 10), threshold=st.floats(0.05, 5))
def test_the_area_is_how_often_a_good_draft_has_the_smaller_error(rows, tolerance, threshold):
    judged = judged_of(rows, threshold, tolerance)
    sweep = judged.sweep()
    good = [error for error, truth, _ in rows if truth <= tolerance]
    bad = [error for error, truth, _ in rows if truth > tolerance]
    if good and bad:
        pairs = [1.0 if g / threshold < b / threshold else 0.5 if g / threshold == b / threshold else 0.0 for g in good for b in bad]
        assert sweep.area == pytest.approx(np.mean(pairs))
    else:
        assert math.isnan(sweep.area)
    at_one = int(np.searchsorted(sweep.factor[1:], 1.0, side="right"))
    counts = judged.counts()
    if good and bad and not any(0 < abs(error / threshold - 1) < 1e-9 for error, _, _ in rows):
        assert sweep.bad_accepted[at_one] * len(bad) == pytest.approx(counts.false_accepts)
        assert (1 - sweep.good_accepted[at_one]) * len(good) == pytest.approx(counts.false_rejects)
    assert (np.diff(sweep.factor[1:]) >= 0).all()


@settings(max_examples=100, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=30))
def test_rank_correlation_is_that_of_scipy(pairs):
    from scipy.stats import rankdata

    a, b = np.array(pairs, dtype=float).T
    mine = spearman(a, b)
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert math.isnan(mine)
    else:
        assert mine == pytest.approx(np.corrcoef(rankdata(a), rankdata(b))[0, 1])
        assert spearman(np.exp(a), b) == pytest.approx(mine)
        assert spearman(-a, b) == pytest.approx(-mine)


@pytest.mark.parametrize("tolerance", [-0.1, math.nan])
def test_a_tolerance_that_is_none_is_refused(tolerance):
    with pytest.raises(OptionError, match="tolerance"):
        judged_of([(1.0, 1.0, True)], tolerance=tolerance)


# The command


def call(*arguments):
    return CliRunner().invoke(app, ["ledger", *map(str, arguments)], prog_name="foreseer", env={"COLUMNS": "120"})


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "ledger.json"
    watch = Ledger(path=path)
    drive(oracle(), watch)
    drive(parse_policy("taylorseer:interval=3,target=last_block"), watch)
    return path


def test_the_command_prints_the_counts(written):
    done = call(written, "--tolerance", "0.1", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["policies"]
    assert set(found) == {"oracle", "taylorseer:interval=3,target=last_block"}
    whole = found["oracle"]["steps"][-1]
    assert whole["false_accepts"] == (~COMPUTED[1:] & (TRUTH[1:] > 0.1)).sum()
    assert whole["false_rejects"] == (COMPUTED[1:] & (TRUTH[1:] <= 0.1)).sum()
    done = call(written)
    assert done.exit_code == 0
    assert "oracle" in done.stdout
    assert "Spearman" in done.stdout


def test_the_command_writes_a_page_and_tables(written, tmp_path):
    done = call(written, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files >= {"index.html", "oracle-steps.csv", "oracle-rows.csv"}
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert page.count('class="card chart"') == 3
    assert "http" not in page[: page.index("<script>")]
    with (tmp_path / "out" / "oracle-rows.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == (STEPS - 1) * ROWS
    np.testing.assert_allclose([float(line["site_error"]) for line in lines], TRUTH[1:].ravel(), rtol=1e-5)


def test_the_command_refuses_what_is_no_ledger(tmp_path, written):
    assert call(tmp_path / "nowhere").exit_code == 2
    assert call(written, "--at", "nowhere").exit_code == 2
    assert call(written, "--tolerance", "-1").exit_code == 2
    empty = tmp_path / "empty.json"
    empty.write_text('{"format": "foreseer ledger 1", "metric": "relative_l2"}\n')
    assert call(empty).exit_code == 1
