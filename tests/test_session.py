"""Laws of the step engine, on hosts without a model."""

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import foreseer
from foreseer import Evidence, Needs, Plan, Probe, Run, Site, Verdict, Weights, hookimpl
from foreseer.adapters import ArrayBackbone
from foreseer.policies import BlockWise, FirstBlockGate, LinearPredictor, taylor
from foreseer.registry import parse_policy

ROWS, DEPTH = 3, 4


class Counting(ArrayBackbone):
    """Counts every pass, so that a test can see what was really asked for."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.passes = []

    def forward(self, inputs, **kwargs):
        done = super().forward(inputs, **kwargs)
        self.passes.append((inputs, kwargs.get("rows"), done.block_rows))
        return done


def world(rows=ROWS, depth=DEPTH, parts=()):
    """Smooth features that differ by site and row: a sine whose speed grows with the row."""

    def feature(site, t):
        speed = 0.02 * (1 + np.arange(rows))[:, None]
        return np.sin(speed * t + site.block + np.arange(5)) + 2.0 + len(site.part)

    return Counting(feature, depth=depth, parts=parts)


def session(host, policy, *, steps=20, groups=None, rows=ROWS, **kwargs):
    run = Run(host.depth, rows, tuple(range(rows)) if groups is None else groups, steps, None, None, host.sites)
    spec = parse_policy(policy) if isinstance(policy, str) else foreseer.policy(policy)
    return foreseer.Session(host, spec, run, **kwargs)


def drive(s, steps=20):
    return [s.evaluate(t) for t in range(steps)]


def bare(host, steps=20):
    return [host.forward(t, substitute={}).output for t in range(steps)]


@attrs.define(eq=False)
class Custom:
    """A policy that does what a test tells it to."""

    plan: object = None
    verdict: object = None
    sites: tuple = (Site(DEPTH - 1),)
    seen: list = attrs.field(factory=list)

    @hookimpl
    def setup(self, run):
        return Needs(sites=self.sites)

    @hookimpl
    def before_step(self, step):
        return self.plan(step) if callable(self.plan) else self.plan

    @hookimpl
    def verify(self, step, evidence):
        self.seen.append(evidence)
        return self.verdict(step, evidence) if callable(self.verdict) else self.verdict


def test_abstaining_policy_is_bitwise_the_bare_host():
    host = world()
    outputs = drive(session(host, "none"))
    assert all(np.array_equal(a, b) for a, b in zip(outputs, bare(host), strict=True))


@pytest.mark.parametrize("hook", ["before_step", "predict_features", "verify"])
def test_none_from_any_hook_computes(hook):
    plan = Plan(forecast=(Site(0), Site(3)), probe=Probe(0))

    class Abstains:
        @hookimpl
        def setup(self):
            return Needs(sites=(Site(0), Site(3)))

        @hookimpl
        def before_step(self):
            return None if hook == "before_step" else plan

        @hookimpl
        def predict_features(self, sites, history):
            weights = Weights.per_row(lambda anchors, target: (1.0,), history.anchors, 0)
            return None if hook == "predict_features" else dict.fromkeys(sites, weights)

        @hookimpl
        def verify(self, evidence):
            assert hook == "verify"

    host = world()
    s = session(host, Abstains)
    outputs = drive(s)
    assert s.report.full_steps == list(range(20))
    assert all(np.array_equal(a, b) for a, b in zip(outputs, bare(host), strict=True))


@pytest.mark.parametrize(
    "policy", ["taylorseer", "reuse", "cg_taylor:threshold=0", "cg_taylor:threshold=0.01", "speca:threshold=0", "speca:threshold=0.3", "speca_released"]
)
@pytest.mark.parametrize("parts", [(), ("attn", "mlp")])
def test_block_rows_of_the_report_are_those_that_the_host_counted(policy, parts):
    host = world(parts=parts)
    s = session(host, foreseer.registry.parse_policy(policy))
    drive(s)
    assert s.report.block_rows == sum(spent for _, _, spent in host.passes)


@pytest.mark.parametrize("policy", ["cg_taylor:threshold=0", "speca:threshold=0"])
def test_threshold_zero_is_bitwise_the_bare_host(policy):
    host = world(parts=("attn", "mlp"))
    outputs = drive(session(host, foreseer.registry.parse_policy(policy)))
    assert all(np.array_equal(a, b) for a, b in zip(outputs, bare(host), strict=True))


def test_first_step_is_computed_whatever_the_plan():
    host = world()
    s = session(host, lambda: (Custom(plan=Plan(forecast=(Site(3),))), taylor()))
    drive(s, 2)
    assert s.report.computed.tolist() == [[True] * ROWS, [False] * ROWS]


def test_rejected_rows_are_recomputed_in_the_same_step_and_only_these():
    def judge(step, evidence):
        return Verdict(torch.tensor([0.0, 9.0, 0.0]), torch.tensor([True, False, True]), 1.0)

    host = world(parts=("attn", "mlp"))
    sites = tuple(site for site in host.sites if site.part != "block")
    plan = Plan(forecast=sites, probe=Probe(DEPTH - 1, on="draft"))
    s = session(host, lambda: (Custom(plan=plan, verdict=judge, sites=sites), taylor()))
    outputs = drive(s, 3)
    truth = bare(host, 3)
    assert host.passes[1][1] is None
    assert host.passes[2][:2] == (1, [1]), "one pass over the rejected row only"
    assert np.array_equal(outputs[1][1], truth[1][1])
    assert not np.array_equal(outputs[1][0], truth[1][0])
    assert s.report.computed[1].tolist() == [False, True, False]
    assert s.report.outcomes[1].block_rows == ROWS + DEPTH * 1


def test_input_probe_keeps_its_work_on_rejection():
    def reject(step, evidence):
        return Verdict(torch.full((ROWS,), 9.0), torch.zeros(ROWS, dtype=torch.bool), 1.0)

    host = world()
    sites = (Site(0), Site(3))
    s = session(host, lambda: (Custom(plan=Plan(forecast=sites, probe=Probe(0)), verdict=reject, sites=sites), taylor()))
    outputs = drive(s, 4)
    assert [spent for _, _, spent in host.passes] == [DEPTH * ROWS] * 4, "one pass a step, nothing computed twice"
    assert all(np.array_equal(a, b) for a, b in zip(outputs, bare(host, 4), strict=True))
    one = Verdict(torch.zeros(ROWS), torch.tensor([True, False, True]), 1.0)
    host = world()
    s = session(host, lambda: (Custom(plan=Plan(forecast=sites, probe=Probe(0)), verdict=one, sites=sites), taylor()))
    drive(s, 2)
    assert s.report.outcomes[1].block_rows == ROWS + (DEPTH - 1) * 1, "the rejected row resumes at block 1"


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_error_that_is_not_finite_is_rejected_even_if_accepted(poison):
    verdict = Verdict(torch.tensor([0.0, poison, 0.0]), torch.ones(ROWS, dtype=torch.bool), 1.0)
    host = world()
    sites = (Site(0), Site(3))
    s = session(host, lambda: (Custom(plan=Plan(forecast=sites, probe=Probe(0)), verdict=verdict, sites=sites), taylor()))
    drive(s, 2)
    assert s.report.computed[1].tolist() == [False, True, False]
    assert s.report.rejected[1].tolist() == [False, True, False]


@pytest.mark.parametrize("policy", ["taylorseer:target=last_block", "reuse", "cg_taylor:threshold=1", "speca:threshold=1,threshold_decay=1"])
def test_nan_features_of_one_row_are_rejected_and_spoil_no_other(policy):
    clean, poisoned = world(parts=("attn", "mlp")), world(parts=("attn", "mlp"))
    honest = poisoned._feature

    def feature(site, t):
        values = honest(site, t).copy()
        values[1] = np.nan
        return values

    poisoned._feature = feature
    spec = foreseer.registry.parse_policy(policy)
    s, t = session(poisoned, spec), session(clean, spec)
    outputs, expected = drive(s), drive(t)
    assert s.report.computed[:, 1].all(), "a forecast that is not finite is never used"
    for a, b in zip(outputs, expected, strict=True):
        assert np.allclose(a[[0, 2]], b[[0, 2]], rtol=1e-12)


def test_a_draft_that_the_host_did_not_judge_is_computed():
    class Forgetful(Counting):
        def forward(self, inputs, *, probe=None, judge=None, **kwargs):
            return super().forward(inputs, **kwargs)

    host = Forgetful(world()._feature, depth=DEPTH)
    sites = (Site(0), Site(3))
    s = session(host, lambda: (Custom(plan=Plan(forecast=sites, probe=Probe(0)), sites=sites), taylor()))
    outputs = drive(s, 4)
    assert s.report.full_steps == [0, 1, 2, 3]
    assert all(np.array_equal(a, b) for a, b in zip(outputs, bare(host, 4), strict=True))
    assert "did not reach" in s.report.reasons[2]
    assert s.report.outcomes[2].block_rows == sum(block_rows for t, _, block_rows in host.passes[:-4] if t == 2), "of both passes"


def test_rows_of_one_sample_share_one_fate():
    verdict = Verdict(torch.tensor([0.0, 9.0, 0.0, 0.0]), torch.tensor([True, False, True, True]), 1.0)
    host = world(rows=4)
    sites = (Site(0), Site(3))
    s = session(host, lambda: (Custom(plan=Plan(forecast=sites, probe=Probe(0)), verdict=verdict, sites=sites), taylor()), rows=4, groups=(0, 1, 0, 1))
    drive(s, 2)
    assert s.report.computed[1].tolist() == [False, True, False, True]


def test_rows_that_a_plan_condemns_are_computed_whatever_the_verdict():
    plan = Plan(forecast=(Site(3),), compute=(False, False, True))
    host = world()
    s = session(host, lambda: (Custom(plan=plan), taylor()))
    drive(s, 3)
    assert s.report.computed[1:].tolist() == [[False, False, True]] * 2


@given(st.data())
def test_rows_forecast_from_their_own_anchors(data):
    """Whatever rows are computed when, row r of a batch is what it would be in a run of its own."""
    pattern = data.draw(st.lists(st.tuples(*[st.booleans()] * ROWS), min_size=1, max_size=12))
    order = data.draw(st.integers(0, 3))

    def run(rows, columns):
        host = world()
        honest = host._feature
        host._feature = lambda site, t: honest(site, t)[columns]
        plan = lambda step: Plan(forecast=(Site(3),), compute=tuple(pattern[step.index][c] for c in columns))  # noqa: E731
        return drive(session(host, lambda: (Custom(plan=plan), taylor(max_order=order)), rows=rows), len(pattern))

    together = run(ROWS, list(range(ROWS)))
    for row in range(ROWS):
        alone = run(1, [row])
        assert all(np.allclose(a[row], b[0], rtol=1e-10, atol=1e-12) for a, b in zip(together, alone, strict=True))


def test_forecasts_never_enter_the_history():
    """Every recorded feature that a predictor sees was computed: it equals the host's own, at the anchor's step."""
    host = world()
    checked = []

    class Looks(LinearPredictor):
        @hookimpl
        def predict_features(self, step, sites, history):
            features = history.features(Site(3))
            for k in range(history.anchors.shape[1]):
                for r in range(ROWS):
                    if not np.isnan(history.anchors[r, k]):
                        truth = host._feature(Site(3), history.anchors[r, k])[r]
                        assert np.array_equal(features[k, r].numpy(), truth)
                        checked.append((step.index, r, k))
            return {site: Weights.per_row(lambda a, t: (1.0,), history.anchors, step.index) for site in sites}

    plan = lambda step: Plan(forecast=(Site(3),), compute=(step.index % 2 == 0, step.index % 3 == 0, False))  # noqa: E731
    drive(session(host, lambda: (Custom(plan=plan), Looks(lambda a, t: (1.0,), 2))), 12)
    assert len(checked) > 40


def test_one_sync_per_verified_step_and_none_elsewhere(monkeypatch):
    """Every way of reading a tensor on the host is counted; on an accelerator each would be a sync."""
    synced = []
    for name in ("tolist", "item", "__bool__", "__float__", "__int__", "cpu", "numpy", "__index__"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, *a, _o=original, _n=name, **k: (synced.append(_n), _o(self, *a, **k))[1])

    monkeypatch.setattr(torch.Tensor, "is_cpu", False)  # as on an accelerator; on a CPU reading costs nothing
    out = torch.zeros(ROWS, 2, device="meta")

    class Null:
        depth, sites = DEPTH, tuple(Site(b) for b in range(DEPTH))

        def forward(self, inputs, *, rows=None, substitute, probe=None, judge=None, record=()):
            if probe is not None:
                judge(Evidence(Site(probe.block), torch.zeros(ROWS, 2), torch.zeros(ROWS, 2)))
            elif substitute:
                substitute[Site(3)]
            return foreseer.Pass(out, dict.fromkeys(record, out), 0)

        def merge(self, output, rows, part):
            return output

    verdict = lambda step, evidence: Verdict(torch.zeros(ROWS), torch.ones(ROWS, dtype=torch.bool), 1.0)  # noqa: E731
    sites = (Site(0), Site(3))
    for probe, expected in ((Probe(0), 9), (None, 0)):
        synced.clear()
        s = session(Null(), lambda p=probe: (Custom(plan=Plan(forecast=sites, probe=p), verdict=verdict, sites=sites), taylor()))
        drive(s, 10)
        assert not s.report.computed[1:].any()
        assert len(synced) == expected


@pytest.mark.parametrize("parts", [(), ("attn", "mlp")])
def test_input_probe_deeper_in_resumes_behind_it_with_every_feature_recorded(parts):
    one = Verdict(torch.zeros(ROWS), torch.tensor([True, False, True]), 1.0)
    host = world(parts=parts)
    sites = host.sites
    s = session(host, lambda: (Custom(plan=Plan(forecast=(Site(1), Site(3)), probe=Probe(1)), verdict=one, sites=sites), taylor()))
    outputs = drive(s, 4)
    truth = bare(host, 4)
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(outputs, truth, strict=True))
    assert s.report.outcomes[1].block_rows == 2 * ROWS + (DEPTH - 2) * 1
    for site in sites:
        newest = s.tenure._bank.features(site)[0, 1].numpy()
        parts_of_it = [host._feature(Site(b, p), 3)[1] for b in range(site.block + 1) for p in parts]
        truth_of_it = sum(parts_of_it) if parts and site.part == "block" else host._feature(site, 3)[1]
        assert np.allclose(newest, truth_of_it, rtol=1e-12)


def test_error_in_a_policy_keeps_its_type_and_names_the_hook():
    class Broken:
        @hookimpl
        def before_step(self, step):
            if step.index == 2:
                raise ZeroDivisionError("oops")

    s = session(world(), Broken)
    with pytest.raises(ZeroDivisionError) as caught:
        drive(s)
    assert any("before_step of Broken" in note and "step 2" in note for note in caught.value.__notes__)
    assert len(s.report.outcomes) == 2, "what was done is kept"


@pytest.mark.parametrize("hook", ["before_step", "predict_features", "verify", "commit"])
def test_on_error_compute_computes_the_step_and_reports(hook):
    plan = Plan(forecast=(Site(0), Site(3)), probe=Probe(0))

    class Broken:
        @hookimpl
        def setup(self):
            return Needs(sites=(Site(0), Site(3)))

        @hookimpl
        def before_step(self):
            if hook == "before_step":
                raise RuntimeError("oops")
            return plan

        @hookimpl
        def predict_features(self, sites, history):
            if hook == "predict_features":
                raise RuntimeError("oops")
            return dict.fromkeys(sites, Weights.per_row(lambda a, t: (1.0,), history.anchors, 0))

        @hookimpl
        def verify(self, evidence):
            if hook == "verify":
                raise RuntimeError("oops")

        @hookimpl
        def commit(self):
            if hook == "commit":
                raise RuntimeError("oops")

    host = world()
    s = session(host, Broken, on_error="compute")
    outputs = drive(s, 4)
    assert all(np.array_equal(a, b) for a, b in zip(outputs, bare(host, 4), strict=True))
    assert any(f"{hook} of Broken" in w and "oops" in w for w in s.report.warnings)


def test_error_of_the_host_is_never_swallowed():
    host = world()
    host._feature = lambda site, t: 1 / 0
    with pytest.raises(ZeroDivisionError):
        session(host, "taylorseer", on_error="compute").evaluate(0)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Plan(forecast=(Site(2),)), "Needs"),
        (Plan(forecast=(Site(3),), compute=(True,)), "3 rows"),
        (Plan(forecast=(Site(3),), probe=Probe(9, on="draft")), "blocks 0 to 3"),
        (Plan(forecast=(Site(3),), probe=Probe(0)), "add Site"),
    ],
)
def test_plan_that_cannot_be_carried_out_is_refused(answer, says):
    with pytest.raises(foreseer.ContractError, match=says):
        drive(session(world(), lambda: (Custom(plan=answer), taylor())))


@pytest.mark.parametrize(
    ("drafts", "says"),
    [
        ({}, "no forecast for 3.block"),
        ({Site(3): "x"}, "str"),
        ({Site(3): torch.zeros(ROWS, 4)}, "recorded is"),
        ({Site(3): Weights(np.zeros((ROWS, 7)))}, "rows, anchors"),
        ({Site(3): Weights(np.ones((ROWS, 2)))}, "reach back"),
    ],
)
def test_forecast_that_breaks_the_contract_is_refused(drafts, says):
    class Bad:
        @hookimpl
        def setup(self):
            return Needs(anchors=2)

        @hookimpl
        def predict_features(self):
            return drafts

    with pytest.raises(foreseer.ContractError, match=says):
        drive(session(world(), lambda: (Custom(plan=Plan(forecast=(Site(3),))), Bad())))


def test_a_predictor_may_return_tensors():
    class Zero:
        @hookimpl
        def predict_features(self, sites, history):
            return {site: torch.zeros_like(history.features(site)[0]) for site in sites}

    outputs = drive(session(world(), lambda: (Custom(plan=Plan(forecast=(Site(3),))), Zero())), 2)
    assert not outputs[1].any()


def test_site_that_the_model_lacks_is_refused_before_anything_runs():
    host = world()
    with pytest.raises(foreseer.ContractError, match="does not have"):
        session(host, lambda: Custom(sites=(Site(99),)))
    assert host.passes == []


def test_evaluations_beyond_the_declared_steps_are_computed_and_reported():
    host = world()
    s = session(host, foreseer.policy("taylorseer", interval=4), steps=5)
    drive(s, 9)
    assert s.report.full_steps == [0, 1, 5, 6, 7, 8]
    assert any("declared with 5 steps" in w for w in s.report.warnings)


def test_failing_observer_is_dropped_and_reported():
    class Fails:
        @hookimpl
        def on_step(self, step):
            raise ValueError("disk full")

    class Watches:
        def __init__(self):
            self.steps, self.ends = [], []

        @hookimpl
        def on_step(self, step, outcome):
            self.steps.append(step.index)

        @hookimpl
        def on_run_end(self, report):
            self.ends.append(report.finished)

    watch = Watches()
    s = session(world(), "none", observers=(Fails(), watch))
    drive(s, 3)
    s.finish()
    s.finish()
    assert watch.steps == [0, 1, 2]
    assert watch.ends == [True], "told once"
    assert any("Fails" in w and "disk full" in w for w in s.report.warnings)


def test_sample_is_the_loop_of_the_papers():
    """x' = -x by Euler steps, from a host whose feature is x itself: the reference loop against the closed form."""
    host = ArrayBackbone(lambda site, x: np.asarray(x), depth=2)
    x, report = foreseer.sample(host, np.ones((2, 1)), list(range(10)), policy="none", inputs=lambda x, t: x, update=lambda x, out, i: x - 0.1 * out)
    assert np.allclose(x, 0.9**10)
    assert report.finished
    assert report.full_steps == list(range(10))


