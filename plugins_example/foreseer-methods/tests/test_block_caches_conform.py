"""The conformance kit on the caches of blocks, on hosts that say what enters block 0."""

from __future__ import annotations

import functools

import pytest

from foreseer.testing import check_policy, plays
from foreseer.types import PLACES, Run

DIFFER = {
    # They judge how far block 0 has moved, and not how far a forecast is off: a perfect draft may be rejected.
    "check_perfect_draft_accepted",
    # It asks for planned sites among Run.sites, where residuals are not listed.
    "check_plan_valid",
}


@pytest.mark.parametrize(
    "policy",
    [
        "first_block_cache",
        "first_block_cache:max_order=1,decide=batch",
        "db_cache:fn=1,warmup_steps=2,max_continuous=3",
        "db_cache:fn=2,bn=1,warmup_steps=1,mask=slow",
        "mag_cache:ratios=flux",
        "mag_calibration",
    ],
)
def test_conformance(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plays, "Run", functools.partial(Run, places=PLACES))
    plays.stage_of.cache_clear()
    results = check_policy(policy)
    plays.stage_of.cache_clear()
    failed = {result.check: result.message for result in results if result.status == "failed" and result.check not in DIFFER}
    assert not failed
    assert sum(result.status == "passed" for result in results) > 25
