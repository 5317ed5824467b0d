"""TeaCache against a loop written from its description, closed forms, and the calibration."""

import math

import numpy as np
import pytest
import torch
from foreseer_methods.tea_cache import FITTED, evaluate, tea_cache
from foreseer_methods.tea_cache_calibration import ChangeRecorder, fit_polynomial

import foreseer
from foreseer.adapters import ArrayBackbone
from foreseer.testing.worlds import DEPTH, World, constant, exponential, mixed, noise
from foreseer.types import LATENT, MODULATED, STREAM, TIME

PLACES = {"modulated": MODULATED, "time": TIME, "latent": LATENT}
STEPS = 30


def uneven(site, step):
    """Signals and features that move now more, now less, each row in its own way."""
    return exponential(site, step) * (1 + torch.tensor([0.01, 0.05, 0.2], dtype=torch.float64)[:, None] * math.sin(step)) + 0.003 * noise(site, step)


def run(world, spec, *, steps=STEPS, groups=None):
    outputs = []
    _, report = foreseer.sample(
        world, None, range(steps), policy=spec, groups=groups, inputs=lambda x, t: t, update=lambda x, output, index: outputs.append(output.clone())
    )
    return outputs, report


def reference(world, *, threshold, coefficients, place, steps=STEPS, warmup=1, last=True):
    """Section 3.1: one sum over the whole batch."""
    outputs, computed, total, before, added = [], [], np.float32(0.0), None, None
    for k in range(steps):
        signal, stream = (world.forward(k, substitute={}, see=(site,)).seen[site] for site in (place, STREAM))
        compute = k < warmup or (last and k == steps - 1)
        if not compute:
            change = ((signal - before).abs().mean() / before.abs().mean()).item()
            total = np.float32(total + np.float32(np.poly1d(coefficients)(change)))
            compute = not total < threshold
        if compute:
            total, output = np.float32(0.0), world.output(k)
            added = output - stream
            computed.append(k)
        before = signal
        outputs.append(output if compute else stream + added)
    return outputs, computed


@pytest.mark.parametrize("signal", ["modulated", "time", "latent"])
@pytest.mark.parametrize("poly", [None, (2.0, 0.0), (30.0, -8.0, 1.0, 0.003), (-4.0, 0.6, 0.0)])
def test_it_computes_the_steps_of_the_loop_and_gives_its_numbers(signal, poly):
    seen = set()
    for threshold in (0.0, 0.013, 0.037, 0.08, 0.21, 0.5, 1.3, math.inf):
        spec = foreseer.policy(tea_cache, threshold=threshold, poly=poly, signal=signal, decide="batch")
        outputs, report = run(World(uneven), spec)
        expected, steps = reference(World(uneven), threshold=threshold, coefficients=poly or (1.0, 0.0), place=PLACES[signal])
        assert report.full_steps == steps
        assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))
        seen.add(len(steps))
    assert len(seen) > 3, "the grid tells thresholds apart"


@pytest.mark.parametrize("threshold", [0.02, 0.1, 0.4])
def test_a_row_decides_as_it_would_alone(threshold):
    together, report = run(World(uneven), foreseer.policy(tea_cache, threshold=threshold))
    for row in range(3):
        alone, told = run(World(uneven, labels=[row]), foreseer.policy(tea_cache, threshold=threshold))
        assert [bool(c[row]) for c in report.computed] == [bool(c[0]) for c in told.computed]
        assert all(torch.equal(a[row], b[0]) for a, b in zip(together, alone, strict=True))
        assert told.full_steps == reference(World(uneven, labels=[row]), threshold=threshold, coefficients=(1.0, 0.0), place=MODULATED)[1]


def test_rows_of_a_sample_are_judged_together():
    _, report = run(World(uneven, labels=[0, 1, 2, 0]), foreseer.policy(tea_cache, threshold=0.2), groups=(0, 1, 0, 1))
    assert (report.computed[:, 0] == report.computed[:, 2]).all()
    assert (report.computed[:, 1] == report.computed[:, 3]).all()


@pytest.mark.parametrize(("threshold", "every"), [(0.1, 1), (0.25, 3), (0.35, 4), (0.95, 10)])
def test_a_signal_that_moves_evenly_is_computed_at_an_interval(threshold, every):
    """Identity and a constant relative change r: every ceil(threshold / r)-th step, here r = 0.1."""
    grows = World(lambda site, step: constant(site) * 1.1**step)
    assert run(grows, foreseer.policy(tea_cache, threshold=threshold))[1].full_steps == sorted({*range(0, STEPS, every), STEPS - 1})


