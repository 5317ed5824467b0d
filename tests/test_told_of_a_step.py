"""Laws of what is told of a step: in which words it ended, and how long it took."""

import math

import attrs
import pytest
import torch
from test_session import DEPTH, ROWS, Counting, Custom, Looker, session, world

import foreseer
from foreseer import Kind, OptionError, Plan, Probe, Site, Verdict
from foreseer.policies import taylor
from foreseer.presets import Measured, Preset
from foreseer.signature import Signature
from foreseer.storage import Allowance

SITES = (Site(0), Site(DEPTH - 1))
PROBE = Probe(0)
NAN = math.nan


@pytest.mark.parametrize(
    ("plan", "errors", "kind", "reason"),
    [
        (Plan(SITES, probe=PROBE), (0.1, 0.1, 0.1), Kind.ACCEPTED, "accepted: error 0.1, threshold 0.5"),
        (Plan(SITES, probe=PROBE), (0.1, 0.3, 0.2), Kind.ACCEPTED, "accepted: error 0.1 to 0.3, threshold 0.5"),
        (Plan(SITES, probe=PROBE), (0.9, 0.9, 0.9), Kind.REJECTED, "rejected: error 0.9, threshold 0.5"),
        (Plan(SITES, probe=PROBE), (0.1, 0.9, 0.1), Kind.MIXED, "rejected 1 of 3 rows: error 0.1 to 0.9, threshold 0.5"),
        (Plan(SITES, probe=PROBE), (0.1, NAN, 0.1), Kind.MIXED, "rejected 1 of 3 rows: error 0.1, threshold 0.5"),
        (Plan(SITES, probe=PROBE), (NAN, NAN, NAN), Kind.REJECTED, "rejected: no finite error"),
        (Plan(SITES), None, Kind.FORECAST, "forecast"),
        (Plan(SITES, reason="near"), None, Kind.FORECAST, "forecast: near"),
        (Plan(SITES, compute=(True, False, True)), None, Kind.MIXED, "2 of 3 rows computed, the others forecast"),
        (Plan(SITES, compute=(True, True, True)), None, Kind.FORCED, "every row was asked for"),
        (Plan(SITES, compute=(True, True, True), reason="now"), None, Kind.FORCED, "now"),
        (Plan(), None, Kind.COMPUTED, "computed"),
        (Plan(reason="warm-up"), None, Kind.COMPUTED, "warm-up"),
        (None, None, Kind.COMPUTED, "computed"),
    ],
)
def test_how_a_step_ended_is_told_in_a_kind_and_in_words(plan, errors, kind, reason):
    def verdict(_step, _evidence):
        error = torch.tensor(errors)
        return Verdict(error, ~(error >= 0.5), 0.5)

    s = session(world(), lambda: (Custom(plan, verdict, sites=SITES), taylor()))
    s.evaluate(0)
    s.evaluate(1)
    outcome = s.report.outcomes[1]
    assert (outcome.kind, outcome.reason) == (kind, reason)
    assert outcome.plan == (Plan() if kind is Kind.FORCED else plan or Plan())
    if errors is None:
        assert (outcome.accept, len(outcome.error)) == (None, ROWS)
        assert all(map(math.isnan, (*outcome.error, outcome.threshold)))
    else:
        assert outcome.error == pytest.approx(errors, nan_ok=True)
        assert outcome.accept == tuple(error < 0.5 for error in errors), "what has no error is not accepted, whatever the gate answered"
        assert outcome.threshold == 0.5


def test_what_overrules_the_policy_is_told_as_it_was_given():
    s = session(world(), lambda: (Custom(Plan(SITES), sites=SITES), taylor()), steps=3)
    s.evaluate(0)
    s.evaluate(1, computed_because="the host cannot")
    s.evaluate(2)
    s.evaluate(3)
    over = "the run was declared with 3 steps: later evaluations are computed"
    told = [(outcome.kind, outcome.reason) for outcome in s.report.outcomes]
    assert told[1:] == [(Kind.OVERRULED, "the host cannot"), (Kind.FORECAST, "forecast"), (Kind.OVERRULED, over)]
    assert {"the host cannot", over} <= set(s.report.warnings)


