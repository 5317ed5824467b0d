"""The conformance kit on the gates that gather changes, on hosts that show what lies in front of block 0."""

import functools

import pytest

from foreseer.testing import check_policy, plays
from foreseer.types import PLACES, Run

DIFFER = {
    # They judge how far something moved, and not how far a forecast is off: a perfect draft may be rejected.
    "check_perfect_draft_accepted",
    # The kit does not know yet that residuals are sites, and that a draft may be late.
    "check_plan_valid",
    "check_forecast_signature",
}


@pytest.mark.parametrize(
    "policy",
    [
        "tea_cache",
        "easy_cache:warmup_steps=3,threshold=0.2",
        "di_cache:distance=difference,probe_depth=2",
    ],
)
def test_conformance(policy, monkeypatch):
    """SeaCache is not among them: the kit's latents have no rows and columns."""
    monkeypatch.setattr(plays, "Run", functools.partial(Run, places=PLACES))
    plays.stage_of.cache_clear()
    results = check_policy(policy)
    failed = {result.check: result.message for result in results if result.status == "failed" and result.check not in DIFFER}
    assert not failed
    assert sum(result.status == "passed" for result in results) > 25
