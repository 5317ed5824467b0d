"""Contract 1.2: residuals, evidence in front of the model, inner products, and drafts that wait."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import foreseer
from foreseer import AnswerError, ContractError, OptionError, OverBudgetError, Run, Session, Storage, hookimpl, sample
from foreseer.backbone import live_blocks, places_of
from foreseer.metrics import relative_l1
from foreseer.storage import Allowance
from foreseer.testing.worlds import DEPTH, ROWS, World, constant, mixed, polynomial
from foreseer.types import (
    LATENT,
    OUTPUT,
    STREAM,
    Evidence,
    History,
    Late,
    Live,
    Needs,
    Plan,
    Probe,
    Site,
    Step,
    Verdict,
    Weights,
)

STACK, AFTER_FIRST, WHOLE = Site(DEPTH - 1, since=-1), Site(DEPTH - 1, since=0), Site(-1, "output", since=-1)


@attrs.define(eq=False)
class Scripted:
    """A policy that does what it is told."""

    needs: Needs
    plan: Any
    weights: Any = lambda anchors, step: [1.0]
    judge: Any = None
    told: list[Any] = attrs.field(factory=list)
    shown: list[Evidence] = attrs.field(factory=list)

    @hookimpl
    def setup(self, run: Any) -> Needs:
        return self.needs

    @hookimpl
    def before_step(self, step: Step) -> Plan | None:
        return self.plan(step.index)

    @hookimpl
    def predict_features(self, step: Step, sites: tuple[Site, ...], history: History) -> Any:
        made = self.weights(history, step) if isinstance(self.weights, type(lambda: 0)) and self.weights.__code__.co_varnames[:1] == ("history",) else None
        return made or dict.fromkeys(sites, Weights.per_row(self.weights, history.anchors, step.index))

    @hookimpl
    def verify(self, step: Step, evidence: Evidence) -> Verdict:
        self.shown.append(evidence)
        return self.judge(evidence)

    @hookimpl
    def commit(self, outcome: Any) -> None:
        self.told.append(outcome)


def run(world: World, policy: Scripted, steps: int = 8) -> tuple[list[torch.Tensor], Any]:
    outputs: list[torch.Tensor] = []
    _, report = sample(
        world, None, list(range(steps)), policy=lambda: policy, inputs=lambda x, t: int(t), update=lambda x, output, i: outputs.append(output.clone())
    )
    return outputs, report


def every_other(*sites: Site, probe: Probe | None = None) -> Any:
    return lambda step: None if step % 2 == 0 else Plan(forecast=sites, probe=probe)


@pytest.mark.parametrize("site", [STACK, AFTER_FIRST, WHOLE, Site(3, since=1)])
def test_a_residual_that_is_constant_is_reused_exactly_on_a_stream_that_moves(site: Site) -> None:
    """Law: where blocks add the same in every step, reusing what they added is what computing gives."""

    def feature(at: Site, step: float) -> torch.Tensor:
        return torch.round(64 * constant(at)) * (1 + (step if at.block < (max(site.since or 0, 0) or 1) and at.part in ("stream", "latent") else 0))

    outputs, report = run(World(feature), Scripted(Needs((site,)), every_other(site)))
    for step, output in enumerate(outputs):
        assert torch.equal(output, World(feature).output(step))
    assert [o.full for o in report.outcomes] == [True, False] * 4


@given(order=st.integers(0, 2), since=st.sampled_from([-1, 0, 2]))
def test_forecasting_what_was_added_and_the_whole_agree_where_the_stream_is_as_smooth(order: int, since: int) -> None:
    """Law: on features that are polynomials of its order, the forecast of a residual equals that of the block."""
    world = World(polynomial([1.0, *([0.5] * order)], scale=4.0))
    residual = Scripted(
        Needs((Site(DEPTH - 1, since=since),), order + 1), lambda step: None if step <= order else Plan(forecast=(Site(DEPTH - 1, since=since),))
    )

    def line(anchors: tuple[float, ...], target: float) -> list[float]:
        return [float(np.prod([(target - b) / (a - b) for b in anchors if b != a])) for a in anchors]

    residual.weights = line
    outputs, _ = run(world, residual, steps=6)
    for step, output in enumerate(outputs):
        assert torch.allclose(output, world.output(step), rtol=1e-9)


def test_rows_that_are_rejected_are_computed_and_what_was_added_is_recorded_of_them_alone() -> None:
    """Law: a probe in front of a residual may reject some rows; the others keep their forecast, each of its own anchor."""
    world = World(mixed)
    judge = lambda evidence: (lambda e: Verdict(e, e < 0.05, 0.05))(evidence.error(relative_l1, against="anchor"))  # noqa: E731
    policy = Scripted(
        Needs((AFTER_FIRST,), evidence=(Site(0, since=-1),)), lambda k: None if k < 2 else Plan((AFTER_FIRST,), Probe(Site(0, since=-1))), judge=judge
    )
    outputs, report = run(world, policy)
    for row in range(ROWS):
        alone = Scripted(policy.needs, policy.plan, judge=judge)
        single, told = run(World(mixed, labels=[row]), alone)
        assert [o.computed[row] for o in report.outcomes] == [o.computed[0] for o in told.outcomes]
        assert all(torch.equal(a[row], b[0]) for a, b in zip(outputs, single, strict=True))
    assert any(o.kind == "mixed" for o in report.outcomes)


@pytest.mark.parametrize(("site", "cost"), [(LATENT, 0), (STREAM, 0), (Site(1, since=-1), 2), (Site(1), 2)])
def test_what_was_seen_before_and_at_the_anchor_is_each_rows_own(site: Site, cost: int) -> None:
    """Law: `before` is the step before, used or not; `anchor` the last in which the row was computed; a probe in front of block 0 costs no block."""
    calls: list[int] = []

    def judge(evidence: Evidence) -> Verdict:
        calls.append(1)
        accept = torch.tensor([True, len(calls) % 2 == 0, False])
        return Verdict(torch.zeros(ROWS), accept, 1.0)

    policy = Scripted(Needs((STACK,), evidence=(site,)), lambda k: None if k == 0 else Plan((STACK,), Probe(site)), judge=judge)
    world = World(mixed)
    _, report = run(world, policy, steps=6)

    def truth(step: int) -> torch.Tensor:
        return world.forward(step, substitute={}, see=(site,)).seen[site]

    anchors = [0, 0, 0]
    for step, evidence in enumerate(policy.shown, start=1):
        assert torch.equal(evidence.computed, truth(step))
        assert evidence.before is not None
        assert torch.equal(evidence.before, truth(step - 1))
        assert evidence.anchor is not None
        assert torch.equal(evidence.anchor, torch.stack([truth(a)[row] for row, a in enumerate(anchors)]))
        outcome = report.outcomes[step]
        assert outcome.block_rows == cost * ROWS + (DEPTH - cost if site in (Site(1), Site(1, since=-1)) else DEPTH) * sum(outcome.computed)
        anchors = [step if computed else a for computed, a in zip(outcome.computed, anchors, strict=True)]


def test_a_gate_sees_other_places_on_the_way_to_the_probed_one() -> None:
    """Law: of every place that `Needs.evidence` names and that was reached, now, before and anchor; of what lies behind the probe, nothing."""
    judge = lambda evidence: Verdict(torch.zeros(ROWS), torch.tensor([True, True, False]), 1.0)  # noqa: E731
    ahead, behind = (STREAM, Site(0), Site(1, since=-1)), Site(3)
    policy = Scripted(Needs((STACK,), evidence=(*ahead, behind, Site(1))), lambda k: None if k == 0 else Plan((STACK,), Probe(1)), judge=judge)
    world = World(mixed)
    run(world, policy, steps=4)
    for step, evidence in enumerate(policy.shown, start=1):
        for site in ahead:
            now, then, first = (world.forward(k, substitute={}, see=(site,)).seen[site] for k in (step, step - 1, 0))
            other = evidence.at(site)
            assert torch.equal(other.computed, now)
            assert other.before is not None
            assert torch.equal(other.before, then)
            assert other.anchor is not None
            assert torch.equal(other.anchor[:2], first[:2])
            assert torch.equal(other.error(relative_l1, against="before"), relative_l1(then, now))
        assert evidence.at(Site(1)) is evidence
        with pytest.raises(ContractError, match=r"name it in Needs\(evidence="):
            evidence.at(behind)


def test_what_was_not_seen_in_the_step_before_is_rejected() -> None:
    """Law: evidence that is missing is NaN, and a row with it is computed."""
    site = Site(1, since=-1)
    judge = lambda evidence: (lambda e: Verdict(e, e < 1e9, 1.0))(evidence.error(relative_l1, against="before"))  # noqa: E731
    plans = {1: Plan((STACK,)), 2: Plan((STACK,), Probe(site)), 3: Plan((STACK,), Probe(site))}
    policy = Scripted(Needs((STACK,), evidence=(site,)), plans.get, judge=judge)
    _, report = run(World(mixed), policy, steps=4)
    assert [o.full for o in report.outcomes] == [True, False, True, False]


@given(rejected=st.lists(st.sets(st.integers(0, ROWS - 1)), min_size=5, max_size=5), keep=st.integers(1, 3))
def test_products_are_those_of_what_is_kept(rejected: list[set[int]], keep: int) -> None:
    """Law: whichever rows were computed when, `Outcome.products` are the inner products of each row's newest features, newest first."""
    plan = lambda k: None if k == 0 else Plan((STACK,), compute=tuple(row in rejected[k - 1] for row in range(ROWS)))  # noqa: E731
    world = World(mixed)
    policy = Scripted(Needs((STACK,), keep, products=True), plan)
    run(world, policy, steps=6)
    kept: list[list[torch.Tensor]] = [[] for _ in range(ROWS)]
    for step, outcome in enumerate(policy.told):
        for row in range(ROWS):
            if outcome.computed[row]:
                kept[row].insert(0, world.forward(step, substitute={}, record=(STACK,)).features[STACK][row].flatten())
            table = np.zeros((keep, keep))
            for i, a in enumerate(kept[row][:keep]):
                for j, b in enumerate(kept[row][:keep]):
                    table[i, j] = float(a @ b)
            np.testing.assert_allclose(outcome.products[STACK][row], table, rtol=1e-12)


