"""SeaCache against a loop written from its description, closed forms of its filter, and diffusers' own hook on
a tiny Wan.
"""

import contextlib
import math

import numpy as np
import pytest
import torch
from foreseer_methods.sea_cache import as_seen, gain, sea_cache

import foreseer
from foreseer.adapters import ArrayBackbone
from foreseer.testing.worlds import World, mixed

STEPS = 28
GRID = (0.0, 0.02, 0.05, 0.1, 0.25, 0.6, math.inf)
SIGMAS = tuple(1 - k / STEPS for k in range(STEPS))
VIDEO, IMAGE = (3, 4, 3, 6, 5), (3, 4, 6, 5)


def velocity(x, k):
    """A denoiser of latents that bends, and shakes a little."""
    return np.tanh(1.5 * x) * (1 + 0.3 * math.sin(0.3 * k)) - 0.4 * x + 0.02 * np.sin(17.0 * k + x.shape[-1])


HOST = ArrayBackbone(lambda site, inputs: velocity(*inputs) if site.block == 3 else inputs[0], depth=4, stream=lambda inputs: inputs[0])


def noise(shape):
    """One sample that is small, and moves most, up to one that is large, and moves least."""
    return np.random.default_rng(7).normal(size=shape) * np.array([0.3, 1.0, 3.0])[: shape[0]].reshape(-1, *(1,) * (len(shape) - 1))


def run(x, *, groups=None, sigmas=SIGMAS, timesteps=range(STEPS), host=HOST, **options):
    """Euler steps of the world above, on what the policy gives."""
    outputs = []

    def update(at, output, index):
        outputs.append(np.array(output))
        return at[0] - output / STEPS, index + 1

    spec = foreseer.policy(sea_cache, **options)
    _, report = foreseer.sample(host, (x, 0), timesteps, policy=spec, groups=groups, sigmas=sigmas, inputs=lambda at, t: at, update=update)
    return outputs, report


def filtered(x, sigma, p):
    """Section 3.10, with numpy."""
    axes = tuple(range(2, x.ndim))
    gains = []
    for axis in axes:
        s = 1 / (np.abs(np.fft.fftfreq(x.shape[axis])) ** p + 1e-16)
        g = (1 - sigma) * s / ((1 - sigma) ** 2 * s + sigma**2 + 1e-16)
        gains.append(g.reshape(-1, *(1,) * (x.ndim - 1 - axis)))
    product = np.prod(np.broadcast_arrays(*gains), axis=0)
    return np.fft.ifftn(np.fft.fftn(x, axes=axes) * product / product.mean(), axes=axes).real


def reference(x, *, threshold, order, retention=1, end=1, most=2, p=None):
    """Section 3.10: the mean over samples of each one's relative change."""
    p, outputs, computed, kept, total, reused, before = p or (3 if x.ndim == 5 else 2), [], [], [], np.float32(0.0), 0, None
    for k in range(STEPS):
        sigma = min(max(SIGMAS[k], 1e-6), 1 - 1e-6)
        compute = k < retention or k >= STEPS - end or (most and reused >= most)
        if not compute:
            now, then = filtered(x, sigma, p), filtered(*before, p)
            axes = tuple(range(1, x.ndim))
            total = np.float32(total + np.float32((np.abs(now - then).mean(axes) / (np.abs(then).mean(axes) + 1e-16)).mean()))
            compute = not total < threshold
        before = (x, sigma)
        if compute:
            total, reused, y = np.float32(0.0), 0, velocity(x, k)
            kept = [(k, y - x), *kept[:1]]
            computed.append(k)
        else:
            reused += 1
            (c, r_c), (p_, r_p) = kept[0], kept[-1]
            y = x + (r_c + (r_c - r_p) * ((k - c) / (c - p_)) if order and len(kept) == 2 else r_c)
        outputs.append(y)
        x = x - y / STEPS
    return outputs, computed


