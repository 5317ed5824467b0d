"""The conformance kit, a reference loop over bands of differences, and laws of the bands."""

import math

import pytest
import torch
from foreseer_methods.freqca import freqca, hermite_weights, low_pass_dct, low_pass_fft
from hypothesis import given, settings
from hypothesis import strategies as st

import foreseer
from foreseer.testing import parametrize_policies
from foreseer.testing.worlds import World, mixed

SPREADS = {"check_finite_forecast": "a low-pass over tokens spreads what a token holds to its neighbours, zeros included"}


@parametrize_policies([freqca], expected_failures=SPREADS)
def test_conformance(policy, check):
    check(policy)


@parametrize_policies([foreseer.policy(freqca, low_order=2)])
def test_conformance_with_one_order(policy, check):
    check(policy)


def run(world, steps, **options):
    outputs = []
    _, report = foreseer.sample(
        world, None, range(steps), policy=foreseer.policy(freqca, **options), inputs=lambda x, t: int(t), update=lambda x, y, i: outputs.append(y.clone())
    )
    return outputs, report


def bands(feature, split, cutoff):
    """Low and high band, by the definitions: a complex FFT along the tokens, or sums of cosines over a square."""
    if split == "fft":
        frequency = torch.fft.fftfreq(feature.shape[1], dtype=torch.float64).abs()
        keep = (frequency <= cutoff * frequency.max() + 1e-12)[None, :, None]
        low = torch.fft.ifft(torch.fft.fft(feature, dim=1) * keep, dim=1).real
    else:
        size = math.isqrt(feature.shape[1])
        image, low = feature.unflatten(1, (size, size)), 0
        for u in range(size):
            for v in range(size):
                if math.hypot(u, v) <= cutoff * math.sqrt(2) * (size - 1) + 1e-12:
                    wave = [torch.cos(math.pi / size * w * (torch.arange(size, dtype=torch.float64) + 0.5)) * math.sqrt((2 if w else 1) / size) for w in (u, v)]
                    plane = wave[0][:, None] * wave[1]
                    low = low + torch.einsum("xy,rxyc->rc", plane, image)[:, None, None] * plane[None, ..., None]
        low = low.flatten(1, 2)
    return low, feature - low


def reference(feature, steps, *, interval, split, cutoff, orders, scale, warmup=3):
    """As specified: differences of each band at each computed step, Hermite sums in between."""
    outputs, computed, differences = [], [], [[], []]
    for k in range(steps):
        if k < warmup or k - computed[-1] == interval:
            for band, order, kept in zip(bands(feature(k), split, cutoff), orders, differences, strict=True):
                fresh = [band]
                for old in kept[: order if k > warmup - 2 else 0]:
                    fresh.append((fresh[-1] - old) / (k - computed[-1]))
                kept[:] = fresh
            computed.append(k)
            outputs.append(feature(k))
            continue
        x, total = scale * (k - computed[-1]), 0
        for kept in differences:
            before, value = 0.0, 1.0
            for i, difference in enumerate(kept):
                total = total + difference * scale**i * value / math.factorial(i)
                before, value = value, 2 * x * value - 2 * i * before
        outputs.append(total)
    return outputs, computed


