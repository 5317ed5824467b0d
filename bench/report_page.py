"""The page of a benchmark, and what it shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foreseer.bench.album import PICTURES
from foreseer.bench.charts import front
from foreseer.bench.film import FRAME_RATE
from foreseer.bench.lanes_chart import lanes_chart
from foreseer.bench.looking import LANES_SHOWN, Shown, look_at_samples
from foreseer.bench.page import Facts, Fold, Picture, Pictures, Section, Table, Text
from foreseer.bench.page import write_page as write
from foreseer.bench.plain_words import NOTE, in_plain_words
from foreseer.bench.report_pictures import AMPLIFY, FATES, fates_of, timeline
from foreseer.bench.results import Results
from foreseer.bench.sentences import Summary, summaries
from foreseer.bench.summary import Line, lines_of
from foreseer.bench.tables import PUBLISHED, columns_of, few_samples, footnotes, method_of
from foreseer.bench.views import Verdicts
from foreseer.columns import Column
from foreseer.zoo.judge import FRECHET_MINIMUM_SAMPLES

__all__ = ["PAGE", "write_page"]

PAGE = "index.html"
BESIDE_EACH_OTHER = 4
"""Lanes of one method whose timelines are shown at once; the others are folded."""

KIND: Column[Line] = Column("kind", "", lambda line: line.lane.kind)


def write_page(results: Results, folder: Path, *, path: Path | None = None, notes: Sequence[str] = ()) -> Path:
    """Write the page of results, finished or not, and return its path.

    Args:
        results: What to show.
        folder: Where the benchmark lies. Where it also holds its ``samples``, some of them are shown.
        path: The page; None for ``folder / PAGE``.
        notes: What a reader must know, in sentences.

    Raises:
        ImportError: Without jinja2 or plotly (``pip install 'foreseer[bench]'``).
    """
    place = path or folder / PAGE
    batches = list(dict.fromkeys(lane.batch for lane in results.lanes))
    parts = {batch: _parts(results, folder, place, batch) for batch in batches}

    def sections(heading: str) -> list[Section]:
        several = len(batches) > 1
        return [Section(heading + f", batches of {n}" * several, part[heading]) for n, part in parts.items()]

    failed = [(lane.name, f"batch {lane.batch}, failed: {lane.error}") for lane in results.lanes if lane.error]
    head = [
        *([Text(results.about, "")] if results.about else []),
        Text("Every lane draws the same samples from the same noise; its figures compare each with what full computation drew."),
        *([] if results.finished else [Text("The benchmark is not finished; the same command goes on.", "loud")]),
        *([Facts(failed, "warn")] if failed else []),
        *map(Text, [*footnotes(results), *notes]),
    ]
    published = "Of other models: nothing of it compares with the numbers above but its order."
    return write(
        place,
        f"foreseer bench: {results.family}, {results.num_steps} steps",
        f"Forecasting on {results.family}, {results.num_steps} steps",
        head,
        [
            *sections("In short"),
            *sections("Samples"),
            *sections("Speed and quality"),
            *sections("Table"),
            *sections("Timelines"),
            Section("What was published", [Text(published), Table("method", PUBLISHED, [("", results.published)], method_of)] if results.published else []),
            *sections("What the runs warned of"),
            Section("What the columns mean", [Facts([(column.title, column.note) for column in columns_of(results)])]),
            Section("Settings and machine", [Facts(_about(results))]),
        ],
    )


def _parts(results: Results, folder: Path, page: Path, batch: int) -> dict[str, list[Any]]:
    """The blocks about one batch size, by their heading."""
    lines = [line for line in lines_of(results, batch) if line.lane.units]
    found, psnr = summaries(results, batch), [line.means.get("psnr", math.nan) for line in lines]
    best = front([(line.cost, mean) for line, mean in zip(lines, psnr, strict=True)], lower_x=True, lower_y=False)
    chosen = {line.lane.name for line in lines if line.lane.kind == "full"}
    chosen |= {summary.lane for summary in found} | {lines[i].lane.name for i in best}
    done = len(lines[0].lane.indices) if lines else 0
    few = done < FRECHET_MINIMUM_SAMPLES and any(math.isfinite(line.frechet) for line in lines)
    warned = [(line.lane.name, text) for line in lines for text in line.warnings]
    shown = look_at_samples(results, folder, page, lines, batch, chosen)
    counted = f"{len(warned)} warning{'s' * (len(warned) != 1)}"
    return {
        "In short": _short(results, lines, found, chosen, shown),
        "Speed and quality": [lanes_chart(results, batch)] if lines else [],
        "Table": [
            Text(f"{done} samples in batches of {batch}. A column\u2019s head sorts by it."),
            *([_table(results, lines)] if lines else []),
            *([Text(few_samples(done))] if few else []),
        ],
        "Samples": _samples(shown),
        "Timelines": _timelines(lines, chosen | set(_first_of_each_method(lines))),
        "What the runs warned of": [Fold(counted, [Facts(warned)])] if warned else [],
    }


def _table(results: Results, lines: Sequence[Line]) -> Table:
    return Table("lane", (KIND, *columns_of(results, apart=True)), [("", lines)], lambda line: line.lane.name, lambda line: line.lane.kind)


def _short(results: Results, lines: Sequence[Line], found: Sequence[Summary], chosen: set[str], shown: Shown) -> list[Any]:
    """Each lane in plain words, those that hurt a sample most first, then policies in numbers."""
    lanes = [line for line in lines if line.lane.kind in ("policy", "peer") and line.cost < 1]
    some = lanes if len(lanes) <= LANES_SHOWN else [line for line in lanes if line.lane.name in chosen]
    told = sorted((in_plain_words(results, line) for line in some), key=lambda one: one.worst)
    links = [[(f"{one.noun} {index}", shown.anchors[index]) for index in one.look if index in shown.anchors] for one in told]
    if not told:
        return [Facts([("no policy", "No policy saved steps.")], "loud")]
    verdicts = Verdicts([(one.lane, one.sentence, look) for one, look in zip(told, links, strict=True)])
    note = (
        "In numbers, each policy at the setting that gains most over fewer steps. \u201cBeyond noise\u201d is more than three standard "
        "errors of the differences, sample by sample, and more where samples are few (Student\u2019s t)."
    )
    return [verdicts, Text(NOTE), *([Text(note), Facts([(summary.method, summary.sentence) for summary in found])] if found else [])]


def _split(found: Sequence[Picture], chosen: set[str], look: str) -> Pictures:
    """What is open and what is folded."""
    shown, folded = ([one for one in found if (one.name in chosen) == first] for first in (True, False))
    return Pictures(shown, folded, look)


def _first_of_each_method(lines: Sequence[Line]) -> list[str]:
    counts: dict[str, list[str]] = {}
    for line in lines:
        counts.setdefault(line.lane.method, []).append(line.lane.name)
    return [name for names in counts.values() for name in names[:BESIDE_EACH_OTHER]]


def _samples(shown: Shown) -> list[Any]:
    """What was drawn, beside full computation."""
    if shown.block is None:
        return [Text("The folder of the results holds no samples that can be shown.")]
    (lanes, all_lanes), (samples, all_samples) = shown.lanes, shown.samples
    count = f"{'All' if samples == all_samples else f'The {samples} most hurt of'} {all_samples} samples, those that were hurt most first"
    some = "" if lanes == all_lanes else f", of {lanes} of {all_lanes} lanes"
    film = any(one.frames for one in shown.block.samples)
    how = (
        f"The videos play in step, {FRAME_RATE} frames a second; they begin at the frame that differs most, and print as that frame. "
        "They are coded with a little loss; all figures are those of the frames before."
        if film
        else "Drag the line, or use the arrow keys: left of it is full computation, right of it the lane."
    )
    where = "" if shown.inside else f" The pictures lie beside this page, in the folder {PICTURES}: move both together."
    strong = f" Differences are {AMPLIFY:g} times as strong: blue is darker, orange is lighter, white is the same."
    return [Text(f"{count}{some}. {how}{strong}{where}"), shown.block]


def _timelines(lines: Sequence[Line], chosen: set[str]) -> list[Any]:
    found = [_timeline(line, stream, report) for line in lines for stream, report in line.lane.reports.items()]
    note = Text("The first batch of each policy: steps across, samples down.", keys=FATES)
    return [note, _split(found, chosen, "tiles")] if found else []


def _timeline(line: Line, stream: str, report: Any) -> Picture:
    fates = fates_of(report)
    rows, steps = fates.shape
    counts = {name: int((fates == place).sum()) for place, name in enumerate(FATES)}
    said = ", ".join(f"{count / rows:.1f} {name}".replace(".0 ", " ") for name, count in counts.items() if count)
    several = f", {stream}" if len(line.lane.reports) > 1 else ""
    text = f"{said} of {steps} steps{several}"
    if not steps:
        return Picture(line.lane.name, text, [], [])
    style, ends = f"aspect-ratio: {steps} / {max(0.75 * rows, steps / 4)}", ["step 0", str(steps - 1)]
    about = f"Timeline of {line.lane.name}: {text}"
    return Picture(line.lane.name, text, [timeline(fates)], [about], "pixels", style, ends)


def _about(results: Results) -> list[tuple[str, str]]:
    """What was asked for, and what it ran on."""
    plainly = {key: value for key, value in results.settings.items() if key not in ("lanes", "peers")}
    commit, changed = results.git.get("commit"), results.git.get("changed")
    git = {"commit": f"{str(commit)[:12]}{', with changes' if changed else ''}"} if commit else {}
    versions = {"versions": ", ".join(f"{key} {value}" for key, value in results.versions.items())}
    known = {
        "family": results.family,
        "steps": results.num_steps,
        "seed": results.seed,
        "guidance": results.guidance,
        "blocks": results.depth,
    }
    found = {**plainly, **known, **results.machine, **versions, **git}
    return [(key, str(value)) for key, value in found.items()]