@pytest.mark.parametrize("shape", [VIDEO, IMAGE])
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(("most", "retention", "end"), [(2, 1, 1), (0, 3, 2), (4, 1, 0)])
def test_it_computes_the_steps_of_the_loop_and_gives_its_numbers(shape, order, most, retention, end):
    seen = set()
    for threshold in GRID:
        options = {"threshold": threshold, "order": order, "retention": retention, "end": end}
        outputs, report = run(noise(shape), max_continuous=most, decide="batch", **options)
        expected, steps = reference(noise(shape), most=most, **options)
        assert report.full_steps == steps
        for a, b in zip(outputs, expected, strict=True):
            assert (a == b).all() if order == 0 else np.allclose(a, b, rtol=1e-6, atol=1e-9)
        seen.add(len(steps))
    assert len(seen) > 2, "the grid tells thresholds apart"


@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.2])
def test_a_row_decides_as_it_would_alone(threshold):
    together, report = run(noise(VIDEO), threshold=threshold, max_continuous=5)
    for row in range(3):
        alone, told = run(noise(VIDEO)[[row]], threshold=threshold, max_continuous=5)
        assert (report.computed[:, row] == told.computed[:, 0]).all()
        assert all(np.allclose(a[row], b[0], rtol=1e-12) for a, b in zip(together, alone, strict=True))
        assert told.full_steps == reference(noise(VIDEO)[[row]], threshold=threshold, order=1, most=5)[1]


def test_rows_of_a_sample_share_the_mean_of_their_changes():
    _, report = run(noise(IMAGE), threshold=0.1, groups=(4, 1, 4), max_continuous=0)
    _, pair = run(noise(IMAGE)[[0, 2]], threshold=0.1, decide="batch", max_continuous=0)
    assert (report.computed[:, [0, 2]] == pair.computed).all()


