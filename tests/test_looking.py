"""The laws of what is looked at: samples beside their references, the worst first, and what is said of them in plain words."""

from __future__ import annotations

import base64
import html
import io
import math
import re
import shutil
from pathlib import Path
from typing import Any

import attrs
import av
import numpy as np
import pytest
import torch
from bench_results import SAMPLES, keep_samples, lane, made
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from foreseer.bench import looking
from foreseer.bench.album import TINY, small
from foreseer.bench.film import FRAME_RATE, LEAST_SIDE, enlarged, film
from foreseer.bench.layout import layout
from foreseer.bench.looking import Shown, look_at_samples
from foreseer.bench.notebook import summary_html
from foreseer.bench.plain_words import CHANGED, INDISTINGUISHABLE, LAYOUT_KEPT, WORDS, hurt, in_plain_words, judged
from foreseer.bench.report_page import PAGE, write_page
from foreseer.bench.report_pictures import AMPLIFY, difference_of, pixels_of
from foreseer.bench.results import Figure, LaneResult, Results
from foreseer.bench.store import Store
from foreseer.bench.summary import lines_of


def content_of(address: str, folder: Path) -> bytes:
    return base64.b64decode(address.partition(",")[2]) if address.startswith("data:") else (folder / address).read_bytes()


def picture_at(address: str, folder: Path = Path()) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(content_of(address, folder))).convert("RGB"))


def frames_of(content: bytes) -> np.ndarray[Any, Any]:
    with av.open(io.BytesIO(content)) as file:
        assert file.streams.video[0].average_rate == FRAME_RATE
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def with_figures(one: LaneResult, **figures: list[float | None]) -> LaneResult:
    """The lane with other figures of its samples."""
    (unit,) = one.units
    return attrs.evolve(one, units=(attrs.evolve(unit, figures={**unit.figures, **figures}),))


