"""Replay: the same numbers as tensors give, the same steps as a session takes, and plain refusals."""

from __future__ import annotations

import csv
import itertools
import json
import math
import shutil
from contextlib import nullcontext
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import example, smooth
from typer.testing import CliRunner

import foreseer
from foreseer import Needs, OptionError, Plan, Probe, Site, Verdict, hookimpl
from foreseer.__main__ import app
from foreseer.adapters import ArrayBackbone
from foreseer.listing import list_plugins
from foreseer.metrics import cosine, relative_l2
from foreseer.plugins import policy_hooks
from foreseer.policies import LinearPredictor, taylor
from foreseer.psnr import BEST_PSNR, decibels
from foreseer.registry import PolicySpec, parse_policy
from foreseer.schedule_plan import SchedulePlan
from foreseer.types import LATENT, OUTPUT
from foreseer.workbench import Ledger, Trace
from foreseer.workbench.closed_loop import best_scores, choose_scores, measure
from foreseer.workbench.features_store import FeatureStore
from foreseer.workbench.forecast_errors import forecast_errors
from foreseer.workbench.planner import plan
from foreseer.workbench.predictors import LinearWeights
from foreseer.workbench.replay import Replay, Score, gap_errors, site_of
from foreseer.workbench.replay_gates import replay_gate, replay_pair, stored_features
from foreseer.workbench.schedules import ScheduleAt, computed_steps, run_of, schedule_from

LAST = Site(3)
TRACE, FEATURES = smooth()
few = settings(max_examples=20, deadline=None)
sessions = settings(max_examples=12, deadline=None)


def installed_predictors():
    """Every predictor that foreseer brings, found as a user finds them."""
    specs = [parse_policy(listing.name) for listing in list_plugins() if listing.distribution == "foreseer"]
    return [spec for spec in specs if not policy_hooks(spec())["before_step"]]


def linear_predictors():
    orders = [parse_policy(f"taylor:max_order={order},warmup_steps={warmup}") for order, warmup in ((0, 1), (2, 1), (4, 1), (3, 3))]
    others = [example("newton"), example("newton", max_order=3), example("hicache"), example("hicache", max_order=3, scale=0.6)]
    return [*installed_predictors(), *orders, *others]


LINEAR = linear_predictors()


def error_of_tensors(predictor: LinearPredictor, computed, features):
    """``(S, T)`` by definition: the forecast is formed, and compared. 0 before the first computed step."""
    error = np.zeros(features.shape[:2])
    for step in set(range(min(computed), features.shape[1])) - set(computed):
        anchors = [k for k in sorted(computed, reverse=True) if k < step][: predictor.max_order + 1]
        weights = predictor.weights(tuple(map(float, anchors)), float(step))
        forecast = sum(w * features[:, k] for w, k in zip(weights, anchors, strict=False))
        error[:, step] = np.linalg.norm(forecast - features[:, step], axis=1) / np.linalg.norm(features[:, step], axis=1)
    return error


def test_there_are_installed_predictors_to_try():
    assert {spec.name for spec in LINEAR} >= {"taylor", "newton", "hicache"}


@few
@given(steps=st.sets(st.integers(1, 19), max_size=19), which=st.sampled_from(range(len(LINEAR))), seed=st.integers(0, 3))
def test_the_error_is_that_of_the_tensors(steps, which, seed):
    trace, features = smooth(seed=seed)
    computed = sorted({0} | steps)
    (score,) = Replay(trace, LAST).scores([LINEAR[which]], ["steps=" + "+".join(map(str, computed))])
    expected = error_of_tensors(LINEAR[which]()[0], computed, features[LAST])
    assert score.steps == tuple(computed)
    np.testing.assert_allclose(score.error, expected, rtol=1e-5, atol=1e-9)


