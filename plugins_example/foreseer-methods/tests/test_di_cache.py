"""DiCache against a loop written from its description, and closed forms."""

import math

import numpy as np
import pytest
import torch
from foreseer_methods.di_cache import ShallowProbeGate, di_cache

import foreseer
from foreseer.adapters import ArrayBackbone
from foreseer.testing.worlds import DEPTH, World, constant, exponential, mixed, noise

STEPS = 30
GRID = (0.0, 0.004, 0.01, 0.02, 0.04, 0.08, 0.15, 0.4, 1.0, 3.0, math.inf)


def uneven(site, step):
    """Features that move now more, now less, each row in its own way."""
    return exponential(site, step) * (1 + torch.tensor([0.02, 0.1, 0.3], dtype=torch.float64)[:, None] * math.sin(step)) + 0.003 * noise(site, step)


def run(world, *, steps=STEPS, groups=None, **options):
    outputs = []
    _, report = foreseer.sample(
        world,
        None,
        range(steps),
        policy=foreseer.policy(di_cache, **options),
        groups=groups,
        inputs=lambda x, t: t,
        update=lambda x, output, index: outputs.append(output.clone()),
    )
    return outputs, report


def reference(world, *, threshold, depth=1, retention=0.2, distance="stream", most=1.5, steps=STEPS):
    """Section 3.11: one mean over the whole batch."""
    outputs, computed, total, before, kept = [], [], np.float32(0.0), None, []
    mean = lambda z: z.abs().mean()  # noqa: E731
    for k in range(steps):
        found = world.forward(k, substitute={}, see=(foreseer.STREAM,), record=(foreseer.Site(depth - 1),))
        stream, behind = found.seen[foreseer.STREAM], found.features[foreseer.Site(depth - 1)]
        probed = behind - stream
        shown = probed if distance == "added" else behind
        compute = k < max(int(retention * steps), 1) or k == steps - 1
        if not compute:
            moved, arrived = (mean(now - then) / mean(then) for now, then in zip((shown, stream), before, strict=True))
            total = np.float32(total + np.float32((moved - arrived).abs().item() if distance == "difference" else moved.item()))
            compute = not total < threshold
        if compute:
            total, output = np.float32(0.0), found.output
            kept = [(output - stream, probed), *kept[:1]]
            computed.append(k)
        elif len(kept) == 1:
            output = stream + kept[0][0]
        else:
            (r_c, q_c), (r_p, q_p) = kept
            weight = (mean(probed - q_p) / mean(q_c - q_p)).clamp(1, most)
            output = stream + (r_p + weight * (r_c - r_p))
        before = (shown, stream)
        outputs.append(output)
    return outputs, computed


@pytest.mark.parametrize("distance", ["stream", "difference", "added"])
@pytest.mark.parametrize(("depth", "retention"), [(1, 0.2), (1, 0.0), (3, 0.1)])
def test_it_computes_the_steps_of_the_loop_and_gives_its_numbers(distance, depth, retention):
    seen = set()
    for threshold in GRID:
        outputs, report = run(World(uneven), threshold=threshold, probe_depth=depth, retention=retention, distance=distance, decide="batch")
        expected, steps = reference(World(uneven), threshold=threshold, depth=depth, retention=retention, distance=distance)
        assert report.full_steps == steps
        assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-5) for a, b in zip(outputs, expected, strict=True)), "the weight is a float32"
        assert all(torch.equal(outputs[k], expected[k]) for k in steps)
        seen.add(len(steps))
    assert len(seen) > 3, "the grid tells thresholds apart"


def test_without_a_mixture_it_reuses():
    for threshold in GRID:
        outputs, report = run(World(uneven), threshold=threshold, max_weight=1.0, decide="batch")
        expected, steps = reference(World(uneven), threshold=threshold, most=1.0)
        assert report.full_steps == steps
        assert all(torch.allclose(a, b, rtol=1e-14) for a, b in zip(outputs, expected, strict=True))


@pytest.mark.parametrize("threshold", [0.06, 0.15])
@pytest.mark.parametrize("distance", ["stream", "difference", "added"])
def test_a_row_decides_and_mixes_as_it_would_alone(threshold, distance):
    together, report = run(World(uneven), threshold=threshold, distance=distance)
    for row in range(3):
        alone, told = run(World(uneven, labels=[row]), threshold=threshold, distance=distance)
        assert (report.computed[:, row] == told.computed[:, 0]).all()
        assert all(torch.equal(a[row], b[0]) for a, b in zip(together, alone, strict=True))
        assert told.full_steps == reference(World(uneven, labels=[row]), threshold=threshold, distance=distance)[1]
    assert threshold > 0.1 or (report.computed[:, 0] != report.computed[:, 2]).any()


def test_rows_of_a_sample_share_sum_and_weight():
    together, report = run(World(uneven, labels=[0, 1, 2]), threshold=0.3, groups=(4, 1, 4))
    pair, told = run(World(uneven, labels=[0, 2]), threshold=0.3, decide="batch")
    assert (report.computed[:, 0] == report.computed[:, 2]).all()
    assert (report.computed[:, [0, 2]] == told.computed).all()
    assert all(torch.allclose(a[[0, 2]], b, rtol=1e-6) for a, b in zip(together, pair, strict=True))


