"""The conformance kit on the caches of blocks."""

from foreseer.testing import parametrize_policies

MEASURES = {"check_perfect_draft_accepted": "it looks at every step in order to measure it, and computes all of them"}


@parametrize_policies(
    [
        "first_block_cache",
        "first_block_cache:max_order=1,decide=batch",
        "db_cache:fn=1,warmup_steps=2,max_continuous=3",
        "db_cache:fn=2,bn=1,warmup_steps=1,mask=slow",
        "mag_cache:ratios=flux",
    ]
)
def test_conformance(policy, check):
    check(policy)


@parametrize_policies(["mag_calibration"], expected_failures=MEASURES)
def test_conformance_of_what_only_measures(policy, check):
    check(policy)