@sessions
@given(
    policy=st.sampled_from(["taylorseer", "reuse"]),
    interval=st.integers(1, 7),
    warmup=st.integers(1, 4),
    which=st.sampled_from(range(len(LINEAR))),
)
def test_a_session_takes_the_same_steps_and_makes_the_same_errors(policy, interval, warmup, which):
    schedule = f"{policy}:interval={interval},warmup_steps={warmup},target=last_block"
    (score,) = Replay(TRACE, LAST).scores([LINEAR[which]], [schedule])
    session = replay_pair(TRACE, LINEAR[which], schedule, LAST)
    assert (session.computed == score.computed).all()
    np.testing.assert_allclose(session.error, score.error, rtol=1e-5, atol=2e-7)
    tensors = replay_pair(TRACE, LINEAR[which], schedule, LAST, features=FEATURES)
    np.testing.assert_allclose(tensors.error, score.error, rtol=1e-5, atol=2e-7)


@sessions
@given(interval=st.integers(1, 9), order=st.integers(0, 4), warmup=st.integers(1, 5))
def test_the_policy_as_it_is_makes_the_errors_that_its_replay_says(interval, order, warmup):
    """No part of the replay stands in the session's way here: the policy is attached to tensors, the truth is in a ledger."""
    text = f"taylorseer:interval={interval},max_order={order},warmup_steps={warmup},target=last_block"
    host, watch = ArrayBackbone.recorded({site: f.transpose(1, 0, 2) for site, f in FEATURES.items()}), Ledger()
    loop = {"inputs": lambda x, t: t, "update": lambda x, output, index: output}
    _, report = foreseer.sample(host, None, range(20), policy=parse_policy(text), observers=[watch], **loop)
    (score,) = Replay(TRACE, LAST).scores(["own"], [text])
    assert list(score.steps) == report.full_steps
    for entry in watch.entries:
        np.testing.assert_allclose(entry.site_error, score.error[:, entry.step], rtol=1e-5, atol=2e-7)
    assert {entry.step for entry in watch.entries} == set(range(20)) - set(report.full_steps)


def test_the_forecasts_of_a_step_are_scored_together(monkeypatch):
    """Law: a thousand schedules cost seconds, for what they all forecast of a step is one operation on arrays."""
    asked, squared_errors = [], LinearWeights.squared_errors
    monkeypatch.setattr(LinearWeights, "squared_errors", lambda self, *of: asked.append(of[2]) or squared_errors(self, *of))
    Replay(TRACE, LAST).scores(["taylor"], [f"steps=0+{step}" for step in range(1, 19)])
    gap_errors(TRACE, "taylor", LAST)
    assert sorted(asked) == sorted(2 * [*range(1, 20)])


class Patient:
    """A predictor that wants three anchors."""

    @hookimpl
    def setup(self):
        return Needs(anchors=3)

    @hookimpl
    def predict_features(self, step, sites, history):
        if np.isnan(history.anchors).any():
            return None
        return taylor(max_order=2).predict_features(step, sites, history)


def test_where_a_predictor_cannot_forecast_the_step_is_computed_and_the_schedule_learns_of_it():
    patient = PolicySpec("patient", Patient)
    scores = Replay(TRACE, LAST).scores([patient], ["taylorseer:interval=5,warmup_steps=1", "steps=0+9"])
    for score in scores:
        session = replay_pair(TRACE, patient, score.policy, LAST)
        assert (session.computed == score.computed).all()
        np.testing.assert_allclose(session.error, score.error, rtol=1e-5, atol=2e-7)
    assert scores[0].steps == (0, 1, 2, 7, 12, 17)
    assert scores[1].steps == (0, 1, 2, 9)


def test_a_plan_takes_a_predictor_that_cannot_always_forecast_as_its_replay_does(tmp_path):
    """Law: forecasts that it cannot make are left out, one by one, and the others cost what the same ones of another predictor do."""
    trace, _ = smooth(samples=2, steps=8)
    able, usual = (
        forecast_errors(trace, LinearWeights("patient", plugin, run_of(trace), LAST), site=LAST, width=3) for plugin in (Patient(), taylor(max_order=2))
    )
    young = (able.anchors == trace.num_steps).any(axis=1)
    assert np.isinf(able.weighted[:, young]).all()
    np.testing.assert_allclose(able.weighted[:, ~young], usual.weighted[:, ~young])
    found = plan(trace, errors=able)
    assert min(found.budgets) == 3
    assert found.budget(3).steps == (0, 1, 2)
    assert SchedulePlan.load(found.save(tmp_path / "plan.json")).budget(3).steps == (0, 1, 2)


