"""How near plain solvers and caches come to the converged solution, as a drawing in the page's colours: each lane
a point over its evaluations of the model.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator
from pathlib import Path

import attrs
from verdict import COUNTS, evaluations_of, way_of

from foreseer.bench.results import LaneResult, Results
from foreseer.bench.summary import mean_of, nearest_plain, worst_of

RESULTS = Path(__file__).resolve().parents[1] / "results"
WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 44, 628, 12, 262
"""Of the drawing, and of the field inside of its axes, in its own units."""
FEWEST, MOST = 5.5, 27.5
"""Evaluations at the ends of the axis."""
SAID = {
    "own": "fewer steps of the model's own sampler",
    "solver": "fewer steps of the best other solver",
    "cache": "a cache on the model's own sampler",
    "both": "a cache on a better solver",
}


@attrs.frozen
class Point:
    """A lane as it is drawn.

    Attributes:
        kind: One of `SAID`.
        evaluations: Of the model.
        mean: PSNR to the converged solution, dB.
        told: Shown under the pointer.
    """

    kind: str
    evaluations: float
    mean: float
    told: str


def draw(name: str) -> str:
    """Draw the results of a folder. Raises `OptionError` where there are none, `ValueError` where they have no
    reference.
    """
    return picture(Results.load(RESULTS / name))


def picture(results: Results) -> str:
    """Draw results as a figure."""
    batch = results.settings["batch"][0]
    found, full = list(points(results, batch)), mean_of(results.full(batch), "truth")
    if not found:
        raise ValueError("no lane has a distance to a converged reference; give the settings a reference")
    heights = [point.mean for point in found] + [full]
    low, high = 5 * math.floor(min(heights) / 5), 5 * math.ceil(max(heights) / 5)

    def x(evaluations: float) -> float:
        return LEFT + (RIGHT - LEFT) * math.log(evaluations / FEWEST) / math.log(MOST / FEWEST)

    def y(decibels: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (decibels - low) / max(high - low, 1)

    shapes = [f'<path class="grid" d="M{LEFT} {y(at):.1f}H{RIGHT}"/>{_text(LEFT - 6, y(at) + 4, at, "end")}' for at in range(low, high + 1, 5)]
    shapes += [_text(x(count), BOTTOM + 16, count, "middle") for count in COUNTS]
    shapes += [_text((LEFT + RIGHT) / 2, HEIGHT - 6, "evaluations of the model", "middle"), _text(LEFT + 6, TOP + 10, "dB to the converged solution", "start")]
    shapes.append(f'<path class="full" d="M{LEFT} {y(full):.1f}H{RIGHT}"><title>{results.num_steps} steps of its own sampler: {full:.1f} dB</title></path>')
    for kind in ("own", "solver"):
        line = [point for point in found if point.kind == kind]
        path = "L".join(f"{x(point.evaluations):.1f} {y(point.mean):.1f}" for point in line)
        shapes += [f'<path class="line {kind}" d="M{path}"/>'] if line else []
    shapes += [_mark(point.kind, x(point.evaluations), y(point.mean), point.told) for point in found]
    label = f"PSNR to the converged solution over evaluations of the model, {results.family}"
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">{"".join(shapes)}</svg>'
    return f'<figure class="front">{svg}{_legend({point.kind for point in found}, results.num_steps)}</figure>'


def points(results: Results, batch: int) -> Iterator[Point]:
    """Yield what is drawn: plain solvers by their number of evaluations, then every cache."""
    lanes = [lane for lane in results.lanes if lane.batch == batch and lane.has("truth") and not lane.error]
    plain = [lane for lane in lanes if lane.kind == "fewer"]
    for kind, able in (("own", [lane for lane in plain if not lane.solver]), ("solver", [lane for lane in plain if lane.solver])):
        best = [nearest_plain(able, count, "truth") for count in sorted({lane.num_steps for lane in able})]
        yield from (_point(results, lane, kind) for lane in best if lane is not None and FEWEST < lane.num_steps < MOST)
    for lane in lanes:
        if (way := way_of(lane)) in ("cache", "both") and FEWEST < evaluations_of(results, lane) < MOST:
            yield _point(results, lane, str(way))


def _point(results: Results, lane: LaneResult, kind: str) -> Point:
    evaluations, mean = evaluations_of(results, lane), mean_of(lane, "truth")
    return Point(kind, evaluations, mean, f"{lane.name}: {evaluations:.1f} evaluations, {mean:.1f} dB, worst sample {worst_of(lane, 'truth'):.1f}")


def _mark(kind: str, x: float, y: float, told: str = "") -> str:
    title = f"<title>{html.escape(told)}</title>" if told else ""
    if kind == "both":
        return f'<path class="mark {kind}" d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z">{title}</path>'
    size = 4.0 if kind == "cache" else 2.2
    return f'<circle class="mark {kind}" cx="{x:.1f}" cy="{y:.1f}" r="{size:g}">{title}</circle>'


def _legend(kinds: set[str], num_steps: int) -> str:
    def entry(drawn: str, text: str) -> str:
        return f'<li><svg viewBox="0 0 28 18" aria-hidden="true">{drawn}</svg>{text}</li>'

    lines = {kind: f'<path class="line {kind}" d="M2 9H26"/>' for kind in ("own", "solver")}
    entries = [entry(lines.get(kind, "") + _mark(kind, 14, 9), text) for kind, text in SAID.items() if kind in kinds]
    return f'<ul class="front-legend">{"".join(entries)}{entry(FULL_LINE, f"all {num_steps} steps of its own sampler")}</ul>'


FULL_LINE = '<path class="full" d="M2 9H26"/>'


def _text(x: float, y: float, text: object, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'