def test_a_draft_may_wait_for_what_arrives_and_for_the_probe() -> None:
    """Law: a late draft is formed once a step, from the stream that it is added to and from this step's evidence."""
    told: list[Live] = []

    def form(live: Live) -> torch.Tensor:
        told.append(live)
        assert live.input is not None
        return live.input * 0 + 1

    judge = lambda evidence: Verdict(torch.zeros(ROWS), torch.ones(ROWS, dtype=torch.bool), 1.0)  # noqa: E731
    policy = Scripted(Needs((AFTER_FIRST,), evidence=(LATENT,)), every_other(AFTER_FIRST, probe=Probe(LATENT)), judge=judge)
    policy.weights = lambda history, step: {AFTER_FIRST: Late(form)}
    world = World(mixed)
    outputs, _ = run(world, policy, steps=4)
    assert [live.step.index for live in told] == [1, 3]
    for live in told:
        behind_first = world.forward(live.step.index, substitute={}, record=(Site(0),)).features[Site(0)]
        assert live.input is not None
        assert torch.equal(live.input, behind_first)
        assert torch.equal(outputs[live.step.index], behind_first + 1)
        assert live.evidence is not None
        assert live.evidence.site == LATENT
        for then in (live.evidence.before, live.evidence.anchor):
            assert then is not None
            assert torch.equal(then, world.forward(live.step.index - 1, substitute={}, see=(LATENT,)).seen[LATENT])