def test_two_sessions_of_one_spec_share_nothing():
    spec = foreseer.policy("speca", threshold=0.05, threshold_decay=1.0)
    a, b, c = (session(world(parts=("attn", "mlp")), spec) for _ in range(3))
    first = drive(a)
    interleaved = [(b.evaluate(t), c.evaluate(t)) for t in range(20)]
    for one, (two, three) in zip(first, interleaved, strict=True):
        assert np.array_equal(one, two)
        assert np.array_equal(one, three)


def test_gate_and_predictor_of_any_two_policies_cross():
    def mine():
        return FirstBlockGate(0.05, 2), BlockWise(((0, taylor(max_order=0)), (-1, taylor(max_order=2))))

    host = world()
    s = session(host, mine)
    drive(s)
    assert 0 < len(s.report.full_steps) < 20
    assert s.tenure._bank._keep == {Site(0): 1, Site(3): 3}


def test_two_predictors_side_by_side_both_hear_of_every_step() -> None:
    """A predictor that counts in ``commit`` counts right under a policy of two predictors too."""
    heard: dict[str, list[int]] = {"first": [], "last": []}

    class Counting:
        def __init__(self, name: str) -> None:
            self.name, self.inner = name, taylor(max_order=0)

        @hookimpl
        def setup(self):
            return self.inner.setup()

        @hookimpl
        def predict_features(self, step, sites, history):
            return self.inner.predict_features(step, sites, history)

        @hookimpl
        def commit(self, step) -> None:
            heard[self.name].append(step.index)

    host = ArrayBackbone(lambda site, k: np.ones((2, 3)), depth=3)
    policy = lambda: (FirstBlockGate(0.05, 2), BlockWise(((0, Counting("first")), (-1, Counting("last")))))  # noqa: E731
    foreseer.sample(host, None, range(6), policy=policy, inputs=lambda x, k: k, update=lambda x, output, index: None)
    assert heard == {"first": list(range(6)), "last": list(range(6))}


