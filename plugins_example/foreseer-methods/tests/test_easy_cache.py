"""EasyCache against a loop in latent space written from its description, and closed forms."""

import math

import numpy as np
import pytest
import torch
from foreseer_methods.easy_cache import easy_cache

import foreseer
from foreseer.adapters import ArrayBackbone
from foreseer.testing.worlds import DEPTH, World, constant, mixed

STEPS = 40
GRID = (0.0, 0.01, 0.03, 0.05, 0.1, 0.2, 0.5, 2.0, math.inf)


def velocity(x, k):
    """A denoiser of latents that bends, and shakes a little: ``(R, 16)`` float64."""
    return np.tanh(1.5 * x) * (1 + 0.3 * math.sin(0.3 * k)) - 0.4 * x + 0.02 * np.sin(17.0 * k + np.arange(16.0))


HOST = ArrayBackbone(lambda site, inputs: velocity(*inputs) if site.block == 3 else inputs[0], depth=4, stream=lambda inputs: inputs[0])
NOISE = np.random.default_rng(7).normal(size=(3, 16)) * np.array([[0.3], [1.0], [3.0]])


def run(x, *, steps=STEPS, groups=None, host=HOST, **options):
    """Euler steps of the world above, on what the policy gives."""
    outputs = []
    taken = []

    def update(x, output, index):
        outputs.append(np.array(output))
        return x - output / steps

    def inputs(x, k):
        taken.append(x)
        return x, k

    spec = foreseer.policy(easy_cache, **options)
    _, report = foreseer.sample(host, x, range(steps), policy=spec, groups=groups, inputs=inputs, update=update)
    return outputs, report


def reference(x, *, threshold, warmup_steps, movement="step", steps=STEPS):
    """Section 3.5: one mean over the whole batch, in latent space."""
    outputs, computed, gain, total = [], [], None, np.float32(0.0)
    before = x_c = y_c = added = None
    mean = lambda z: np.abs(z).mean()  # noqa: E731
    for k in range(steps):
        compute = k < warmup_steps or k == steps - 1 or gain is None
        if not compute:
            moved = mean(x - (before if movement == "step" else x_c))
            total = np.float32(total + np.float32(gain * moved / mean(y_c)))
            compute = not total < threshold
        if compute:
            total, y = np.float32(0.0), velocity(x, k)
            if y_c is not None:
                gain = mean(y - y_c) / mean(x - x_c) if mean(x - x_c) > 0 else None
            x_c, y_c, added = x, y, y - x
            computed.append(k)
        else:
            y = x + added
        before = x
        outputs.append(y)
        x = x - y / steps
    return outputs, computed


@pytest.mark.parametrize("movement", ["step", "computed"])
@pytest.mark.parametrize("warmup", [1, 2, 10])
def test_it_computes_the_steps_of_the_loop_and_gives_its_numbers(movement, warmup):
    seen = set()
    for threshold in GRID:
        outputs, report = run(NOISE, threshold=threshold, warmup_steps=warmup, movement=movement, decide="batch")
        expected, steps = reference(NOISE, threshold=threshold, warmup_steps=warmup, movement=movement)
        assert report.full_steps == steps
        assert all((a == b).all() for a, b in zip(outputs, expected, strict=True)), "bit for bit"
        seen.add(len(steps))
    assert len(seen) > 5, "the grid tells thresholds apart"


def test_distances_to_the_computed_step_are_stricter():
    for threshold in (0.2, 0.3, 0.5):
        by_step, by_computed = (run(NOISE, threshold=threshold, warmup_steps=3, movement=m)[1].computed.sum() for m in ("step", "computed"))
        assert by_step < by_computed


@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.4])
def test_a_row_decides_as_it_would_alone(threshold):
    together, report = run(NOISE, threshold=threshold, warmup_steps=3)
    for row in range(3):
        alone, told = run(NOISE[[row]], threshold=threshold, warmup_steps=3)
        assert (report.computed[:, row] == told.computed[:, 0]).all()
        assert all((a[row] == b[0]).all() for a, b in zip(together, alone, strict=True))
        assert told.full_steps == reference(NOISE[[row]], threshold=threshold, warmup_steps=3)[1]
    assert (report.computed[:, 0] != report.computed[:, 2]).any()


def test_rows_of_a_sample_are_judged_together():
    _, report = run(NOISE, threshold=0.1, warmup_steps=3, groups=(4, 1, 4))
    assert (report.computed[:, 0] == report.computed[:, 2]).all()
    _, told = run(NOISE[[0, 2]], threshold=0.1, warmup_steps=3, groups=(0, 0))
    assert (report.computed[:, 0] == told.computed[:, 0]).all()
    assert told.full_steps == reference(NOISE[[0, 2]], threshold=0.1, warmup_steps=3)[1]


def test_the_ends_of_the_range():
    assert run(NOISE, threshold=0.0)[1].full_steps == list(range(STEPS))
    assert run(NOISE, threshold=math.inf)[1].full_steps == [*range(10), STEPS - 1]
    assert run(NOISE, threshold=math.inf, warmup_steps=2)[1].full_steps == [0, 1, STEPS - 1]
    assert run(NOISE, threshold=math.inf, warmup_steps=1)[1].full_steps == [0, 1, STEPS - 1], "no gain before two steps were computed"
    for steps in (1, 2, 3):
        assert run(NOISE, threshold=math.inf, warmup_steps=1, steps=steps)[1].full_steps == list({0, min(1, steps - 1), steps - 1})


