"""The points of a report's picture: what can be put on its axes, where each lane lies, and which lanes nothing beats."""

from __future__ import annotations

import functools
import html
import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from foreseer.bench.equal_cost import sweep_of
from foreseer.bench.results import FIGURES, Results
from foreseer.bench.sentences import sentence_of
from foreseer.bench.summary import Line, lines_of
from foreseer.bench.tables import broken_text
from foreseer.document import plain

__all__ = ["ACROSS", "UP", "Axis", "front", "points_of"]

HOVER_WIDTH = 44
"""Characters in a line of a hover label: what fits beside a point on a phone."""


@attrs.frozen
class Axis:
    """What an axis shows.

    Attributes:
        key: Short name.
        title: With its unit.
        lower_is_better: Which end is the good one.
        value: A line's number; NaN where there is none.
    """

    key: str
    title: str
    lower_is_better: bool
    value: Callable[[Line], float]


ACROSS = (
    Axis("steps", "computed steps", True, lambda line: line.steps),
    Axis("cost", "block-rows, share of full computation", True, lambda line: line.cost),
    Axis("flops", "FLOPs, share of full computation", True, lambda line: line.flops),
    Axis("speedup", "measured speed-up (x)", False, lambda line: line.speedup),
)
"""What a lane costs."""


def _figure(line: Line, *, figure: str, worst: bool) -> float:
    return (line.worst if worst else line.means).get(figure, math.nan)


def _figures() -> list[Axis]:
    found = []
    for name, figure in FIGURES.items():
        unit = f" ({figure.unit})" if figure.unit else ""
        for worst in (False,) if name == "accuracy" else (False, True):  # of a share the worst sample says nothing
            which = "worst sample" if worst else "mean"
            read = functools.partial(_figure, figure=name, worst=worst)
            found.append(Axis(f"{name}_{which.partition(' ')[0]}", f"{figure.title}, {which}{unit}", not figure.higher_is_better, read))
    return found


UP = (
    *_figures(),
    Axis("gain", "PSNR over fewer steps, as many (dB)", False, lambda line: line.gain),
    Axis("frechet", "Frechet distance to the data", True, lambda line: line.frechet),
)
"""How good its samples are."""


def front(points: Sequence[tuple[float, float]], *, lower_x: bool, lower_y: bool) -> list[int]:
    """Return the Pareto front: indices of the points that no other point matches on both axes and beats on one, from left to right.

    Args:
        points: Pairs of numbers; those that are not finite are on no front. Of equal points the first is taken.
        lower_x: Whether the left end is the better one.
        lower_y: Whether the lower end is the better one.
    """
    signs = (1 if lower_x else -1), (1 if lower_y else -1)
    finite = [i for i, point in enumerate(points) if all(map(math.isfinite, point))]
    found: list[int] = []
    best = math.inf
    for i in sorted(finite, key=lambda i: (signs[0] * points[i][0], signs[1] * points[i][1], i)):
        if signs[1] * points[i][1] < best:
            best = signs[1] * points[i][1]
            found.append(i)
    return sorted(found, key=lambda i: points[i][0])


def points_of(results: Results, batch: int) -> dict[str, Any]:
    """Return a batch size's points and fronts, as plain data.

    Returns:
        ``points``: of each lane its name, kind, sweep, place on each axis, quartiles of the speed-up, hover label and settings.
        ``fronts``: for each pair of axes, as ``"cost psnr_mean"``, the indices of the points on the Pareto front.
        ``up``: keys of the axes that any lane but full computation has a number for.
    """
    lines = [line for line in lines_of(results, batch) if line.lane.units]
    up = [axis for axis in UP if any(math.isfinite(axis.value(line)) for line in lines if line.lane.kind != "full")]
    fronts = {}
    for x in ACROSS:
        for y in up:
            places = [(x.value(line), y.value(line)) for line in lines]
            fronts[f"{x.key} {y.key}"] = front(places, lower_x=x.lower_is_better, lower_y=y.lower_is_better)
    return {"points": [_point(results, line) for line in lines], "fronts": fronts, "up": [axis.key for axis in up]}


def _point(results: Results, line: Line) -> dict[str, Any]:
    lane = line.lane
    settings = {key: str(value) for key, value in lane.options.items()} or {"steps of the loop": str(lane.num_steps)}
    return {
        "name": lane.name,
        "kind": lane.kind,
        "sweep": sweep_of(lane),
        "steps": lane.num_steps,
        "at": {axis.key: plain(axis.value(line)) for axis in (*ACROSS, *UP)},
        "quartiles": [plain(q) for q in line.quartiles],
        "label": _label(line, settings),
        "settings": settings,
        "sentence": sentence_of(results, line),
    }


def _label(line: Line, settings: dict[str, str]) -> str:
    """The hover label: name, numbers, settings. Lines are broken here: plotly does not, and a phone is narrow. It knows no escaped quotes."""
    psnr = {"mean": line.means.get("psnr", math.nan), "worst": line.worst.get("psnr", math.nan)}
    known = {key: "same" if math.isinf(value) else f"{value:.1f}" for key, value in psnr.items() if not math.isnan(value)}
    numbers = [f"{line.steps:.1f} steps".replace(".0 ", " "), f"block-rows {line.cost:.3f}"]
    said = ", ".join(f"{key} {text}" for key, text in known.items()) + broken_text(line, "psnr")
    numbers += [f"{line.speedup:.2f}x"] if math.isfinite(line.speedup) else []
    parts = [
        [f"<b>{html.escape(text, quote=False)}</b>" for text in _broken(line.lane.name)],
        [", ".join(numbers)],
        [f"PSNR {said}"] if known else [],
        [html.escape(text, quote=False) for text in _broken(", ".join(f"{key}={value}" for key, value in settings.items()))],
    ]
    return "<br>".join(text for part in parts for text in part)


def _broken(text: str) -> list[str]:
    return textwrap.wrap(text.replace(",", ", ").replace(",  ", ", "), HOVER_WIDTH, break_long_words=True) or [""]
