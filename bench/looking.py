"""Samples beside those of full computation, to be looked at: the worst ones first."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.bench.album import TINY, Album, small
from foreseer.bench.film import FRAME_RATE
from foreseer.bench.plain_words import WORDS, hurt, judged, noun_of
from foreseer.bench.report_pictures import AMPLIFY, difference_of, pixels_of
from foreseer.bench.results import FIGURES, Figure, LaneResult, Results
from foreseer.bench.store import Store, file_names
from foreseer.bench.summary import Line, counted
from foreseer.bench.views import Compared, Looking, View

__all__ = ["IMAGES_SHOWN", "LANES_SHOWN", "VIDEOS_SHOWN", "Shown", "look_at_samples"]

IMAGES_SHOWN, VIDEOS_SHOWN, LANES_SHOWN = 24, 8, 12
"""At most so many of the worst samples, and of the lanes."""

SAID = ("psnr", "ssim", "layout", "temporal_psnr")
"""Figures that are said of a sample."""

Samples = NDArray[np.float32]


@attrs.frozen(kw_only=True)
class Shown:
    """What is there to be looked at.

    Attributes:
        block: Of the page; None where the folder holds no samples.
        anchors: Of each sample that is shown, by its number.
        lanes: How many lanes are shown, of how many.
        samples: How many samples are shown, of how many.
        inside: Whether the page holds all pictures itself.
    """

    block: Looking | None = None
    anchors: dict[int, str] = attrs.field(factory=dict)
    lanes: tuple[int, int] = (0, 0)
    samples: tuple[int, int] = (0, 0)
    inside: bool = True


def look_at_samples(results: Results, folder: Path, page: Path, lines: Sequence[Line], batch: int, chosen: set[str]) -> Shown:
    """Return the worst samples of a batch size as their lanes drew them, and write what the page does not hold
    itself beside it.

    Args:
        results: What was measured.
        folder: Holds the samples; those that are missing are left out.
        page: The page that will show them.
        lines: The lanes of that batch size.
        batch: The batch size.
        chosen: Names of the lanes that matter most: they are shown where there are too many.
    """
    store = Store(folder)
    store.name([lane.key for lane in results.lanes])
    full = results.full(batch)
    kept = {(line.lane.key, unit.number) for line in lines for unit in line.lane.units if store.samples(line.lane.key, unit.number).exists()}
    numbers = {index: unit.number for unit in full.units if (full.key, unit.number) in kept for index in unit.indices}
    lanes = [line.lane for line in lines if line.lane.kind != "full" and any((line.lane.key, number) in kept for number in numbers.values())]
    some = sorted(lanes, key=lambda lane: lane.name not in chosen)[:LANES_SHOWN]
    some = [lane for lane in lanes if lane in some]
    ranked = [index for index in hurt([lane for lane in some if lane.kind != "fewer"] or some) if index in numbers]
    if not ranked:
        return Shown()
    shape = store.drawn(full.key, numbers[ranked[0]]).images.shape[1:]
    if len(shape) not in (3, 4):  # latents of no picture's shape
        return Shown()
    wanted = ranked[: VIDEOS_SHOWN if len(shape) == 4 else IMAGES_SHOWN]
    album = Album(page, pixels=len(wanted) * (1 + 2 * len(some)) * math.prod(shape) // shape[-3])
    names = file_names(f"{lane.batch}-{lane.name}" for lane in results.lanes)
    show = _Show(full, store, album, names, results.conditions, noun_of(results).capitalize())
    found: dict[int, Compared] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number in dict.fromkeys(numbers[index] for index in wanted):
            here = [index for index in wanted if numbers[index] == number]
            found |= show.batch([lane for lane in some if (lane.key, number) in kept], number, here, pool)
    samples = [found[index] for index in wanted if index in found]
    return Shown(
        block=Looking(samples=samples, rate=FRAME_RATE, strength=AMPLIFY) if samples else None,
        anchors={index: found[index].anchor for index in wanted if index in found},
        lanes=(len(some), len(lanes)),
        samples=(len(samples), len(full.indices)),
        inside=album.inside,
    )


@attrs.frozen
class _Show:
    """What all samples of a batch size have in common."""

    full: LaneResult
    store: Store
    album: Album
    names: Mapping[str, str]
    conditions: Sequence[str]
    noun: str

    def batch(self, lanes: Sequence[LaneResult], number: int, wanted: Sequence[int], pool: Executor) -> dict[int, Compared]:
        """Show some samples of a batch. One lane's drawings are held at a time, besides full computation's."""
        ours = self._drawn(self.full, number, wanted)
        views: dict[int, list[View]] = {index: [] for index in ours}
        frames = self._frames(lanes, number, ours)
        for lane in lanes:
            theirs = {index: own for index, own in self._drawn(lane, number, list(ours)).items() if own.shape == ours[index].shape}
            made = [pool.submit(self._view, lane, index, own, ours[index], frames[index]) for index, own in theirs.items()]
            for index, view in zip(theirs, made, strict=True):
                views[index].append(view.result())
        return {index: self._compared(index, ours[index], frames[index], own) for index, own in views.items() if own}

    def _drawn(self, lane: LaneResult, number: int, wanted: Collection[int]) -> dict[int, Samples]:
        unit = next(unit for unit in lane.units if unit.number == number)
        images = self.store.drawn(lane.key, number).images.float().numpy()
        return {index: image for index, image in zip(unit.indices, images, strict=False) if index in wanted}

    def _frames(self, lanes: Sequence[LaneResult], number: int, ours: Mapping[int, Samples]) -> dict[int, int]:
        """Choose the frame of each video that is shown first: where the lane that hurts it most differs most."""
        found = dict.fromkeys(ours, 0)
        if not any(own.ndim == 4 for own in ours.values()):
            return found
        worst: dict[int, tuple[float, int]] = {}
        for place, lane in enumerate(lanes):
            for index, value in hurt([lane]).items():
                worst[index] = min(worst.get(index, (math.inf, place)), (value, place))
        for place in {worst[index][1] for index in ours if index in worst}:
            for index, own in self._drawn(lanes[place], number, [index for index in ours if worst.get(index, (0, -1))[1] == place]).items():
                if own.shape == ours[index].shape:
                    found[index] = int(np.square(np.nan_to_num(own - ours[index])).mean((1, 2, 3)).argmax())
        return found

    def _medium(self, lane: LaneResult, index: int, pixels: NDArray[np.uint8], frame: int, more: str = "") -> tuple[str, str]:
        """Keep a picture, or a video and one frame of it, and return the addresses: "" for no frame."""
        name = f"{self.names[f'{lane.batch}-{lane.name}']}-{index:03d}{more}"
        if pixels.ndim == 3:
            return self.album.picture(name, pixels), ""
        return self.album.video(name, pixels), self.album.picture(name, pixels[frame])

    def _view(self, lane: LaneResult, index: int, own: Samples, full: Samples, frame: int) -> View:
        place, pixels = lane.indices.index(index), pixels_of(own)
        values = {figure: lane.values(figure)[place] for figure in SAID}
        psnr, became = values["psnr"], WORDS[judged(values["psnr"], values["layout"])]
        known = ", ".join(_said(FIGURES[figure], value) for figure, value in values.items() if math.isfinite(value))
        glance = small(pixels if pixels.ndim == 3 else pixels[frame])
        whole, still = ("", "") if pixels.ndim == 3 and max(pixels.shape[:2]) <= TINY else self._medium(lane, index, pixels, frame)
        difference, still_difference = self._medium(lane, index, difference_of(own, full), frame, "-difference")
        return View(
            name=lane.name,
            said=f"{lane.name}: {became}{f' ({known})' if known else ''}",
            mark=f"{psnr:.1f} dB" if math.isfinite(psnr) else became,
            value=float(counted("psnr", [psnr])[0]),
            kind=lane.kind,
            small=glance,
            own=whole,
            difference=difference,
            still=still,
            still_difference=still_difference,
        )

    def _compared(self, index: int, own: Samples, frame: int, views: Sequence[View]) -> Compared:
        reference, still = self._medium(self.full, index, pixels_of(own), frame)
        return Compared(
            name=f"{self.noun} {index}",
            anchor=f"sample-{self.full.batch}-{index}",
            caption=self.conditions[index] if index < len(self.conditions) else "",
            reference=reference,
            still=still,
            views=views,
            first=min(range(len(views)), key=lambda place: (views[place].kind == "fewer", views[place].value)),
            size=(own.shape[-1], own.shape[-2]),
            frames=len(own) if own.ndim == 4 else 0,
            frame=frame,
        )


def _said(figure: Figure, value: float) -> str:
    return f"{figure.title} {value:.1f} dB" if figure.unit else f"{figure.title} {value:.2f}"
