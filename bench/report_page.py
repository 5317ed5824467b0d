"""The page of a benchmark, and what it shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreseer.bench.charts import front
from foreseer.bench.lanes_chart import lanes_chart
from foreseer.bench.page import Facts, Fold, Picture, Pictures, Section, Table, Text
from foreseer.bench.page import write_page as write
from foreseer.bench.report_pictures import AMPLIFY, FATES, differences, fates_of, samples, timeline
from foreseer.bench.results import LaneResult, Results
from foreseer.bench.sentences import Summary, summaries
from foreseer.bench.store import Store
from foreseer.bench.summary import Line, lines_of
from foreseer.bench.tables import PUBLISHED, broken_text, columns_of, few_samples, left_out, method_of, number_text
from foreseer.columns import Column
from foreseer.zoo.judge import FRECHET_MINIMUM_SAMPLES

__all__ = ["PAGE", "write_page"]

PAGE = "index.html"
IMAGES_SHOWN, VIDEOS_SHOWN = 8, 2
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
    batches = list(dict.fromkeys(lane.batch for lane in results.lanes))
    parts = {batch: _parts(results, folder, batch) for batch in batches}

    def sections(heading: str) -> list[Section]:
        several = len(batches) > 1
        return [Section(heading + f", batches of {n}" * several, part[heading]) for n, part in parts.items()]

    failed = [(lane.name, f"batch {lane.batch}, failed: {lane.error}") for lane in results.lanes if lane.error]
    head = [
        *([Text(results.about, "")] if results.about else []),
        Text("Every lane draws the same samples from the same noise; its figures compare each with what full computation drew."),
        *([] if results.finished else [Text("The benchmark is not finished; the same command goes on.", "loud")]),
        *([Facts(failed, "warn")] if failed else []),
        *map(Text, [*left_out(results), *notes]),
    ]
    published = "Of other models: nothing of it compares with the numbers above but its order."
    return write(
        path or folder / PAGE,
        f"foreseer bench: {results.family}, {results.num_steps} steps",
        f"Forecasting on {results.family}, {results.num_steps} steps",
        head,
        [
            *sections("In short"),
            *sections("Speed and quality"),
            *sections("Table"),
            *sections("Samples"),
            *sections("Timelines"),
            Section("What was published", [Text(published), Table("method", PUBLISHED, [("", results.published)], method_of)] if results.published else []),
            *sections("What the runs warned of"),
            Section("What the columns mean", [Facts([(column.title, column.note) for column in columns_of(results)])]),
            Section("Settings and machine", [Facts(_about(results))]),
        ],
    )


def _parts(results: Results, folder: Path, batch: int) -> dict[str, list[Any]]:
    """The blocks about one batch size, by their heading."""
    lines = [line for line in lines_of(results, batch) if line.lane.units]
    found, psnr = summaries(results, batch), [line.means.get("psnr", math.nan) for line in lines]
    best = front([(line.cost, mean) for line, mean in zip(lines, psnr, strict=True)], lower_x=True, lower_y=False)
    chosen = {line.lane.name for line in lines if line.lane.kind == "full"}
    chosen |= {summary.lane for summary in found} | {lines[i].lane.name for i in best}
    done = len(lines[0].lane.indices) if lines else 0
    few = done < FRECHET_MINIMUM_SAMPLES and any(math.isfinite(line.frechet) for line in lines)
    warned = [(line.lane.name, text) for line in lines for text in line.warnings]
    counted = f"{len(warned)} warning{'s' * (len(warned) != 1)}"
    return {
        "In short": _short(found),
        "Speed and quality": [lanes_chart(results, batch)] if lines else [],
        "Table": [
            Text(f"{done} samples in batches of {batch}. A column\u2019s head sorts by it."),
            *([_table(results, lines)] if lines else []),
            *([Text(few_samples(done))] if few else []),
        ],
        "Samples": _samples(results, folder, lines, batch, chosen),
        "Timelines": _timelines(lines, chosen | set(_first_of_each_method(lines))),
        "What the runs warned of": [Fold(counted, [Facts(warned)])] if warned else [],
    }


def _table(results: Results, lines: Sequence[Line]) -> Table:
    return Table("lane", (KIND, *columns_of(results, apart=True)), [("", lines)], lambda line: line.lane.name, lambda line: line.lane.kind)


def _short(found: Sequence[Summary]) -> list[Any]:
    said = [(summary.method, summary.sentence) for summary in found] or [("no policy", "No policy saved steps.")]
    note = (
        "Each policy at the setting that gains most over fewer steps. \u201cBeyond noise\u201d is more than three standard "
        "errors of the differences, sample by sample, and more where samples are few (Student\u2019s t)."
    )
    return [Facts(said, "loud"), Text(note)]


def _split(found: Sequence[Picture], chosen: set[str], look: str) -> Pictures:
    """What is open and what is folded."""
    shown, folded = ([one for one in found if (one.name in chosen) == first] for first in (True, False))
    return Pictures(shown, folded, look)


def _first_of_each_method(lines: Sequence[Line]) -> list[str]:
    counts: dict[str, list[str]] = {}
    for line in lines:
        counts.setdefault(line.lane.method, []).append(line.lane.name)
    return [name for names in counts.values() for name in names[:BESIDE_EACH_OTHER]]


def _samples(results: Results, folder: Path, lines: Sequence[Line], batch: int, chosen: set[str]) -> list[Any]:
    """The first samples of each lane and how they differ from full computation."""
    store = Store(folder)
    store.name([lane.key for lane in results.lanes])
    full = _images(store, results.full(batch))
    found = {line.lane.name: own for line in lines if (own := _images(store, line.lane)) is not None}
    if full is None or not found:
        return [Text("The folder of the results holds no samples.")]
    pictures = [_picture(line, found[line.lane.name], full) for line in lines if line.lane.name in found]
    video = " A video\u2019s frames stand side by side." if full.ndim == 5 else ""
    note = (
        f"The first samples of each lane, and how they differ from full computation, {AMPLIFY:g} times as strong: "
        f"blue is darker, orange is lighter, white is the same.{video}"
    )
    return [Text(note), _split(pictures, chosen, "rows")]


def _picture(line: Line, own: NDArray[np.float32], full: NDArray[np.float32]) -> Picture:
    count = min(len(own), len(full), VIDEOS_SHOWN if own.ndim == 5 else IMAGES_SHOWN)
    name, changed, pixels = line.lane.name, line.lane.kind != "full", own.shape[-1] <= 128
    mean, worst = line.means.get("psnr", math.nan), line.worst.get("psnr", math.nan)
    said = f"PSNR {number_text(mean, '.1f')} mean, {number_text(worst, '.1f')} worst{broken_text(line)}"
    text = "the reference" if not changed else "" if mean != mean else said
    return Picture(
        name,
        "the same as full computation" if math.isinf(mean) and changed else text,
        [samples(own[:count]), differences(own[:count], full[:count]) if changed else ""],
        [f"{count} samples of {name}", "How they differ from full computation"],
        "pixels" if pixels else "",
    )


def _images(store: Store, lane: LaneResult) -> NDArray[np.float32] | None:
    """A lane's first images; None where there are none: results may be copied without samples, or with the
    first.
    """
    found: list[NDArray[np.float32]] = []
    for unit in lane.units:
        if sum(map(len, found)) >= IMAGES_SHOWN or not store.samples(lane.key, unit.number).exists():
            break
        found.append(store.drawn(lane.key, unit.number).images.numpy())
    return np.concatenate(found) if found else None


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