class Norming:
    """Not linear: the newest feature, as long as the two newest are on average."""

    @hookimpl
    def setup(self):
        return Needs(anchors=2)

    @hookimpl
    def predict_features(self, sites, history):
        drafts = {}
        for site in sites:
            newest, before = history.features(site)
            length = newest.flatten(1).norm(dim=1)
            drafts[site] = newest * ((length + before.flatten(1).norm(dim=1)) / 2 / length)[:, None]
        return drafts


def test_a_predictor_that_is_not_linear_needs_the_tensors_and_is_right_on_them():
    with pytest.raises(OptionError, match=r"not linear.*--features"):
        Replay(TRACE, LAST).scores([PolicySpec("norming", Norming)], ["steps=0+1+4+8"])
    score = replay_pair(TRACE, PolicySpec("norming", Norming), "steps=0+1+4+8", LAST, features=FEATURES)
    features, norm = FEATURES[LAST], np.linalg.norm(FEATURES[LAST], axis=2)
    forecast = features[:, 4] * ((norm[:, 4] + norm[:, 1]) / 2 / norm[:, 4])[:, None]
    np.testing.assert_allclose(score.error[:, 6], np.linalg.norm(forecast - features[:, 6], axis=1) / norm[:, 6], rtol=1e-5)


def test_streams_are_pooled():
    trace, features = smooth(width=8)
    halves = {name: features[LAST][..., part] for name, part in (("cond", slice(0, 3)), ("uncond", slice(3, 8)))}
    two = attrs.evolve(trace, streams=("cond", "uncond"), grams={(name, LAST): f @ f.transpose(0, 2, 1) for name, f in halves.items()})
    both, whole = (Replay(t, LAST).scores(["taylor"], ["taylorseer:interval=4"])[0].error for t in (two, trace))
    np.testing.assert_allclose(both, whole, rtol=1e-9)


# What the errors mean


def by_gaps(score):
    """Predicted errors of the final latents, gap by gap: those of a gap add up, and the gaps' squares."""
    moved = score.error * np.linalg.norm(FEATURES[LAST], axis=2) * np.nanmean(TRACE.sensitivity, axis=0)
    found = []
    for sample, computed in zip(moved, score.computed, strict=True):
        ends = [*np.flatnonzero(computed), len(computed)]
        found.append(math.sqrt(sum(sample[a + 1 : b].sum() ** 2 for a, b in itertools.pairwise(ends))))
    return found


def test_the_final_error_adds_sensitivity_times_error_and_the_promise_is_its_psnr():
    (score,) = Replay(TRACE, LAST).scores(["taylor"], ["taylorseer:interval=4"])
    np.testing.assert_allclose(score.final, by_gaps(score), rtol=1e-9)
    image = np.random.default_rng(0).uniform(-1, 1, (8, 8))
    other = image + 0.01
    psnr = 10 * math.log10(2**2 / np.mean((image - other) ** 2))
    off = np.linalg.norm(image - other)
    assert decibels(np.array([off**2 / image.size])) == pytest.approx(psnr)
    np.testing.assert_allclose(score.promise, decibels(score.final**2 / 64))
    elsewhere = Replay(TRACE, Site(0)).scores(["taylor"], ["taylorseer:interval=4"])[0]
    assert elsewhere.figures()["psnr_mean"] is None  # sensitivities are those of the last block


def test_steps_without_a_sensitivity_count_only_where_they_are_forecast():
    holes = TRACE.sensitivity.copy()
    holes[:, [0, 1]] = np.nan
    (score,) = Replay(attrs.evolve(TRACE, sensitivity=holes), LAST).scores(["taylor"], ["taylorseer:interval=4"])
    assert np.isfinite(score.final).all()


