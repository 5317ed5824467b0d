"""The conformance kit, least squares on the features themselves, and the table's file."""

import attrs
import numpy as np
import pytest
import torch
from foreseer_methods.l2p import Table, fit, l2p
from hypothesis import given, settings
from hypothesis import strategies as st

import foreseer
from foreseer.policies import taylor_weights
from foreseer.signature import Signature
from foreseer.testing import parametrize_policies
from foreseer.testing.worlds import World, mixed
from foreseer.types import OUTPUT, Site

T, LAST = 20, Site(4)
PARTS = tuple(Site(block, part) for block in range(5) for part in ("attn", "mlp", "block"))


def features(seed, steps=T, width=30):
    """``(S, T, width)`` three trajectories that bend."""
    rng = np.random.default_rng(seed)
    time = np.arange(steps)[:, None] / steps
    waves = [rng.normal(size=(3, 1, width)) * wave for wave in (np.exp(-2 * time), np.sin(4 * time))]
    return sum(waves) + 0.02 * rng.normal(size=(3, steps, width))


def table(seed=0, steps=T, sites=(LAST,), **about):
    held = features(seed, steps)
    gram = np.einsum("stc,suc->tu", held, held)
    return Table(Signature(num_steps=steps, **about), {str(site): gram / (np.trace(gram) / steps) for site in sites})


def everywhere(steps):
    return table(steps=steps, sites=(*PARTS, *(Site(b) for b in range(60)), OUTPUT))


@parametrize_policies([l2p])
def test_conformance(policy, check):
    check(policy)


@settings(deadline=None)
@given(st.lists(st.integers(0, T - 2), min_size=1, max_size=4, unique=True), st.integers(0, 5))
def test_against_least_squares_on_the_features(steps, seed):
    """Its error over the trajectories it was fitted on is that of `numpy.linalg.lstsq`, and no linear predictor's is below."""
    known, target = sorted(steps, reverse=True), max(steps) + 1
    held = features(seed)
    design, wanted = held[:, known].swapaxes(1, 2).reshape(-1, len(known)), held[:, target].reshape(-1)
    found = table(seed).weights(LAST, tuple(map(float, known)), float(target), ridge=0.0)
    best = np.linalg.lstsq(design, wanted, rcond=None)[0]
    error = [np.square(design @ weights - wanted).sum() for weights in (found, best)]
    assert error[0] == pytest.approx(error[1], rel=1e-6)
    for order in range(3):
        given_weights = np.zeros(len(known))
        taylor = taylor_weights(tuple(map(float, known)), float(target), max_order=order)
        given_weights[: len(taylor)] = taylor
        assert error[0] <= np.square(design @ given_weights - wanted).sum() * (1 + 1e-9)


def run(world, steps=T, **options):
    outputs = []
    spec = foreseer.policy("taylorseer", interval=3, target="last_block", predictor=lambda: l2p(**options))
    _, report = foreseer.sample(world, None, range(steps), policy=spec, inputs=lambda x, t: int(t), update=lambda x, y, i: outputs.append(y.clone()))
    return outputs, report


def test_a_run_is_a_sum_with_the_tables_weights():
    learned, world = table(), World(mixed, parts=())
    outputs, report = run(world, table=learned)
    computed = report.full_steps
    assert computed == [0, 1, 4, 7, 10, 13, 16, 19]
    for step, output in enumerate(outputs):
        anchors = [float(s) for s in computed if s < step][:-3:-1] if step not in computed else [float(step)]
        weights = learned.weights(LAST, tuple(anchors), float(step)) if step not in computed else (1.0,)
        expected = sum(w * world.output(int(a)) for w, a in zip(weights, anchors, strict=True))
        torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)
    for row in range(3):
        alone, _ = run(World(mixed, parts=(), labels=(row,)), table=learned)
        assert all(torch.equal(a[row], b[0]) for a, b in zip(outputs, alone, strict=True))


def test_a_table_from_a_trace_goes_through_its_file(tmp_path):
    trace_of = pytest.importorskip("foreseer.workbench.trace")
    held = features(1)
    gram = np.einsum("stc,suc->stu", held, held)
    trace = trace_of.Trace(
        signature=Signature(model="Toy-1", num_steps=T, timesteps=tuple(map(float, range(T)))),
        depth=5,
        labels=("a", "b", "c"),
        grams={("", LAST): gram, ("", OUTPUT): 2 * gram},
    )
    path = fit(trace).save(tmp_path / "l2p.json")
    read = Table.load(path)
    assert read.signature == attrs.evolve(trace.signature)
    assert read.weights(LAST, (4.0, 2.0), 6.0) == pytest.approx(table(1).weights(LAST, (4.0, 2.0), 6.0), rel=1e-9)
    assert read.weights(OUTPUT, (4.0, 2.0), 6.0) == pytest.approx(read.weights(LAST, (4.0, 2.0), 6.0), rel=1e-9), "a table has no scale"
    outputs = [run(World(mixed, parts=()), table=given)[0] for given in (str(path), read)]
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))
    _, report = foreseer.sample(
        World(mixed),
        None,
        range(T),
        policy=f"taylorseer:target=last_block,predictor=(l2p:table={path})",
        inputs=lambda x, t: int(t),
        update=lambda x, y, i: None,
    )
    assert not all(outcome.full for outcome in report.outcomes)


def test_runs_that_it_is_not_for_are_refused():
    with pytest.raises(foreseer.OptionError, match="20 steps before, 12 now"):
        run(World(mixed), steps=12, table=table())
    named = table(model="Other-1", scheduler="Euler-2")
    world = World(mixed)
    given_run = foreseer.Run(5, 3, (0, 1, 2), T, sites=world.sites, model="Toy-1")
    with pytest.raises(foreseer.OptionError, match="any_model=True"):
        foreseer.Session(world, foreseer.policy("taylorseer", target="last_block", predictor=lambda: l2p(table=named)), given_run)
    foreseer.Session(world, foreseer.policy("taylorseer", target="last_block", predictor=lambda: l2p(table=named, any_model=True)), given_run)
    with pytest.raises(foreseer.OptionError, match=r"the table has 3\.block, and 4\.block is forecast"):
        run(World(mixed), table=table(sites=(Site(3),)))


def test_a_stream_that_begins_later_reads_its_own_part_of_the_table():
    learned, world, outputs = table(), World(mixed, parts=()), []
    spec = foreseer.policy("taylorseer", interval=3, target="last_block", predictor=lambda: l2p(table=learned))
    session = foreseer.Session(world, spec, foreseer.Run(5, 3, (0, 1, 2), T, sites=world.sites).starting_at(8))
    outputs = [session.evaluate(step) for step in range(8, T)]
    weights = learned.weights(LAST, (9.0, 8.0), 10.0)
    torch.testing.assert_close(outputs[2], weights[0] * outputs[1] + weights[1] * outputs[0])


def test_without_a_table_all_is_computed_and_said():
    _, report = run(World(mixed))
    assert report.full_steps == list(range(T))
    assert "l2p has no table" in str(report)


@pytest.mark.parametrize("content", [None, "", "{}", '{"format": "other"}'])
def test_what_is_no_table_is_refused(tmp_path, content):
    path = tmp_path / "table.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(foreseer.OptionError, match="is no table"):
        foreseer.policy("l2p", table=str(path))
