"""The laws of what is looked at: samples beside their references, the worst first."""

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
from bench_results import SAMPLES, keep_samples, lane, made, with_figures
from PIL import Image

from foreseer.bench import looking
from foreseer.bench.album import TINY, small
from foreseer.bench.film import FRAME_RATE, LEAST_SIDE, enlarged, film
from foreseer.bench.looking import Shown, look_at_samples
from foreseer.bench.notebook import summary_html
from foreseer.bench.plain_words import hurt, in_plain_words
from foreseer.bench.report_page import PAGE, write_page
from foreseer.bench.report_pictures import AMPLIFY, difference_of, pixels_of
from foreseer.bench.results import Figure, Results
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


def shown(results: Results, folder: Path, chosen: set[str] | None = None) -> Shown:
    return look_at_samples(results, folder, folder / PAGE, lines_of(results, SAMPLES), SAMPLES, chosen or set())


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
