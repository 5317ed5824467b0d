"""The conformance kit, a reference loop over tensors, and the account of its steps."""

import math

import pytest
import torch
from foreseer_methods.racer import racer
from hypothesis import given, settings
from hypothesis import strategies as st

import foreseer
from foreseer.policies import taylor_weights
from foreseer.testing import parametrize_policies
from foreseer.testing.worlds import World, constant, exponential, mixed, noise, polynomial, replaced


@parametrize_policies([racer, foreseer.policy(racer, max_order=1, shrink=False, risk=0.01, interval=3)])
def test_conformance(policy, check):
    check(policy)


def jump(site, step):
    return constant(site) * (1.0 if step < 11 else -3.0)


def run(world, steps=30, groups=None, **options):
    outputs = []
    _, report = foreseer.sample(
        world,
        None,
        range(steps),
        policy=foreseer.policy(racer, **options),
        inputs=lambda x, t: int(t),
        update=lambda x, y, i: outputs.append(y.clone()),
        groups=groups,
    )
    return outputs, report


def reference(feature, steps, *, interval=4, risk=0.1, max_order=2, warmup=3, shrink=True):
    """As its page says, on the features themselves: one row, or all rows together."""
    outputs, computed, kept, due, planned = [], [], [], 0, warmup - 1

    def forecasts(k):
        anchors = tuple(float(c) for c in reversed(computed))[: max_order + 1]
        for order in (max_order, max_order - 1):
            yield sum(w * f for w, f in zip(taylor_weights(anchors, float(k), max_order=order), kept, strict=False))

    for k in range(steps):
        if k < due:
            higher, lower = forecasts(k)
            moved, apart = (higher - kept[0]).square().sum(), (higher - lower).square().sum()
            share = moved / (moved + apart) if shrink and moved + apart > 0 else 1.0
            outputs.append(kept[0] + share * (higher - kept[0]))
            continue
        computed.append(k)
        kept = [feature(k), *kept][: max_order + 1]
        outputs.append(kept[0])
        due = k + 1
        if k >= warmup - 1:
            while planned < k:
                planned += interval
            due = max(k, planned) + 1
            while due < planned + interval:
                higher, lower = forecasts(due)
                if not torch.linalg.norm(higher - lower) / torch.linalg.norm(higher) <= risk:
                    break
                due += 1
    return outputs, computed


@pytest.mark.parametrize("options", [{}, {"risk": 0.02, "interval": 5}, {"max_order": 1, "shrink": False}, {"risk": 1e-5, "interval": 3}, {"risk": math.inf}])
@pytest.mark.parametrize("feature", [mixed, exponential, polynomial([1.0, 0.3, 0.2], 10.0), noise, jump])
def test_against_a_loop(options, feature):
    """Row by row, and all rows together."""
    world = World(feature, parts=())
    outputs, report = run(world, **options)
    for row in range(3):
        expected, computed = reference(lambda k, row=row: world.output(k)[row], 30, **options)
        assert [k for k in range(30) if report.computed[k, row]] == computed
        for ours, theirs in zip(outputs, expected, strict=True):
            torch.testing.assert_close(ours[row], theirs, rtol=1e-6, atol=1e-6)
    outputs, report = run(world, decide="batch", **options)
    expected, computed = reference(world.output, 30, **options)
    assert report.full_steps == computed
    for ours, theirs in zip(outputs, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 0.5), st.integers(1, 6), st.integers(1, 4), st.integers(1, 3))
def test_one_step_is_computed_in_each_interval(risk, interval, warmup, order):
    """As many as were planned, whatever the risk."""
    _, report = run(World(mixed), interval=interval, risk=risk, warmup_steps=warmup, max_order=order)
    assert report.computed[:warmup].all()
    for first in range(warmup, 30 - interval + 1, interval):
        assert (report.computed[first : first + interval].sum(axis=0) == 1).all()


def test_without_a_limit_it_is_the_plan_and_taylor():
    outputs, report = run(World(mixed), risk=math.inf, shrink=False, interval=3, warmup_steps=3, max_order=1)
    usual = []
    _, taylor = foreseer.sample(
        World(mixed),
        None,
        range(30),
        policy=foreseer.policy("taylorseer", interval=3, warmup_steps=3, max_order=1, target="last_block", predictor="taylor:warmup_steps=1"),
        inputs=lambda x, t: int(t),
        update=lambda x, y, i: usual.append(y.clone()),
    )
    assert report.full_steps == taylor.full_steps
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(outputs, usual, strict=True))


def test_rows_of_a_sample_share_one_fate_and_rows_alone_are_rows_together():
    outputs, report = run(World(mixed), groups=(0, 1, 0), risk=0.01)
    assert (report.computed[:, 0] == report.computed[:, 2]).all()
    for target in ("residual", "output", "modules"):
        outputs, _ = run(World(mixed), risk=0.01, target=target)
        for row in range(3):
            alone, _ = run(World(mixed, labels=(row,)), risk=0.01, target=target)
            assert all(torch.equal(a[row], b[0]) for a, b in zip(outputs, alone, strict=True))


def test_what_cannot_be_judged_is_at_risk_and_leaves_the_others_alone():
    """0/0 is no evidence, nor is NaN: of such a row the first step of each interval is computed."""
    usual = run(World(exponential, parts=()), risk=0.01)[1].computed
    _, report = run(World(replaced(exponential, 1, 0.0), parts=()), risk=0.01, interval=4)
    assert (report.computed[:, [0, 2]] == usual[:, [0, 2]]).all()
    assert [k for k in range(30) if report.computed[k, 1]] == [0, 1, 2, 3, 7, 11, 15, 19, 23, 27]
    _, report = run(World(replaced(exponential, 1, math.nan), parts=()), risk=0.01, interval=4)
    assert (report.computed[:, [0, 2]] == usual[:, [0, 2]]).all()


def test_a_constant_is_never_at_risk():
    outputs, report = run(World(constant), risk=0.0, interval=4)
    assert report.full_steps == [0, 1, 2, 6, 10, 14, 18, 22, 26]
    assert all(torch.allclose(output, World(constant).output(0)) for output in outputs)


@pytest.mark.parametrize("options", [{"interval": 0}, {"risk": -1.0}, {"max_order": 0}, {"warmup_steps": 0}])
def test_other_options_are_refused(options):
    with pytest.raises(foreseer.OptionError, match="is out of range"):
        foreseer.policy(racer, **options)
