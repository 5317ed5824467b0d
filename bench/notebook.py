"""Results in a notebook: a fragment of HTML that needs nothing from anywhere, not even a script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from foreseer.bench.album import small
from foreseer.bench.choice import Samples, choose
from foreseer.bench.looking import LANES_SHOWN
from foreseer.bench.page import Table, render
from foreseer.bench.plain_words import WORDS, in_plain_words, judged, noun_of
from foreseer.bench.report_pictures import pixels_of
from foreseer.bench.results import LaneResult, Results
from foreseer.bench.summary import Line, lines_of
from foreseer.bench.tables import columns_of

__all__ = ["SAMPLES_SHOWN", "summary_html"]

SAMPLES_SHOWN = 3
"""So many of the worst samples."""


def summary_html(results: Results, folder: Path, *, page: Path | None = None) -> str:
    """Return results as a fragment of HTML, for ``_repr_html_``: a sentence about each policy, the table, and
    the worst samples of each lane beside full computation, small. Of videos the middle frame is shown.

    Args:
        results: Finished or not, with at least one finished sample of full computation; of several batch
            sizes the first is shown.
        folder: Holds the samples. Where it holds none, there are no pictures.
        page: Where all of it is to be seen, which is told.

    Raises:
        ImportError: Without jinja2 and pillow (``pip install 'foreseer[bench]'``).
    """
    batch = results.lanes[0].batch
    lines = [line for line in lines_of(results, batch) if line.lane.units]
    policies = [line for line in lines if line.lane.kind in ("policy", "peer")]
    told = sorted((in_plain_words(results, line) for line in policies), key=lambda one: one.worst)
    table = Table(
        "lane", [column for column in columns_of(results) if not column.wide], [("", lines)], lambda line: line.lane.name, lambda line: line.lane.kind
    )
    failed = [(lane.name, lane.error) for lane in results.lanes if lane.error]
    return render(
        "notebook.html",
        heading=f"{results.family}, {results.num_steps} steps, {len(results.full(batch).indices)} samples",
        told=[*((one.lane, one.sentence) for one in told[:LANES_SHOWN]), *((name, f"failed: {error}") for name, error in failed)],
        table=table.drawn(),
        samples=_glances(results, folder, lines, batch, [one.lane for one in told]),
        page="" if page is None else str(page),
    )


def _glances(results: Results, folder: Path, lines: Sequence[Line], batch: int, first: Sequence[str]) -> list[tuple[str, str, list[tuple[str, str, str]]]]:
    """Of each sample its name, what was asked for, and of each lane its name, what became and a picture."""
    choice = choose(results, folder, lines, batch, most=LANES_SHOWN, first=first)
    found = []
    for index in choice.ranked[:SAMPLES_SHOWN]:
        number = choice.numbers[index]
        lanes = [choice.full, *(lane for lane in choice.lanes if choice.kept(lane, number))]
        drawn = [(lane, choice.drawn(lane, number, [index])) for lane in lanes]
        views = [(lane.name, _became(lane, index), _glance(own[index])) for lane, own in drawn if index in own and own[index].ndim in (3, 4)]
        asked = results.conditions[index] if index < len(results.conditions) else ""
        found.append((f"{noun_of(results).capitalize()} {index}", asked, views))
    return [one for one in found if one[2]]


def _became(lane: LaneResult, index: int) -> str:
    """What became of a sample, in words and dB."""
    if lane.kind == "full":
        return "the reference"
    place = lane.indices.index(index)
    psnr = lane.values("psnr")[place]
    word = judged(psnr, lane.values("layout")[place])
    return WORDS[word] if word in ("same", "broken") else f"{WORDS[word]}, {psnr:.1f} dB"


def _glance(own: Samples) -> str:
    pixels = pixels_of(own)
    return small(pixels if pixels.ndim == 3 else pixels[len(pixels) // 2])