def test_a_late_draft_is_shown_what_was_recorded_on_the_way() -> None:
    """Law: of the recorded sites, a late draft sees those that this pass computed up to the probe, and no others."""
    told: list[Live] = []
    first = Site(0, since=-1)

    def form(live: Live) -> Weights:
        told.append(live)
        return Weights(np.ones((ROWS, 1)))

    judge = lambda evidence: Verdict(torch.zeros(ROWS), torch.ones(ROWS, dtype=torch.bool), 1.0)  # noqa: E731
    policy = Scripted(Needs((STACK, first, Site(2)), evidence=(Site(0),)), every_other(STACK, probe=Probe(0)), judge=judge)
    policy.weights = lambda history, step: {STACK: Late(form)}
    world = World(mixed)
    run(world, policy, steps=4)
    assert [live.step.index for live in told] == [1, 3]
    for live in told:
        assert first in live.features
        assert not live.features.keys() & {Site(2), STACK}
        assert torch.equal(live.features[first], world.forward(live.step.index, substitute={}, record=(first,)).features[first])


def test_a_late_draft_that_raises_is_a_failing_policy() -> None:
    def form(live: Live) -> torch.Tensor:
        raise ValueError("no such day")

    policy = Scripted(Needs((STACK,)), every_other(STACK))
    policy.weights = lambda history, step: {STACK: Late(form)}
    world = World(mixed)
    outputs: list[torch.Tensor] = []
    given: dict[str, Any] = {"inputs": lambda x, t: int(t), "update": lambda x, output, i: outputs.append(output)}
    _, report = sample(world, None, list(range(4)), policy=lambda: policy, on_error="compute", **given)
    assert all(torch.equal(output, world.output(step)) for step, output in enumerate(outputs))
    assert "no such day" in str(report)
    with pytest.raises(ValueError, match="no such day"):
        sample(world, None, list(range(4)), policy=lambda: policy, **given)


def test_what_an_accepted_draft_probe_computed_may_replace_its_forecast() -> None:
    """FeatFix: the probed block's own output goes on where the draft was accepted."""
    sites = (Site(2), Site(3))
    judge = lambda evidence: Verdict(torch.zeros(ROWS), torch.ones(ROWS, dtype=torch.bool), 1.0)  # noqa: E731
    for use, block in (("forecast", False), ("computed", True)):
        policy = Scripted(Needs(sites), every_other(*sites, probe=Probe(3, on="draft", use=use)), judge=judge)  # type: ignore[arg-type]
        world = World(mixed, parts=())
        last = Site(DEPTH - 1)
        outputs, _ = run(World(mixed, parts=(), depth=4), policy, steps=2)
        assert torch.equal(outputs[1], world.forward(1 if block else 0, substitute={}, record=(Site(3), last)).features[Site(3)])