class Several:
    """A predictor that says what it needs in several parts, and has something to tell."""

    def __init__(self, *needs: Needs) -> None:
        self.needs, self.inner = needs, taylor(max_order=1)

    @hookimpl
    def setup(self, run):
        return self.needs

    @hookimpl
    def predict_features(self, step, sites, history):
        return self.inner.predict_features(step, sites, history)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda several: (FirstBlockGate(0.05, 2), BlockWise(((0, taylor(max_order=0)), (-1, several)))),
        lambda several: (FirstBlockGate(0.05, 2), several),
    ],
    ids=["side by side", "alone"],
)
def test_a_predictor_may_need_several_things_and_its_notes_are_heard(wrapped) -> None:
    """Law: what delegates to a predictor hands on all that it says at setup."""
    needs = Needs(anchors=2), Needs(anchors=4, note="The pot is small."), Needs(note="It boils.")
    s = session(world(), lambda: wrapped(Several(*needs)))
    drive(s)
    assert s.tenure._bank._keep[Site(3)] == 4
    assert {"The pot is small.", "It boils."} <= set(s.report.warnings)


def test_a_predictor_beside_another_may_need_nothing() -> None:
    def pair():
        other = Several(Needs(sites=(Site(0),), anchors=3))
        return FirstBlockGate(0.05, 2), BlockWise(((0, Several()), (-1, other)))

    s = session(world(), pair)
    assert s.tenure._bank._keep == {Site(0): 1, Site(3): 3}, "each is given its own block and no other"


