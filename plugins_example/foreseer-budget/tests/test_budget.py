"""The conformance kit, and the laws of the account."""

import numpy as np
import pytest
from foreseer_budget import budget, computed_steps
from hypothesis import given, settings
from hypothesis import strategies as st

import foreseer
from foreseer.adapters import ArrayBackbone
from foreseer.testing import parametrize_policies

ROWS = 3
unhurried = settings(deadline=None, max_examples=60)
WORLDS = {
    "constant": lambda t, rng: np.ones(4),
    "smooth": lambda t, rng: 2 + np.sin(0.3 * t + np.arange(4)),
    "jumps": lambda t, rng: np.full(4, 1.0 + 5 * (t // 7 % 2)),
    "explosion": lambda t, rng: np.full(4, 1.7**t),
    "noise": lambda t, rng: rng.normal(size=4),
}


def replay(kinds, *, steps, depth, seed=0):
    """A host of recorded features, one kind of trajectory for each row, and the same for a row whatever
    stands beside it.
    """
    features = {}
    for block in range(depth):
        rows = []
        for kind in kinds:
            rng = np.random.default_rng((seed, block, len(kind)))
            rows.append([(block + 1) * WORLDS[kind](t, rng) for t in range(steps)])
        features[foreseer.Site(block)] = np.array(rows).swapaxes(0, 1)
    return ArrayBackbone.recorded(features)


def run(host, *, steps, groups=None, **options):
    spec = foreseer.policy(budget, **options)
    _, report = foreseer.sample(host, None, range(steps), policy=spec, groups=groups, inputs=lambda x, t: t, update=lambda x, output, index: None)
    return report


@parametrize_policies([foreseer.policy(budget, fraction=0.6)])
def test_conformance(policy, check):
    check(policy)


@unhurried
@given(
    st.lists(st.sampled_from(sorted(WORLDS)), min_size=1, max_size=ROWS),
    st.floats(0.01, 1.0),
    st.integers(1, 40),
    st.integers(2, 9),
    st.integers(1, 4),
)
def test_every_row_ends_within_one_step_of_the_target_and_never_above(kinds, fraction, steps, depth, warmup):
    """Whatever the features do: target - L < spent <= target blocks a row. Or the budget is refused, and the
    fraction that the message names is not.
    """
    host = replay(kinds, steps=steps, depth=depth)
    if computed_steps(fraction, steps=steps, depth=depth) < 1:
        with pytest.raises(foreseer.OptionError, match=f"{steps} steps with {depth} blocks") as refused:
            run(host, steps=steps, fraction=fraction, warmup_steps=warmup)
        fraction = float(str(refused.value).split("write ")[1].split(" or more")[0])
    report = run(host, steps=steps, fraction=fraction, warmup_steps=warmup)
    target = fraction * steps * depth
    computed = report.computed.sum(axis=0)
    spent = steps + (depth - 1) * computed
    assert (spent <= target + 1e-6).all()
    assert (spent > target - depth).all()
    assert report.block_rows == spent.sum(), "what the host counted"


@unhurried
@given(st.floats(0.3, 1.0), st.permutations(sorted(WORLDS)))
def test_a_row_gets_in_a_batch_what_it_gets_alone(fraction, kinds):
    together = run(replay(kinds, steps=24, depth=5), steps=24, fraction=fraction).computed
    for row, kind in enumerate(kinds):
        alone = run(replay([kind], steps=24, depth=5), steps=24, fraction=fraction).computed
        assert (together[:, row] == alone[:, 0]).all()


def test_rows_of_a_sample_share_one_fate_and_one_budget():
    report = run(replay(["smooth", "noise", "constant", "jumps"], steps=30, depth=6), steps=30, fraction=0.4, groups=(0, 1, 0, 1))
    assert (report.computed[:, 0] == report.computed[:, 2]).all()
    assert (report.computed[:, 1] == report.computed[:, 3]).all()


def test_a_jump_is_computed_where_it_happens():
    """Features stand still, move at once at step 20, and stand still again."""
    features = {foreseer.Site(b): np.where(np.arange(30) < 20, 1.0, 3.0)[:, None, None] * np.ones((30, 1, 4)) for b in range(6)}
    report = run(ArrayBackbone.recorded(features), steps=30, fraction=0.4)
    assert report.computed[20, 0]


def test_errors_may_be_multiplied_by_anything():
    """A threshold does not transfer from model to model; here there is none to transfer: only ratios of
    errors count.
    """

    def steps(size):
        features = {foreseer.Site(b): 1e3 + size * np.sin(0.02 * np.arange(40) ** 1.5)[:, None, None] * np.ones((40, 1, 4)) for b in range(6)}
        return run(ArrayBackbone.recorded(features), steps=40, fraction=0.4).full_steps

    assert steps(1.0) == steps(0.25)


def test_a_run_of_unknown_length_and_a_single_block_are_refused():
    host = replay(["smooth"], steps=9, depth=4)
    with pytest.raises(foreseer.OptionError, match="give the run timesteps= or num_steps="):
        foreseer.Session(host, foreseer.policy(budget), foreseer.Run(4, 1, (0,), None, None, None, host.sites))
    with pytest.raises(foreseer.OptionError, match="this model has no other"):
        run(replay(["smooth"], steps=9, depth=1), steps=9)


def test_what_cannot_be_judged_is_computed_whatever_the_budget():
    """Features that are zero have no relative error: 0/0 is no evidence, and the engine computes."""
    features = {foreseer.Site(b): np.zeros((12, 1, 4)) for b in range(4)}
    assert run(ArrayBackbone.recorded(features), steps=12, fraction=0.5).block_rows_ratio == 1.0


@pytest.mark.parametrize("fraction", [0, 1.5, -1.0])
def test_a_share_that_is_none_is_refused(fraction):
    with pytest.raises(foreseer.OptionError, match=r"fraction=.* is out of range; write a number in \(0, 1\]"):
        foreseer.policy(budget, fraction=fraction)


def test_a_warm_up_that_is_not_paid_for_is_cut_short_and_said():
    report = run(replay(["smooth"], steps=20, depth=5), steps=20, fraction=0.3, warmup_steps=4)
    assert report.full_steps == [0, 1]
    assert "pays for 2 computed steps of 20, fewer than warmup_steps=4" in report.warnings[0]


def test_the_whole_is_the_whole():
    assert run(replay(["noise"], steps=12, depth=4), steps=12, fraction=1.0).block_rows_ratio == 1.0
    assert computed_steps(1.0, steps=12, depth=4) == 12