def test_an_even_movement_is_computed_at_an_interval():
    """x = k, y = 2 + k / 2 + 100: gain 1/2, and each step adds 0.5 / y_c, about 0.005."""
    host = ArrayBackbone(lambda site, k: np.full((1, 4), 102.0 + k / 2), depth=2, stream=lambda k: np.full((1, 4), float(k)))
    spec = foreseer.policy(easy_cache, threshold=0.0175, warmup_steps=2)
    _, report = foreseer.sample(host, None, range(20), policy=spec, inputs=lambda x, k: k, update=lambda x, output, index: None)
    assert report.full_steps == [0, 1, 5, 9, 13, 17, 19]


def test_where_nothing_moved_the_gain_is_unknown_and_the_next_step_is_computed():
    """A latent that stands still in one step and moves in the next."""
    places = [0.0, 1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    host = ArrayBackbone(lambda site, k: np.full((1, 4), 9.0 + k), depth=2, stream=lambda k: np.full((1, 4), 50 + places[int(k)]))
    spec = foreseer.policy(easy_cache, threshold=1e6, warmup_steps=3)
    _, report = foreseer.sample(host, None, range(8), policy=spec, inputs=lambda x, k: k, update=lambda x, output, index: None)
    assert report.full_steps == [0, 1, 2, 3, 7]


@pytest.mark.parametrize("filling", [math.nan, math.inf])
def test_a_latent_that_is_no_number_is_computed_and_spoils_no_other_row(filling):
    spoilt = NOISE.copy()
    spoilt[1, 3] = filling
    with np.errstate(invalid="ignore"):
        _, report = run(spoilt, threshold=math.inf, warmup_steps=2)
    assert report.computed[:, 1].all()
    assert not report.computed[2:-1, [0, 2]].any()


def test_nothing_runs_in_a_step_that_is_reused():
    _, report = run(NOISE, threshold=math.inf, warmup_steps=2)
    assert report.block_rows == 3 * 3 * HOST.depth


def test_reuse_of_what_is_constant_is_exact():
    """Law: where output less input is the same in every step, so is what comes out."""

    def feature(site, step):
        return torch.round(64 * constant(site)) * (1 + (step if site.block < 0 else 0))

    outputs = []
    spec = foreseer.policy(easy_cache, threshold=math.inf, warmup_steps=2)
    world = World(feature)
    foreseer.sample(world, None, range(9), policy=spec, inputs=lambda x, k: int(k), update=lambda x, output, index: outputs.append(output.clone()))
    assert all(torch.equal(output, world.output(k)) for k, output in enumerate(outputs))


def test_a_gain_is_as_exact_in_16_bits():
    """Only what was seen is subtracted, never an output less a residual that was rounded."""
    world = World(mixed, dtype=torch.bfloat16, labels=(1,))
    spec = foreseer.policy(easy_cache, threshold=1e6, warmup_steps=2)
    _, report = foreseer.sample(world, None, range(4), policy=spec, inputs=lambda x, k: int(k), update=lambda x, output, index: None)
    x, y = ([f(k).float() for k in range(3)] for f in (lambda k: world._compute(foreseer.STREAM, k, (1,)), world.output))
    expected = (y[1] - y[0]).abs().sum() / (x[1] - x[0]).abs().sum() * (x[2] - x[1]).abs().sum() / y[1].abs().sum()
    assert report.outcomes[2].error[0] == pytest.approx(expected.item(), rel=1e-5)


def test_a_run_of_unknown_length_is_refused():
    world = World(mixed)
    with pytest.raises(foreseer.OptionError, match="num_steps="):
        foreseer.Session(world, foreseer.policy(easy_cache), foreseer.Run(DEPTH, 3, (0, 1, 2), sites=world.sites, places=world.places))


@pytest.mark.parametrize(("option", "value"), [("threshold", -1.0), ("warmup_steps", 0), ("movement", "sum")])
def test_what_is_wrong_is_refused(option, value):
    with pytest.raises(foreseer.OptionError, match=option):
        foreseer.policy(easy_cache, **{option: value})


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.8, 2.0, 5.0])
def test_a_real_model_computes_the_steps_of_the_loop_and_gives_its_bits(threshold):
    """Section 3.5 in latent space, on a tiny Wan."""
    wan = pytest.importorskip("tiny.wan")
    model, steps, warmup = wan.transformer(), 16, 3
    text, noise = (torch.randn(*shape, generator=torch.Generator().manual_seed(1)) for shape in ((2, 6, 16), (2, 4, 2, 4, 6)))

    def denoise(x, k):
        with torch.no_grad():
            return model(hidden_states=x, timestep=torch.full((2,), 1000.0 * (1 - k / steps)), encoder_hidden_states=text, return_dict=False)[0]

    def walk(evaluate):
        x, outputs = noise, []
        for k in range(steps):
            outputs.append(evaluate(x, k))
            x = x - outputs[-1] / steps
        return outputs

    state = {"gain": None, "total": np.float32(0.0)}
    computed = []

    def cached(x, k):
        mean = lambda z: z.abs().mean().item()  # noqa: E731
        compute = k < warmup or k == steps - 1
        if not compute:
            state["total"] = np.float32(state["total"] + np.float32(state["gain"] * mean(x - state["before"]) / mean(state["y"])))
            compute = not state["total"] < threshold
        state["before"] = x
        if not compute:
            return x + state["added"]
        y = denoise(x, k)
        if computed:
            state["gain"] = mean(y - state["y"]) / mean(x - state["x"])
        computed.append(k)
        state.update(x=x, y=y, added=y - x, total=np.float32(0.0))
        return y

    expected = walk(cached)
    with foreseer.attach(model, "easy_cache", threshold=threshold, warmup_steps=warmup, movement="step", decide="batch") as attached:
        with attached.run(num_steps=steps):
            outputs = walk(denoise)
    assert attached.report.full_steps == computed
    assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))