def test_the_ends_of_the_range_compute_everything_and_next_to_nothing():
    assert run(World(mixed), foreseer.policy(tea_cache, threshold=0.0))[1].full_steps == list(range(STEPS))
    assert run(World(mixed), foreseer.policy(tea_cache, threshold=math.inf))[1].full_steps == [0, STEPS - 1]
    assert run(World(mixed), foreseer.policy(tea_cache, threshold=math.inf, warmup_steps=4, last_step=False))[1].full_steps == [0, 1, 2, 3]
    assert run(World(mixed), foreseer.policy(tea_cache, threshold=math.inf), steps=1)[1].full_steps == [0]


def test_a_polynomial_below_zero_takes_from_the_sum():
    """Not clamped: P = -1 never reaches a threshold, and the report shows the sum."""
    _, report = run(World(uneven), foreseer.policy(tea_cache, threshold=0.1, poly=(-1.0,), last_step=False), steps=5)
    assert [outcome.error[0] for outcome in report.outcomes[1:]] == [-1.0, -2.0, -3.0, -4.0]


@pytest.mark.parametrize("filling", [math.nan, math.inf, 0.0])
def test_a_signal_that_is_no_number_or_nothing_is_computed(filling):
    def broken(site, step):
        values = constant(site).clone()
        if site == MODULATED:
            values[1] = filling
        return values

    _, report = run(World(broken), foreseer.policy(tea_cache, threshold=1e9))
    assert report.computed[:, 1].all()
    assert not report.computed[1:-1, 0].any()


def test_a_time_embedding_knows_no_sample():
    def timed(site, step):
        return constant(site)[:1].expand(3, -1) * 1.05**step if site == TIME else uneven(site, step)

    _, report = run(World(timed), foreseer.policy(tea_cache, threshold=0.18, signal="time"))
    assert (report.computed == report.computed[:, :1]).all()
    assert report.full_steps == [*range(0, STEPS - 1, 4), STEPS - 1]


def test_it_looks_without_running_a_block():
    _, report = run(World(mixed), foreseer.policy(tea_cache, threshold=math.inf))
    assert report.block_rows == 2 * 3 * DEPTH


def test_published_fits_bring_their_signal_and_guards():
    gate, _ = tea_cache(poly="wan_t2v_14b_ret")
    assert (gate.signal, gate.first, gate.last, gate.coefficients[0]) == ("time", 5, False, -303318.725)
    assert tea_cache(poly="flux")[0].signal == "modulated"
    assert tea_cache(poly="flux", signal="latent", warmup_steps=3, last_step=False)[0].first == 3
    assert all(len(fitted.coefficients) == 5 for fitted in FITTED.values())
    _, report = run(World(mixed), foreseer.policy(tea_cache, poly="hidream", threshold=math.inf))
    assert report.full_steps == [0, 1, 2], "the first 10 % of 30 steps, and not the last"


@pytest.mark.parametrize("name", sorted(FITTED))
def test_the_polynomial_in_float32_is_the_polynomial(name):
    x = np.linspace(0.001, 0.3, 200)
    exact = np.polyval(FITTED[name].coefficients, x)
    found = evaluate(FITTED[name].coefficients, torch.tensor(x, dtype=torch.float32)).numpy()
    largest = np.polyval(np.abs(FITTED[name].coefficients), x)
    assert (np.abs(found - exact) <= 1e-6 * largest).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"poly": "flux2"}, "no known model"),
        ({"poly": ()}, "no polynomial"),
        ({"poly": (1.0, math.nan)}, "no polynomial"),
        ({"poly": 3.0}, "no polynomial"),
        ({"threshold": -0.1}, "threshold"),
        ({"signal": "output"}, "signal"),
    ],
)
def test_what_is_wrong_is_refused(options, says):
    with pytest.raises(foreseer.OptionError, match=says):
        foreseer.policy(tea_cache, **options)


def test_a_run_of_unknown_length_is_refused_only_where_the_end_matters():
    world = World(mixed)

    def open_ended(**options):
        run = foreseer.Run(DEPTH, 3, (0, 1, 2), sites=world.sites, places=world.places)
        return foreseer.Session(world, foreseer.policy(tea_cache, **options), run)

    for options in ({}, {"poly": "hidream"}):
        with pytest.raises(foreseer.OptionError, match="num_steps="):
            open_ended(**options)
    session = open_ended(last_step=False)
    for k in range(4):
        session.evaluate(k)
    assert session.finish().full_steps == [0]


def test_a_host_without_the_signal_says_so():
    host = ArrayBackbone(lambda site, t: np.ones((2, 3)), depth=3, stream=lambda t: np.ones((2, 3)))
    with pytest.raises(foreseer.OptionError, match=r"signal='modulated' cannot be seen .*; it has 'latent'"):
        run(host, foreseer.policy(tea_cache))


