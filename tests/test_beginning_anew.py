"""Laws of a policy that begins anew, as where its model was changed: what the report keeps, and what where it cannot."""

import pytest
from test_session import DEPTH, Custom, session, world

import foreseer
from foreseer import Plan, Site, hookimpl
from foreseer.policies import taylor
from foreseer.storage import Allowance


def test_before_the_first_step_a_run_is_that_of_the_new_host_and_later_it_stays():
    """Law: reports tell the host of the first step; the policy sees the one that it begins on."""
    s = session(world(), "reuse:target=last_block")
    six, three = world(depth=DEPTH + 2), world(depth=DEPTH - 1)
    s.tenure.begin_anew("another model", backbone=six)
    assert (s.run.depth, s.tenure.run.depth, s.tenure.backbone) == (DEPTH + 2, DEPTH + 2, six)
    s.evaluate(0)
    s.tenure.begin_anew("a third", backbone=three)
    assert (s.run.depth, s.tenure.run.depth, s.tenure.backbone) == (DEPTH + 2, DEPTH - 1, three)
    s.evaluate(1)
    s.tenure.begin_anew("the same")
    assert (s.tenure.run.depth, s.tenure.backbone) == (DEPTH + 2, three), "and of no host the report's"
    assert s.report.full_steps == [0, 1]
    assert [warning for warning in s.report.warnings if "began anew" in warning] == [
        "step 0: another model; the policy began anew",
        "step 1: a third; the policy began anew",
        "step 2: the same; the policy began anew",
    ]


class Once(Custom):
    """Can begin as often as a test says."""

    left = 0

    @hookimpl
    def setup(self, run):
        Once.left -= 1
        if Once.left < 0:
            raise foreseer.OptionError("not again")
        return foreseer.Needs(sites=self.sites)


def test_a_policy_that_cannot_begin_anew_is_an_error_at_first_and_computes_later():
    """Law: nobody loses the image of a run that is under way."""
    plan = Plan(forecast=(Site(DEPTH - 1),))
    Once.left = 1
    s = session(world(), lambda: (Once(plan), taylor()))
    with pytest.raises(foreseer.OptionError, match="not again"):
        s.tenure.begin_anew("changed")
    Once.left, allowance = 2, Allowance()
    s = session(world(), lambda: (Once(plan), taylor()), allowance=allowance)
    s.evaluate(0)
    s.evaluate(1)
    assert s.tenure.forecasts == {Site(DEPTH - 1)}
    assert allowance.held > 0
    s.tenure.begin_anew("")
    assert allowance.held == 0, "what was recorded is let go of"
    s.tenure.begin_anew("changed")
    s.evaluate(2)
    s.evaluate(3)
    assert s.report.full_steps == [0, 2, 3]
    assert "changed, and the policy cannot begin anew (OptionError: not again): the rest of the run is computed" in s.report.reasons[3]
    assert s.tenure.forecasts == frozenset()
    assert allowance.held == 0
    Once.left, allowance = 1, Allowance()
    s = session(world(), lambda: (Once(plan), taylor()), allowance=allowance)
    s.evaluate(0)
    s.tenure.give_up("the model is gone")
    assert (allowance.held, s.tenure.given_up) == (0, "the model is gone: the rest of the run is computed")