@attrs.define(eq=False)
class Looker:
    """An observer that keeps what it is shown."""

    wanted: tuple = ()
    shadowed: object = None
    features: dict = attrs.field(factory=dict)
    shadows: list = attrs.field(factory=list)

    @hookimpl
    def features_wanted(self, run):
        return self.wanted

    @hookimpl
    def on_features(self, step, rows, features):
        self.features[step.index] = (rows, {site: features[site].clone() for site in self.wanted if site in features})

    @hookimpl
    def shadow(self, step):
        return self.shadowed is None or step.index in self.shadowed

    @hookimpl
    def on_shadow(self, step, outcome, drafts, features, output, computed):
        self.shadows.append((step.index, outcome, dict(drafts), dict(features), output, computed))


GATES = ["none", "taylorseer:interval=3", "cg_taylor:threshold=0.05", "cg_taylor:threshold=0.05,target=output", "speca:threshold=0.2"]


@pytest.mark.parametrize("policy", GATES)
@pytest.mark.parametrize("parts", [(), ("attn", "mlp")])
def test_observers_see_every_computed_row_and_change_nothing(policy, parts):
    if policy.startswith(("taylorseer", "speca")) and not parts:
        policy += ",target=last_block"
    looker = Looker(wanted=(Site(0), Site(2), Site(DEPTH - 1), foreseer.OUTPUT), shadowed=())
    host = world(parts=parts)
    plain = session(host, policy)
    alone = drive(plain)
    watched = session(host, policy, observers=[looker])
    assert all(np.array_equal(a, b) for a, b in zip(alone, drive(watched), strict=True))
    assert (plain.report.computed == watched.report.computed).all()
    assert plain.report.bytes_held == watched.report.bytes_held
    for t, computed in enumerate(watched.report.computed):
        assert (t in looker.features) == bool(computed.any())
        if t in looker.features:
            rows, seen = looker.features[t]
            assert rows == tuple(np.flatnonzero(computed))
            real = host.forward(t, substitute={}, record=looker.wanted).features
            for site in looker.wanted:
                assert torch.equal(seen[site], real[site][list(rows)]), (t, site)


