"""The page of a benchmark: one file that opens from disk, needs nothing from anywhere, and prints.

What the page shows is computed here; its script only draws, sorts and chooses. plotly.js lies inside, as the plotly package ships it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from foreseer.bench.claims import Verdict, verdicts
from foreseer.bench.equal_cost import sweep_of
from foreseer.bench.report_pictures import AMPLIFY, FATES, differences, fates_of, samples, timeline
from foreseer.bench.report_points import ACROSS, UP, points_of
from foreseer.bench.results import FIGURES, LaneResult, Results
from foreseer.bench.sentences import summaries
from foreseer.bench.store import Store
from foreseer.bench.summary import Line, lines_of
from foreseer.bench.tables import COLUMNS, Column, broken_text, number_text
from foreseer.document import plain
from foreseer.files import write_whole
from foreseer.zoo.judge import FRECHET_MINIMUM_SAMPLES

__all__ = ["PAGE", "write_page"]

PAGE = "index.html"
IMAGES_SHOWN, VIDEOS_SHOWN = 8, 2
BESIDE_EACH_OTHER = 4
"""Lanes of one method whose timelines are shown at once; the others are folded."""


def write_page(results: Results, folder: Path) -> Path:
    """Write the page of results, finished or not.

    Args:
        results: What to show.
        folder: Where the page goes. Where it also holds the benchmark's ``samples``, some of them are shown.

    Returns:
        The page, ``folder / PAGE``.

    Raises:
        ImportError: Without jinja2 or plotly (``pip install 'foreseer[bench]'``).
    """
    import jinja2
    from plotly.offline import get_plotlyjs

    here = files("foreseer.bench")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["breakable"] = _breakable
    batches = list(dict.fromkeys(lane.batch for lane in results.lanes))
    points = {batch: points_of(results, batch) for batch in batches}
    data = {"across": _axes(ACROSS), "up": _axes(UP), "batches": points}
    text = environment.from_string((here / "report.html").read_text(encoding="utf-8")).render(
        results=results,
        style=(here / "report.css").read_text(encoding="utf-8"),
        script=(here / "report.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
        data=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        sections=[_section(results, folder, batch, points[batch]) for batch in batches],
        claims=_claims(results),
        failed=[lane for lane in results.lanes if lane.error],
        published=[(row, _numbers(row)) for row in results.published],
        columns=[(column.title, column.note) for column in COLUMNS],
        fates=FATES,
        amplify=AMPLIFY,
        about=_about(results),
    )
    path = folder / PAGE
    write_whole(path, text)
    return path


def _breakable(name: str) -> str:
    """A lane's name that a narrow column breaks after its commas, escaped."""
    import markupsafe

    return markupsafe.Markup("<wbr>").join(re.split(r"(?<=[,:;])", name))


def _axes(axes: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"key": axis.key, "title": axis.title, "lower": axis.lower_is_better} for axis in axes]


def _section(results: Results, folder: Path, batch: int, points: Mapping[str, Any]) -> dict[str, Any]:
    """Everything about one batch size, but its points, of which those on the front are shown first."""
    lines = [line for line in lines_of(results, batch) if line.lane.units]
    found = summaries(results, batch)
    chosen = {summary.lane for summary in found} | {line.lane.name for line in lines if line.lane.kind == "full"}
    chosen |= {points["points"][i]["name"] for i in points["fronts"].get("cost psnr_mean", ())}
    grid = list(_pictures(results, folder, lines, batch))
    timelines = [_timeline(line, stream, report) for line in lines for stream, report in line.lane.reports.items()]
    done = len(lines[0].lane.indices) if lines else 0
    few = done < FRECHET_MINIMUM_SAMPLES and any(math.isfinite(line.frechet) for line in lines)
    return {
        "batch": batch,
        "done": done,
        "few": f"* {done} samples are few for a Frechet distance: below {FRECHET_MINIMUM_SAMPLES} it is too high." if few else "",
        "table": _table(lines),
        "summaries": found,
        "pictures": _split(grid, chosen),
        "timelines": _split(timelines, chosen | set(_first_of_each_method(lines))),
        "memory": _memory(lines),
        "warnings": [(line.lane.name, text) for line in lines for text in dict.fromkeys(text for unit in line.lane.units for text in unit.warnings)],
    }


def _split(shown: Sequence[dict[str, Any]], chosen: set[str]) -> list[list[dict[str, Any]]]:
    """What is open and what is folded."""
    return [[one for one in shown if (one["name"] in chosen) == first] for first in (True, False)]


def _first_of_each_method(lines: Sequence[Line]) -> list[str]:
    counts: dict[str, list[str]] = {}
    for line in lines:
        counts.setdefault(line.lane.method, []).append(line.lane.name)
    return [name for names in counts.values() for name in names[:BESIDE_EACH_OTHER]]


def _table(lines: Sequence[Line]) -> dict[str, Any]:
    """The table, with a column for the worst sample of each figure that has one."""
    columns: list[Column] = []
    for column in COLUMNS:
        columns += [_mean(column), _worst(column)] if column.figure else [column]
    columns = [column for column in columns if any(column.text(line) for line in lines)]
    rows = []
    for line in lines:
        cells = []
        for column in columns:
            value = column.value(line)
            mark = "" if column.title != "gain" or math.isnan(value) else "good" if value > 0 else "bad" if value < 0 else ""
            number = plain(value)
            cells.append({"text": column.text(line), "value": "" if number is None else "Infinity" if number == "inf" else number, "mark": mark})
        rows.append({"name": line.lane.name, "kind": line.lane.kind, "cells": cells})
    return {"columns": columns, "rows": rows}