@pytest.mark.parametrize(
    ("needs", "plan", "error", "words"),
    [
        (Needs((LATENT,)), None, AnswerError, "never forecast"),
        (Needs((STACK,)), Plan((STACK,), Probe(LATENT)), AnswerError, "Needs"),
        (Needs((STACK,)), Plan((STACK,), Probe(STACK, on="draft")), AnswerError, "probe on the input"),
        (Needs((STACK, Site(DEPTH - 1))), Plan((STACK, Site(DEPTH - 1))), AnswerError, "in two ways"),
        (Needs((STACK,), evidence=(STACK,)), Plan((STACK,), Probe(OUTPUT)), AnswerError, "blocks 0 to"),
    ],
)
def test_what_cannot_be_is_refused_by_name(needs: Needs, plan: Plan | None, error: type[Exception], words: str) -> None:
    policy = Scripted(needs, lambda step: plan if step else None)
    with pytest.raises(error, match=words):
        run(World(mixed), policy)


def test_a_gate_that_forgot_what_to_compare_with_is_told() -> None:
    policy = Scripted(Needs((STACK, Site(0))), lambda k: Plan((STACK, Site(0)), Probe(0)) if k else None)
    policy.judge = lambda evidence: evidence.error(relative_l1, against="anchor")
    with pytest.raises(ContractError, match=r"Needs\(evidence=\.\.\.\)"):
        run(World(mixed), policy)


@pytest.mark.parametrize(("block", "part", "since"), [(3, "block", 3), (3, "block", -2), (3, "attn", 1), (-1, "output", 0)])
def test_a_residual_starts_before_it_ends(block: int, part: str, since: int) -> None:
    with pytest.raises(OptionError, match="since"):
        Site(block, part, since)


def test_what_lies_under_a_residual_runs_and_what_it_spans_does_not() -> None:
    assert live_blocks(4, {Site(3, since=1)}, None) == [True, True, False, True]
    assert live_blocks(4, {Site(3, since=-1)}, None) == [False, False, False, True]
    assert live_blocks(4, {Site(2, since=0)}, None) == [True, False, True, True]
    assert live_blocks(4, {WHOLE}, Probe(1)) == [True, True, False, False]


def test_what_gates_compare_with_counts_against_the_limit() -> None:
    """Law: `Storage.max_bytes` holds for features and evidence together, and evidence is let go with the run."""
    world = World(mixed)
    feature = world.output(0).nbytes
    policy = Scripted(Needs((STACK,), evidence=(LATENT,)), lambda k: None)
    shape = Run(depth=DEPTH, rows=ROWS, groups=tuple(range(ROWS)), num_steps=4, sites=world.sites, places=places_of(world))
    for limit, enough in ((3 * feature, True), (2 * feature - 1, False)):
        allowance = Allowance(limit)
        session = Session(world, foreseer.policy(lambda: policy), shape, storage=Storage(max_bytes=limit), allowance=allowance)
        if enough:
            for step in range(4):
                session.evaluate(step)
            assert allowance.held <= limit
        else:
            with pytest.raises(OverBudgetError, match="evidence"):
                session.evaluate(0)
        session.finish()
        assert allowance.held == 0


def test_rows_begin_anew_where_a_residual_starts_in_front_of_the_probe() -> None:
    """Law: what blocks added is recorded of rejected rows as of any, also where it starts before the probed block."""
    site, probed = Site(DEPTH - 1, since=0), Site(2)
    judge = lambda evidence: Verdict(torch.zeros(ROWS), torch.tensor([True, False, True]), 1.0)  # noqa: E731
    policy = Scripted(Needs((site,), products=True, evidence=(probed,)), lambda k: Plan((site,), Probe(probed)) if k else None, judge=judge)
    world = World(mixed)
    run(world, policy, steps=3)
    for step, outcome in enumerate(policy.told):
        truth = world.forward(step, substitute={}, record=(site,)).features[site][1].flatten()
        np.testing.assert_allclose(outcome.products[site][1, 0, 0], float(truth @ truth), rtol=1e-12)


def test_products_of_nothing_are_none() -> None:
    """A policy that asks for products and records nothing is told nothing."""
    policy = Scripted(Needs(products=True), lambda k: None)
    run(World(mixed), policy, steps=2)
    assert [dict(outcome.products) for outcome in policy.told] == [{}, {}]