@pytest.mark.parametrize("policy", [p for p in GATES if p != "none"])
def test_a_shadow_is_the_truth_and_costs_the_run_nothing(policy):
    looker = Looker()
    host = world(parts=("attn", "mlp"))
    alone = session(host, policy)
    outputs = drive(alone)
    watched = session(host, policy, observers=[looker])
    assert all(np.array_equal(a, b) for a, b in zip(outputs, drive(watched), strict=True))
    assert alone.report.block_rows == watched.report.block_rows
    forecast = [o for o in watched.report.outcomes if o.plan.forecast]
    assert [index for index, *_ in looker.shadows] == [o.step.index for o in forecast]
    extra = sum(DEPTH * ROWS for o in forecast if not o.full)
    assert watched.report.check_block_rows - alone.report.check_block_rows == extra > 0
    for index, outcome, drafts, features, output, computed in looker.shadows:
        real = host.forward(index, substitute={}, record=drafts).features
        assert np.array_equal(output, outputs[index])
        assert np.array_equal(computed, bare(host)[index])
        for site, draft in drafts.items():
            assert site == foreseer.OUTPUT or torch.equal(features[site], real[site])
            if not any(outcome.computed):
                assert draft.shape == real[site].shape


def test_a_site_that_the_host_has_not_is_reported_and_left_out():
    looker = Looker(wanted=(Site(77), Site(1)))
    s = session(world(), "none", observers=[looker])
    drive(s, steps=3)
    assert "77.block" in s.report.warnings[0]
    assert set(looker.features[0][1]) == {Site(1)}


