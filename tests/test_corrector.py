"""Laws of the predictor that makes up for what it missed, on its weights and through the engine."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import foreseer
from foreseer import OptionError, Site
from foreseer.adapters import ArrayBackbone
from foreseer.policies import corrector, corrector_weights, taylor, taylor_weights
from foreseer.policies._corrector import SPREAD
from foreseer.signature import Signature
from foreseer.workbench.planner import plan
from foreseer.workbench.trace import Trace

laws = settings(deadline=None, max_examples=60)
orders = st.integers(0, 3)


@st.composite
def anchor_lists(draw: st.DrawFn, least: int = 1) -> tuple[float, ...]:
    """Step indices of computed steps, newest first, with gaps of 1 to 7."""
    gaps = draw(st.lists(st.integers(1, 7), min_size=least - 1, max_size=7))
    return tuple(float(k) for k in itertools.accumulate(gaps, initial=draw(st.integers(0, 4))))[::-1]


def forecast(weights: tuple[float, ...], anchors: tuple[float, ...], values: np.ndarray) -> float:
    return float(sum(w * values[int(a)] for w, a in zip(weights, anchors, strict=False)))


@laws
@given(anchors=anchor_lists(), ahead=st.integers(1, 9), order=orders)
def test_a_constant_and_a_line_stay_what_they_are(anchors: tuple[float, ...], ahead: int, order: int) -> None:
    weights, target = corrector_weights(anchors, anchors[0] + ahead, max_order=order), anchors[0] + ahead
    assert len(weights) == min(len(anchors), order + 2)
    assert sum(weights) == pytest.approx(1.0, abs=1e-7)
    if order and len(anchors) > 2:  # from one computed step behind it no gap was forecast as a line
        assert sum(w * a for w, a in zip(weights, anchors, strict=False)) == pytest.approx(target, abs=1e-6 * target)


@laws
@given(anchors=anchor_lists(least=2), ahead=st.integers(1, 9), order=orders)
def test_it_makes_up_for_one_gap_in_two_steps_and_is_the_taylor_sum_elsewhere(anchors: tuple[float, ...], ahead: int, order: int) -> None:
    target = anchors[0] + ahead
    plain = taylor_weights(anchors, target, max_order=order)
    if ahead > SPREAD or anchors[0] - anchors[1] == 1:
        assert corrector_weights(anchors, target, max_order=order)[: len(plain)] == pytest.approx(plain, abs=1e-12)
    others = corrector_weights((*anchors, -20.0), target, max_order=order), corrector_weights((*anchors, -90.0), target, max_order=order)
    assert len(anchors) < order + 2 or others[0] == others[1], "what lies further back than it says is not looked at"


@laws
@given(anchors=anchor_lists(least=5), order=orders, seed=st.integers(0, 99))
def test_of_a_polynomial_of_one_degree_more_nothing_is_missed_in_all(anchors: tuple[float, ...], order: int, seed: int) -> None:
    """What two forecasts behind a computed step add is what those before it missed, exactly."""
    steps = np.arange(anchors[0] + SPREAD + 1) / 10
    values = np.polyval(np.random.default_rng(seed).normal(size=order + 2), steps)
    gap = range(int(anchors[1]) + 1, int(anchors[0]))
    missed = sum(values[j] - forecast(taylor_weights(anchors[1:], float(j), max_order=order), anchors[1:], values) for j in gap)
    behind = [anchors[0] + step for step in range(1, SPREAD + 1)]
    added = sum(
        forecast(corrector_weights(anchors, k, max_order=order), anchors, values) - forecast(taylor_weights(anchors, k, max_order=order), anchors, values)
        for k in behind
    )
    assert added == pytest.approx(missed, abs=1e-6 * (1 + np.abs(values).max()))


def outputs(predictor: object, num_steps: int) -> np.ndarray:
    """``(T,)`` a parabola that a planned run puts out, in each of two rows."""
    host = ArrayBackbone(lambda site, t: np.full((2, 3), (t / 10) ** 2), depth=1)
    shape = foreseer.Run(depth=1, rows=2, groups=(0, 1), num_steps=num_steps, sites=host.sites)
    session = foreseer.Session(host, foreseer.policy("planned", schedule=f"0+2+5+9+12/{num_steps}", predictor=predictor), shape)
    return np.array([float(np.asarray(session.evaluate(step)).mean()) for step in range(num_steps)])


def test_what_a_run_adds_up_to_comes_out_even() -> None:
    """Errors of a line on a parabola add up; made up for, those of all gaps but the last vanish."""
    truth = (np.arange(15) / 10) ** 2
    line, made_up = (np.cumsum(outputs(made, 15) - truth) for made in (lambda: taylor(max_order=1), lambda: corrector(max_order=1)))
    assert line[14] == pytest.approx(-0.75, abs=1e-4)
    left = [made_up[last] - (line[last] - line[computed]) for computed, last in ((5, 8), (8, 11), (11, 14))]
    assert left == pytest.approx([0.01] * 3, abs=1e-5)  # of step 1 alone, which one computed step forecast


def traced(seed: int = 0) -> Trace:
    values = np.cumsum(np.random.default_rng(seed).normal(size=(3, 12, 6)), axis=1)
    return Trace(
        signature=Signature(num_steps=12),
        depth=1,
        labels=("0",) * 3,
        grams={("", Site(0)): np.einsum("sid,sjd->sij", values, values)},
        target=Site(0),
        sensitivity=np.ones((3, 12)),
        final_norm=np.ones(3),
        final_size=6,
    )


@pytest.mark.parametrize("order", [1, 2])
def test_a_plan_is_made_from_the_errors_before_they_are_made_up_for(order: int) -> None:
    trace = traced()
    found = plan(trace, predictor=f"corrector:max_order={order}")
    assert found.budgets == plan(trace, predictor=f"taylor:max_order={order}").budgets
    assert found.predictor == f"corrector:max_order={order}"
    assert not found.note


def test_what_is_planned_where_nothing_is_said_makes_up() -> None:
    assert plan(traced()).predictor == "corrector:max_order=1"


def test_an_order_below_zero_is_refused() -> None:
    with pytest.raises(OptionError, match="max_order"):
        corrector(max_order=-1)
