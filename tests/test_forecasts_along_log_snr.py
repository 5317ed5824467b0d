"""``taylor:axis=log_snr``: forecasts along log(alpha / sigma), on the weights alone and through the whole engine."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import foreseer
from foreseer.adapters import ArrayBackbone
from foreseer.errors import OptionError
from foreseer.policies import LinearPredictor, taylor, taylor_weights
from foreseer.registry import parse_policy
from foreseer.testing.plays import run_of
from foreseer.testing.worlds import World, constant
from foreseer.types import History, Run, Site, Step

laws = settings(deadline=None, max_examples=60)
SITE = Site(3)


def run_through(levels: Sequence[float]) -> Run:
    return Run(4, 1, (0,), num_steps=len(levels), log_snr=tuple(levels))


def weigh(levels: Sequence[float], anchors: Sequence[int], target: int, *, order: int, warmup: int = 0) -> np.ndarray:
    """The weight of each anchor, newest first."""
    predictor = taylor(max_order=order, warmup_steps=warmup, axis="log_snr")
    needs = predictor.setup(run_through(levels))
    assert needs.most == order + 1
    kept = np.array([anchors[: needs.most]], dtype=np.float64)
    drafts = predictor.predict_features(Step(target), (SITE,), History(kept, lambda _: None))
    return drafts[SITE].values[0]


@st.composite
def grids(draw: st.DrawFn) -> list[float]:
    """Noise levels that rise as schedulers' do, each step by another amount; flow matching begins with noise alone."""
    gaps = draw(st.lists(st.floats(0.05, 2.0), min_size=6, max_size=10))
    levels = list(itertools.accumulate(gaps, initial=draw(st.floats(-6, -2))))
    return [-math.inf, *levels] if draw(st.booleans()) else levels


@laws
@given(levels=grids(), order=st.integers(0, 3), data=st.data())
def test_lines_in_the_axis_are_forecast_exactly(levels: list[float], order: int, data: st.DataObject) -> None:
    """Law: at any order and from any computed steps, what is constant in log(alpha / sigma) and, with two finite anchors, what is a line in it."""
    steps = data.draw(st.lists(st.integers(0, len(levels) - 2), min_size=1, max_size=order + 1, unique=True))
    anchors = sorted(steps, reverse=True)
    weights = weigh(levels, anchors, len(levels) - 1, order=order)
    finite = [k for k in anchors if math.isfinite(levels[k])]
    assert weights.sum() == pytest.approx(1.0)
    if not finite:
        return
    known = min(len(finite), 2)
    coefficients = data.draw(st.lists(st.floats(-2, 2), min_size=known, max_size=known))
    polynomial = np.polynomial.Polynomial(coefficients)
    used = np.array([polynomial(levels[k]) if math.isfinite(levels[k]) else 1e9 for k in anchors])  # noise alone is not used
    room = 1e-9 * (1 + np.abs(weights[: len(finite)]).sum() * 20)
    assert weights[: len(anchors)] @ used == pytest.approx(polynomial(levels[-1]), abs=room)


@laws
@given(order=st.integers(0, 4), anchors=st.lists(st.integers(0, 20), min_size=1, max_size=5, unique=True), ahead=st.integers(1, 5), warmup=st.integers(0, 6))
def test_where_steps_are_even_in_log_snr_the_axis_makes_no_difference(order: int, anchors: list[int], ahead: int, warmup: int) -> None:
    """Law: on a grid that is uniform in log-SNR, at any order, ramp-up included."""
    known = sorted(anchors, reverse=True)
    levels = [-5.0 + 0.25 * k for k in range(30)]  # without rounding
    usual = taylor_weights(tuple(map(float, known)), float(known[0] + ahead), max_order=order, warmup_steps=warmup)
    weights = weigh(levels, known, known[0] + ahead, order=order, warmup=warmup)
    np.testing.assert_allclose(weights[: len(usual)], usual, rtol=1e-9, atol=1e-9)
    assert not weights[len(usual) :].any()


def test_along_steps_nothing_changes() -> None:
    """Law: ``axis="step"`` is the predictor that it was, bit for bit, whether or not the run knows its noise levels."""
    for options in ({}, {"axis": "step"}):
        predictor = taylor(max_order=3, warmup_steps=2, **options)
        assert isinstance(predictor, LinearPredictor)
        assert predictor.weights((9.0, 6.0, 4.0, 3.0), 11.0) == taylor_weights((9.0, 6.0, 4.0, 3.0), 11.0, max_order=3, warmup_steps=2)


def test_of_two_evaluations_at_one_level_the_newer_counts() -> None:
    """Heun's method evaluates the model twice at each noise level."""
    np.testing.assert_allclose(weigh([-2.0, -1.0, -1.0, 0.0], [2, 1, 0], 3, order=2), [2.0, 0.0, -1.0])


@pytest.mark.parametrize("policy", ["taylorseer:interval=3,target=last_block,warmup_steps=3", "cg_taylor:threshold=1e9"])
def test_policies_take_it_by_its_name(policy: str) -> None:
    """Law: what is a line in log(alpha / sigma) is forecast exactly by a policy that is asked to forecast along it."""
    levels = np.sqrt(np.arange(12) + 1.0)
    host = ArrayBackbone(lambda site, k: np.array([[2.0 - 3.0 * levels[k], levels[k]]]), depth=4)
    spec = parse_policy(f"{policy},predictor=(taylor:axis=log_snr)")
    seen: list[np.ndarray] = []

    def update(x: object, output: object, index: int) -> object:
        seen.append(np.asarray(output))
        return x

    loop = {"inputs": lambda x, t: t, "update": update}
    _, report = foreseer.sample(host, None, range(12), policy=spec, log_snr=levels, **loop)
    assert len(report.full_steps) < 8
    np.testing.assert_allclose(np.concatenate(seen), np.stack([2.0 - 3.0 * levels, levels], axis=1), atol=1e-9)


def test_without_noise_levels_it_says_what_to_give() -> None:
    with pytest.raises(OptionError, match=r"axis='log_snr' of taylor.*log_snr=.*axis=step"):
        taylor(axis="log_snr").setup(run_of(World(constant)))


def test_behind_the_declared_steps_it_is_not_able() -> None:
    predictor = taylor(axis="log_snr")
    predictor.setup(run_through([-1.0, 0.0]))
    assert predictor.predict_features(Step(2), (SITE,), History(np.array([[1.0, 0.0]]), lambda _: None)) is None
