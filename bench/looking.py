"""Samples beside those of full computation, to be looked at: the worst ones first."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.bench.album import TINY, Album, small, worth
from foreseer.bench.choice import Choice, Samples, choose
from foreseer.bench.film import FRAME_RATE
from foreseer.bench.plain_words import WORDS, hurt, judged, noun_of
from foreseer.bench.report_pictures import AMPLIFY, difference_of, pixels_of
from foreseer.bench.results import Figure, LaneResult, Results
from foreseer.bench.store import file_names
from foreseer.bench.summary import Line, counted
from foreseer.bench.views import Compared, Looking, View

__all__ = ["IMAGES_SHOWN", "LANES_SHOWN", "VIDEOS_SHOWN", "Shown", "look_at_samples"]

IMAGES_SHOWN, VIDEOS_SHOWN, LANES_SHOWN = 24, 8, 12
"""At most so many of the worst samples, and of the lanes."""

SAID = ("psnr", "ssim", "layout", "temporal_psnr")
"""Figures that are said of a sample, besides those that were asked for."""


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
    choice = choose(results, folder, lines, batch, most=LANES_SHOWN, first=chosen)
    if not choice.ranked:
        return Shown()
    (shape,) = {own.shape for own in choice.drawn(choice.full, choice.numbers[choice.ranked[0]], choice.ranked[:1]).values()}
    if len(shape) not in (3, 4):  # latents of no picture's shape
        return Shown()
    wanted = choice.ranked[: VIDEOS_SHOWN if len(shape) == 4 else IMAGES_SHOWN]
    album = Album(page, pixels=len(wanted) * (1 + 2 * len(choice.lanes)) * worth(shape))
    names = file_names(f"{lane.batch}-{lane.name}" for lane in results.lanes)
    show = _Show(choice, album, names, results)
    found: dict[int, Compared] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number in dict.fromkeys(choice.numbers[index] for index in wanted):
            found |= show.batch(number, [index for index in wanted if choice.numbers[index] == number], pool)
    samples = [found[index] for index in wanted if index in found]
    return Shown(
        block=Looking(samples=samples, rate=FRAME_RATE, strength=AMPLIFY) if samples else None,
        anchors={index: found[index].anchor for index in wanted if index in found},
        lanes=(len(choice.lanes), choice.total),
        samples=(len(samples), len(choice.full.indices)),
        inside=album.inside,
    )


@attrs.frozen
class _Show:
    """What all samples of a batch size have in common."""

    choice: Choice
    album: Album
    names: Mapping[str, str]
    results: Results

    def batch(self, number: int, wanted: Sequence[int], pool: Executor) -> dict[int, Compared]:
        """Show some samples of a batch. One lane's drawings are held at a time, besides full computation's."""
        ours = self.choice.drawn(self.choice.full, number, wanted)
        lanes = [lane for lane in self.choice.lanes if self.choice.kept(lane, number)]
        views: dict[int, list[View]] = {index: [] for index in ours}
        frames = self._frames(lanes, number, ours)
        for lane in lanes:
            theirs = {index: own for index, own in self.choice.drawn(lane, number, list(ours)).items() if own.shape == ours[index].shape}
            made = [pool.submit(self._view, lane, index, own, ours[index], frames[index]) for index, own in theirs.items()]
            for index, view in zip(theirs, made, strict=True):
                views[index].append(view.result())
        return {index: self._compared(index, ours[index], frames[index], own) for index, own in views.items() if own}

    def _frames(self, lanes: Sequence[LaneResult], number: int, ours: Mapping[int, Samples]) -> dict[int, int]:
        """Choose the frame of each video that is shown first: where the lane that hurts it most differs most."""
        found = dict.fromkeys(ours, 0)
        if not any(own.ndim == 4 for own in ours.values()):
            return found
        policies = [lane for lane in lanes if lane.kind != "fewer"] or lanes
        worst: dict[int, tuple[float, int]] = {}
        for place, lane in enumerate(policies):
            for index, value in hurt([lane]).items():
                worst[index] = min(worst.get(index, (math.inf, place)), (value, place))
        for place in {worst[index][1] for index in ours if index in worst}:
            for index, own in self.choice.drawn(policies[place], number, [index for index in ours if worst.get(index, (0, -1))[1] == place]).items():
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
        values = {name: lane.values(name)[place] for name in (*SAID, *self.results.measures)}
        psnr, became = values["psnr"], WORDS[judged(values["psnr"], values["layout"])]
        known = ", ".join(_said(self.results.figures[name], value) for name, value in values.items() if math.isfinite(value))
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
        reference, still = self._medium(self.choice.full, index, pixels_of(own), frame)
        words = self.results.conditions
        return Compared(
            name=f"{noun_of(self.results).capitalize()} {index}",
            anchor=f"sample-{self.choice.full.batch}-{index}",
            caption=words[index] if index < len(words) else "",
            reference=reference,
            still=still,
            views=views,
            first=min(range(len(views)), key=lambda place: (views[place].kind == "fewer", views[place].value)),
            size=(own.shape[-1], own.shape[-2]),
            frames=len(own) if own.ndim == 4 else 0,
            frame=frame,
        )


def _said(figure: Figure, value: float) -> str:
    return f"{figure.title} {format(value, figure.form)} {figure.unit}".rstrip()