def test_errors_by_gap_are_those_of_evenly_spaced_anchors():
    found = gap_errors(TRACE, "taylor:max_order=2", LAST, most=6)
    assert found.shape == (6, 20)
    for gap in range(1, 7):
        assert np.isnan(found[gap - 1, :gap]).all()
        for step in range(gap, 20):
            computed = range(step - gap, -1, -gap)
            expected = error_of_tensors(taylor(max_order=2), computed, FEATURES[LAST][:, : step + 1])[:, step].mean()
            assert found[gap - 1, step] == pytest.approx(expected, rel=1e-5, abs=1e-9)


# Schedules


@pytest.mark.parametrize("copies", [1, 2])
def test_a_list_is_computed_as_it_is_and_the_first_step_always(copies):
    trace, _ = smooth(copies=copies)
    assert computed_steps(schedule_from("steps=3,7"), run_of(trace)) == (0, 3, 7)
    assert computed_steps(schedule_from("none"), run_of(trace)) == tuple(range(20))


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        ("steps=0+x", "no list of steps"),
        ("steps=0+25", "names step 25"),
        ("speca", "--gates"),
        ("taylor", "--predictors"),
        ("taylorseer:interval=0", "out of range"),
    ],
)
def test_what_is_no_schedule_is_refused(schedule, says):
    with pytest.raises(OptionError, match=says):
        Replay(TRACE, LAST).scores(["taylor"], [schedule])


def test_what_is_no_predictor_is_refused_and_a_list_brings_none():
    with pytest.raises(OptionError, match="whole policy"):
        Replay(TRACE, LAST).scores(["taylorseer"], ["steps=0+4"])
    with pytest.raises(OptionError, match="brings no predictor"):
        Replay(TRACE, LAST).scores(["own"], ["steps=0+4"])
    assert [s.predictor for s in Replay(TRACE, LAST).scores(["own", "taylor"], ["steps=0+4"])] == ["taylor"]


@pytest.mark.parametrize(("text", "site"), [("last", LAST), ("first", Site(0)), ("-1", LAST), ("2", Site(2)), ("1.block", Site(1))])
def test_a_site_is_read(text, site):
    assert site_of(TRACE, text) == site


@pytest.mark.parametrize("text", ["middle", "9", "3.attn", "output"])
def test_a_site_that_was_not_recorded_is_refused(text):
    with pytest.raises(OptionError, match=r"0\.block"):
        site_of(TRACE, text)


# Gates


@attrs.define(eq=False)
class MeasuredGate:
    """CG-Taylor's gate with a metric of one's choice."""

    metric: object
    threshold: float
    probe: str = "input"
    steps: int = 0

    @hookimpl
    def setup(self, run):
        self.steps = run.num_steps
        return Needs(sites=(Site(0), Site(run.depth - 1)))

    @hookimpl
    def before_step(self, step):
        if step.index < 3 or step.index == self.steps - 1:
            return None
        return Plan(forecast=(Site(0), Site(3)), probe=Probe(0 if self.probe == "input" else 3, on=self.probe))

    @hookimpl
    def verify(self, evidence):
        error = evidence.error(self.metric)
        return Verdict(error, torch.lt(error, self.threshold), self.threshold)


def gate(metric, threshold=0.05, **options):
    return PolicySpec("measured", lambda: (MeasuredGate(metric, threshold, **options), taylor(max_order=1)))


@pytest.mark.parametrize(("metric", "threshold"), [(relative_l2, 0.05), (cosine, 0.001)])
@pytest.mark.parametrize("seed", range(3))
def test_a_gate_that_measures_lengths_and_angles_cannot_tell_vectors_from_features(metric, threshold, seed):
    trace, features = smooth(seed=seed)
    blind, seeing = replay_gate(trace, gate(metric, threshold)), replay_gate(trace, gate(metric, threshold), features=features)
    assert (blind.computed == seeing.computed).all()
    assert 0 < blind.computed[:, 3:-1].mean() < 1
    np.testing.assert_allclose(blind.error, seeing.error, rtol=1e-5, atol=2e-7)
    np.testing.assert_allclose(blind.judged.error, seeing.judged.error, rtol=1e-4, atol=2e-7)
    assert blind.judged.rank() == pytest.approx(seeing.judged.rank(), abs=0.02)


