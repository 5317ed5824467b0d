"""The laws of what is said of samples in plain words, and of the layout that decides whether a composition changed."""

from __future__ import annotations

import math
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from bench_results import SAMPLES, lane, made, with_figures
from hypothesis import given, settings
from hypothesis import strategies as st

from foreseer.bench.layout import layout
from foreseer.bench.plain_words import CHANGED, INDISTINGUISHABLE, LAYOUT_KEPT, WORDS, hurt, in_plain_words, judged
from foreseer.bench.results import LaneResult
from foreseer.bench.summary import lines_of

PSNR = st.one_of(st.floats(0, 99), st.sampled_from([math.inf, math.nan]))
ORDER = list(WORDS)


@given(psnr=PSNR, layout=st.one_of(st.floats(-1, 1), st.just(math.nan)))
def test_a_composition_changed_only_where_both_say_so(psnr: float, layout: float) -> None:
    """Law: the word for a sample follows from its two figures; where the layout is unknown, none is said to have changed."""
    word = judged(psnr, layout)
    assert (word == "composition") == (psnr < CHANGED and layout < LAYOUT_KEPT)
    assert (word == "broken") == math.isnan(psnr)
    assert (word in ("same", "indistinguishable")) == (psnr >= INDISTINGUISHABLE)


@given(pair=st.tuples(st.floats(0, 99), st.floats(0, 99)), layout=st.floats(-1, 1))
def test_a_better_psnr_is_no_worse_a_word(pair: tuple[float, float], layout: float) -> None:
    """Law: of two samples with one layout the closer one is never called worse."""
    assert ORDER.index(judged(max(pair), layout)) <= ORDER.index(judged(min(pair), layout))


def scene(seed: int, *, side: int = 64, at: tuple[int, int] = (8, 8)) -> torch.Tensor:
    """``(1, 3, side, side)``: a disc and a square on a gradient, with fine noise."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    image = torch.stack([x / side - 0.5, y / side - 0.5, torch.zeros(side, side)])
    image[:, (y - at[0] - 12).square() + (x - at[1] - 12).square() < 144] = torch.tensor([0.9, -0.6, -0.8])[:, None]
    image[:, (y > 40) & (x > 36) & (y < 60)] = torch.tensor([-0.8, 0.2, 0.9])[:, None]
    return (image + 0.1 * torch.randn(image.shape, generator=generator))[None]


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), gain=st.floats(0.4, 1.6), shift=st.floats(-0.5, 0.5), noise=st.floats(0, 0.4))
def test_noise_brightness_contrast_and_detail_keep_a_layout(seed: int, gain: float, shift: float, noise: float) -> None:
    """Law: what is not about where things are leaves the layout, even below 20 dB."""
    image = scene(seed)
    changed = gain * image + shift + noise * torch.randn(image.shape, generator=torch.Generator().manual_seed(seed + 1))
    assert layout(changed, image)[0] > LAYOUT_KEPT
    assert layout(scene(seed + 2), image)[0] > 0.95  # the same scene with other noise


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), down=st.integers(18, 30), right=st.integers(18, 30))
def test_what_moves_or_is_mirrored_does_not(seed: int, down: int, right: int) -> None:
    """Law: the same things elsewhere are another composition, in figures and in words."""
    image = scene(seed)
    for changed in (scene(seed, at=(down, right)), image.flip(-1), image.flip(-2)):
        psnr = 10 * math.log10(4 / (changed - image).square().mean())
        assert judged(psnr, float(layout(changed, image)[0])) == "composition"


def test_layouts_of_the_flat_and_the_broken() -> None:
    """Law: images of one colour have the same layout, whatever the colour; nothing is known of what is not finite; it is symmetric and at most 1."""
    flat, image = torch.full((1, 1, 8, 8), 0.3), torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert layout(flat, -flat)[0] == pytest.approx(1)
    assert layout(flat + 0.001 * image, flat)[0] > 0.95
    assert layout(image, image)[0] == pytest.approx(1)
    assert layout(image, flat)[0] == pytest.approx(layout(flat, image)[0])
    assert layout(image, flat)[0] < LAYOUT_KEPT
    assert np.isnan(layout(image * math.nan, image)[0])


def test_a_sentence_counts_and_names_the_worst() -> None:
    """Law: how many are indistinguishable, then what became of the rest, the worst first and by number; at most three are named."""
    psnr: list[float | None] = [40.0, 50.0, 36.0, math.inf, 18.0, 17.0, 12.0, 35.0]
    layouts: list[float | None] = [1, 1, 1, 1, 0.9, 0.5, 0.1, 1]
    one = with_figures(lane("own", 30.0, 0.25, method="own"), psnr=psnr, layout=layouts)

    def told(changed: LaneResult, **more: Any) -> Any:
        results = made(lanes=(made().lanes[0], changed), **more)
        return in_plain_words(results, lines_of(results, SAMPLES)[1])

    found = told(one)
    assert found.sentence == "4.0x, 5 of 8 samples indistinguishable at 35 dB, samples 6 and 5 changed their composition, sample 4 changed much."
    assert found.look == (6, 5, 4)
    assert told(with_figures(one, psnr=[36.0] * 8)).sentence == "4.0x, all 8 samples indistinguishable at 35 dB."
    assert (
        told(with_figures(one, psnr=[30.0] * 7 + [29.0])).sentence == "4.0x, none of 8 samples indistinguishable at 35 dB, the worst is sample 7 with 29.0 dB."
    )
    assert told(with_figures(one, psnr=[math.inf] * 8)).sentence == "4.0x, the same as full computation in all 8 samples."
    assert "samples 0, 1, 2 and 5 more are broken (not finite)" in told(with_figures(one, psnr=[None] * 8)).sentence
    untimed = attrs.evolve(one, units=tuple(attrs.evolve(unit, seconds=(), full_seconds=()) for unit in one.units))
    assert told(untimed).sentence.startswith("25% of the work, 5 of 8 samples")


@given(values=st.lists(st.lists(st.one_of(st.floats(0, 60), st.just(math.inf), st.none()), min_size=8, max_size=8), min_size=1, max_size=3))
def test_the_worst_sample_comes_first(values: list[list[float | None]]) -> None:
    """Law: every sample once, by the lane that hurt it most; a broken one is the worst, the same one the best."""
    lanes = [with_figures(lane(str(place), 30.0, 0.5), psnr=psnr) for place, psnr in enumerate(values)]
    found = hurt(lanes)
    assert sorted(found) == list(range(SAMPLES))
    assert list(found.values()) == sorted(found.values())
    for index, worst in found.items():
        assert worst == min(0.0 if psnr[index] is None else min(psnr[index], 100.0) for psnr in values)  # type: ignore[type-var]