def _form(column: Column) -> str:
    return ".1f" if FIGURES[column.figure].unit == "dB" else ".3f"


def _mean(column: Column) -> Column:
    return attrs.evolve(
        column,
        text=lambda line: number_text(column.value(line), _form(column)) + broken_text(line, column.figure),
    )


def _worst(column: Column) -> Column:
    def value(line: Line) -> float:
        return line.worst.get(column.figure, math.nan)

    return Column(f"worst {column.title}", f"{column.title} of the worst sample.", value, lambda line: number_text(value(line), _form(column)), column.wide)


def _pictures(results: Results, folder: Path, lines: Sequence[Line], batch: int) -> Iterator[dict[str, Any]]:
    """Yield the first samples of each lane and how they differ from full computation; nothing where they are not kept."""
    store = Store(folder)
    store.name([lane.key for lane in results.lanes])
    full = _images(store, results.full(batch))
    for line in lines:
        own = _images(store, line.lane)
        if own is None or full is None:
            continue
        count = min(len(own), len(full), VIDEOS_SHOWN if own.ndim == 5 else IMAGES_SHOWN)
        psnr = [line.means.get("psnr", math.nan), line.worst.get("psnr", math.nan)]
        said = f"PSNR {' mean, '.join(number_text(v, '.1f') for v in psnr)} worst{broken_text(line, 'psnr')}"
        text = "the reference" if line.lane.kind == "full" else said if psnr[0] == psnr[0] else ""
        changed = line.lane.kind != "full"
        yield {
            "name": line.lane.name,
            "kind": line.lane.kind,
            "text": "the same as full computation" if math.isinf(psnr[0]) and changed else text,
            "count": count,
            "video": own.ndim == 5,
            "samples": samples(own[:count]),
            "differences": differences(own[:count], full[:count]) if changed else "",
            "small": own.shape[-1] <= 128,
        }


def _images(store: Store, lane: LaneResult) -> np.ndarray[Any, np.dtype[np.float32]] | None:
    """A lane's first images, as far as their files are there; None where there are none: results may be copied without their samples, or with the first."""
    found: list[np.ndarray[Any, np.dtype[np.float32]]] = []
    for unit in lane.units:
        if sum(map(len, found)) >= IMAGES_SHOWN:
            break
        if not store.samples(lane.key, unit.number).exists():
            break
        found.append(store.drawn(lane.key, unit.number).images.numpy())
    return np.concatenate(found) if found else None


def _timeline(line: Line, stream: str, report: Any) -> dict[str, Any]:
    fates = fates_of(report)
    counts = {name: int((fates == place).sum()) for place, name in enumerate(FATES)}
    rows, steps = fates.shape
    said = ", ".join(f"{count / rows:.1f} {name}".replace(".0 ", " ") for name, count in counts.items() if count)
    several = f", {stream}" if len(line.lane.reports) > 1 else ""
    picture = timeline(fates) if steps else ""
    return {"name": line.lane.name, "text": f"{said} of {steps} steps{several}", "picture": picture, "steps": steps, "rows": rows}


def _memory(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Bars of peak and recorded features. Settings of one method that hold the same share a bar, and the highest peak of them is shown."""
    groups: dict[tuple[str, str, int], list[Line]] = {}
    for line in lines:
        if line.lane.kind != "fewer" and math.isfinite(line.peak_bytes):
            groups.setdefault((line.lane.kind, sweep_of(line.lane), line.bytes_held), []).append(line)
    most = max((line.peak_bytes for group in groups.values() for line in group), default=1.0)
    found = []
    for (kind, sweep, held), group in groups.items():
        peak = max(line.peak_bytes for line in group)
        name = group[0].lane.name if len(group) == 1 else f"{sweep}, {len(group)} settings"
        bar = {"name": name, "kind": kind, "peak": peak / 1e6, "held": held / 1e6, "peak_share": 100 * peak / most, "held_share": 100 * held / most}
        found.append(bar | {"names": ", ".join(line.lane.name for line in group)})
    return found


def _claims(results: Results) -> list[tuple[Verdict, list[Verdict]]]:
    """Verdicts by claim and batch size: the first, and all of them. Some claims are judged lane by lane."""
    groups: dict[tuple[str, int], list[Verdict]] = {}
    for verdict in verdicts(results):
        groups.setdefault((verdict.paper, verdict.batch), []).append(verdict)
    return [(group[0], group) for group in groups.values()]


def _numbers(row: Any) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in row.items() if isinstance(value, (int, float)))


def _about(results: Results) -> list[tuple[str, str]]:
    """What was asked for, and what it ran on."""
    plainly = {key: value for key, value in results.settings.items() if key not in ("lanes", "peers")}
    git = {"commit": f"{str(results.git['commit'])[:12]}{', with changes' if results.git.get('changed') else ''}"} if results.git.get("commit") else {}
    versions = {"versions": ", ".join(f"{key} {value}" for key, value in results.versions.items())}
    known = {"family": results.family, "steps": results.num_steps, "seed": results.seed, "guidance": results.guidance, "blocks": results.depth}
    return [(key, str(value)) for key, value in {**plainly, **known, **results.machine, **versions, **git}.items()]
