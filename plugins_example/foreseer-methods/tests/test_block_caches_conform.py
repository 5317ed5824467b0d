"""The conformance kit on the caches of blocks."""

from foreseer.testing import parametrize_policies


@parametrize_policies(
    [
        "first_block_cache",
        "first_block_cache:max_order=1,decide=batch",
        "db_cache:fn=1,warmup_steps=2,max_continuous=3",
        "db_cache:fn=2,bn=1,warmup_steps=1,mask=slow",
        "mag_cache:ratios=flux",
        "mag_calibration",
    ]
)
def test_conformance(policy, check):
    check(policy)
