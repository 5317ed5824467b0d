"""The conformance kit, a reference loop, and the numbers of the release in float64."""

import numpy as np
import pytest
import torch
from foreseer_methods.spectrum import chebyshev, chebyshev_weights, spectrum
from hypothesis import given, settings
from hypothesis import strategies as st

import foreseer
from foreseer.testing import parametrize_policies
from foreseer.testing.worlds import World, mixed

SHRINKS = dict.fromkeys(("check_constant_reproduced", "check_residual_added"), "the ridge penalises the constant too: the weights do not sum to 1")


@parametrize_policies([chebyshev, spectrum], expected_failures=SHRINKS)
def test_conformance(policy, check):
    check(policy)


def run(world, steps, **options):
    outputs = []
    _, report = foreseer.sample(
        world, None, range(steps), policy=foreseer.policy(spectrum, **options), inputs=lambda x, t: int(t), update=lambda x, y, i: outputs.append(y.clone())
    )
    return outputs, report


def reference(feature, steps, *, window=2.0, growth=0.75, warmup=5, degree=4, ridge=0.1, mix=0.5, span=50):
    """As specified: skipped steps counted, coefficients fitted, polynomials evaluated."""
    known, computed, outputs, skipped = [], [], [], 0
    for k in range(steps):
        if k < warmup or (skipped + 1) % int(window) == 0:
            if k >= warmup:
                window += growth
            known.append(feature(k).flatten())
            computed.append(k)
            skipped = 0
            outputs.append(feature(k))
            continue
        skipped += 1
        basis = [np.polynomial.chebyshev.chebvander(2 * np.array([float(j) for j in js]) / span - 1, degree) for js in (computed, [k])]
        x, at = map(torch.from_numpy, basis)
        coefficients = torch.linalg.solve(x.T @ x + ridge * torch.eye(degree + 1, dtype=torch.float64), x.T @ torch.stack(known))
        c, p = computed[-1], computed[-2]
        line = known[-1] + (known[-1] - known[-2]) * (k - c) / (c - p)
        outputs.append((mix * (at @ coefficients)[0] + (1 - mix) * line).reshape(feature(k).shape))
    return outputs, computed


def test_the_numbers_of_the_release():
    weights = chebyshev_weights((6.0, 4.0, 3.0, 2.0, 1.0, 0.0), 7.0, mix=1.0)
    assert weights[::-1] == pytest.approx([-0.136600, -0.078862, 0.017984, 0.147365, 0.303053, 0.670164], abs=1e-6)
    assert sum(weights) == pytest.approx(0.923104, abs=1e-6)


@pytest.mark.parametrize(("growth", "steps"), [(0.75, [0, 1, 2, 3, 4, 6, 8, 11, 15, 20, 25, 31, 38, 46]), (3.0, [0, 1, 2, 3, 4, 6, 11, 19, 30, 44])])
def test_the_schedules_of_the_release(growth, steps):
    _, report = run(World(mixed, parts=()), 50, growth=growth)
    assert report.full_steps == steps


@pytest.mark.parametrize(
    "given_options", [{}, {"window": 3.0, "growth": 0.5, "warmup": 2}, {"mix": 1.0, "degree": 2, "growth": 3.0}, {"mix": 0.0, "ridge": 1.0}]
)
def test_against_a_loop(given_options):
    world = World(mixed, parts=())
    expected, computed = reference(world.output, 40, **given_options)
    schedule = {"warmup_steps" if name == "warmup" else name: value for name, value in given_options.items() if name in ("window", "growth", "warmup")}
    fitted = ",".join(f"{name}={value}" for name, value in given_options.items() if name in ("mix", "degree", "ridge"))
    outputs, report = run(world, 40, **schedule, predictor=f"chebyshev:{fitted}" if fitted else "chebyshev")
    assert report.full_steps == computed
    for ours, theirs in zip(outputs, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), min_size=6, max_size=9, unique=True), st.integers(1, 4))
def test_without_a_penalty_polynomials_of_its_degree_are_exact(steps, ahead):
    anchors = tuple(map(float, sorted(steps, reverse=True)))
    weights = chebyshev_weights(anchors, anchors[0] + ahead, mix=1.0, degree=2, ridge=1e-12)
    for power in range(3):
        value = sum(w * (a / 40) ** power for w, a in zip(weights, anchors, strict=True))
        assert value == pytest.approx(((anchors[0] + ahead) / 40) ** power, abs=1e-4)


def test_the_axis_may_be_the_runs_own():
    outputs = [run(World(mixed, parts=()), 25, predictor=f"chebyshev:mix=1.0,span={span}")[0][24] for span in (25, None, 50)]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    host = World(mixed)
    with pytest.raises(foreseer.OptionError, match="give the run timesteps= or num_steps="):
        foreseer.Session(host, foreseer.policy(spectrum, predictor="chebyshev:span=None"), foreseer.Run(5, 3, (0, 1, 2), sites=host.sites))


def test_rows_alone_are_rows_together_and_other_targets_do():
    for target in ("last_block", "residual", "output", "modules"):
        together, report = run(World(mixed), 20, target=target)
        assert report.full_steps == [0, 1, 2, 3, 4, 6, 8, 11, 15]
        for row in range(3):
            alone, _ = run(World(mixed, labels=(row,)), 20, target=target)
            assert all(torch.equal(a[row], b[0]) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("options", [{"window": 0.5}, {"growth": -1.0}, {"warmup_steps": 0}, {"target": "everything"}])
def test_other_options_are_refused(options):
    with pytest.raises(foreseer.OptionError, match="is out of range"):
        foreseer.policy(spectrum, **options)
