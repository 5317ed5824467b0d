"""Laws of which rows a session computes, and in which step it is: whatever plans, verdicts and indices say."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_session import DEPTH, Custom, session, world

from foreseer import Plan, Probe, Run, Session, Site, Verdict, policy
from foreseer.policies import taylor

ROWS = 5
masks = st.tuples(*[st.booleans()] * ROWS)
groups = st.tuples(*[st.integers(0, ROWS - 1)] * ROWS)
scripts = st.lists(st.tuples(masks, st.none() | masks), min_size=2, max_size=6)


def closed(mask: Sequence[bool], groups: Sequence[int]) -> list[bool]:
    """Rows whose sample has a row in the mask."""
    those = {group for group, chosen in zip(groups, mask, strict=True) if chosen}
    return [group in those for group in groups]


def scripted(script: Sequence[tuple[tuple[bool, ...], tuple[bool, ...] | None]]) -> Custom:
    """Forces the rows of a mask in each step, and refuses those of another, where there is one."""
    probe = Probe(0, on="input")

    def plan(step):
        forced, refused = script[step.index]
        return Plan(forecast=(Site(0), Site(DEPTH - 1)), compute=forced, probe=None if refused is None else probe)

    def verdict(step, evidence):
        refused = torch.tensor(script[step.index][1])
        return Verdict(torch.where(refused, 1.0, 0.0), ~refused, 0.5)

    return Custom(plan, verdict, sites=(Site(0), Site(DEPTH - 1)))


@given(groups=groups, script=scripts)
def test_rows_of_a_sample_share_one_fate_forced_or_refused(groups, script):
    """Law: computed are the samples of which a row was forced or refused, and no others; the host evaluates those rows."""
    host = world(ROWS)
    s = session(host, lambda: (scripted(script), taylor()), groups=groups, rows=ROWS, steps=len(script))
    for t, (forced, refused) in enumerate(script):
        host.passes.clear()
        s.evaluate(t)
        (*_, outcome) = s.report.outcomes
        wanted = closed(forced, groups)
        if refused is not None and not all(wanted):
            wanted = closed([f or r for f, r in zip(wanted, refused, strict=True)], groups)
        if t == 0:
            wanted = [True] * ROWS
        assert list(outcome.computed) == wanted
        some = [rows for _, rows, _ in host.passes if rows is not None]
        assert some == ([[r for r, w in enumerate(wanted) if w]] if 0 < sum(wanted) < ROWS else [])


@given(groups=groups, script=scripts)
def test_a_stream_that_follows_computes_the_rows_that_the_first_did(groups, script):
    """Law: row by row, and without a verdict of its own."""
    first = session(world(ROWS), lambda: (scripted(script), taylor()), groups=groups, rows=ROWS, steps=len(script))
    second = session(world(ROWS), lambda: (scripted(script), taylor()), groups=groups, rows=ROWS, steps=len(script), leader=first)
    for t in range(len(script)):
        first.evaluate(t)
        second.evaluate(t)
    assert second.report.computed.tolist() == first.report.computed.tolist()
    assert all(outcome.accept is None for outcome in second.report.outcomes)


def test_a_stream_decides_by_itself_in_steps_that_the_first_did_not_take():
    """Law: only what the first stream did in the same step is repeated."""
    first = session(world(), lambda: (Custom(), taylor()))
    plan = Plan(forecast=(Site(DEPTH - 1),), reason="its own")
    second = session(world(), lambda: (Custom(plan), taylor()), leader=first)
    second.evaluate(0)
    first.evaluate(1, index=1)
    second.evaluate(1)
    second.evaluate(2)
    told = [(outcome.kind, outcome.reason) for outcome in second.report.outcomes]
    assert told[1:] == [("computed", "computed as the first stream was"), ("forecast", "forecast: its own")]


@pytest.mark.parametrize(("indices", "counted"), [((0, 1, 2, 9, 10), [0, 1, 2, 0, 1]), ((3, 4, 8), [0, 1, 5]), ((0, 1, 6, 12), [0, 1, 6, 0])])
@pytest.mark.parametrize("start", [0, 7])
def test_a_policy_counts_steps_from_where_it_began(start, indices, counted):
    """Law: at a run that begins late, at a first call that comes late, and after a pause that forecasts do not bridge."""
    told, host = [], world()
    run = Run(DEPTH, 3, (0, 1, 2), 40, None, None, host.sites)
    s = Session(host, policy(lambda: (Custom(lambda step: told.append(step.index)), taylor())), run.starting_at(start))
    for index in indices:
        s.evaluate(0, index=index)
    assert told == counted
    assert [outcome.step.index for outcome in s.report.outcomes] == list(indices)


@given(indices=st.lists(st.none() | st.integers(0, 30), min_size=1, max_size=12))
def test_steps_never_run_backwards(indices):
    """Law: a step's index is the one given, and at least that behind the last; anchors are the steps that were computed."""
    planned = Custom(Plan(forecast=(Site(DEPTH - 1),)))
    s = session(world(), lambda: (planned, taylor()), steps=None)
    told, following = [], 0
    for index in indices:
        s.evaluate(0, index=index)
        told.append(following if index is None else max(index, following))
        following = told[-1] + 1
    assert [outcome.step.index for outcome in s.report.outcomes] == told