@pytest.mark.parametrize(("ahead", "weight"), [(0.5, 1.0), (1.2, 1.2), (1.4, 1.4), (9.0, 1.5)])
def test_the_weight_is_how_far_the_probe_went_and_is_clipped(ahead, weight):
    """Block 0 adds q, all blocks add 10 q; q is 1 at step 0, 2 at step 1, and 1 + ahead at step 2."""
    added = [1.0, 2.0, 1.0 + ahead, 0.0]
    host = ArrayBackbone(
        lambda site, k: np.full((1, 4), 100 + added[int(k)] * (1 if site.block == 0 else 10)), depth=3, stream=lambda k: np.full((1, 4), 100.0)
    )
    outputs = []
    spec = foreseer.policy(di_cache, threshold=1e6, retention=0.5)
    _, report = foreseer.sample(host, None, range(4), policy=spec, inputs=lambda x, k: k, update=lambda x, output, index: outputs.append(output[0, 0]))
    assert report.full_steps == [0, 1, 3]
    assert outputs[2] == pytest.approx(100 + 10 * (1 + weight), rel=1e-6)


def test_features_that_stand_still_are_reused():
    """The probe did not move between the computed steps: 0/0 is no weight."""
    outputs, report = run(World(constant), threshold=1.0)
    assert report.full_steps == [*range(6), STEPS - 1]
    assert all(torch.allclose(output, World(constant).output(0), rtol=1e-15) for output in outputs)


def test_a_row_with_one_computed_step_reuses_it_exactly():
    moving = World(lambda site, step: torch.round(64 * constant(site)) * (1 + (step if site.block < 0 else 0)))
    outputs, report = run(moving, threshold=math.inf, retention=0.0)
    assert report.full_steps == [0, STEPS - 1]
    assert all(torch.equal(output, moving.output(k)) for k, output in enumerate(outputs))


def test_the_ends_of_the_range_and_what_a_probe_costs():
    assert run(World(mixed), threshold=0.0)[1].full_steps == list(range(STEPS))
    _, report = run(World(mixed), threshold=math.inf, probe_depth=2)
    assert report.full_steps == [*range(6), STEPS - 1]
    assert report.block_rows == 3 * (7 * DEPTH + 23 * 2)
    assert run(World(mixed), threshold=0.0)[1].block_rows == 3 * STEPS * DEPTH, "computing goes on behind the probe"
    assert run(World(mixed), threshold=math.inf, steps=1)[1].full_steps == [0]


@pytest.mark.parametrize("filling", [math.nan, math.inf])
def test_what_is_no_number_is_computed_and_spoils_no_other_row(filling):
    def broken(site, step):
        values = constant(site).clone()
        values[1, 2] = filling
        return values

    _, report = run(World(broken), threshold=1e9)
    assert report.computed[:, 1].all()
    assert not report.computed[6:-1, [0, 2]].any()


def test_what_cannot_be_is_refused():
    world = World(mixed)
    with pytest.raises(foreseer.OptionError, match="num_steps="):
        foreseer.Session(world, foreseer.policy(di_cache), foreseer.Run(DEPTH, 3, (0, 1, 2), sites=world.sites, places=world.places))
    with pytest.raises(foreseer.OptionError, match="leaves none of the model's 5 blocks"):
        run(world, probe_depth=5)
    for option, value in (("threshold", -1.0), ("probe_depth", 0), ("retention", 1.5), ("distance", "delta"), ("max_weight", 0.5)):
        with pytest.raises(foreseer.OptionError, match=option):
            foreseer.policy(di_cache, **{option: value})


@pytest.mark.parametrize("name", ["FluxPipeline", "WanPipeline", "StableDiffusion3Pipeline"])
def test_real_models_are_judged_and_mixed(name, monkeypatch):
    """Of a model with two streams, a text's and an image's, both go into the weight."""
    tiny = pytest.importorskip("tiny").TINY[name]
    formed = []

    def spied(self, history, live, mix=ShallowProbeGate._mix):
        made = mix(self, history, live)
        (r_c, r_p), (q_c, q_p), q = history.features(self._stack), history.features(self._shallow), live.features[self._shallow]
        weight = (q - q_p).abs().sum() / (q_c - q_p).abs().sum()
        formed.append(weight.item())
        assert torch.allclose(made, r_p + weight.clamp(1, 1.5) * (r_c - r_p), rtol=1e-5, atol=1e-5)
        return made

    monkeypatch.setattr(ShallowProbeGate, "_mix", spied)
    for threshold, distance in ((0.0, "stream"), (1e9, "stream"), (1e9, "difference"), (1e9, "added")):
        pipe = tiny.build()
        with foreseer.attach(pipe, "di_cache", threshold=threshold, distance=distance, decide="batch") as attached:
            output = tiny.call(pipe, steps=12)
        assert attached.report.full_steps == ([0, 1, 11] if threshold else list(range(12)))
        assert threshold or torch.equal(output, tiny.call(tiny.build(), steps=12))
    assert len(formed) >= 27
    assert max(formed) > 0