def test_an_observer_that_raises_while_it_looks_is_dropped_and_the_run_goes_on():
    class Clumsy(Looker):
        @hookimpl
        def shadow(self, step):
            raise RuntimeError("no")

    host = world(parts=("attn", "mlp"))
    s = session(host, "taylorseer:interval=3", observers=[Clumsy()])
    assert len(drive(s)) == 20
    assert "dropped" in s.report.warnings[0]


class Impatient:
    """An observer that counts steps, and may have enough of them."""

    def __init__(self, enough=None):
        self.steps, self.ended, self.enough = 0, False, enough

    @hookimpl
    def on_step(self, step):
        if step.index == self.enough:
            raise RuntimeError("enough")
        self.steps += 1

    @hookimpl
    def on_run_end(self):
        self.ended = True


@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_observer_that_raises_goes_alone(number):
    """Law: others of its class stay, and the report says which of them went."""
    watchers = [Impatient(enough=3 if n == number else None) for n in range(3)]
    s = session(world(), "taylorseer:target=last_block", observers=watchers)
    for step in range(10):
        s.evaluate(step)
    report = s.finish()
    assert [w.steps for w in watchers] == [3 if n == number else 10 for n in range(3)]
    assert [w.ended for w in watchers] == [n != number for n in range(3)]
    (warning,) = [w for w in report.warnings if "was dropped" in w]
    assert f"no. {number + 1} was dropped: on_step raised RuntimeError: enough" in warning


def test_a_lone_observer_has_no_number():
    """Law: a class is name enough where there is one of it."""
    s = session(world(), "none", observers=[Impatient(enough=0)])
    s.evaluate(0)
    (warning,) = s.finish().warnings
    assert warning.startswith("observer Impatient (")
    assert "no." not in warning