@pytest.mark.parametrize("size", [1, 5, 8])
@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.0])
def test_the_filter_passes_what_does_not_vary_and_falls_with_frequency(size, sigma):
    g = gain(size, sigma, 3.0, torch.empty(0, dtype=torch.float64))
    assert g[0] == pytest.approx(1 / (1 - min(max(sigma, 1e-6), 1 - 1e-6)), rel=1e-3)
    half = g[: size // 2 + 1]
    assert (half[1:] <= half[:-1] * (1 + 1e-12)).all()
    assert torch.isfinite(g).all()


def test_without_noise_everything_is_seen():
    """At noise level 0 the gain is 1 everywhere."""
    x = torch.from_numpy(noise(VIDEO))
    assert torch.allclose(as_seen(x, 0.0, 3.0), x, rtol=1e-4, atol=1e-4)


def test_a_latent_that_does_not_vary_grows_by_the_filters_mean_alone():
    x = torch.ones(2, 3, 4, 4, dtype=torch.float64)
    g = gain(4, 0.7, 2.0, x)
    assert torch.allclose(as_seen(x, 0.7, 2.0), x * (g[0] / g.mean()) ** 2)


def test_the_power_is_that_of_the_modality():
    for shape, p in ((VIDEO, 3.0), (IMAGE, 2.0)):
        (_, default), (_, said), (_, other) = (run(noise(shape), threshold=0.1, decide="batch", p=each) for each in (None, p, 5 - p))
        assert str([o.error for o in default.outcomes]) == str([o.error for o in said.outcomes])
        assert default.outcomes[1].error != other.outcomes[1].error


def test_the_ends_of_the_range_and_the_limits():
    assert run(noise(VIDEO), threshold=0.0)[1].full_steps == list(range(STEPS))
    assert run(noise(VIDEO), threshold=math.inf)[1].full_steps == [*range(0, STEPS, 3)]
    assert run(noise(VIDEO), threshold=math.inf, max_continuous=0, retention=3, end=2)[1].full_steps == [0, 1, 2, STEPS - 2, STEPS - 1]
    _, report = run(noise(VIDEO), threshold=math.inf, max_continuous=0)
    assert report.block_rows == 2 * 3 * HOST.depth, "looking runs no block"


@pytest.mark.parametrize("filling", [math.nan, math.inf])
def test_a_latent_that_is_no_number_is_computed_and_spoils_no_other_row(filling):
    spoilt = noise(VIDEO)
    spoilt[1, 0, 0, 2, 2] = filling
    with np.errstate(invalid="ignore"):
        _, report = run(spoilt, threshold=math.inf, max_continuous=0)
    assert report.computed[:, 1].all()
    assert not report.computed[1:-1, [0, 2]].any()


def test_noise_levels_may_be_timesteps():
    times = [1000 * sigma for sigma in SIGMAS]
    _, by_sigma = run(noise(VIDEO), threshold=0.1)
    _, by_time = run(noise(VIDEO), threshold=0.1, sigmas=None, timesteps=times, timestep_scale=1000.0)
    assert (by_sigma.computed == by_time.computed).all()
    with pytest.raises(foreseer.OptionError, match=r"sigmas=.*timestep_scale="):
        run(noise(VIDEO), sigmas=None, timesteps=times)


def test_a_step_after_a_gap_is_computed():
    world, x = HOST, noise(IMAGE)
    run = foreseer.Run(4, 3, (0, 1, 2), num_steps=STEPS, sigmas=SIGMAS, sites=world.sites, places=world.places)
    session = foreseer.Session(world, foreseer.policy(sea_cache, threshold=math.inf, max_continuous=0), run)
    for k in (0, 1, 3, 4):
        session.evaluate((x, k), index=k)
    assert session.finish().full_steps == [0, 3]


def test_latents_without_a_grid_are_refused_in_words():
    with pytest.raises(foreseer.OptionError, match=r"rows and columns.*\(3, 12\)"):
        foreseer.sample(
            World(mixed), None, range(4), policy=sea_cache, sigmas=(1.0, 0.7, 0.4, 0.1), inputs=lambda x, t: int(t), update=lambda x, output, index: None
        )


@pytest.mark.parametrize(("option", "value"), [("threshold", -1.0), ("order", 2), ("retention", 0), ("end", -1), ("max_continuous", -1), ("p", 0.0)])
def test_what_is_wrong_is_refused(option, value):
    with pytest.raises(foreseer.OptionError, match=option):
        foreseer.policy(sea_cache, **{option: value})


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1000.0])
def test_it_computes_the_steps_of_diffusers_and_gives_its_bits(order, threshold):
    """diffusers' hook and ours on a tiny Wan, on the same latents; the context is told noise level and step."""
    diffusers, wan = pytest.importorskip("diffusers"), pytest.importorskip("tiny.wan")
    steps, computed = 16, []
    text, start = (torch.randn(*shape, generator=torch.Generator().manual_seed(1)) for shape in ((2, 6, 16), (2, 4, 2, 4, 6)))
    sigmas = [1 - k / steps for k in range(steps)]

    def walk(model, context):
        x, outputs = start, []
        for k, sigma in enumerate(sigmas):
            with torch.no_grad(), context(k, sigma):
                y = model(hidden_states=x, timestep=torch.full((2,), 1000 * sigma), encoder_hidden_states=text, return_dict=False)[0]
            outputs.append(y)
            x = x - y / steps
        return outputs

    theirs, at = wan.transformer(), [0]
    theirs.blocks[1].attn1.register_forward_hook(lambda *call: computed.append(at[0]))
    latents = lambda module, args, kwargs: list(kwargs["hidden_states"])  # noqa: E731
    theirs.enable_cache(diffusers.SeaCacheConfig(threshold=threshold, residual_order=order, raw_vision_callback=latents))

    def told(k, sigma):
        at[0] = k
        return theirs.cache_context("cond", step_index=k, num_inference_steps=steps, timestep=1000 * sigma, sigma=sigma)

    expected, ours = walk(theirs, told), wan.transformer()
    with foreseer.attach(ours, "sea_cache", threshold=threshold, order=order, decide="batch") as attached:
        with attached.run(timesteps=[1000 * sigma for sigma in sigmas], sigmas=sigmas):
            outputs = walk(ours, lambda k, sigma: contextlib.nullcontext())
    assert attached.report.full_steps == computed
    for a, b in zip(outputs, expected, strict=True):
        assert torch.equal(a, b) if order == 0 else torch.allclose(a, b, rtol=1e-6, atol=1e-5)


def test_a_pipeline_whose_latents_are_packed_is_told():
    tiny = pytest.importorskip("tiny").TINY["FluxPipeline"]
    pipe = tiny.build()
    with pytest.raises(foreseer.OptionError, match="FLUX packs its latents"), foreseer.attach(pipe, "sea_cache", timestep_scale=1.0):
        tiny.call(pipe, steps=6)
