"""Laws of what a report says about a run: that its steps are few, that it ended early, that nothing was gained, and nothing where there is nothing to say."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import foreseer
from foreseer import Needs, Plan, Run, Site, hookimpl
from foreseer.adapters import ArrayBackbone
from foreseer.registry import parse_policy

SCHEDULES = ["reuse:target=last_block", "taylorseer:target=last_block", "taylorseer:interval=2,target=output", "planned:schedule=0+1/{steps}", "speca_released"]


def session(policy: Any, *, declared: int | None) -> foreseer.Session:
    host = ArrayBackbone(lambda site, step: np.full((2, 4), 1.0 + 0.01 * step), depth=3)
    run = Run(3, 2, (0, 1), declared, None, None, host.sites)
    return foreseer.Session(host, foreseer.policy(policy) if callable(policy) else parse_policy(policy), run)


def ran(policy: Any, *, declared: int | None, steps: int) -> foreseer.Report:
    under = session(policy, declared=declared)
    for step in range(steps):
        under.evaluate(step)
    return under.finish()


def said(report: foreseer.Report, words: str) -> bool:
    return any(words in warning for warning in report.warnings)


@pytest.mark.parametrize("steps", [2, 4, 8, 9, 50])
@pytest.mark.parametrize("policy", SCHEDULES)
def test_a_forecast_among_few_steps_is_said(policy: str, steps: int) -> None:
    """Law: where a run of at most eight steps has a forecast, the report says how many and that they are few; a longer run says nothing of it."""
    report = ran(policy.format(steps=steps), declared=steps, steps=steps)
    forecast = sum(not outcome.full for outcome in report.outcomes)
    assert said(report, f"{forecast} of {steps} steps were forecast, and {steps} steps are few") == (steps <= 8 and forecast > 0)
    assert said(report, "steps are few") == (steps <= 8), "computed or forecast"


@pytest.mark.parametrize("policy", ["cg_taylor:threshold=0.5", "speca:threshold=0.5,target=last_block"])
def test_gates_say_so_too(policy: str) -> None:
    """Law: it does not matter who let a forecast pass."""
    report = ran(policy, declared=8, steps=8)
    assert not report.computed.all()
    assert said(report, "8 steps are few")


def test_a_stream_of_few_calls_in_a_long_run_has_no_few_steps() -> None:
    """Law: few are the steps of the sampling, not the calls of one of its streams."""
    report = ran("reuse:target=last_block", declared=50, steps=5)
    assert not said(report, "steps are few")


@given(declared=st.integers(3, 20), left_out=st.integers(0, 3), threshold=st.sampled_from([0.0, 100.0]))
def test_a_run_that_ends_early_says_that_its_last_step_could_not_be_known(declared: int, left_out: int, threshold: float) -> None:
    """Law: said exactly where the last step that was run is not the declared last and was forecast."""
    steps = max(declared - left_out, 1)
    report = ran(f"cg_taylor:threshold={threshold},warmup_steps=1", declared=declared, steps=steps)
    last = report.outcomes[-1]
    assert said(report, "could not be known") == (steps < declared and not last.full)
    if steps == declared:
        assert last.full, "the last step is computed"


class Reasoned:
    """Computes everything, and says a word that the engine says too."""

    @hookimpl
    def setup(self, run: Run) -> Needs:
        return Needs(sites=(Site(0),))

    @hookimpl
    def before_step(self) -> Plan:
        return Plan(reason="computed")


def test_a_policy_that_computes_everything_for_a_reason_gains_nothing_and_the_report_says_so() -> None:
    """Law: whatever the reason's words are. Only a policy that abstains is not told that it gained nothing."""
    assert said(ran(Reasoned, declared=20, steps=20), "nothing was accelerated: all 20 steps were computed (computed)")
    assert not ran("none", declared=20, steps=20).warnings


@given(declared=st.integers(10, 30))
def test_an_ordinary_run_says_nothing(declared: int) -> None:
    """Law: a warning is for what the user should know."""
    assert not ran("taylorseer:target=last_block", declared=declared, steps=declared).warnings