@pytest.mark.parametrize("poly", [None, "flux"])
def test_a_real_model_is_judged_by_its_first_modulated_norm(poly):
    """Latents that do not depend on what came out: which steps are computed is then known from what the first norm of a plain run returned."""
    model = pytest.importorskip("tiny.flux").transformer()
    steps, signals = 14, []
    latents = [torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(1)) * (1 - k / steps) + k / steps for k in range(steps)]
    text, pooled = torch.ones(2, 6, 16), torch.ones(2, 16)
    ids = torch.stack([torch.zeros(16), torch.arange(16) // 4, torch.arange(16) % 4], dim=1)

    def walk():
        with torch.no_grad():
            for k, x in enumerate(latents):
                t = torch.full((2,), 1 - k / steps)
                model(x, encoder_hidden_states=text, pooled_projections=pooled, timestep=t, guidance=torch.ones(2), img_ids=ids, txt_ids=torch.zeros(6, 3))

    hook = model.transformer_blocks[0].norm1.register_forward_hook(lambda module, given, output: signals.append(output[0]))
    walk()
    hook.remove()
    for threshold in (0.02, 0.1, 0.3, 0.6, 1.0):
        total, computed = np.float32(0.0), [0]
        for k in range(1, steps):
            change = ((signals[k] - signals[k - 1]).abs().mean() / signals[k - 1].abs().mean()).item()
            total = np.float32(total + np.float32(np.polyval(FITTED[poly].coefficients, change) if poly else change))
            if k == steps - 1 or not total < threshold:
                computed.append(k)
                total = np.float32(0.0)
        with foreseer.attach(model, "tea_cache", threshold=threshold, poly=poly, signal="modulated", decide="batch") as attached, attached.run(num_steps=steps):
            walk()
        assert attached.report.full_steps == computed


# Calibration.


def test_a_polynomial_is_found_again():
    x = np.linspace(0.01, 0.4, 40)
    fit = fit_polynomial(list(zip(x, np.polyval(FITTED["flux"].coefficients, x), strict=True)))
    assert fit.coefficients == pytest.approx(FITTED["flux"].coefficients, rel=1e-6)
    assert fit.r2 == pytest.approx(1.0)
    assert tea_cache(poly=fit.coefficients)[0].coefficients == fit.coefficients


def test_what_a_fit_does_not_explain_is_told():
    x = np.random.default_rng(0).uniform(size=500)
    assert fit_polynomial(list(zip(x, np.random.default_rng(1).normal(size=500), strict=True))).r2 < 0.05
    assert math.isnan(fit_polynomial([(k / 10, 1.0) for k in range(8)], degree=1).r2)


def test_too_few_pairs_are_refused():
    with pytest.raises(foreseer.OptionError, match="needs 5 pairs"):
        fit_polynomial([(0.1, 0.2), (0.1, 0.3), (0.2, 0.1), (0.3, 0.2), (0.4, 0.2)])


@pytest.mark.parametrize("signal", ["modulated", "time", "latent"])
def test_changes_of_signal_and_output_are_recorded_side_by_side(signal):
    pairs: list[tuple[float, float]] = []
    world = World(uneven)
    outputs, report = run(world, lambda: ChangeRecorder(pairs, signal), steps=8)
    assert report.full_steps == list(range(8))
    assert all(torch.equal(output, world.output(k)) for k, output in enumerate(outputs))
    signals = [world.forward(k, substitute={}, see=(PLACES[signal],)).seen[PLACES[signal]] for k in range(8)]
    expected = []
    for k in range(1, 7):
        for row in range(3):
            found = [((s[k][row] - s[k - 1][row]).abs().sum() / s[k - 1][row].abs().sum()).item() for s in (signals, outputs)]
            expected.append(tuple(found))
    assert np.array(pairs) == pytest.approx(np.array(expected), rel=1e-6)


def test_a_pipeline_is_calibrated_and_takes_the_fit():
    tiny = pytest.importorskip("tiny").TINY["FluxPipeline"]
    pairs: list[tuple[float, float]] = []
    pipe = tiny.build()
    plain = tiny.call(pipe, steps=10)
    with foreseer.attach(pipe, lambda: ChangeRecorder(pairs)):
        assert torch.equal(tiny.call(pipe, steps=10), plain)
    assert len(pairs) == 8
    fit = fit_polynomial(pairs, degree=2)
    assert 0 <= fit.r2 <= 1
    with foreseer.attach(pipe, "tea_cache", poly=fit.coefficients, threshold=0.8) as attached:
        tiny.call(pipe, steps=10)
    assert 2 < len(attached.report.full_steps) < 10