def shown(results: Results, folder: Path, chosen: set[str] | None = None) -> Shown:
    return look_at_samples(results, folder, folder / PAGE, lines_of(results, SAMPLES), SAMPLES, chosen or set())


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


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 96, 80), (5, 3, 24, 26)])
def test_each_lane_stands_beside_the_reference(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Law: what is shown of a lane and of full computation is what the folder holds, pixel for pixel, and of videos every frame."""
    lanes = made().lanes
    results = made(lanes=lanes if len(shape) == 3 else (*lanes[:3], lanes[-1]))
    keep_samples(results, tmp_path, shape)
    found = shown(results, tmp_path)
    block = found.block
    assert block is not None
    assert found.samples == (SAMPLES, SAMPLES)
    ranked = hurt([one for one in results.lanes if one.kind not in ("full", "fewer") and one.units])
    assert [sample.anchor for sample in block.samples] == [f"sample-{SAMPLES}-{index}" for index in ranked] == [found.anchors[index] for index in ranked]
    store = Store(tmp_path)
    store.name([one.key for one in results.lanes])
    index, sample = next(iter(ranked)), block.samples[0]
    full = store.drawn(results.lanes[0].key, 0).images[index].numpy()
    assert {view.name for view in sample.views} == {one.name for one in results.lanes if one.units and one.kind != "full"}
    assert sample.views[sample.first].value == min(view.value for view in sample.views if view.kind != "fewer")
    for view in sample.views:
        own = store.drawn((view.name, SAMPLES), 0).images[index].numpy()
        if len(shape) == 3:
            assert (picture_at(view.own or view.small) == pixels_of(own)).all()
            assert (picture_at(view.difference) == difference_of(own, full)).all()
            assert view.still == view.still_difference == ""
        else:
            times = enlarged(24, 26)
            assert (picture_at(view.still) == pixels_of(own)[sample.frame]).all()
            coded = frames_of(content_of(view.own, tmp_path))
            assert coded.shape == (5, 24 * times, 26 * times, 3)
            # the middle of each square of pixels is hardly changed by the coding
            middle = coded[:, times // 2 :: times, times // 2 :: times].astype(int)
            assert np.abs(middle - pixels_of(own)).mean() < 4
    assert (picture_at(sample.still or sample.reference) == pixels_of(full if len(shape) == 3 else full[sample.frame])).all()


@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (3, 2, 37, 51), (2, 2, 400, 402)])
def test_videos_hold_every_frame(shape: tuple[int, ...]) -> None:
    """Law: frames keep their number, order and size, but for an odd last row or column; small ones are enlarged."""
    frames, _, height, width = shape
    pixels = np.zeros((frames, height, width, 3), np.uint8)
    pixels[np.arange(frames), ..., 0] = 250 - 80 * np.arange(frames)[:, None, None]
    found = frames_of(film(pixels))
    times = enlarged(height, width)
    assert min(height, width) * times >= LEAST_SIDE > min(height, width) * (times - 1)
    assert found.shape == (frames, height * times // 2 * 2, width * times // 2 * 2, 3)
    assert np.abs(found.mean((1, 2)) - pixels.mean((1, 2))).max() < 4


def test_large_pictures_lie_beside_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: beyond a size the page names files in its folder, all of which are there, and says so; below it there are none."""
    results = made(lanes=made().lanes[:4])
    keep_samples(results, tmp_path, (3, 96, 96))
    assert write_page(results, tmp_path).stat().st_size > 0
    assert not (tmp_path / "pictures").exists()
    monkeypatch.setattr("foreseer.bench.album.INSIDE", 1000)
    found = shown(results, tmp_path)
    assert found.block is not None
    addresses = [
        address for sample in found.block.samples for address in (sample.reference, *(a for view in sample.views for a in (view.own, view.difference)))
    ]
    assert all(address.startswith("pictures/") and (tmp_path / address).is_file() for address in addresses)
    assert len(set(addresses)) == len(addresses) == len(list((tmp_path / "pictures").iterdir()))
    assert "folder pictures: move both together" in write_page(results, tmp_path).read_text(encoding="utf-8")


def test_too_many_are_the_worst_and_the_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: of many samples the worst are shown, of many lanes those that matter, and the page says of how many."""
    results = made()
    keep_samples(results, tmp_path)
    monkeypatch.setattr(looking, "IMAGES_SHOWN", 3)
    monkeypatch.setattr(looking, "LANES_SHOWN", 2)
    found = shown(results, tmp_path, {"speca:threshold=0.1", "none"})
    assert found.block is not None
    assert set(found.block.names) == {"speca:threshold=0.1", "none"}
    assert (found.lanes[0], found.samples) == (2, (3, SAMPLES))
    text = write_page(results, tmp_path).read_text(encoding="utf-8")
    assert f"The 3 most hurt of {SAMPLES} samples, those that were hurt most first, of 2 of {found.lanes[1]} lanes." in text


def test_prompts_are_captions_and_text(tmp_path: Path) -> None:
    """Law: what was asked for stands beside each sample, as text, and the sentences call samples prompts."""
    results = made(conditions=tuple(f"<b>fox {number}" for number in range(SAMPLES)))
    keep_samples(results, tmp_path)
    text = write_page(results, tmp_path).read_text(encoding="utf-8")
    assert all(f"<b>Prompt {number}</b> <q>&lt;b&gt;fox {number}</q>" in text for number in range(SAMPLES))
    assert "of 8 prompts indistinguishable" in text
    twice = attrs.evolve(results, conditions=results.conditions[:4] * 2)  # each prompt from two noises
    assert "of 8 samples indistinguishable" in write_page(twice, tmp_path).read_text(encoding="utf-8")


def test_a_difference_is_white_where_there_is_none() -> None:
    """Law: lighter is orange, darker is blue, stronger is deeper, broken is grey."""
    image = np.zeros((3, 2, 2), np.float32)
    assert (difference_of(image, image) == 255).all()
    lighter, darker, strong = (difference_of(image + change, image)[0, 0].astype(int) for change in (0.05, -0.05, 1 / AMPLIFY))
    assert lighter[0] > lighter[2]
    assert darker[2] > darker[0]
    assert strong[2] < lighter[2]
    assert (difference_of(image * math.nan, image) == 127).all()


@pytest.mark.parametrize("side", [8, TINY, TINY + 1, 700])
def test_small_pictures_are_small(side: int) -> None:
    """Law: a glance at a large picture takes a few kilobytes; a tiny one is itself."""
    pixels = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    found = picture_at(small(pixels))
    assert max(found.shape) <= 160
    assert side > TINY or (found == pixels).all()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 3, 200, 160)])
def test_a_notebook_shows_the_same_in_small(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Law: a sentence of each policy, a row of each lane and the worst samples; all of it text, nothing run and nothing loaded."""
    results = made(lanes=made().lanes if len(shape) == 3 else made().lanes[:3], conditions=tuple(f"<i>fox {number}" for number in range(SAMPLES)))
    keep_samples(results, tmp_path, shape)
    found = summary_html(results, tmp_path, page=tmp_path / "a<b>.html")
    assert not re.search(r"<script|https?://|url\(|<i>|<b>\.html", found)
    assert re.findall(r'src="(?!data:image/)', found) == []
    assert found.count("data:image/") == looking_rows(results) * 3
    assert len(found) < 500_000
    for line in lines_of(results, SAMPLES):
        if line.lane.kind in ("policy", "peer") and line.lane.units:
            assert html.escape(in_plain_words(results, line).sentence) in found
    assert "&lt;i&gt;fox 0" in found
    shutil.rmtree(tmp_path / "samples")
    assert "data:image/" not in summary_html(results, tmp_path)


def looking_rows(results: Results) -> int:
    """How many pictures a sample has: one of full computation, and of as many lanes as are shown."""
    return 1 + min(looking.LANES_SHOWN, sum(bool(one.units) for one in results.lanes) - 1)


def test_what_is_no_picture_is_not_shown(tmp_path: Path) -> None:
    """Law: a page and a summary of latents of another shape say what there is in numbers, and that nothing can be shown."""
    results = made()
    keep_samples(results, tmp_path, (6, 4))
    assert "holds no samples that can be shown" in write_page(results, tmp_path).read_text(encoding="utf-8")
    assert "data:image/" not in summary_html(results, tmp_path)


def test_measures_that_were_asked_for_are_said(tmp_path: Path) -> None:
    """Law: beside what is always said, each sample says the measures of its run, as their tables write them."""
    one = with_figures(lane("own", 30.0, 0.25, method="own"), sharpness=[0.125] * SAMPLES)
    results = made(lanes=(made().lanes[0], one), measures={"sharpness": Figure("sharpness", "", True, "How sharp.", ".2f")})
    keep_samples(results, tmp_path)
    found = shown(results, tmp_path)
    assert found.block is not None
    assert all("sharpness 0.12" in view.said for sample in found.block.samples for view in sample.views)
