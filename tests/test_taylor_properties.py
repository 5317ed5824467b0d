"""Laws of the Taylor predictor, on its weights alone (float64) and through the whole engine on closed-form features.

Rounding. At a target behind the newest anchor the terms of each weight all have the sign (-1)^i, so nothing cancels while the weights are formed: each
is right to a few units in the last place. What a weighted sum can lose is then a few times eps * sum |w_i| |F_i|, and that is the tolerance everywhere.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import foreseer
from foreseer import Site
from foreseer.adapters import ArrayBackbone
from foreseer.policies import taylor, taylor_weights

EPS = float(np.finfo(np.float64).eps)
ROOM = 64  # operations behind one number, generously
NO_RAMP = -1000  # a warm-up for anchors left of 0, where W = 1 would not let differences grow
laws = settings(deadline=None, max_examples=80)

orders = st.integers(0, 6)
warmups = st.integers(0, 6)
phases = st.floats(-3.0, 3.0)


@st.composite
def anchor_lists(draw: st.DrawFn, least: int = 1, most: int = 8) -> tuple[float, ...]:
    """Step indices of computed steps, newest first, with gaps of 1 to 12."""
    gaps = draw(st.lists(st.integers(1, 12), min_size=least - 1, max_size=most - 1))
    return tuple(float(k) for k in itertools.accumulate(gaps, initial=draw(st.integers(0, 4))))[::-1]


def weigh(anchors: Sequence[float], target: float, order: int, warmup: int = 1) -> np.ndarray:
    """The weights, with zeros for anchors that are not used."""
    used = taylor_weights(tuple(anchors), target, max_order=order, warmup_steps=warmup)
    return np.array([*used, *[0.0] * (len(anchors) - len(used))])


class Recurrence:
    """The published difference recurrence, literally: one dictionary of differences, replaced at each full step."""

    def __init__(self, order: int, warmup: int) -> None:
        self.order, self.warmup = order, warmup
        self.anchors: list[float] = []
        self.stored: dict[int, Any] = {}

    def full(self, k: float, feature: Any) -> None:
        if not self.anchors:
            self.anchors.append(k)  # the released code starts its list with the first step, and appends that step again
        self.anchors.append(k)
        d = self.anchors[-1] - self.anchors[-2]
        new = {0: feature}
        for i in range(self.order):
            if i in self.stored and k > self.warmup - 2:
                new[i + 1] = (new[i] - self.stored[i]) / d
            else:
                break
        self.stored = new

    def forecast(self, k: float) -> Any:
        x = k - self.anchors[-1]
        return sum(difference * x**i / math.factorial(i) for i, difference in self.stored.items())


# --- the weights alone


@laws
@given(anchors=anchor_lists(), offset=st.floats(-50.0, 50.0), order=orders, warmup=warmups)
def test_weights_sum_to_one(anchors: tuple[float, ...], offset: float, order: int, warmup: int) -> None:
    """A constant feature is forecast as itself: from any anchors, for any target before or behind them, at any order and warm-up."""
    target = anchors[0] + offset
    weights = weigh(anchors, target, order, warmup)
    size = np.abs(weigh(anchors, anchors[0] + abs(offset), order, warmup)).sum()  # of the terms, whichever sign they have
    assert abs(weights.sum() - 1) <= ROOM * EPS * size


@laws
@given(
    anchors=anchor_lists(least=2),
    ahead=st.integers(1, 12),
    order=orders,
    coefficients=st.lists(st.floats(-10, 10, allow_subnormal=False), min_size=2, max_size=2),
)
def test_exact_to_the_declared_degree(anchors: tuple[float, ...], ahead: int, order: int, coefficients: list[float]) -> None:
    """Polynomials of the degree that the predictor declares are forecast without error, however the anchors are spaced."""
    predictor = taylor(max_order=order)
    assert predictor.exact_degree == min(order, 1)
    polynomial = np.polynomial.Polynomial(coefficients[: predictor.exact_degree + 1])
    size = np.polynomial.Polynomial(np.abs(polynomial.coef))
    target = anchors[0] + ahead
    weights = np.array(predictor.weights(anchors, target))
    used = np.array(anchors[: len(weights)])
    bound = ROOM * EPS * (np.abs(weights) @ size(used) + size(target))
    assert abs(weights @ polynomial(used) - polynomial(target)) <= bound


@laws
@given(interval=st.integers(1, 12), x=st.integers(1, 12), order=st.integers(1, 6), start=st.integers(0, 50))
def test_error_on_a_parabola(interval: int, x: int, order: int, start: int) -> None:
    """Not exact to degree 2 at any order: for k^2 at constant interval N and offset x, forecast - truth is -N x from order 2 on, and
    -N x - x^2 at order 1. (Whole numbers: only the factorials round.)
    """
    anchors = [float(start + interval * j) for j in range(order + 1)][::-1]
    target = anchors[0] + x
    weights = weigh(anchors, target, order)
    squares = np.square(anchors)
    wrong = -interval * x - (x**2 if order == 1 else 0)
    assert weights @ squares - target**2 == pytest.approx(wrong, abs=ROOM * EPS * float(np.abs(weights) @ squares + target**2))


Curve = tuple[Callable[[float], float], Callable[[float], float], Callable[[float], float]]


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    """A function on the line with its first two derivatives; both are at least 0.3 at 0, and the third is of their size."""
    kind = draw(st.sampled_from(["polynomial", "sine", "exponential"]))
    size = draw(st.floats(0.5, 2.0))
    if kind == "exponential":
        rate = draw(st.floats(0.8, 1.5))
        return tuple(lambda t, n=n: size * rate**n * math.exp(rate * t) for n in range(3))  # type: ignore[return-value]
    if kind == "sine":
        rate, phase = draw(st.floats(1.0, 1.5)), draw(st.floats(0.7, 0.9))
        return (
            lambda t: size * math.sin(rate * t + phase),
            lambda t: size * rate * math.cos(rate * t + phase),
            lambda t: -size * rate**2 * math.sin(rate * t + phase),
        )
    polynomial = np.polynomial.Polynomial([draw(phases), size, size, *draw(st.lists(st.floats(-1.0, 1.0), max_size=3))])
    return polynomial, polynomial.deriv(), polynomial.deriv(2)


def error_at(step: float, anchors: Sequence[float], target: float, order: int, curve: Callable[[float], float]) -> float:
    """Forecast - truth where the anchors, newest at 0, and the target are ``step`` times those given."""
    weights = weigh([step * a for a in anchors], step * target, order, NO_RAMP)
    return float(weights @ [curve(step * a) for a in anchors]) - curve(step * target)


@laws
@given(interval=st.integers(1, 6), share=st.floats(0.1, 1.5), order=st.integers(0, 5), curve=curves())
def test_error_falls_with_the_step_as_theory_says(interval: int, share: float, order: int, curve: Curve) -> None:
    """At constant interval N h and offset x h the error is, as h goes to 0:
    order 0: -x h f';  order 1: -x (x + N) h^2 f''/2;  order 2 and above: -x N h^2 f''/2, since the parabola is what is not exact.
    So it falls like h at order 0, and like h^2 at every order from 1 on: higher orders buy a smaller constant, not a higher power.
    """
    f, slope, bend = curve
    x = share * interval
    anchors = [-float(interval * j) for j in range(order + 1)]
    steps = [0.02 / (interval * (order + 1)) / 2**n for n in range(4)]
    errors = [error_at(h, anchors, x, order, f) for h in steps]
    power = np.polyfit(np.log(steps), np.log(np.abs(errors)), 1)[0]
    assert power == pytest.approx(1 if order == 0 else 2, abs=0.1)
    leading = {0: -x * slope(0.0) * steps[-1], 1: -x * (x + interval) * bend(0.0) / 2 * steps[-1] ** 2}
    assert errors[-1] == pytest.approx(leading.get(order, -x * interval * bend(0.0) / 2 * steps[-1] ** 2), rel=0.05)


@laws
@given(gaps=st.lists(st.integers(1, 12), max_size=6), x=st.floats(0.1, 12.0), order=orders, curve=curves(), step=st.floats(1e-4, 1e-2))
def test_error_bound_for_any_spacing(gaps: list[int], x: float, order: int, curve: Curve, step: float) -> None:
    """However the anchors are spaced, the error is within what Taylor's remainder allows a forecast that is exact to degree 1:
    h^2 max|f''| (sum |w_i| o_i^2 + x^2) / 2 with o_i the distance of anchor i to the newest; h max|f'| x where only one anchor is used.
    """
    f, slope, bend = curve
    anchors = [-float(o) for o in itertools.accumulate(gaps, initial=0)]
    weights = weigh(anchors, x, order, NO_RAMP)
    reach = np.linspace(step * min(anchors), step * x, 201)
    if order == 0 or len(anchors) == 1:
        bound = max(abs(slope(t)) for t in reach) * x * step
    else:
        bound = max(abs(bend(t)) for t in reach) * step**2 * float(np.abs(weights) @ np.square(anchors) + x**2) / 2
    rounding = ROOM * EPS * max(abs(f(t)) for t in reach) * float(np.abs(weights).sum() + 1)
    assert abs(error_at(step, anchors, x, order, f)) <= 1.01 * bound + rounding  # 1.01: the maximum is over a grid


@laws
@given(anchors=anchor_lists(), ahead=st.integers(-12, 12), shift=st.integers(0, 1000), order=orders, warmup=warmups)
def test_shifting_the_step_axis_changes_nothing(anchors: tuple[float, ...], ahead: int, shift: int, order: int, warmup: int) -> None:
    """Only distances count: anchors + c and target + c have the same weights, to the bit. The ramp-up rule alone looks at the index itself, so
    the warm-up moves along.
    """
    moved = weigh([a + shift for a in anchors], anchors[0] + ahead + shift, order, warmup + shift)
    assert (moved == weigh(anchors, anchors[0] + ahead, order, warmup)).all()


@laws
@given(anchors=anchor_lists(), ahead=st.integers(1, 12), scale=st.floats(1e-3, 1e3), order=orders)
def test_scaling_the_step_axis_changes_nothing(anchors: tuple[float, ...], ahead: int, scale: float, order: int) -> None:
    """The unit of the step axis does not count: anchors and target times s > 0 have the same weights (W = 1, which every index >= 0 satisfies).
    The anchors are products and round, which moves a gap by up to eps * (newest anchor / gap).
    """
    plain = weigh(anchors, anchors[0] + ahead, order)
    scaled = weigh([a * scale for a in anchors], (anchors[0] + ahead) * scale, order)
    assert scaled == pytest.approx(plain, rel=ROOM * EPS * (anchors[0] + ahead))


@laws
@given(
    anchors=anchor_lists(),
    drafts=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    order=orders,
    warmup=warmups,
    seed=st.integers(0, 2**32 - 1),
)
def test_weighted_sum_equals_the_published_recurrence(anchors: tuple[float, ...], drafts: list[int], order: int, warmup: int, seed: int) -> None:
    """The weighted sum of features and TaylorSeer's recurrence on stored differences are one forecast: behind every full step of a run, at any
    spacing, order and warm-up, ramp-up included.
    """
    features = np.random.default_rng(seed).standard_normal((len(anchors), 5))
    recurrence = Recurrence(order, warmup)
    for done, k in enumerate(reversed(anchors), 1):
        recurrence.full(k, features[-done])
        for x in drafts:
            weights = weigh(anchors[-done:], k + x, order, warmup)
            own = features[-done:]
            assert (np.abs(weights @ own - recurrence.forecast(k + x)) <= ROOM * EPS * (np.abs(weights) @ np.abs(own))).all()


@given(anchors=anchor_lists(), offset=st.floats(-50, 50), warmup=warmups)
@laws
def test_order_zero_is_reuse(anchors: tuple[float, ...], offset: float, warmup: int) -> None:
    """Order 0 repeats the newest feature, whatever is asked."""
    assert taylor_weights(anchors, anchors[0] + offset, max_order=0, warmup_steps=warmup) == (1.0,)


@given(anchors=anchor_lists(), order=orders, warmup=warmups)
@laws
def test_forecast_of_the_newest_anchor_is_its_feature(anchors: tuple[float, ...], order: int, warmup: int) -> None:
    """At the newest anchor itself its weight is 1 and all others are 0."""
    weights = weigh(anchors, anchors[0], order, warmup)
    assert weights[0] == 1
    assert not weights[1:].any()


# --- through the whole engine

Features = Callable[[Site, float], np.ndarray]


@st.composite
def worlds(draw: st.DrawFn, least: int = 1) -> Features:
    """A closed-form feature ``(R, 5)`` for every site: each row its own polynomial, sine or exponential of the step."""
    count = draw(st.integers(least, 4))
    kinds = draw(st.lists(st.sampled_from(["polynomial", "sine", "exponential"]), min_size=count, max_size=count))
    rates = np.array(draw(st.lists(st.floats(0.02, 0.5), min_size=count, max_size=count)))[:, None]

    def feature(site: Site, k: float) -> np.ndarray:
        phase = np.arange(5.0) + site.block + 2 * len(site.part)
        angle = rates * k + phase
        values = {"polynomial": (angle / 4) ** 3 - angle, "sine": np.sin(angle), "exponential": np.exp(-rates * k) * phase}
        return np.stack([values[kind][row] for row, kind in enumerate(kinds)])

    return feature


def run(feature: Features, steps: int, policy: str, parts: Sequence[str], depth: int = 3, **options: Any) -> tuple[np.ndarray, foreseer.Report]:
    """Outputs ``(T, R, 5)`` and the report of a run whose input is the step itself."""
    outputs: list[np.ndarray] = []
    _, report = foreseer.sample(
        ArrayBackbone(feature, depth=depth, parts=parts),
        None,
        range(steps),
        policy=foreseer.policy(policy, **options),
        inputs=lambda x, k: k,
        update=lambda x, output, index: outputs.append(output.copy()),
    )
    return np.stack(outputs), report


def only(feature: Features, row: int) -> Features:
    """The world in which that row is alone."""
    return lambda site, k: feature(site, k)[row : row + 1]


schedules = st.fixed_dictionaries(
    {"interval": st.integers(1, 6), "max_order": st.integers(0, 4), "warmup_steps": st.integers(1, 4), "target": st.sampled_from(["modules", "last_block"])}
)
parts_lists = st.sampled_from([(), ("attn", "mlp")])


@settings(deadline=None, max_examples=60)
@given(feature=worlds(), steps=st.integers(1, 24), parts=parts_lists, options=schedules)
def test_taylorseer_through_the_engine(feature: Features, steps: int, parts: tuple[str, ...], options: dict[str, Any]) -> None:
    """Full steps follow the counter rule (k < W, or N - 1 forecasts since the last); a full step gives the model's own output to the bit and
    costs L x R block-rows; a forecast step gives what the recurrence gives and costs none.
    """
    depth = 3
    outputs, report = run(feature, steps, "taylorseer", parts, depth, **options)
    sites = [Site(b, part) for b in range(depth) for part in parts] if parts else [Site(depth - 1)]
    recurrences = {site: Recurrence(options["max_order"], options["warmup_steps"]) for site in sites}
    largest = max(np.abs(feature(site, k)).max() for site in sites for k in range(steps))
    full, since = [], 0
    for k in range(steps):
        if k < options["warmup_steps"] or since == options["interval"] - 1:
            full.append(k)
            since = 0
            for site, recurrence in recurrences.items():
                recurrence.full(k, feature(site, k))
            assert (outputs[k] == sum(feature(site, k) for site in sites)).all()
        else:
            since += 1
            forecast = sum(recurrence.forecast(k) for recurrence in recurrences.values())
            weights = weigh([float(a) for a in full[::-1]], k, options["max_order"], options["warmup_steps"])
            assert np.abs(outputs[k] - forecast).max() <= ROOM * EPS * len(sites) * largest * np.abs(weights).sum()
    assert report.full_steps == full
    assert report.block_rows == len(full) * depth * outputs.shape[1]


@settings(deadline=None, max_examples=30)
@given(feature=worlds(), steps=st.integers(1, 24), parts=parts_lists, options=schedules)
def test_a_row_gets_what_it_gets_alone_from_a_schedule(feature: Features, steps: int, parts: tuple[str, ...], options: dict[str, Any]) -> None:
    """Under a schedule nothing is gathered: each row of a batch equals that row alone, bit for bit."""
    together, _ = run(feature, steps, "taylorseer", parts, **options)
    for row in range(together.shape[1]):
        alone, _ = run(only(feature, row), steps, "taylorseer", parts, **options)
        assert (together[:, row] == alone[:, 0]).all()


gates = st.one_of(
    st.tuples(st.just("cg_taylor"), st.fixed_dictionaries({"threshold": st.floats(0.003, 0.3), "first_order": st.integers(0, 3)})),
    st.tuples(
        st.just("speca"),
        st.fixed_dictionaries(
            {
                "threshold": st.floats(0.003, 0.3),
                "threshold_decay": st.floats(0.3, 1.0),
                "max_order": st.integers(0, 3),
                "min_draft_steps": st.integers(0, 1),
                "max_draft_steps": st.sampled_from([2, 5, None]),
                "on_reject": st.sampled_from(["recompute", "next_step"]),
                "target": st.sampled_from(["modules", "last_block"]),
            }
        ),
    ),
)


@settings(deadline=None, max_examples=40)
@given(feature=worlds(least=2), steps=st.integers(4, 24), parts=parts_lists, gate=gates)
def test_a_row_gets_what_it_gets_alone_from_a_gate(feature: Features, steps: int, parts: tuple[str, ...], gate: tuple[str, dict[str, Any]]) -> None:
    """A gate that decides by row computes the same steps of a row, and gives it the same output, whoever shares its batch. (Errors within rounding
    of the threshold are left out: there the float32 error decides.)
    """
    name, options = gate
    together, report = run(feature, steps, name, parts, decide="row", **options)
    judged = report.judged
    assume((np.abs(report.error / report.thresholds[:, None] - 1)[judged] > 1e-5).all())
    for row in range(together.shape[1]):
        alone, own = run(only(feature, row), steps, name, parts, decide="row", **options)
        assert report.computed[:, row].tolist() == own.computed[:, 0].tolist()
        np.testing.assert_allclose(together[:, row], alone[:, 0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["cg_taylor", "speca"])
def test_rows_of_different_difficulty_part_ways(name: str) -> None:
    """By row, a slow and a fast sine are computed at different steps; decided for the batch, they share every decision, and the slow one no longer
    gets what it gets alone. So the law above has something to say.
    """
    rates = np.array([[0.02], [0.9]])

    def feature(site: Site, k: float) -> np.ndarray:
        return np.sin(rates * k + 1 + site.block)

    _, by_row = run(feature, 20, name, (), decide="row", threshold=0.05)
    _, by_batch = run(feature, 20, name, (), decide="batch", threshold=0.05)
    _, alone = run(only(feature, 0), 20, name, (), decide="row", threshold=0.05)
    assert by_row.computed[:, 0].sum() < by_row.computed[:, 1].sum()
    assert (by_row.computed[:, 0] == alone.computed[:, 0]).all()
    assert (by_batch.computed[:, 0] == by_batch.computed[:, 1]).all()
    assert (by_batch.computed[:, 0] != alone.computed[:, 0]).any()