@pytest.mark.parametrize(("split", "tokens"), [("fft", 12), ("fft", 6), ("dct", 4)])
@pytest.mark.parametrize("cutoff", [0.0, 0.1, 0.45, 1.0])
@pytest.mark.parametrize(("interval", "orders"), [(6, (0, 2)), (3, (1, 2)), (2, (0, 0)), (4, (2, 1))])
def test_against_a_loop(split, tokens, cutoff, interval, orders):
    world = World(mixed, parts=(), tokens=tokens)
    expected, computed = reference(world.output, 20, interval=interval, split=split, cutoff=cutoff, orders=orders, scale=0.71)
    outputs, report = run(world, 20, interval=interval, split=split, cutoff=cutoff, low_order=orders[0], high_order=orders[1])
    assert report.full_steps == computed
    for ours, theirs in zip(outputs, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_order_two_waits_for_the_next_full_step():
    """After three full steps there are differences of order 1 only."""
    lines = hermite_weights((2.0, 1.0, 0.0), 4.0, max_order=2, scale=0.71, warmup_steps=3)
    assert lines == pytest.approx((1 + 2 * 0.71**2 * 2, -2 * 0.71**2 * 2, 0.0))
    assert hermite_weights((9.0, 2.0, 1.0), 10.0, max_order=2, scale=0.71, warmup_steps=3)[2] != 0


def test_the_numbers_of_hicache():
    """Anchors 0, 4, 8 with values 0, 16, 64, order 2, target 10; and a line."""
    for scale, value in ((0.5, 76.5), (0.71, 91.254469)):
        weights = hermite_weights((8.0, 4.0, 0.0), 10.0, max_order=2, scale=scale, warmup_steps=1)
        assert sum(w * f for w, f in zip(weights, (64.0, 16.0, 0.0), strict=True)) == pytest.approx(value, rel=1e-8)
    assert hermite_weights((4.0, 0.0), 6.0, max_order=1, scale=math.sqrt(0.5), warmup_steps=1) == pytest.approx((1.5, -0.5))


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.floats(0, 1), st.integers(0, 5))
def test_a_band_is_a_projection(height, width, cutoff, seed):
    """Twice is once, 1 keeps all, a constant lies in every low band; images need be no square."""
    feature = torch.randn(2, height, width, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    flat = feature.flatten(1, 2)
    for once in (lambda f, c: low_pass_dct(f.unflatten(1, (height, width)), c).flatten(1, 2), low_pass_fft):
        low = once(flat, cutoff)
        torch.testing.assert_close(once(low, cutoff), low, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(once(flat, 1.0), flat, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(once(flat, 0.0), flat.mean(1, keepdim=True).expand_as(flat), rtol=1e-9, atol=1e-9)


def test_order_zero_in_both_bands_is_reuse_exactly():
    world = World(mixed, parts=(), tokens=6)
    outputs, report = run(world, 15, interval=4, high_order=0)
    for step, output in enumerate(outputs):
        assert torch.equal(output, world.output(max(s for s in report.full_steps if s <= step)))
    everything_low, _ = run(world, 15, interval=4, cutoff=1.0)
    for ours, theirs in zip(everything_low, outputs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_rows_alone_are_rows_together():
    for split, tokens in (("fft", 6), ("dct", 4)):
        together, _ = run(World(mixed, tokens=tokens), 16, split=split)
        for row in range(3):
            alone, _ = run(World(mixed, tokens=tokens, labels=(row,)), 16, split=split)
            assert all(torch.equal(a[row], b[0]) for a, b in zip(together, alone, strict=True))


def test_tokens_that_are_no_square_need_a_height():
    with pytest.raises(foreseer.OptionError, match="write height= and width="):
        run(World(mixed, tokens=6), 8, split="dct")
    shaped = [run(World(mixed, tokens=6, square=square), 8, split="dct", **size)[0] for square in (False, True) for size in ({"height": 2}, {"width": 3})]
    assert all(torch.equal(a.flatten(1), b.flatten(1)) for other in shaped[1:] for a, b in zip(shaped[0], other, strict=True))
    with pytest.raises(foreseer.OptionError, match="no image of 4 by 2"):
        run(World(mixed, tokens=6), 8, split="dct", height=4, width=2)


@pytest.mark.parametrize("split", ["fft", "dct"])
def test_only_the_images_tokens_are_filtered_wherever_they_are_packed(split):
    """Of 6 tokens the last four are an image; laid end to end with their channels named they are the same."""
    size = {"split": split, "height": 2, "width": 2, "cutoff": 0.6}
    apart, _ = run(World(mixed, parts=(), tokens=6), 12, **size)
    packed, _ = run(World(mixed, parts=()), 12, channels=2, **size)
    assert all(torch.equal(a.flatten(1), b) for a, b in zip(apart, packed, strict=True))
    image, _ = reference(lambda k: World(mixed, parts=(), tokens=6).output(k)[:, 2:], 12, interval=6, split=split, cutoff=0.6, orders=(0, 2), scale=0.71)
    text, _ = reference(lambda k: World(mixed, parts=(), tokens=6).output(k)[:, :2], 12, interval=6, split="fft", cutoff=0.0, orders=(2, 2), scale=0.71)
    for ours, theirs in zip(apart, zip(text, image, strict=True), strict=True):
        torch.testing.assert_close(ours, torch.cat(theirs, dim=1), rtol=1e-9, atol=1e-9)