def test_a_preset_that_is_used_elsewhere_is_said_where_that_was_asked_for():
    tuned = Measured(samples=4, first=0, seed=0, block_rows_ratio=0.5, steps_computed=5.0, psnr_mean=40.0, psnr_worst=30.0)
    made = Preset(name="mine", policy="reuse", signature=Signature(num_steps=50), tuned=tuned)
    host = world()
    run = foreseer.Run(DEPTH, ROWS, (0, 1, 2), 20, None, None, host.sites)
    warnings = foreseer.Session(host, foreseer.policy(made, any_model=True), run).report.warnings
    assert any("50" in warning for warning in warnings), warnings
    with pytest.raises(OptionError):
        foreseer.Session(host, foreseer.policy(made), run)


def test_before_anything_was_recorded_it_says_so():
    s = session(world(), lambda: (Custom(Plan(SITES), sites=SITES), taylor()))
    s.evaluate(0)
    outcome = s.report.outcomes[0]
    assert (outcome.kind, outcome.reason) == (Kind.UNABLE, "nothing recorded yet")


def test_the_seconds_of_a_step_are_its_own_and_no_shadows(monkeypatch):
    """Law: on a clock that only the host's blocks move, seconds are block rows."""
    clock = [0]

    class Clockwork(Counting):
        def forward(self, inputs, **kwargs):
            done = super().forward(inputs, **kwargs)
            clock[0] += done.block_rows
            return done

    looker = Looker()
    s = session(Clockwork(world()._feature, depth=DEPTH), "cg_taylor:threshold=0.05", observers=[looker])
    with monkeypatch.context() as patch:
        patch.setattr("time.perf_counter", lambda: clock[0])
        for t in range(12):
            s.evaluate(t)
    assert looker.shadows
    assert [outcome.seconds for outcome in s.report.outcomes] == [outcome.block_rows for outcome in s.report.outcomes]


def test_what_a_host_computed_to_find_out_about_itself_is_told_apart():
    """Law: of every pass, whether it forecasts, computes some rows, or all."""

    class Checking(Counting):
        def forward(self, inputs, *, rows=None, **kwargs):
            return attrs.evolve(super().forward(inputs, rows=rows, **kwargs), check_block_rows=1 if rows is None else 100)

    host = Checking(world()._feature, depth=DEPTH)
    s = session(host, lambda: (Custom(Plan(SITES, compute=(True, False, False)), sites=SITES), taylor()))
    s.evaluate(0)
    assert s.report.check_block_rows == 1
    s.evaluate(1)
    assert s.report.check_block_rows == 1 + 1 + 100


def test_a_run_that_is_over_holds_nothing():
    allowance = Allowance(None)
    s = session(world(), "reuse:target=last_block", allowance=allowance)
    s.evaluate(0)
    assert allowance.held > 0
    s.finish()
    assert allowance.held == 0


def test_a_step_in_which_the_model_called_no_block_is_said_and_records_nothing():
    class Silent(Counting):
        def forward(self, inputs, **kwargs):
            done = super().forward(inputs, **kwargs)
            return attrs.evolve(done, features={}) if inputs == 1 else done

    forecasts = Custom(lambda step: Plan(SITES) if step.index == 2 else None, sites=SITES)
    s = session(Silent(world()._feature, depth=DEPTH), lambda: (forecasts, taylor()))
    for t in range(4):
        s.evaluate(t)
    assert s.report.full_steps == [0, 1, 3]
    said = [warning for warning in s.report.warnings if "nothing recorded" in warning]
    assert len(said) == 1
    assert said[0].startswith("step 1 was computed with nothing recorded")
