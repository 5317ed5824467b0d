"""The conformance kit, and laws of the weights in float64."""

import numpy as np
import pytest
from foreseer_newton import newton, newton_weights
from hypothesis import given
from hypothesis import strategies as st

import foreseer
from foreseer.adapters import ArrayBackbone
from foreseer.testing import parametrize_policies

anchors = st.lists(st.integers(0, 40), min_size=1, max_size=5, unique=True).map(lambda steps: tuple(map(float, sorted(steps, reverse=True))))


@parametrize_policies([newton, foreseer.policy(newton, max_order=4)])
def test_conformance(policy, check):
    check(policy)


@given(anchors, st.integers(1, 6), st.integers(0, 4))
def test_weights_sum_to_one(steps, ahead, order):
    assert sum(newton_weights(steps, steps[0] + ahead, max_order=order)) == pytest.approx(1, abs=1e-8)


@given(anchors, st.integers(1, 6), st.integers(0, 4), st.lists(st.floats(-1, 1), min_size=5, max_size=5))
def test_exact_to_its_order_at_any_spacing(steps, ahead, order, coefficients):
    weights = newton_weights(steps, steps[0] + ahead, max_order=order)
    degree = len(weights) - 1
    polynomial = np.polynomial.Polynomial(coefficients[: degree + 1], domain=(0, 40), window=(-1, 1))
    forecast = sum(w * polynomial(step) for w, step in zip(weights, steps, strict=False))
    size = sum(abs(w) for w in weights)
    assert forecast == pytest.approx(polynomial(steps[0] + ahead), abs=1e-9 * size)


def test_it_is_found_by_its_name_and_works_under_a_schedule():
    host = ArrayBackbone(lambda site, t: np.full((2, 3), float(t) ** 2), depth=3)
    run = foreseer.Run(3, 2, (0, 1), 12, None, None, host.sites)
    session = foreseer.Session(host, foreseer.policy("taylorseer", interval=3, max_order=2, warmup_steps=3, target="last_block", predictor="newton"), run)
    outputs = [session.evaluate(t) for t in range(12)]
    assert len(session.report.full_steps) < 12
    assert np.allclose([out[0, 0] for out in outputs], np.arange(12) ** 2), "a parabola is forecast exactly"


def test_a_bad_order_is_refused():
    with pytest.raises(foreseer.OptionError, match="max_order=-1 is out of range"):
        foreseer.policy("newton", max_order=-1)
