"""The conformance kit, cache-dit's own state, and the numbers of the rules in float64."""

import numpy as np
import pytest
import torch
from foreseer_methods.foca import foca, foca_weights
from hypothesis import given, settings
from hypothesis import strategies as st

import foreseer
from foreseer.testing import parametrize_policies
from foreseer.testing.worlds import World, mixed

COMPUTED = (0, 1, 2, 5, 8)
schedules = st.lists(st.integers(1, 6), min_size=1, max_size=6).map(lambda gaps: [0, *np.cumsum(gaps).tolist()])


@parametrize_policies([foca, foreseer.policy(foca, variant="cache_dit")])
def test_conformance(policy, check):
    check(policy)


def forecast(computed, target, feature, **options):
    anchors = [float(step) for step in reversed(computed) if step < target]
    weights = foca_weights(tuple(anchors), float(target), **options)
    return sum(w * feature(a) for w, a in zip(weights, anchors, strict=False))


@pytest.mark.parametrize(("target", "value"), [(3, 2.5), (4, 3.0), (6, 4.5), (7, 6.0), (9, 5.25), (10, 6.75)])
def test_cache_dits_numbers_on_a_line(target, value):
    assert forecast(COMPUTED, target, lambda t: 1 + t / 2, variant="cache_dit") == pytest.approx(value, rel=1e-14)


def test_the_released_rule_knows_neither_the_distance_nor_the_interval():
    assert {foca_weights(anchors, target, variant="released") for anchors, target in [((4.0, 0.0), 5.0), ((4.0, 3.0, 1.0), 11.0)]} == {(7 / 6, -1 / 6)}
    assert foca_weights((3.0,), 4.0, variant="released") == (1.0,)
    assert foca_weights((3.0,), 7.0, variant="cache_dit") == (1.0,)


@settings(deadline=None)
@given(schedules, st.integers(1, 12), st.sampled_from(["released", "cache_dit"]))
def test_a_constant_is_kept(computed, ahead, variant):
    anchors = tuple(map(float, reversed(computed)))
    weights = foca_weights(anchors, anchors[0] + ahead, variant=variant)
    assert sum(weights) == pytest.approx(1, abs=1e-9 * (1 + sum(map(abs, weights))))


def test_against_cache_dit():
    """The state of cache-dit 1.5.3 fed with arrays, over gaps of all lengths: the same numbers."""
    theirs = pytest.importorskip("cache_dit.caching.cache_contexts.calibrators.foca")

    @settings(deadline=None)
    @given(schedules)
    def compare(computed):
        state = theirs.FoCaState()
        features = torch.randn(computed[-1] + 8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        for step in range(computed[-1] + 8):
            state.mark_step_begin()
            if step in computed:
                state.update(features[step])
            else:
                ours = forecast(computed, step, lambda t: features[int(t)], variant="cache_dit")
                torch.testing.assert_close(ours, state.approximate(), rtol=1e-9, atol=1e-9)

    compare()


def test_it_serves_a_schedule_and_keeps_what_it_needs():
    """Under `taylorseer`, rows alone and together; cut at the oldest kept feature, as if the run had begun there."""
    for predictor, kept in (("foca", 2), ("foca:variant=cache_dit,anchors=3", 3)):
        spec = foreseer.policy("taylorseer", interval=3, target="last_block", predictor=predictor)
        together, alone = ([], [])
        for outputs, labels in ((together, (0, 1, 2)), (alone, (1,))):
            world = World(mixed, parts=(), labels=labels)
            _, report = foreseer.sample(
                world, None, range(12), policy=spec, inputs=lambda x, t: int(t), update=lambda x, output, i, to=outputs: to.append(output.clone())
            )
        assert all(torch.equal(a[1], b[0]) for a, b in zip(together, alone, strict=True))
        anchors = [float(s) for s in report.full_steps if s < 11][::-1][:kept]
        weights = foca_weights(tuple(anchors), 11.0, variant="released" if kept == 2 else "cache_dit")
        expected = sum(w * World(mixed, parts=()).output(int(a))[1] for w, a in zip(weights, anchors, strict=True))
        torch.testing.assert_close(alone[11][0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [{"variant": "paper"}, {"anchors": 1}])
def test_other_options_are_refused(options):
    with pytest.raises(foreseer.OptionError, match="is out of range"):
        foreseer.policy(foca, **options)