def test_the_evidence_of_a_gate_and_the_truth_are_those_of_the_features():
    score = replay_gate(TRACE, gate(relative_l2, math.inf))  # accepts everything, so that the anchors are steps 1 and 2 for ever
    computed = [0, 1, 2, 19]
    for site, found in ((Site(0), score.judged.error), (LAST, score.judged.truth)):
        expected = error_of_tensors(taylor(max_order=1), computed, FEATURES[site])
        np.testing.assert_allclose(found.reshape(16, 3), expected[:, 3:19].T, rtol=1e-5, atol=2e-7)
    np.testing.assert_allclose(score.final, by_gaps(score), rtol=1e-6)


@pytest.mark.parametrize("name", ["cg_taylor:threshold=0.05", "cg_taylor:threshold=0.05,decide=batch"])
def test_a_gate_that_looks_at_single_entries_needs_tensors(name):
    with pytest.raises(OptionError, match=r"tensors.*--features"):
        replay_gate(TRACE, name)
    host, watch = ArrayBackbone.recorded({site: f.transpose(1, 0, 2) for site, f in FEATURES.items()}), Ledger()
    loop = {"inputs": lambda x, t: t, "update": lambda x, output, index: output}
    _, report = foreseer.sample(host, None, range(20), policy=parse_policy(name), observers=[watch], **loop)
    score = replay_gate(TRACE, name, features=FEATURES)
    assert (score.computed == report.computed.T).all()
    np.testing.assert_array_equal(score.judged.error, watch.judgements().error)


def test_a_probe_on_a_draft_needs_the_model_and_the_ledger_is_named():
    with pytest.raises(OptionError, match=r"needs the model.*ledger"):
        replay_gate(TRACE, "speca", features=FEATURES)
    sparse, _ = smooth(sites=(0, 3))
    with pytest.raises(OptionError, match=r"needs the model.*ledger"):
        replay_gate(sparse, "speca")
    with pytest.raises(OptionError, match="needs the model"):
        replay_gate(TRACE, gate(relative_l2, probe="draft"))


def test_a_gate_that_needs_a_site_that_was_not_recorded_is_refused():
    sparse, _ = smooth(sites=(3,))
    with pytest.raises(OptionError, match=r"0\.block.*--sites"):
        replay_gate(sparse, gate(relative_l2))
    with pytest.raises(OptionError, match=r"output.*--sites"):
        replay_gate(TRACE, "cg_taylor:target=output", features=FEATURES)


def test_a_gate_takes_another_predictor_with_its_own_options():
    own = replay_gate(TRACE, "cg_taylor:threshold=0.05,first_order=1,last_order=1", features=FEATURES)
    given_one = replay_gate(TRACE, "cg_taylor:threshold=0.05", "taylor:max_order=1", features=FEATURES)
    np.testing.assert_array_equal(own.error, given_one.error)
    assert given_one.name == "cg_taylor:threshold=0.05 with taylor:max_order=1"
    with pytest.raises(OptionError, match="names a predictor already"):
        replay_gate(TRACE, "cg_taylor:predictor=taylor", "taylor", features=FEATURES)


# Residuals


def added():
    """A recording of residuals, the tensors, and the host that they are of: what enters block 0 moves much faster than what is added to it."""
    trace, features = smooth()
    entering = np.random.default_rng(3).normal(size=features[LAST].shape)
    kept = {Site(block, since=-1): features[Site(block)] for block in (0, 3)}
    trace = attrs.evolve(trace, grams={("", site): f @ f.transpose(0, 2, 1) for site, f in kept.items()})
    return trace, kept, ArrayBackbone(lambda site, k: (entering + features[site])[:, k], depth=4, stream=lambda k: entering[:, k])


RESIDUAL, FIRST = Site(3, since=-1), Site(0, since=-1)
ADDED, KEPT, ADDING = added()


