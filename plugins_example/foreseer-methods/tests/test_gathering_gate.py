"""The conformance kit on the gates that gather changes."""

from foreseer.testing import parametrize_policies

NO_GAIN = {"check_perfect_draft_accepted": "the gain is the movement of the output over that of the latent: where the latent stood still it is not known"}


@parametrize_policies(["tea_cache", "di_cache:distance=difference,probe_depth=2"])
def test_conformance(policy, check):
    """SeaCache is not among them: the kit's latents have no rows and columns."""
    check(policy)


@parametrize_policies(["easy_cache:warmup_steps=3,threshold=0.2"], expected_failures=NO_GAIN)
def test_conformance_where_a_gain_is_measured(policy, check):
    check(policy)
