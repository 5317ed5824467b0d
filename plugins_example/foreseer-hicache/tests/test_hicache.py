"""The conformance kit, and laws of the weights in float64."""

import math

import numpy as np
import pytest
from foreseer_hicache import hermite, hicache, hicache_weights
from hypothesis import given
from hypothesis import strategies as st

import foreseer
from foreseer.policies import taylor_weights
from foreseer.testing import parametrize_policies

anchors = st.lists(st.integers(0, 40), min_size=1, max_size=5, unique=True).map(lambda steps: tuple(map(float, sorted(steps, reverse=True))))
ahead = st.integers(1, 6)
scales = st.floats(0.1, 0.9)
LINE = math.sqrt(0.5)


@parametrize_policies([hicache, foreseer.policy(hicache, max_order=3, scale=LINE)])
def test_conformance(policy, check):
    check(policy)


@given(st.integers(0, 8), st.floats(-3, 3))
def test_the_recurrence_gives_the_physicists_polynomials(order, x):
    assert hermite(order, x) == pytest.approx(np.polynomial.hermite.hermval(x, [0] * order + [1]), rel=1e-9, abs=1e-9)


@given(anchors, ahead, st.integers(0, 4), scales)
def test_weights_sum_to_one(steps, x, order, scale):
    weights = hicache_weights(steps, steps[0] + x, max_order=order, scale=scale)
    assert sum(weights) == pytest.approx(1, abs=1e-9 * (1 + sum(map(abs, weights))))


@given(st.integers(1, 8), st.integers(1, 6), st.integers(1, 4), scales)
def test_at_constant_spacing_it_is_the_published_sum(gap, x, order, scale):
    """F + sum_i D_i / i! h_i(x), with D_i = (backward difference of order i) / gap^i, on features without any
    structure.
    """
    features = np.random.default_rng(0).normal(size=order + 1)  # newest first
    steps = tuple(float(gap * i) for i in reversed(range(order + 1)))
    weights = hicache_weights(steps, steps[0] + x, max_order=order, scale=scale)
    published = features[0]
    for i in range(1, order + 1):
        difference = sum((-1) ** j * math.comb(i, j) * features[j] for j in range(i + 1)) / gap**i
        published += difference / math.factorial(i) * scale**i * np.polynomial.hermite.hermval(scale * x, [0] * i + [1])
    assert np.dot(weights, features) == pytest.approx(published, rel=1e-9, abs=1e-9)


@given(anchors.filter(lambda steps: len(steps) > 1), ahead, st.integers(1, 4), scales)
def test_it_looks_forward(steps, x, order, scale):
    """A line that rises is forecast above its newest value, by 2 s^2 of what is due. Evaluated at -x it would
    come out below, and no picture would tell.
    """
    weights = hicache_weights(steps, steps[0] + x, max_order=order, scale=scale)
    assert np.dot(weights, steps[: len(weights)]) == pytest.approx(steps[0] + 2 * scale**2 * x, abs=1e-6)


@given(anchors, ahead)
def test_at_the_square_root_of_a_half_order_one_is_the_line(steps, x):
    assert hicache_weights(steps, steps[0] + x, max_order=1, scale=LINE) == pytest.approx(taylor_weights(steps, steps[0] + x, max_order=1), abs=1e-9)


def test_it_declares_what_it_keeps():
    assert [hicache().exact_degree, hicache(scale=LINE).exact_degree, hicache(scale=LINE, max_order=0).exact_degree] == [0, 1, 0]


@pytest.mark.parametrize("scale", [0.0, 1.0, -0.5])
def test_a_scale_that_does_not_contract_is_refused(scale):
    with pytest.raises(foreseer.OptionError, match=r"scale=.* is out of range; write a number in \(0, 1\)"):
        foreseer.policy(hicache, scale=scale)