@pytest.mark.parametrize("tensors", [None, KEPT])
def test_a_schedule_on_a_residual_makes_the_errors_of_what_was_added(tensors):
    """Law: by inner products, in a session on them, and in one on the tensors."""
    (score,) = Replay(ADDED, site_of(ADDED, "residual")).scores(["taylor:max_order=1"], ["steps=0+1+5+9"])
    assert score.site == RESIDUAL
    np.testing.assert_allclose(score.error, error_of_tensors(taylor(max_order=1), [0, 1, 5, 9], KEPT[RESIDUAL]), rtol=1e-5, atol=1e-9)
    session = replay_pair(ADDED, "taylor:max_order=1", "steps=0+1+5+9", RESIDUAL, features=tensors)
    np.testing.assert_allclose(session.error, score.error, rtol=1e-5, atol=2e-7)
    np.testing.assert_allclose(session.final, score.final, rtol=1e-5)
    assert len(score.final) == 3, "an error of a residual is one of the last block, where sensitivities were measured"
    with pytest.raises(OptionError, match=r"'3.block since 0' was not recorded"):
        site_of(ADDED, "residual_after_first")


@attrs.define(eq=False)
class FirstBlock:
    """First Block Cache's gate: what block 0 adds now, held against what it added where the row was last computed."""

    metric: object = relative_l2
    place: Site = FIRST

    @hookimpl
    def setup(self):
        return Needs(sites=(RESIDUAL,), evidence=(self.place,))

    @hookimpl
    def before_step(self, step):
        return Plan(forecast=(RESIDUAL,), probe=Probe(self.place)) if step.index > 2 else None

    @hookimpl
    def verify(self, evidence):
        error = evidence.error(self.metric, against="anchor")
        return Verdict(error, error < 0.2, 0.2)


@pytest.mark.parametrize("name", ["agreement:tolerance=0.05,target=residual", "first block", "taylorseer:interval=4,target=residual"])
def test_a_policy_on_residuals_does_on_inner_products_what_it_does_on_a_host(name):
    """Law: the same steps and errors, also of a gate that probes what is not forecast, and of one that decides by products."""
    spec = PolicySpec(name, lambda: (FirstBlock(), taylor(max_order=1))) if name == "first block" else parse_policy(name)
    watch, loop = Ledger(), {"inputs": lambda x, t: t, "update": lambda x, output, index: output}
    _, report = foreseer.sample(ADDING, None, range(20), policy=spec, observers=[watch], **loop)
    assert 0 < report.computed.mean() < 1
    for features in (None, KEPT):
        score = replay_gate(ADDED, spec, features=features)
        assert score.site == RESIDUAL
        assert (score.computed == report.computed.T).all()
        for entry in watch.entries:
            truth = np.where(entry.computed, 0.0, entry.site_error)
            np.testing.assert_allclose(score.error[:, entry.step], truth, rtol=1e-5, atol=2e-7)


def test_what_looks_at_more_than_was_recorded_or_is_no_static_schedule_is_refused():
    with pytest.raises(OptionError, match=r"needs features of 3.block since -1.*--sites"):
        replay_gate(TRACE, "taylorseer:interval=4,target=residual")
    with pytest.raises(OptionError, match=r"needs features of 2.block since -1.*--sites"):
        replay_gate(ADDED, PolicySpec("gate", lambda: (FirstBlock(place=Site(2, since=-1)), taylor(max_order=1))))
    with pytest.raises(OptionError, match=r"looks at latent: what lies in front of block 0 is not recorded"):
        replay_gate(ADDED, PolicySpec("gate", lambda: (FirstBlock(place=LATENT), taylor(max_order=1))))
    with pytest.raises(OptionError, match=r"looks at features.*--gates"):
        Replay(ADDED, RESIDUAL).scores(["taylor"], ["agreement:tolerance=0.05"])


# Closed loop


def test_the_best_are_beaten_by_none_in_steps_and_error():
    scores = Replay(TRACE, LAST).scores(["taylor:max_order=1", "taylor:max_order=3"], [f"taylorseer:interval={n}" for n in range(1, 9)])
    best = best_scores(scores, 3)
    assert 1 <= len(best) <= 3
    for score in best:
        assert not [s for s in scores if s.final.mean() > 0 and s.cost <= score.cost and s.final.mean() < score.final.mean()]
    assert choose_scores(scores, [scores[4].name]) == [scores[4]]
    with pytest.raises(OptionError, match="not in the table"):
        choose_scores(scores, ["nobody"])
    with pytest.raises(OptionError, match="out of range"):
        choose_scores(scores, ["0"])


