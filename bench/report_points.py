"""The points of a benchmark's chart: what can be put on its axes, and where each lane lies."""

from __future__ import annotations

import functools
import math

from foreseer.bench.charts import Axis, Point
from foreseer.bench.equal_cost import sweep_of
from foreseer.bench.results import FIGURES, Results
from foreseer.bench.sentences import sentence_of
from foreseer.bench.summary import Line, lines_of
from foreseer.bench.tables import broken_text

__all__ = ["ACROSS", "UP", "points_of"]

ACROSS: tuple[Axis[Line], ...] = (
    Axis("cost", "block-rows, share of full computation", True, lambda line: line.cost),
    Axis("steps", "computed steps", True, lambda line: line.steps),
    Axis("flops", "FLOPs, share of full computation", True, lambda line: line.flops),
    Axis("speedup", "measured speed-up (x)", False, lambda line: line.speedup),
)
"""What a lane costs."""


def _figure(line: Line, *, figure: str, worst: bool) -> float:
    return (line.worst if worst else line.means).get(figure, math.nan)


def _figures() -> list[Axis[Line]]:
    found = []
    for name, figure in FIGURES.items():
        unit = f" ({figure.unit})" if figure.unit else ""
        for worst in (False,) if name == "accuracy" else (False, True):  # of a share the worst sample says nothing
            which = "worst sample" if worst else "mean"
            read = functools.partial(_figure, figure=name, worst=worst)
            title = f"{figure.title}, {which}{unit}"
            found.append(Axis(f"{name}_{which.partition(' ')[0]}", title, not figure.higher_is_better, read))
    return found


UP: tuple[Axis[Line], ...] = (
    *_figures(),
    Axis("gain", "PSNR over fewer steps, as many (dB)", False, lambda line: line.gain),
    Axis("frechet", "Frechet distance to the data", True, lambda line: line.frechet),
)
"""How good its samples are."""


def points_of(results: Results, batch: int) -> list[Point]:
    """Return the finished lanes of a batch size as points."""
    return [_point(results, line) for line in lines_of(results, batch) if line.lane.units]


def _point(results: Results, line: Line) -> Point:
    lane = line.lane
    settings = {key: str(value) for key, value in lane.options.items()} or {"steps of the loop": str(lane.num_steps)}
    written = [", ".join(f"{key}{equals}{value}" for key, value in settings.items()) for equals in ("=", " = ")]
    return Point(
        name=lane.name,
        kind=lane.kind,
        sweep=sweep_of(lane) or lane.name,
        order=lane.num_steps,
        at={one.key: one.value(line) for one in (*ACROSS, *UP)},
        spread=line.quartiles,
        label=[*_numbers(line), written[0]],
        told=f"{sentence_of(results, line)}\n{written[1]}",
    )


def _numbers(line: Line) -> list[str]:
    psnr = {"mean": line.means.get("psnr", math.nan), "worst": line.worst.get("psnr", math.nan)}
    known = {key: "same" if math.isinf(value) else f"{value:.1f}" for key, value in psnr.items() if value == value}
    said = ", ".join(f"{key} {text}" for key, text in known.items()) + broken_text(line, "psnr")
    numbers = [f"{line.steps:.1f} steps".replace(".0 ", " "), f"block-rows {line.cost:.3f}"]
    numbers += [f"{line.speedup:.2f}x"] if math.isfinite(line.speedup) else []
    return [", ".join(numbers), *([f"PSNR {said}"] if known else [])]