def test_what_was_replayed_runs_with_the_model_in_as_many_steps(tmp_path):
    trace, _ = smooth(depth=12, steps=8, sites=(0, 11))
    scores = Replay(trace, Site(11)).scores(["taylor:max_order=1"], ["steps=0+1+4", "taylorseer:interval=3"])
    for one in measure(trace, scores, tmp_path, samples=2, batch=2):
        assert one.cost == one.score.cost
        assert one.error.shape == one.psnr.shape == (2,)
        assert (one.error > 0).all()
        broken = attrs.evolve(one, psnr=np.array([np.nan, 30.0])).figures()
        assert (broken["psnr"], broken["psnr_worst"], broken["broken"]) == (15.0, 0.0, 1)
    other = attrs.evolve(trace, signature=attrs.evolve(trace.signature, model="Another 0123"))
    with pytest.raises(OptionError, match="Another 0123"):
        measure(other, scores, tmp_path, samples=2, batch=2)


# The command


def call(*arguments):
    return CliRunner().invoke(app, ["replay", *map(str, arguments)], prog_name="foreseer")


@pytest.fixture
def saved(tmp_path) -> Path:
    return TRACE.save(tmp_path / "trace")


def test_the_command_prints_what_replay_finds(saved):
    done = call(saved, "--predictors", "own", "taylor:max_order=1", "--schedules", "taylorseer:interval=4", "steps=0+1+5+9", "--json")
    assert done.exit_code == 0, done.output
    found = {(line["policy"], line["predictor"]): line for line in json.loads(done.stdout)["open_loop"]}
    assert set(found) == {("taylorseer:interval=4", "own"), ("taylorseer:interval=4", "taylor:max_order=1"), ("steps=0+1+5+9", "taylor:max_order=1")}
    for (policy, predictor), line in found.items():
        (score,) = Replay(TRACE, LAST).scores([predictor], [policy])
        assert line == json.loads(json.dumps(score.figures()))


def test_the_command_writes_tables_and_a_page_that_needs_nothing(saved, tmp_path):
    out = tmp_path / "out"
    done = call(saved, "--predictors", "taylor:max_order=1", "--schedules", "taylorseer:interval=4", "steps=0+1+5+9", "--out", out, "--csv")
    assert done.exit_code == 0, done.output
    assert "errors do not feed back" in " ".join(done.stdout.split())
    assert {path.name for path in out.iterdir()} == {"index.html", "table.csv", "errors.csv"}
    with (out / "errors.csv").open() as file:
        lines = list(csv.DictReader(file))
    (score,) = Replay(TRACE, LAST).scores(["taylor:max_order=1"], ["steps=0+1+5+9"])
    written = np.array([float(line["error"]) for line in lines if line["policy"] == score.policy]).reshape(score.error.shape)
    np.testing.assert_allclose(written, score.error, rtol=1e-6)
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "Open loop" in page
    own = page[: page.index("<script>")]
    assert "http" not in own
    assert "src=" not in own


def test_a_gate_that_is_refused_costs_the_others_nothing(saved, tmp_path):
    """Law: what can be scored is printed and written; the refusal stands at the end, and in the exit status."""
    done = call(saved, "--schedules", "taylorseer:interval=4", "--gates", "speca", "--out", tmp_path / "out", "--json")
    assert done.exit_code == 2
    assert [line["policy"] for line in json.loads(done.stdout)["open_loop"]] == ["taylorseer:interval=4"]
    assert "needs the model" in done.stderr
    assert (tmp_path / "out" / "index.html").exists()
    alone = call(saved, "--gates", "speca")
    assert alone.exit_code == 2
    assert not alone.stdout


def test_what_forecasts_the_output_is_replayed_too():
    trace, features = smooth(sites=(0, 3))
    output = {**features, OUTPUT: features[LAST] + 1.0}
    with_output = attrs.evolve(trace, grams={**trace.grams, ("", OUTPUT): output[OUTPUT] @ output[OUTPUT].transpose(0, 2, 1)})
    assert replay_gate(with_output, "cg_taylor:threshold=0.1,target=output", features=output).site == OUTPUT
    assert replay_pair(with_output, "taylor:max_order=1", "taylorseer:interval=3,max_order=1", OUTPUT, features=output).site == OUTPUT


def test_a_schedule_at_a_site_hands_on_its_notes_and_weights_take_needs_in_parts():
    """Law: what stands between a session and a plugin passes all that it says at setup."""

    class Parts:
        @hookimpl
        def setup(self, run):
            return Needs(anchors=2), Needs(sites=(LAST,), anchors=3, note="n")

        @hookimpl
        def predict_features(self, step, sites, history):
            return None

    shape = run_of(TRACE)
    assert LinearWeights("parts", Parts(), shape, LAST).anchors == 3
    stretched = f"planned:schedule=0+1+4/{TRACE.num_steps * 2},interpolate=True"
    needs = ScheduleAt(schedule_from(stretched), LAST).setup(shape)
    assert needs.sites == (LAST,)
    assert any("is stretched" in note for note in needs.notes)


def test_of_several_streams_a_gate_says_which_it_compared():
    trace, _ = smooth()
    two = attrs.evolve(trace, streams=("cond", "uncond"), grams={(name, site): gram for (_, site), gram in trace.grams.items() for name in ("cond", "uncond")})
    assert "of 2 streams the first is compared" in replay_gate(two, gate(relative_l2)).note
    assert "streams" not in replay_gate(trace, gate(relative_l2)).note


def test_what_the_command_prints_as_json_is_json(saved):
    """Law: also where every step is computed, and nothing is off."""
    every = "+".join(map(str, range(TRACE.num_steps)))
    printed = call(saved, "--predictors", "taylor:max_order=1", "--schedules", f"steps={every}", "--json").stdout

    def refuse(word):
        raise AssertionError(word)

    (score,) = json.loads(printed, parse_constant=refuse)["open_loop"]
    assert score["computed"] == TRACE.num_steps
    assert score["psnr_mean"] == score["psnr_worst"] == BEST_PSNR


def test_the_tensors_of_another_recording_are_refused(tmp_path):
    """Law: tensors are those whose inner products the trace holds."""
    trace, features = smooth(seed=1)
    path = attrs.evolve(trace, features="kept").save(tmp_path / "trace.safetensors")
    for seed, fits in ((1, True), (2, False)):
        shutil.rmtree(tmp_path / "kept", ignore_errors=True)
        store = FeatureStore.create(tmp_path / "kept", facts={})
        others = features if fits else smooth(seed=seed)[1]
        store.add("", {site: torch.tensor(values, dtype=torch.float32) for site, values in others.items()})
        with nullcontext() if fits else pytest.raises(OptionError, match=r"not those of this trace.*norms differ"):
            assert stored_features(Trace.load(path), path) is not None


def test_the_closed_loop_draws_other_samples_than_were_recorded(tmp_path):
    """Law: a seed that was recorded is refused before anything is drawn."""
    trace = attrs.evolve(smooth(depth=12, steps=8, sites=(0, 11))[0], seed=1)
    with pytest.raises(OptionError, match=r"seed=1 is that of the recorded samples.*write seed=2"):
        measure(trace, [], tmp_path, samples=1)


def test_the_command_refuses_what_needs_a_folder_or_is_no_trace(saved, tmp_path):
    for arguments in ((saved, "--csv"), (saved, "--closed-loop", "2")):
        done = call(*arguments)
        assert done.exit_code == 2
        assert "--out" in done.stderr
    (tmp_path / "text").write_text("no trace")
    assert call(tmp_path / "text").exit_code == 2
    done = call(saved, "--gates", "cg_taylor:threshold=0.05")
    assert done.exit_code == 2
    assert "--features" in done.stderr


def test_scores_are_plain_numbers():
    (score,) = Replay(TRACE, LAST).scores(["taylor"], ["none"])
    assert isinstance(score, Score)
    assert score.figures()["error_mean"] == 0.0
    assert score.cost == 20
